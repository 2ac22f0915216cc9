// What the pages do. A page is an empty shell: all it shows comes from the API, as for any other client, and is put in
// as text. A scan is asked for again and again, when Retry-After says; a lost connection heals by that alone.

const $ = (selector, within = document) => within.querySelector(selector);
const clone = (id) => $(`#${id}`)?.content.cloneNode(true) ?? new DocumentFragment();
const words = (id) => clone(id).textContent; // what is said to people stands in the templates
const isOpen = (scan) => scan.status === "queued" || scan.status === "running";

const DASH = "\u2013"; // a number that does not exist
const percent = (rate) => (rate === null ? DASH : `${(100 * rate).toFixed(0)}\u00a0%`);
const figure = (value, digits) => (value === null ? DASH : value.toFixed(digits));
const date = (iso) => new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
const duration = (seconds) => (seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.round(seconds / 60)} min`);

function size(bytes) {
  const [scale, unit] = bytes < 1e6 ? [1e3, "kB"] : bytes < 1e9 ? [1e6, "MB"] : [1e9, "GB"];
  return `${Number((bytes / scale).toPrecision(3))} ${unit}`;
}

function labelled(names) {
  const more = names.length > 3 ? ` and ${names.length - 3} more` : "";
  return `${names.length > 1 ? "labels" : "label"} ${names.slice(0, 3).join(", ")}${more}`;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text; // a live region repeats what is set again
}

function prose(text) { // `typed words` are set as code
  const code = (typed) => Object.assign(document.createElement("code"), { textContent: typed });
  return text.split("`").map((part, index) => (index % 2 ? code(part) : part));
}

async function repeat(action) { // an action answers after how many seconds it wants to be called again, or 0
  for (let seconds; (seconds = await action()); ) await new Promise((resume) => setTimeout(resume, 1000 * seconds));
}

// The API, its problems and its key

const KEY = "triggerlens-key"; // in sessionStorage: of this tab, until it is closed
const RETRY_SECONDS = 3;

class Problem extends Error {
  constructor({ code, detail, advice, retryable = false, rule, member, line }) {
    super(detail);
    Object.assign(this, { code, advice, retryable, rule, member, line });
  }
}

const UNREACHABLE = {
  code: "unreachable",
  detail: "The service does not answer.",
  advice: "Check that it runs, and that you are connected to it.",
  retryable: true,
};

function keyHeader() {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function call(path, method = "GET", body = undefined) {
  if ("needsKey" in document.body.dataset && !sessionStorage.getItem(KEY)) await askForKey("The service asks for one.");
  const headers = body ? { ...keyHeader(), "Content-Type": "application/json" } : keyHeader();
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) }).catch(() => null);
  if (response?.ok) return response;
  const problem = await response?.json().catch(() => null);
  if (response?.status !== 401) throw new Problem(problem?.code ? problem : UNREACHABLE);
  await askForKey(problem.detail);
  return call(path, method, body);
}

let asking = null; // one question at a time, whoever needs the answer

function askForKey(why) {
  const dialog = $("#key-dialog"), input = $("#key");
  asking ??= new Promise((resolve, reject) => {
    sessionStorage.removeItem(KEY);
    say($("#key-why"), why);
    $("form", dialog).onsubmit = () => sessionStorage.setItem(KEY, input.value.trim());
    dialog.onclose = () => {
      asking = null;
      input.value = "";
      $("#forget-key").hidden = !sessionStorage.getItem(KEY);
      if (sessionStorage.getItem(KEY)) return resolve();
      const advice = "Load this page again to give one; `triggerlens keys create` makes one.";
      reject(new Problem({ code: "unauthenticated", detail: "No API key was given.", advice }));
    };
    dialog.showModal();
  });
  return asking;
}

function placeOf({ rule, member, line }) { // of a refusal by the gate: which rule, and where in the model's file
  return [rule && `Rule ${rule}`, member && `member ${member}`, line && `line ${line}`].filter(Boolean).join(", ");
}

