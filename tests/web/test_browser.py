"""The pages in headless Chromium, over a real server: what a person does, and what may never happen to one."""

import io
import json
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from app.core.config import InversionConfig
from app.core.errors import Problem
from app.core.lifecycle import ScanStatus
from app.core.report.html import report_html
from app.core.service import Service
from tests.api import world
from tests.core.report.report_samples import BACKDOORED, document
from tests.flow.serving import serving
from tests.processes import own_world
from tests.toys import SHORT, ToyNet, save_toy, toy_images, toy_labels
from tests.web.browser import Chromium

pytestmark = pytest.mark.real

HOSTILE = "<img src=x onerror=alert(1)>"
NAMES = (HOSTILE, "bicycle", "cat", "deer", "eagle", "frog")  # in sorted order
WIDTHS = (1280, 360)
TAB, ENTER = ("Tab", 9), ("Enter", 13, "\r")
SEARCH = replace(SHORT, steps=40, labels_per_block=2)


@contextmanager
def real_service(folder: Path, search: InversionConfig) -> Iterator[str]:
    """The address of `triggerlens serve`, with its worker, on a shorter search."""
    with own_world(), serving(folder, search) as served:
        yield served.address


def hostile_bundle(path: Path) -> Path:
    """Toy images in a folder per class, one of which would like to be more than a name."""
    pictures = (toy_images(8).clamp(0, 1) * 255).round().byte().squeeze(1).numpy()
    with zipfile.ZipFile(path, "w") as archive:
        for number, (picture, label) in enumerate(zip(pictures, toy_labels(8).tolist(), strict=True)):
            content = io.BytesIO()
            Image.fromarray(picture).save(content, "PNG")
            archive.writestr(f"{NAMES[label]}/{number}.png", content.getvalue())
    return path


def look_everywhere(browser: Chromium, name: str, folder: Path) -> None:
    """On a wide and on a narrow screen, light and dark: nothing is cut off, and a picture is taken."""
    for width in WIDTHS:
        for dark in (False, True):
            browser.look(width, dark, calm=True)
            assert browser.ask("document.documentElement.scrollWidth") <= width, (name, width)
            path = folder / f"{name}_{width}_{'dark' if dark else 'light'}.png"
            browser.picture(path)
            with Image.open(path) as picture:
                corner = picture.convert("L").getpixel((2, picture.height - 2))
                assert picture.width == width and len(picture.convert("RGB").getcolors(1 << 24)) > 50
            assert (corner < 64) == dark, f"{name}: not drawn in the colours that were asked for"
    browser.look(WIDTHS[0])


def rows(browser: Chromium) -> list[str]:
    found = browser.ask("[...document.querySelectorAll('#labels tbody tr')].map((row) => row.innerText)")
    return list(found)


def downloaded(browser: Chromium, selector: str, name: str) -> bytes:
    browser.click(selector)
    deadline = time.monotonic() + 20
    while not (path := browser.downloads / name).exists():
        assert time.monotonic() < deadline, f"{name} did not come"
        time.sleep(0.05)
    return path.read_bytes()


def read_frame(browser: Chromium) -> str:
    """The words of the report, once it is there."""
    loaded = "new Promise((tell) => document.readyState === 'complete' ? tell() : addEventListener('load', tell))"
    return str(browser.in_frame(f"{loaded}.then(() => document.body.innerText)"))


