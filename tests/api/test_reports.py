"""What a finished scan leaves: report, figures, repaired weights; and why they are not there otherwise."""

import pytest
from fastapi.testclient import TestClient

from app.core.lifecycle import ScanStatus
from app.core.service import Service
from tests.api.world import FIGURE, PAGE, REPORT, STATED, WEIGHTS, ended_scan, queued_scan, running_scan, sha256_of


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", REPORT),
        ("", REPORT),
        ("application/json", REPORT),
        ("text/html", PAGE),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", PAGE),
        ("application/json;q=0.5, text/html;q=0.4", REPORT),
        ("application/json;q=0, */*", PAGE),
        ("text/*", PAGE),
        ("TEXT/HTML ; Q=1.0", PAGE),
    ],
)
def test_a_report_comes_in_the_form_that_is_preferred(
    client: TestClient, service: Service, accept: str, expected: bytes
) -> None:
    answer = client.get(f"/v1/scans/{ended_scan(service)}/report", headers={"Accept": accept})
    assert (answer.status_code, answer.content) == (200, expected)
    assert answer.headers["etag"] == f'"{sha256_of(expected)}"' and answer.headers["vary"] == "Accept"


@pytest.mark.parametrize("accept", ["image/png", "application/json;q=0, text/html;q=0", "*/*;q=0", "text/html;q=x"])
def test_a_report_in_another_form_does_not_exist(client: TestClient, service: Service, accept: str) -> None:
    refused = client.get(f"/v1/scans/{ended_scan(service)}/report", headers={"Accept": accept})
    assert (refused.status_code, refused.json()["code"]) == (406, "not_acceptable")


def test_the_page_may_do_nothing_in_a_browser_but_be_seen(client: TestClient, service: Service) -> None:
    page = client.get(f"/v1/scans/{ended_scan(service)}/report?format=html", headers={"Accept": "application/json"})
    policy = page.headers["content-security-policy"]
    assert page.content == PAGE and page.headers["content-type"].startswith("text/html")
    assert policy.startswith("default-src 'none';") and policy.endswith("sandbox")
    assert page.headers["x-content-type-options"] == "nosniff"


def test_figures_are_found_by_name_and_by_nothing_else(client: TestClient, service: Service) -> None:
    url = f"/v1/scans/{ended_scan(service)}/figures"
    figure = client.get(f"{url}/label_1.png")
    assert (figure.content, figure.headers["content-type"]) == (FIGURE, "image/png")
    for name in ("label_2.png", "..%2Freport.json", "%00", "repaired.pt"):
        assert client.get(f"{url}/{name}").status_code == 404
    assert client.get(f"{url}/label_2.png").json()["code"] == "figure_not_found"


@pytest.mark.parametrize(
    ("query", "name", "content"),
    [
        ("", "repaired.pt", WEIGHTS),
        ("?format=torchscript", "repaired.pt", WEIGHTS),
        ("?format=safetensors", "repaired.safetensors", WEIGHTS[:70]),
        ("?format=statement", "repaired.intoto.jsonl", STATED),
    ],
)
def test_repaired_weights_come_in_both_formats_and_with_a_statement(
    client: TestClient, service: Service, query: str, name: str, content: bytes
) -> None:
    url = f"/v1/scans/{ended_scan(service)}/repaired{query}"
    whole = client.get(url)
    assert whole.content == content and whole.headers["etag"] == f'"{sha256_of(content)}"'
    assert whole.headers["content-disposition"] == f'attachment; filename="{name}"'
    part = client.get(url, headers={"Range": "bytes=7-13"})
    assert (part.status_code, part.content) == (206, content[7:14])
    assert client.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304


def test_while_a_scan_is_open_there_is_nothing_to_read_yet(client: TestClient, service: Service) -> None:
    for scan_id in (queued_scan(service), running_scan(service)):
        for what in ("report", "figures/label_1.png", "repaired"):
            early = client.get(f"/v1/scans/{scan_id}/{what}")
            assert (early.status_code, early.json()["code"]) == (409, "report_not_ready")


@pytest.mark.parametrize("status", [ScanStatus.FAILED, ScanStatus.CANCELLED])
def test_a_scan_that_did_not_finish_has_no_report(client: TestClient, service: Service, status: ScanStatus) -> None:
    url = f"/v1/scans/{ended_scan(service, status=status)}"
    codes = [client.get(f"{url}/{what}").json()["code"] for what in ("report", "figures/label_1.png", "repaired")]
    assert codes == ["no_report", "no_report", "no_repair"]


@pytest.mark.parametrize(
    ("repair_status", "code"), [("refused", "repair_refused"), ("not_needed", "no_repair"), (None, "no_repair")]
)
def test_why_there_are_no_repaired_weights(
    client: TestClient, service: Service, repair_status: str | None, code: str
) -> None:
    refused = client.get(f"/v1/scans/{ended_scan(service, repair_status=repair_status)}/repaired")
    assert (refused.status_code, refused.json()["code"]) == (404, code)