function complain(place, problem) {
  if (!problem) return place.replaceChildren();
  if (!(problem instanceof Problem)) throw problem;
  const shown = clone("problem");
  say($(".kind code", shown), problem.code);
  $("h3", shown).replaceChildren(...prose(problem.message));
  $(".advice", shown).replaceChildren(...prose(problem.advice));
  say($(".place", shown), placeOf(problem));
  if (place.textContent !== shown.textContent) place.replaceChildren(shown);
}

async function attempt(button, place, action) { // what a button does: once at a time, and what goes wrong is told
  button.disabled = true;
  complain(place, null);
  await action().catch((problem) => complain(place, problem)).finally(() => (button.disabled = false));
}

async function deleteScan(scan) {
  if (!confirm(`Delete the scan of “${scan.model_name}” with its report and repaired weights?`)) return false;
  return call(`/v1/scans/${scan.id}`, "DELETE");
}

// Home: a new scan, and the recent ones

const uploads = {}; // kind -> {file, request, stored}: what was chosen last; `stored` is a promise

function choose(kind, file) {
  const zone = $(`#${kind}`), bar = $("progress", zone), state = $(".state", zone);
  uploads[kind]?.request.abort();
  const upload = { file, request: new XMLHttpRequest() };
  const end = (look, ...said) => {
    if (uploads[kind] !== upload) return; // another file was chosen meanwhile
    bar.hidden = true;
    zone.classList.add(look);
    state.replaceChildren(...said);
  };
  uploads[kind] = upload;
  say($(".file", zone), file.name);
  zone.classList.remove("done", "wrong");
  bar.hidden = false;
  upload.stored = send(upload, kind, Number($("input", zone).dataset.limit), (share) => {
    bar.value = share;
    say(state, share < 1 ? `Uploading ${size(file.size)}` : "Checking what has arrived");
  });
  if (uploads.model && uploads.bundle) {
    Promise.all([uploads.model.stored, uploads.bundle.stored]).then(() => check($("#new-scan")), () => {});
  }
  upload.stored.then(
    (stored) => end("done", `✓ ${size(file.size)}, sha256 ${stored.sha256.slice(0, 12)}…`),
    (problem) => end("wrong", "✕ ", ...prose(`${problem.message} ${problem.advice}`)),
  );
}

function send({ file, request }, kind, limit, onProgress) { // fetch cannot tell how far an upload is
  return new Promise((resolve, reject) => {
    const refuse = (code, detail, advice) => reject(new Problem({ code, detail, advice }));
    if (file.size > limit) {
      const detail = `${file.name} has ${size(file.size)}; the limit is ${size(limit)}.`;
      return refuse("too_large", detail, "Choose a smaller file, or have the operator raise the limit.");
    }
    request.open("PUT", `/v1/artifacts?kind=${kind}`);
    for (const [name, value] of Object.entries(keyHeader())) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = ({ loaded, total }) => onProgress(total ? loaded / total : 1);
    request.onloadend = () => {
      if (request.status === 200 || request.status === 201) resolve(request.response);
      else if (request.response?.code) reject(new Problem(request.response));
      else refuse("upload_broken", "The upload broke off.", "Check that the file can be read; then choose it again.");
    };
    request.send(file);
  });
}

async function askFor(form, more) { // a scan, or a check, of the two files and what the form says
  const [model, bundle] = await Promise.all([uploads.model.stored, uploads.bundle.stored]);
  const given = Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
  const input = {};
  if ("channel_order" in given) input.channel_order = given.channel_order;
  for (const name of ["height", "width", "expected_accuracy"]) if (name in given) input[name] = Number(given[name]);
  for (const name of ["mean", "std", "range"]) if (name in given) input[name] = given[name].split(",").map(Number);
  const response = await call("/v1/scans", "POST", {
    model: model.sha256,
    bundle: bundle.sha256,
    model_name: uploads.model.file.name,
    bundle_name: uploads.bundle.file.name,
    input,
    ...("output" in given && { output: given.output }),
    ...("classes" in given && { classes: classesFrom(given.classes) }),
    seed: Number(given.seed),
    ...more(given),
  });
  return response.json();
}

