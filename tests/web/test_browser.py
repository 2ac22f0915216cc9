"""The pages in headless Chromium, over a real server: what a person does, and what may never happen to one."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from torch import Tensor

from app.core.config import InversionConfig
from app.core.errors import Problem
from app.core.findings import RepairReport, RepairStatus
from app.core.lifecycle import ScanStatus
from app.core.report.html import report_html
from app.core.scheduling import summary_of
from app.core.service import Service
from tests.api import world
from tests.core.intake.packing import picture, tarred, zipped
from tests.core.report.report_samples import BACKDOORED, REPAIR, document
from tests.flow.serving import serving
from tests.processes import own_world
from tests.toys import SHORT, AsProbabilities, ToyNet, save_toy, toy_images, toy_labels
from tests.web.visit import WHOLE_SCAN, Visit, visiting

pytestmark = pytest.mark.real

HOSTILE = "<img src=x onerror=alert(1)>"
NAMES = (HOSTILE, "bicycle", "cat", "deer", "eagle", "frog")  # in sorted order
WIDTHS = (1280, 360)
SEARCH = replace(SHORT, steps=40)
ENDLESS = replace(SHORT, steps=100_000)


@contextmanager
def real_service(folder: Path, search: InversionConfig) -> Iterator[str]:
    """The address of `triggerlens serve`, with its worker, on a shorter search."""
    with own_world(), serving(folder, search) as served:
        yield served.address


def class_folders(names: Sequence[str]) -> dict[str, bytes | str]:
    """Toy images in a folder per class."""
    pictures = (toy_images(8).clamp(0, 1) * 255).round().byte().squeeze(1).numpy()
    labelled = enumerate(zip(pictures, toy_labels(8).tolist(), strict=True))
    return {f"{names[label]}/{number}.png": picture(pixels) for number, (pixels, label) in labelled}


class Twins(AsProbabilities):
    """Two outputs, of which nobody but its owner knows the one that is used."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"one": self.net(images), "other": 2 * self.net(images)}


def look(page: Page, width: int, dark: bool = False, calm: bool = False) -> None:
    """See the page as on another screen."""
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme="dark" if dark else "light", reduced_motion="reduce" if calm else "no-preference")
    page.wait_for_function("width => innerWidth === width", arg=width)


def look_everywhere(page: Page, name: str, folder: Path) -> None:
    """On a wide and on a narrow screen, light and dark: nothing is cut off, and a picture is taken."""
    for width in WIDTHS:
        for dark in (False, True):
            look(page, width, dark, calm=True)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
            path = folder / f"{name}_{width}_{'dark' if dark else 'light'}.png"
            page.screenshot(path=path, full_page=True)
            with Image.open(path) as picture:
                corner = picture.convert("L").getpixel((2, picture.height - 2))
                assert picture.width == width and len(picture.convert("RGB").getcolors(1 << 24)) > 50
            assert (corner < 64) == dark, f"{name}: not drawn in the colours that were asked for"
    look(page, WIDTHS[0])


def downloaded(page: Page, name: str) -> bytes:
    with page.expect_download() as download:
        page.locator(f"[download='{name}']").click()
    assert download.value.suggested_filename == name
    return download.value.path().read_bytes()


