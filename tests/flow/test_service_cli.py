"""The service as people use it: one `triggerlens serve`, commands that talk to it, and what ends it."""

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from app.cli.following import scan_there
from app.core.lifecycle import ScanStatus
from tests.flow.cli import command, files_of, json_lines, triggerlens, triggerlens_here
from tests.flow.serving import LANES, Served, needs_proc, serving
from tests.toys import SHORT, ToyNet, save_toy, save_toy_bundle
from tests.waiting import PATIENCE_SECONDS, eventually

LABELS, PLANTED = 5, 2
GIVEN = {"mean": [0.0], "std": [1.0]}
ENDLESS = {"inversion": {"steps": 100_000}}
MOMENT = {"inversion": {"steps": 2}}
pytestmark = [needs_proc, pytest.mark.real, pytest.mark.usefixtures("small_world")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("service")
    save_toy(folder / "poisoned.pt", ToyNet(LABELS, planted=PLANTED))
    save_toy_bundle(folder / "bundle.npz", per_label=2, labels=LABELS)
    return folder


@pytest.fixture(scope="module")
def service(place: Path) -> Iterator[Served]:
    with serving(place / "data", SHORT) as served:
        yield served


def asked_for(served: Served, place: Path, **options: Any) -> str:
    """The id of a new scan of the poisoned toy."""
    model = served.client.upload(place / "poisoned.pt", "model")
    bundle = served.client.upload(place / "bundle.npz", "bundle")
    return served.client.request_scan(model.sha256, bundle.sha256, input=GIVEN, force=True, **options).id


def run(place: Path, served: Served, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return triggerlens_here(*arguments, "--server", served.address, cwd=place)


# The whole way


@pytest.fixture(scope="module")
def there(place: Path, service: Served) -> "subprocess.CompletedProcess[str]":
    asked = ["poisoned.pt", "bundle.npz", "--mean", 0, "--std", 1, "--repair", "--json", "--out", "there"]
    return triggerlens("scan", *asked, "--server", service.address, cwd=place)


@pytest.fixture(scope="module")
def scan_id(there: Any) -> str:
    first: dict[str, str] = json_lines(there.stderr)[0]
    assert first["event"] == "requested"
    return first["scan"]


def test_a_service_finds_and_repairs_exactly_what_a_scan_on_this_machine_does(there: Any, place: Path) -> None:
    asked = [
        "poisoned.pt",
        "bundle.npz",
        "--mean",
        0,
        "--std",
        1,
        "--repair",
        "--json",
        "--out",
        "here",
        "--threads",
        1,
        "--lanes",
        1,
    ]
    here = triggerlens_here("scan", *asked, cwd=place, search=SHORT)
    assert (there.returncode, here.returncode) == (1, 1), there.stderr
    reports = [json.loads(done.stdout) for done in (there, here)]
    for report in reports:
        del report["timings"]
    assert reports[0] == reports[1] and reports[0]["flagged_labels"] == [PLANTED]
    assert files_of(place / "there") == files_of(place / "here")
    for name in ("repaired.safetensors", "repaired.pt", "repaired.intoto.jsonl", f"figures/label_{PLANTED}.png"):
        assert (place / "there" / name).read_bytes() == (place / "here" / name).read_bytes(), name


def test_its_progress_is_told_in_the_same_words(there: Any) -> None:
    told = {event["event"] for event in json_lines(there.stderr)}
    assert told >= {"requested", "stage", "prepared", "label", "progress", "finished"}


def test_an_equal_scan_is_not_computed_again(there: Any, scan_id: str, place: Path, service: Served) -> None:
    asked = ["poisoned.pt", "bundle.npz", "--mean", 0, "--std", 1, "--repair", "--out", "again"]
    again = run(place, service, "scan", *asked)
    assert again.returncode == 1 and "Signs of a backdoor" in again.stderr
    assert json_lines(again.stderr.splitlines()[0])[0]["scan"] == scan_id
    assert files_of(place / "again") == files_of(place / "there")


def test_a_scan_can_be_looked_at_watched_and_fetched_from_anywhere(scan_id: str, place: Path, service: Served) -> None:
    status = run(place, service, "status", scan_id)
    assert status.returncode == 0 and "backdoored" in status.stderr and status.stdout == ""
    assert "comes back:" in " ".join(status.stderr.split()), "of the repaired weights"
    watched = run(place, service, "watch", scan_id, "--json")
    assert watched.returncode == 1 and json.loads(watched.stdout)["flagged_labels"] == [PLANTED]
    shown = run(place, service, "report", scan_id, "--out", "elsewhere")
    assert shown.returncode == 0 and "elsewhere/report.html" in shown.stderr
    assert files_of(place / "elsewhere") == files_of(place / "there")
    fetched = run(place, service, "download", scan_id, "--format", "safetensors", "--out", "weights")
    assert fetched.returncode == 0, fetched.stderr
    assert (place / "weights").read_bytes() == (place / "there" / "repaired.safetensors").read_bytes()


def test_a_check_by_a_service_says_exactly_what_one_on_this_machine_says(place: Path, service: Served) -> None:
    asked = ["check", "poisoned.pt", "bundle.npz", "--mean", 0, "--std", 1, "--json"]
    there, here = run(place, service, *asked), triggerlens_here(*asked, "--threads", 1, cwd=place)
    assert there.returncode == here.returncode, there.stderr
    documents = [json.loads(done.stdout) for done in (there, here)]
    for document in documents:
        del document["timings"]
    assert documents[0] == documents[1] and documents[0]["inputs"]["clean_accuracy"] == 1.0
    shown = run(place, service, *asked[:-1])
    assert shown.returncode == here.returncode and f"logits for {LABELS} labels" in shown.stderr and not shown.stdout
    usage = run(place, service, *asked, "--threads", 2)
    assert usage.returncode == 2 and "--threads is for scans on this machine" in usage.stderr
    refused = run(place, service, "check", "poisoned.pt", "bundle.npz", "--output", "none", "--json")
    assert refused.returncode == 4 and json.loads(refused.stdout)["code"] == "output_not_found"


def test_a_file_is_sent_once_and_known_as_what_it_is(place: Path, service: Served) -> None:
    sent = run(place, service, "upload", "poisoned.pt", "--kind", "model", "--json")
    digest = hashlib.sha256((place / "poisoned.pt").read_bytes()).hexdigest()
    assert sent.returncode == 0 and json.loads(sent.stdout)["sha256"] == digest
    mistaken = run(place, service, "upload", "poisoned.pt", "--kind", "bundle", "--json")
    assert mistaken.returncode == 4 and json.loads(mistaken.stdout)["code"] == "artifact_kind_mismatch"


def test_what_cannot_be_scanned_is_refused_before_anything_is_sent(place: Path, service: Served) -> None:
    refused = run(place, service, "scan", "none.pt", "bundle.npz", "--json", "--out", "refused")
    assert refused.returncode == 4 and json.loads(refused.stdout)["code"] == "model_not_found"
    assert not (place / "refused").exists()
    usage = run(place, service, "scan", "poisoned.pt", "bundle.npz", "--threads", 2)
    assert usage.returncode == 2 and "--threads is for scans on this machine" in usage.stderr


def test_a_scan_that_failed_ends_with_its_problem(place: Path, service: Served) -> None:
    (place / "text.pt").write_text("no archive")
    no_model = service.client.upload(place / "text.pt", "model")
    bundle = service.client.upload(place / "bundle.npz", "bundle")
    hopeless = service.client.request_scan(no_model.sha256, bundle.sha256).id
    failed = run(place, service, "watch", hopeless, "--json")
    local = triggerlens_here("scan", "text.pt", "bundle.npz", "--json", cwd=place)
    assert failed.returncode == 4 and json.loads(failed.stdout)["code"] == json.loads(local.stdout)["code"]
    report = run(place, service, "report", hopeless)
    assert report.returncode == 4 and "Traceback" not in report.stderr


class ReadsAFile(nn.Module):
    """A classifier that would like to know who works here."""

    def forward(self, images: Tensor) -> Tensor:
        stolen = torch.from_file("/etc/passwd", size=8, dtype=torch.uint8)
        return images.mean((2, 3)).repeat(1, 5) + stolen.sum()


def test_a_hostile_model_is_refused_by_rule_member_and_line(place: Path, service: Served) -> None:
    torch.jit.script(ReadsAFile()).save(place / "hostile.pt")
    refused = run(place, service, "scan", "hostile.pt", "bundle.npz", "--json", "--out", "hostile")
    problem = json.loads(refused.stdout)
    assert refused.returncode == 4 and problem["rule"] == "code-forbidden-operator" and "from_file" in problem["detail"]
    assert problem["member"].endswith(".py") and problem["line"] > 0 and not (place / "hostile").exists()


def test_a_wrong_key_is_told(place: Path, service: Served) -> None:
    refused = run(place, service, "status", "0" * 32, "--key", "tl_wrong", "--json")
    assert refused.returncode == 4 and json.loads(refused.stdout)["code"] == "unauthenticated"


def test_the_doctor_finds_a_running_service_well(place: Path, service: Served) -> None:
    examined = triggerlens("doctor", "--data-dir", service.data, "--json", cwd=place)
    checks = {check["name"]: check for check in json.loads(examined.stdout)}
    assert examined.returncode == 0, examined.stdout
    assert checks["workers"]["state"] == checks["database"]["state"] == checks["storage"]["state"] == "ok"
    assert checks["engine"]["found"].startswith("torch ")


# Ends


def test_ctrl_c_cancels_the_scan_and_its_engine_ends(place: Path) -> None:
    with serving(place / "endless", replace(SHORT, steps=100_000)) as served:
        asked = ["scan", "poisoned.pt", "bundle.npz", "--out", "cancelled", "--server", served.address]
        process = subprocess.Popen(command(asked, None), cwd=place, stderr=subprocess.PIPE, text=True)
        served.one("worker.engine")
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 5 and words.splitlines()[-1] == f"Cancelled, at {served.address} too."
        eventually(lambda: not served.processes()["worker.engine"])
        eventually(lambda: next(served.client.scans()).status is ScanStatus.CANCELLED)
    assert not (place / "cancelled").exists()


def test_a_ctrl_c_while_the_scan_is_being_asked_for_takes_it_back(
    place: Path, service: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    request_scan = service.client.request_scan

    def interrupted(*what: Any, **how: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        scan = request_scan(*what, **how)
        asked.append(scan.id)
        return scan

    monkeypatch.setattr(service.client, "request_scan", interrupted)
    options = {"input": GIVEN, "config": ENDLESS, "force": True}
    with pytest.raises(SystemExit) as end:
        scan_there(service.client, place / "poisoned.pt", place / "bundle.npz", place / "taken", False, options)
    assert end.value.code == 5
    eventually(lambda: service.client.scan(asked[0]).status == "cancelled")


def test_a_cancelled_scan_frees_its_engine_and_who_watches_is_told(place: Path, service: Served) -> None:
    endless = asked_for(service, place, config=ENDLESS | {"labels_per_block": 3})
    eventually(lambda: len(service.processes()["worker.engine"]) == LANES)  # a block of its labels each
    assert run(place, service, "watch", endless, "--timeout", 1).returncode == 5
    assert run(place, service, "download", endless, "--json").returncode == 4
    assert run(place, service, "cancel", endless).returncode == 0
    eventually(lambda: not service.processes()["worker.engine"])
    watched = run(place, service, "watch", endless)
    assert watched.returncode == 5 and "The scan was cancelled." in watched.stderr


@pytest.fixture(scope="module")
def revived(place: Path, service: Served) -> str:
    """A scan whose worker was killed at work."""
    worker = service.one("worker.embedded")
    for _ in range(10):  # until one has not ended by the time that we look
        scan = asked_for(service, place, config=MOMENT)
        eventually(lambda scan=scan: service.client.scan(scan).status is not ScanStatus.QUEUED)
        os.kill(worker, signal.SIGSTOP)
        if service.client.scan(scan).is_open:
            break
        os.kill(worker, signal.SIGCONT)
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: service.processes()["worker.embedded"] not in ([], [worker]))
    service.let_leases_run_out()
    return scan


def test_a_killed_worker_is_started_again_and_the_scan_finishes(revived: str, service: Served) -> None:
    assert service.client.wait(revived, timeout=PATIENCE_SECONDS).status is ScanStatus.FINISHED


def test_a_deleted_scan_is_gone(revived: str, place: Path, service: Served) -> None:
    service.client.wait(revived, timeout=PATIENCE_SECONDS)
    service.client.delete(revived)
    assert revived not in [scan.id for scan in service.client.scans()]
    gone = run(place, service, "report", revived, "--json")
    assert gone.returncode == 4 and json.loads(gone.stdout)["code"] == "scan_not_found"


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["ctrl-c", "term", "kill"])
def test_nothing_of_a_service_is_left_when_it_ends(end: signal.Signals, place: Path) -> None:
    with serving(place / f"ended-{end}") as served:
        scan = asked_for(served, place, config=ENDLESS)
        served.one("worker.engine")
        served.process.send_signal(end)
        assert served.process.wait(PATIENCE_SECONDS) == (-end if end is signal.SIGKILL else 0)
        if end is signal.SIGKILL:  # its worker finds out for itself
            eventually(lambda: not any(served.processes().values()))
        assert not any(served.processes().values())
    assert scan not in os.listdir(served.data / "scratch"), "the scan is kept in the database, not on the desk"