function classesFrom(text) { // JSON as in bundle.json, or a name a line in the order of the outputs
  if (!/^\s*[[{]/.test(text)) return text.split("\n").map((name) => name.trim()).filter(Boolean);
  try {
    return JSON.parse(text);
  } catch {
    const advice = 'Write {"cat": 0, "dog": 1}, or one name a line in the order of the outputs.';
    throw new Problem({ code: "classes", detail: "The classes are no JSON.", advice });
  }
}

async function startScan(form) {
  const scan = await askFor(form, (given) => ({ repair: "repair" in given, force: "force" in given }));
  location.assign(`/scans/${scan.id}`);
}

let newest = null; // the check that was asked for last: what an earlier one finds is not shown any more

async function check(form) { // what a scan would take for true, in seconds; nothing longer starts by itself
  const mine = (newest = {}), place = $("#understood");
  place.hidden = false;
  complain($("#check-problem"), null);
  $(".facts", place).replaceChildren();
  $("#take-order").hidden = true;
  $("#doubts").replaceChildren();
  say($("#check-state"), "Looking at how the model and the images go together");
  try {
    let found = await askFor(form, () => ({ check: true }));
    while (newest === mine && isOpen(found)) {
      await new Promise((resume) => setTimeout(resume, 1000));
      found = await (await call(`/v1/scans/${found.id}`)).json();
    }
    if (newest === mine) showCheck(found);
  } catch (problem) {
    if (newest !== mine) return;
    say($("#check-state"), "");
    complain($("#check-problem"), problem);
  }
}

function showCheck({ understood, summary, problem }) {
  say($("#check-state"), understood ? words(understood.ready ? "check-ready" : "check-doubtful") : "");
  if (!understood) return complain($("#check-problem"), problem && new Problem(problem));
  showUnderstood(understood);
  const { suggested_classes: suggested, label_source: source } = understood.inputs;
  $("#take-order").hidden = source === "indices" || !Object.keys(suggested).length;
  $("#take-order").onclick = () => {
    $("#classes").value = JSON.stringify(suggested, null, 1);
    $("#classes").closest("details").open = true;
    return check($("#new-scan"));
  };
  $("#doubts").prepend(...summary.reasons.map((name) => clone(`reason-${name}`)));
}

function showUnderstood({ facts, doubts }) { // what a scan took for true about its inputs
  const pairs = facts.flatMap(({ name, words: said }) => [
    Object.assign(document.createElement("dt"), { textContent: name }),
    Object.assign(document.createElement("dd"), { textContent: said.replaceAll("`", "") }),
  ]);
  $("#understood .facts").replaceChildren(...pairs);
  const notes = doubts.map((doubt) => {
    const note = clone("doubt");
    $("p", note).replaceChildren(...prose(doubt));
    return note;
  });
  $("#doubts").replaceChildren(...notes);
}

let shown = 20, listed = ""; // how many scans are asked for, and the answer as it stands on the page

async function listScans() {
  const place = $("#list-problem");
  try {
    const text = await (await call(`/v1/scans?limit=${shown}`)).text();
    const { items, next_cursor: next } = JSON.parse(text), scans = items.filter((scan) => !scan.check);
    complain(place, null);
    if (text !== listed) $("#scans").replaceChildren(...scans.map(scanRow));
    listed = text;
    $("#no-scans").hidden = scans.length > 0;
    $("#more-scans").hidden = !next || shown >= 100;
    return items.some(isOpen) ? 2 : 15;
  } catch (problem) {
    complain(place, problem);
    return problem.retryable ? RETRY_SECONDS : 0;
  }
}

function scanRow(scan) {
  const row = clone("scan-row"), what = $(".what", row), time = $("time", row), button = $("button", row);
  $("a", row).href = `/scans/${scan.id}`;
  say($(".name", row), scan.model_name);
  what.append(clone(`outcome-${scan.verdict ?? scan.status}`));
  if (scan.summary?.flagged_labels.length) what.append(`: ${labelled(scan.summary.flagged_labels)}`);
  say(time, date((time.dateTime = scan.created_at)));
  button.hidden = isOpen(scan);
  button.ariaLabel = `Delete the scan of ${scan.model_name}`;
  button.onclick = () => attempt(button, $("#list-problem"), async () => (await deleteScan(scan)) && listScans());
  return row;
}

function home() {
  const form = $("#new-scan");
  for (const kind of ["model", "bundle"]) {
    const input = $(`#${kind} input`);
    input.onchange = () => input.files.length && choose(kind, input.files[0]);
    input.onchange(); // a browser that comes back to the page may still know the file
  }
  document.ondragover = (event) => event.preventDefault();
  document.ondrop = (event) => { // anywhere on the page, one file or both
    event.preventDefault();
    for (const file of event.dataTransfer.files) {
      const kind = /\.(zip|npz|tar|tgz|tar\.gz)$/i.test(file.name) ? "bundle" : "model", chosen = new DataTransfer();
      chosen.items.add(file);
      $(`#${kind} input`).files = chosen.files;
      choose(kind, file);
    }
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    attempt($("#start"), $("#form-problem"), () => startScan(form));
  };
  $("#check-again").onclick = () => attempt($("#check-again"), $("#check-problem"), () => check(form));
  $("#more-scans").onclick = () => {
    shown += 20;
    listScans();
  };
  repeat(listScans);
}

// One scan

function scanPage() {
  const here = `/v1/scans/${location.pathname.split("/")[2]}`, place = $("#action-problem");
  let scan = null;
  const show = async (response) => showScan((scan = await response.json()));
  $("#cancel").onclick = () => attempt($("#cancel"), place, async () => show(await call(`${here}/cancel`, "POST")));
  const forget = async () => (await deleteScan(scan)) && location.replace("/");
  $("#delete").onclick = () => attempt($("#delete"), place, forget);
  $("#read-report").href = `${location.pathname}/report`;
  for (const link of document.querySelectorAll("a[download]")) link.href = `${here}/${link.dataset.from}`;
  repeat(async () => {
    try {
      const response = await call(here);
      await show(response);
      complain($("#scan-problem"), null);
      return isOpen(scan) ? Number(response.headers.get("Retry-After")) || RETRY_SECONDS : 0;
    } catch (problem) {
      complain($("#scan-problem"), problem);
      return problem.retryable ? RETRY_SECONDS : 0;
    }
  });
}

function showScan(scan) {
  const open = isOpen(scan);
  for (const place of document.querySelectorAll("[data-fact]")) say(place, `${scan[place.dataset.fact]}`);
  const took = (Date.parse(scan.finished_at) - Date.parse(scan.started_at)) / 1000; // NaN before the end
  say($("#about"), `Asked for ${date(scan.created_at)}${took ? `, took ${duration(took)}` : ""}`);
  $("#scan").hidden = false;
  $("#live").hidden = !open;
  $("#delete").hidden = open;
  $("#results").hidden = !scan.links.report;
  for (const link of document.querySelectorAll("[data-from^=repaired]")) link.hidden = !scan.links.repaired;
  showLabels(scan.labels);
  $("#understood").hidden = !scan.understood;
  if (scan.understood) showUnderstood(scan.understood);
  if (open) showProgress(scan);
  else showOutcome(scan);
  const state = open ? percent(scan.progress) : $("#verdict :is(h2, h3)").textContent;
  document.title = `${state}: ${scan.model_name} (TriggerLens)`;
}

function showProgress(scan) {
  const ahead = scan.queue_position;
  const done = scan.labels_total ? `: ${scan.labels_done} of ${scan.labels_total} done` : "";
  let stage = (words(`stage-${scan.stage}`) || "Starting") + (scan.stage === "invert" ? done : "");
  if (scan.status === "queued") stage = ahead ? `Waiting: ${ahead} to be served first` : "Waiting to be served";
  if (scan.cancel_requested) stage = "Cancelling";
  const left = scan.eta_seconds === null ? "" : `About ${duration(5 * Math.ceil(scan.eta_seconds / 5))} left`;
  say($("#stage"), stage);
  say($("#doing"), scan.doing ?? "");
  say($("#eta"), words(`waiting-${scan.waiting_for}`) || left || words("patience"));
  $("#progress").value = scan.progress;
}

function showLabels(labels) {
  const evidence = (found) => (found.p_value === null ? found.anomaly_index ?? 0 : 1 - found.p_value);
  const suspicion = (found) => (found.flagged ? evidence(found) : -1);
  const sorted = [...labels].sort((a, b) => suspicion(b) - suspicion(a) || a.label - b.label);
  const highest = (family) => // norms of other families have other units
    Math.max(...labels.map((found) => (found.family === family && found.norm) || 0)) || 1;
  const body = $("#labels tbody");
  $("#labels").hidden = !labels.length;
  $("#labels table").classList.toggle("undecided", labels.every((found) => found.anomaly_index === null));
  $("#labels table").classList.toggle("untested", labels.every((found) => found.p_value === null));
  sorted.forEach((found, place) => {
    const id = `label-${found.label}`;
    const row = $(`#${id}`) ?? Object.assign(clone("label-row").firstElementChild, { id });
    const [norm, success, index, pValue] = row.querySelectorAll("td");
    row.classList.toggle("flagged", found.flagged);
    $(".mark", row).hidden = !found.flagged;
    say($(".spared", row), words(`spared-${found.spared}`));
    say($(".index", row), `${found.label}`);
    say($(".name", row), found.name === `${found.label}` ? "" : found.name);
    say($(".figure", norm), figure(found.norm, 4));
    say($(".figure", success), percent(found.attack_success_rate));
    say($(".family", norm), found.family ?? "");
    say(index, figure(found.anomaly_index, 1));
    say(pValue, figure(found.p_value, 4));
    $(".bar span", norm).style.width = `${(100 * (found.norm ?? 0)) / highest(found.family)}%`;
    $(".bar span", success).style.width = `${100 * (found.attack_success_rate ?? 0)}%`;
    if (body.children[place] !== row) body.insertBefore(row, body.children[place] ?? null);
  });
}

function showOutcome({ status, verdict, summary, problem, labels }) {
  if (status === "failed") return complain($("#verdict"), new Problem(problem));
  const outcome = clone(`verdict-${verdict ?? status}`);
  if (verdict) {
    const flagged = labels.filter((found) => found.flagged);
    const names = flagged.map(({ label, name }) => (name === `${label}` ? name : `${label} (${name})`));
    if (names.length) $("h2", outcome).append(`: ${labelled(names)}`);
    $(".reasons", outcome).append(...summary.reasons.map((name) => clone(`reason-${name}`)));
    $(".repair", outcome).append(clone(`repair-${summary.repair_status}`));
    if (summary.repair_status === "refused") $(".repair", outcome).append(" ", ...prose(summary.repair_detail ?? ""));
    say($(".coming-back", outcome), summary.coming_back ?? "");
    const caveats = summary.caveats.map((name) => words(`caveat-${name}`).toLowerCase());
    if (caveats.length) say($(".caveats", outcome), `Caveats, explained in the report: ${caveats.join(", ")}.`);
  }
  $("#verdict").replaceChildren(outcome);
}

// The report, and what every page has

async function reportPage() {
  const frame = $("#report"), path = `/v1/scans/${location.pathname.split("/")[2]}/report?format=html`;
  try {
    const response = await call(path); // a frame sends no key, and shows no problem
    frame.onload = () => (frame.hidden = false);
    frame.src = sessionStorage.getItem(KEY) ? URL.createObjectURL(await response.blob()) : path;
  } catch (problem) {
    complain($("#report-problem"), problem);
  }
}

document.onclick = (event) => {
  const link = event.target.closest("a[download]");
  if (!link || link.protocol === "blob:" || !sessionStorage.getItem(KEY)) return;
  event.preventDefault(); // a link sends no key
  attempt(link, $("#action-problem"), async () => {
    const href = URL.createObjectURL(await (await call(link.href)).blob());
    Object.assign(document.createElement("a"), { href, download: link.download }).click();
  });
};
$("#forget-key").onclick = () => {
  sessionStorage.removeItem(KEY);
  location.reload();
};
$("#forget-key").hidden = !sessionStorage.getItem(KEY);
({ home, scan: scanPage, report: reportPage })[document.body.className]();