@pytest.mark.slow
def test_a_person_drops_two_files_and_sees_a_backdoor_found_and_repaired(browser: Chromium, tmp_path: Path) -> None:
    model = save_toy(tmp_path / "<b>suspect.pt", ToyNet(planted=2))
    bundle = hostile_bundle(tmp_path / "images.zip")
    with real_service(tmp_path / "data", SEARCH) as address:
        browser.open(f"{address}/")
        browser.wait("!document.querySelector('#no-scans').hidden")
        look_everywhere(browser, "home", tmp_path)

        browser.drop_files(600, 400, model, bundle)
        browser.wait("document.querySelectorAll('.zone.done').length === 2")
        assert sha256(model.read_bytes()).hexdigest()[:12] in browser.text("#model-state")
        browser.click("summary")
        browser.ask("document.querySelector('#mean').value = '0', document.querySelector('#std').value = '1'")
        look_everywhere(browser, "chosen", tmp_path)
        browser.click("#start")

        browser.wait("location.pathname.startsWith('/scans/') && document.readyState === 'complete'")
        browser.wait("document.querySelector('#verdict').childElementCount", seconds=120)

        assert browser.text("#verdict h2") == "Signs of a backdoor: label 2 (cat)"
        assert "no longer works on the repaired weights" in browser.text(".repair")
        listed = rows(browser)
        assert "cat" in listed[0] and "▲ flagged" in listed[0] and len(listed) == 6
        assert any(HOSTILE in row for row in listed) and browser.text("h1") == "<b>suspect.pt"
        assert browser.ask("document.querySelectorAll('main img, main b:not(.verdict b)').length") == 0
        look_everywhere(browser, "finished", tmp_path)

        report = json.loads(downloaded(browser, "[download='report.json']", "report.json"))
        tested = any(row["p_value"] is not None for row in report["labels"])
        assert browser.ask("document.querySelector('#labels td.tested').checkVisibility()") == tested
        weights = downloaded(browser, "[download='repaired.pt']", "repaired.pt")
        assert sha256(weights).hexdigest() == report["repair"]["files"]["repaired.pt"]

        scan = browser.ask("location.pathname")
        browser.click("#read-report")
        browser.wait("location.pathname.endsWith('/report') && !document.querySelector('#report').hidden")
        assert "Signs of a backdoor" in read_frame(browser)
        assert browser.in_frame("origin") == "null", "the report has no rights here"
        look_everywhere(browser, "report", tmp_path)

        browser.open(f"{address}/")
        browser.wait("document.querySelectorAll('#scans li').length === 1")
        assert "▲ Signs of a backdoor: label 2" in browser.text("#scans li")
        look_everywhere(browser, "list", tmp_path)
        browser.click("#scans a")
        browser.wait(f"location.pathname === '{scan}' && document.querySelector('#verdict h2')")
        browser.delete_by("#delete")
        browser.wait("location.pathname === '/' && !document.querySelector('#no-scans').hidden")
    assert browser.errors == [] and browser.questions == []
    assert browser.foreign_requests(address) == []


def test_a_waiting_scan_says_for_what_and_can_be_cancelled(browser: Chromium, service: Service) -> None:
    world.queued_scan(service)
    scan_id = world.queued_scan(service)
    with world.served(service) as address:
        browser.open(f"{address}/scans/{scan_id}")
        browser.wait("!document.querySelector('#scan').hidden")
        assert browser.text("#stage") == "Waiting: 1 to be served first"
        assert browser.text("#eta") == "No worker is there at the moment; the scan waits for one."
        browser.click("#cancel")
        browser.wait("document.querySelector('#verdict h2')?.textContent === 'Cancelled'")
        assert browser.ask("document.querySelector('#live').hidden && !document.querySelector('#delete').hidden")
    assert browser.errors == []


def test_labels_come_in_one_by_one(browser: Chromium, service: Service, tmp_path: Path) -> None:
    scan_id = world.running_scan(service)
    with world.served(service) as address:
        browser.open(f"{address}/scans/{scan_id}")
        browser.wait("document.querySelectorAll('#labels tbody tr').length === 3")
        assert browser.text("#stage") == "Searching a trigger for each label: 3 of 10 done"
        look_everywhere(browser, "running", tmp_path)
        for label in range(3, 7):
            world.find_label(service, scan_id, label)
            browser.wait(f"document.querySelectorAll('#labels tbody tr').length === {label + 1}")
            browser.wait(f"document.querySelector('#stage').innerText.endsWith('{label + 1} of 10 done')")
    assert browser.errors == []


def test_a_page_goes_on_when_the_service_is_back(browser: Chromium, service: Service) -> None:
    scan_id = world.running_scan(service)
    with world.served(service) as address:
        browser.open(f"{address}/scans/{scan_id}")
        browser.wait("document.querySelectorAll('#labels tbody tr').length === 3")
        assert "3 of 10 done" in browser.text("#stage") and "left" in browser.text("#eta")
        assert browser.ask("document.querySelector('#progress').value") > 0.3
        line = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        browser.do("Network.emulateNetworkConditions", offline=True, **line)
        browser.wait("document.querySelector('#scan-problem').innerText.includes('The service does not answer.')")
        browser.do("Network.emulateNetworkConditions", offline=False, **line)
        browser.wait("document.querySelector('#scan-problem').innerText === ''")