@pytest.mark.slow
@pytest.mark.long
def test_a_person_drops_two_files_and_sees_a_backdoor_found_and_repaired(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    model = save_toy(tmp_path / "<b>suspect.pt", ToyNet(planted=2))
    bundle = zipped(tmp_path / "images.zip", class_folders(NAMES))
    with real_service(tmp_path / "data", SEARCH) as address:
        page.goto(f"{address}/")
        expect(page.locator("#no-scans")).to_be_visible()
        look_everywhere(page, "home", tmp_path)

        page.locator("body").drop({"files": [model, bundle]})
        expect(page.locator(".zone.done")).to_have_count(2)
        expect(page.locator("#model-state")).to_contain_text(sha256(model.read_bytes()).hexdigest()[:12])
        page.locator("summary").click()
        page.locator("#mean").fill("0")
        page.locator("#std").fill("1")
        look_everywhere(page, "chosen", tmp_path)
        page.locator("#start").click()

        expect(page).to_have_url(re.compile(rf"{address}/scans/\w+"))
        expect(page.locator("#verdict")).not_to_be_empty(timeout=WHOLE_SCAN)
        expect(page.locator("#verdict h2")).to_have_text("Signs of a backdoor: label 2 (cat)")
        expect(page.locator(".repair")).to_contain_text("no longer works on the repaired weights")
        rows = page.locator("#labels tbody tr")
        expect(rows).to_have_count(6)
        expect(rows.first).to_contain_text("cat")
        expect(rows.first).to_contain_text("▲ flagged")
        expect(rows.filter(has_text=HOSTILE)).to_have_count(1)
        expect(page.locator("h1")).to_have_text("<b>suspect.pt")
        expect(page.locator("main img, main b:not(.verdict b)")).to_have_count(0)
        look_everywhere(page, "finished", tmp_path)

        report = json.loads(downloaded(page, "report.json"))
        tested = any(row["p_value"] is not None for row in report["labels"])
        expect(page.locator("#labels td.tested").first).to_be_visible(visible=tested)
        assert sha256(downloaded(page, "repaired.pt")).hexdigest() == report["repair"]["files"]["repaired.pt"]

        scan = page.url
        page.locator("#read-report").click()
        expect(page).to_have_url(f"{scan}/report")
        expect(page.locator("#report")).to_be_visible()
        read = page.frame_locator("#report").locator("body")
        expect(read).to_contain_text("Signs of a backdoor")
        assert read.evaluate("() => origin") == "null", "the report has no rights here"
        look_everywhere(page, "report", tmp_path)

        page.goto(f"{address}/")
        expect(page.locator("#scans li")).to_have_count(1)
        expect(page.locator("#scans li")).to_contain_text("▲ Signs of a backdoor: label 2")
        look_everywhere(page, "list", tmp_path)
        page.locator("#scans a").click()
        expect(page).to_have_url(scan)
        expect(page.locator("#verdict h2")).to_be_visible()
        page.locator("#delete").click()
        expect(page).to_have_url(f"{address}/")
        expect(page.locator("#no-scans")).to_be_visible()
    assert visit.errors == []
    assert visit.questions == ["Delete the scan of “<b>suspect.pt” with its report and repaired weights?"]
    assert visit.foreign_requests(address) == []


@pytest.mark.slow
def test_a_person_reads_what_was_understood_corrects_it_and_only_then_starts_a_scan(
    visit: Visit, tmp_path: Path
) -> None:
    page, asked = visit.page, list[dict[str, Any]]()
    page.on("request", lambda sent: asked.append(sent.post_data_json) if sent.method == "POST" else None)
    names = ["frog", "elk", "dog", "cat", "bee", "ant"]  # the order of the model, which nobody could guess
    model = save_toy(tmp_path / "suspect.pt", Twins(ToyNet()))
    bundle = tarred(tmp_path / "images.tar.gz", class_folders(names))
    with real_service(tmp_path / "data", ENDLESS) as address:
        page.goto(f"{address}/")
        page.locator("body").drop({"files": [model, bundle]})
        facts, doubts = page.locator("#understood .facts"), page.locator("#doubts")
        expect(page.locator("#check-state")).to_contain_text("Something does not fit together")
        expect(facts).to_contain_text("100.0\N{NO-BREAK SPACE}% of 48 images")
        expect(facts).to_contain_text(", inferred (range")
        expect(doubts).to_contain_text("Several outputs could be the scores: one, other.")
        expect(doubts).to_contain_text("Which output each class is was read off the model's own answers")
        look_everywhere(page, "understood", tmp_path)

        page.locator("summary").click()
        page.locator("#output").fill("other")
        page.locator("#range").select_option("0,1")
        page.locator("#take-order").click()
        expect(page.locator("#check-state")).to_contain_text("Model and images go together")
        expect(doubts).to_be_empty()
        for fact in ("from the output other", "declared with the bundle", "given with the scan"):
            expect(facts).to_contain_text(fact)
        expect(page.locator("#no-scans")).to_be_visible()
        assert [request["check"] for request in asked] == [True, True], "nothing long starts by itself"

        page.locator("#start").click()
        expect(page).to_have_url(re.compile(rf"{address}/scans/\w+"))
        page.locator("#cancel").click()
        expect(page.locator("#verdict h2")).to_have_text("Cancelled")
    scan = asked[2]
    assert "check" not in scan and scan["output"] == "other" and scan["input"] == {"range": [0, 1]}
    assert scan["classes"] == {name: label for label, name in enumerate(names)}
    assert visit.errors == []


def test_a_waiting_scan_says_for_what_and_can_be_cancelled(visit: Visit, service: Service) -> None:
    page = visit.page
    world.queued_scan(service)
    scan_id = world.queued_scan(service)
    with world.served(service) as address:
        page.goto(f"{address}/scans/{scan_id}")
        expect(page.locator("#stage")).to_have_text("Waiting: 1 to be served first")
        expect(page.locator("#eta")).to_have_text("No worker is there at the moment; the scan waits for one.")
        page.locator("#cancel").click()
        expect(page.locator("#verdict h2")).to_have_text("Cancelled")
        expect(page.locator("#live")).to_be_hidden()
        expect(page.locator("#delete")).to_be_visible()
    assert visit.errors == []


def test_labels_come_in_one_by_one(visit: Visit, service: Service, tmp_path: Path) -> None:
    page = visit.page
    scan_id = world.running_scan(service)
    with world.served(service) as address:
        page.goto(f"{address}/scans/{scan_id}")
        expect(page.locator("#labels tbody tr")).to_have_count(3)
        expect(page.locator("#stage")).to_have_text("Searching a trigger for each label: 3 of 10 done")
        look_everywhere(page, "running", tmp_path)
        for label in range(3, 7):
            world.find_label(service, scan_id, label)
            expect(page.locator("#labels tbody tr")).to_have_count(label + 1)
            expect(page.locator("#stage")).to_have_text(re.compile(f"{label + 1} of 10 done$"))
    assert visit.errors == []


def test_a_page_goes_on_when_the_service_is_back(visit: Visit, service: Service) -> None:
    page = visit.page
    scan_id = world.running_scan(service)
    with world.served(service) as address:
        page.goto(f"{address}/scans/{scan_id}")
        expect(page.locator("#labels tbody tr")).to_have_count(3)
        expect(page.locator("#stage")).to_contain_text("3 of 10 done")
        expect(page.locator("#eta")).to_contain_text("left")
        assert page.locator("#progress").evaluate("bar => bar.value") > 0.3
        visit.context.set_offline(True)
        expect(page.locator("#scan-problem")).to_contain_text("The service does not answer.")
        visit.context.set_offline(False)
        expect(page.locator("#scan-problem")).to_be_empty()


def test_labels_that_stood_out_and_were_spared_are_marked_with_why(visit: Visit, service: Service) -> None:
    page = visit.page
    scan_id = world.running_scan(service)
    for label, found in enumerate(({"unconfirmed": True}, {"in_doubt": True}, {"natural": True}, {"flagged": True}), 3):
        world.find_label(service, scan_id, label, **found)
    with world.served(service) as address:
        page.goto(f"{address}/scans/{scan_id}")
        marks = {0: "", 3: "◇ not confirmed", 4: "◇ in doubt", 5: "◇ natural", 6: ""}
        for label, words in marks.items():
            expect(page.locator(f"#label-{label} .spared")).to_have_text(words)
        expect(page.locator("#label-6 .mark")).to_be_visible()
    assert visit.errors == []


@pytest.mark.parametrize(
    ("repair", "claim", "coming_back"),
    [
        (REPAIR, "no longer works on the repaired weights", re.compile("^It partly comes back")),
        (
            RepairReport(RepairStatus.REFUSED, "It cost too much. Try `--more`."),
            "No repaired weights are handed out. It cost too much. Try --more.",
            "",
        ),
    ],
    ids=["repaired", "refused"],
)
def test_a_repair_says_how_soon_its_trigger_comes_back_and_a_refused_one_why(
    visit: Visit, service: Service, repair: RepairReport, claim: str, coming_back: str | re.Pattern[str]
) -> None:
    page = visit.page
    scan_id = world.ended_scan(service, summary=summary_of(document(BACKDOORED, repair=repair)))
    with world.served(service) as address:
        page.goto(f"{address}/scans/{scan_id}")
        expect(page.locator(".repair")).to_contain_text(claim)
        expect(page.locator(".coming-back")).to_have_text(coming_back)
    assert visit.errors == []


def test_why_a_scan_failed_is_told_with_advice(visit: Visit, service: Service) -> None:
    page = visit.page
    scan_id = world.ended_scan(service, status=ScanStatus.FAILED)
    problem = Problem("unsafe_code", "A hook.", "Remove it.", rule="code-hook", member="code/a.py", line=7).to_json()
    refused = world.ended_scan(service, status=ScanStatus.FAILED, problem=problem)
    with world.served(service) as address:
        page.goto(f"{address}/scans/{scan_id}")
        for words in ("bundle_empty", "Nothing inside.", "Fill it."):
            expect(page.locator("#verdict")).to_contain_text(words)
        expect(page.locator("#verdict")).not_to_contain_text("Rule")
        page.goto(f"{address}/scans/{refused}")
        expect(page.locator("#verdict")).to_contain_text("Rule code-hook, member code/a.py, line 7")
        page.goto(f"{address}/scans/nobody")
        expect(page.locator("#scan-problem")).to_contain_text("There is no scan 'nobody'.")


def test_a_file_that_is_refused_is_told_where_it_was_chosen(visit: Visit, service: Service, tmp_path: Path) -> None:
    page = visit.page
    (tmp_path / "empty.pt").touch()
    with world.served(service) as address:
        page.goto(f"{address}/")
        page.locator("#model-file").set_input_files(tmp_path / "empty.pt")
        expect(page.locator("#model.wrong #model-state")).to_have_text(
            "✕ The body is empty. Send the file as the body: curl -T FILE URL."
        )


def test_a_key_is_asked_for_and_kept_in_this_tab_only(
    visit: Visit, service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = visit.page
    monkeypatch.setattr(world, "PAGE", report_html(document(BACKDOORED), {}).encode())
    guarded = Service.open(service.settings.model_copy(update={"host": "0.0.0.0"}))
    secret = world.make_key(guarded, "alice")["Authorization"].removeprefix("Bearer ")
    scan_id = world.ended_scan(guarded, "alice")
    with world.served(guarded) as address:
        page.goto(f"{address}/")
        expect(page.locator("#key")).to_be_focused()
        for width in WIDTHS:
            look(page, width, dark=True)
            page.screenshot(path=tmp_path / f"key_{width}.png")
        page.keyboard.type("tl_wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-why")).to_have_text("The API key is unknown, or was revoked.")
        expect(page.locator("#key")).to_be_focused()
        page.keyboard.type(secret)
        page.keyboard.press("Enter")
        expect(page.locator("#scans li")).to_have_count(1)
        kept = page.evaluate("[Object.values(sessionStorage).length, localStorage.length, document.cookie]")
        assert kept == [1, 0, ""]

        look(page, WIDTHS[0])
        page.locator("#scans a").click()
        expect(page.locator("#verdict h2")).to_be_visible()
        assert downloaded(page, "repaired.pt") == world.WEIGHTS
        page.locator("#read-report").click()
        expect(page.locator("#report")).to_be_visible()
        read = page.frame_locator("#report").locator("body")
        expect(read).to_contain_text("Signs of a backdoor")
        expect(read).to_have_css("max-width", "960px")  # its style is applied
        page.locator("#forget-key").click()
        expect(page.locator("#key-dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#report-problem")).to_contain_text("No API key was given.")
        expect(page).to_have_url(f"{address}/scans/{scan_id}/report")
    guarded.close()
    assert [error for error in visit.errors if "status of 401" not in error] == []
    assert visit.foreign_requests(address) == []


def test_everything_is_reached_by_keyboard_and_seen_to_be(visit: Visit, service: Service) -> None:
    page = visit.page
    world.ended_scan(service)
    with world.served(service) as address:
        page.goto(f"{address}/")
        expect(page.locator("#scans li")).to_have_count(1)
        reached = []
        for _ in range(8):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.localName"))
            seen = "(document.activeElement.closest('.zone') ?? document.activeElement)"
            assert page.evaluate(f"getComputedStyle({seen}).outlineStyle") == "solid", reached
        assert reached == ["a", "model-file", "bundle-file", "repair", "summary", "start", "a", "button"]
        unnamed = "inputs => inputs.filter((input) => !input.labels.length).length"
        assert page.locator("input, select").evaluate_all(unnamed) == 0


def test_a_phone_shows_pages_at_its_own_width(browser: Browser, service: Service) -> None:
    scan_id = world.ended_scan(service)
    with world.served(service) as address, visiting(browser, width=360, is_mobile=True, has_touch=True) as visit:
        for path in ("/", f"/scans/{scan_id}", f"/scans/{scan_id}/report"):
            visit.page.goto(f"{address}{path}")
            expect(visit.page.locator("#scans li, #verdict h2, #report")).to_be_visible()
            assert visit.page.evaluate("document.documentElement.scrollWidth") == 360, path
    assert visit.errors == []


def test_without_scripts_the_page_explains_itself(browser: Browser, service: Service, tmp_path: Path) -> None:
    with world.served(service) as address, visiting(browser, java_script_enabled=False) as visit:
        visit.page.goto(f"{address}/")
        expect(visit.page.locator("noscript")).to_contain_text("curl -T model.pt", use_inner_text=True)
        expect(visit.page.locator("#new-scan")).to_be_hidden()
        for width in WIDTHS:
            look(visit.page, width)
            visit.page.screenshot(path=tmp_path / f"noscript_{width}.png", full_page=True)
    assert visit.foreign_requests(address) == []


def test_what_no_page_may_do_is_noted(visit: Visit) -> None:
    scripts = "".join(
        f"<script>{said}</script>" for said in ("console.error('said')", "alert('asked')", "throw 'thrown'")
    )
    visit.page.set_content(f"<img src='http://elsewhere.invalid/spy.png'>{scripts}")
    for word in ("said", "thrown", "Failed to load"):
        assert any(word in error for error in visit.errors), word
    assert visit.questions == ["asked"]
    assert visit.foreign_requests("http://127.0.0.1") == ["http://elsewhere.invalid"]