def test_why_a_scan_failed_is_told_with_advice(browser: Chromium, service: Service) -> None:
    scan_id = world.ended_scan(service, status=ScanStatus.FAILED)
    problem = Problem("unsafe_code", "A hook.", "Remove it.", rule="code-hook", member="code/a.py", line=7).to_json()
    refused = world.ended_scan(service, status=ScanStatus.FAILED, problem=problem)
    with world.served(service) as address:
        browser.open(f"{address}/scans/{scan_id}")
        told = browser.wait("document.querySelector('#verdict').innerText")
        assert "bundle_empty" in told and "Nothing inside." in told and "Fill it." in told
        assert "Rule" not in told
        browser.open(f"{address}/scans/{refused}")
        assert "Rule code-hook, member code/a.py, line 7" in browser.wait(
            "document.querySelector('#verdict').innerText"
        )
        browser.open(f"{address}/scans/nobody")
        assert "There is no scan 'nobody'." in browser.wait("document.querySelector('#scan-problem').innerText")


def test_a_file_that_is_refused_is_told_where_it_was_chosen(
    browser: Chromium, service: Service, tmp_path: Path
) -> None:
    (tmp_path / "empty.pt").touch()
    with world.served(service) as address:
        browser.open(f"{address}/")
        browser.choose_file("#model-file", tmp_path / "empty.pt")
        browser.wait("document.querySelector('#model.wrong')")
        assert browser.text("#model-state") == "✕ The body is empty. Send the file as the body: curl -T FILE URL."


def test_a_key_is_asked_for_and_kept_in_this_tab_only(
    browser: Chromium, service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(world, "PAGE", report_html(document(BACKDOORED), {}).encode())
    guarded = Service.open(service.settings.model_copy(update={"host": "0.0.0.0"}))
    secret = world.make_key(guarded, "alice")["Authorization"].removeprefix("Bearer ")
    scan_id = world.ended_scan(guarded, "alice")
    with world.served(guarded) as address:
        browser.open(f"{address}/")
        browser.wait("document.querySelector('#key-dialog').open && document.activeElement.id === 'key'")
        for width in WIDTHS:
            browser.look(width, dark=True)
            browser.picture(tmp_path / f"key_{width}.png", whole=False)
        browser.write("tl_wrong")
        browser.press(*ENTER)
        browser.wait("document.querySelector('#key-why').textContent === 'The API key is unknown, or was revoked.'")
        assert [error for error in browser.errors if "status of 401" not in error] == []
        browser.write(secret)
        browser.press(*ENTER)
        browser.wait("document.querySelectorAll('#scans li').length === 1")
        assert browser.ask("[Object.values(sessionStorage).length, localStorage.length, document.cookie]") == [1, 0, ""]

        browser.look(1280)
        browser.click("#scans a")
        browser.wait("document.querySelector('#verdict h2')")
        assert downloaded(browser, "[download='repaired.pt']", "repaired.pt") == world.WEIGHTS
        browser.click("#read-report")
        browser.wait("!document.querySelector('#report').hidden")
        assert "Signs of a backdoor" in read_frame(browser)
        assert browser.in_frame("getComputedStyle(document.body).maxWidth") == "960px", "its style is applied"
        browser.click("#forget-key")
        browser.wait("document.querySelector('#key-dialog').open")
        browser.press("Escape", 27)
        told = browser.wait("document.querySelector('#report-problem').innerText")
        assert "No API key was given." in told and scan_id in browser.ask("location.pathname")
    guarded.close()
    assert [error for error in browser.errors if "status of 401" not in error] == []
    assert browser.foreign_requests(address) == []


def test_everything_is_reached_by_keyboard_and_seen_to_be(browser: Chromium, service: Service) -> None:
    world.ended_scan(service)
    with world.served(service) as address:
        browser.open(f"{address}/")
        browser.wait("document.querySelectorAll('#scans li').length === 1")
        reached = []
        for _ in range(8):
            browser.press(*TAB)
            reached.append(browser.ask("document.activeElement.id || document.activeElement.localName"))
            seen = "(document.activeElement.closest('.zone') ?? document.activeElement)"
            assert browser.ask(f"getComputedStyle({seen}).outlineStyle") == "solid", reached
        assert reached == ["a", "model-file", "bundle-file", "repair", "summary", "start", "a", "button"]
        unnamed = "[...document.querySelectorAll('input, select')].filter((input) => !input.labels.length).length"
        assert browser.ask(unnamed) == 0


def test_without_scripts_the_page_explains_itself(browser: Chromium, service: Service, tmp_path: Path) -> None:
    browser.do("Emulation.setScriptExecutionDisabled", value=True)
    with world.served(service) as address:
        browser.open(f"{address}/")
        assert "curl -T model.pt" in browser.text("noscript")
        assert browser.ask("document.querySelector('#new-scan').checkVisibility()") is False
        for width in WIDTHS:
            browser.look(width)
            browser.picture(tmp_path / f"noscript_{width}.png")
    assert browser.foreign_requests(address) == []
