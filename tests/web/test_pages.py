"""The pages as they are served: shells without anybody's data, under a policy that lets nothing else in."""

import base64
import hashlib
import re
from importlib.resources import files

import pytest
from fastapi.testclient import TestClient

from app.core.findings import Caveat, Reason, Spared, Verdict
from app.core.plan import JobKind
from app.core.service import Service
from app.core.settings import Settings
from app.serving import open_service
from app.web.pages import STATIC
from tests.api.world import client_of, ended_scan, make_key

PAGES = ["/", f"/scans/{'0' * 32}", f"/scans/{'0' * 32}/report"]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_allows_only_what_comes_from_its_own_host(client: TestClient, path: str) -> None:
    page = client.get(path)
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert "unsafe" not in str(policy) and "*" not in str(policy) and "http" not in str(policy)
    assert policy["require-trusted-types-for"] == "'script'" and policy["trusted-types"] == "'none'"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_no_code_of_its_own_and_loads_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    page = client.get(path).text
    assert re.findall(r"<script[^>]*>[^<]", page) == re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:", page) == []
    loaded = re.findall(r"(?:src|href)=\"([^\"]+)\"", page)
    assert loaded and all(address.startswith("/") and not address.startswith("//") for address in loaded)
    for address in {address for address in loaded if address.startswith("/static/")}:
        assert client.get(address).status_code == 200


@pytest.mark.parametrize("path", [*PAGES, *(f"/static/{name}" for name in STATIC)])
def test_what_has_not_changed_is_not_sent_again(client: TestClient, path: str) -> None:
    first = client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(first.content))


@pytest.mark.parametrize("name", STATIC)
def test_static_files_come_out_of_the_package_with_their_type(client: TestClient, name: str) -> None:
    package, file, media_type = STATIC[name]
    answer = client.get(f"/static/{name}")
    assert answer.content == files(package).joinpath(file).read_bytes()
    assert answer.headers["content-type"] == media_type


@pytest.mark.parametrize("name", ["pages.py", "../pages.py", "..%2fpages.py", ""])
def test_nothing_else_is_served(client: TestClient, name: str) -> None:
    assert client.get(f"/static/{name}").json()["code"] == "not_found"


def test_a_report_in_a_frame_may_have_its_own_style_and_nothing_more(client: TestClient) -> None:
    style = hashlib.sha256(client.get("/static/report.css").content).digest()
    policy = client.get(PAGES[2]).headers["content-security-policy"]
    assert f"style-src 'self' 'sha256-{base64.b64encode(style).decode()}';" in policy
    assert "sandbox hidden>" in client.get(PAGES[2]).text


@pytest.mark.parametrize("address", ["';rm -rf ~;'", "<script>alert(1)</script>", "${HOME}", "A" * 32])
def test_a_strangers_words_get_into_no_command(client: TestClient, address: str) -> None:
    page = client.get(f"/scans/{address.replace('/', '%2F')}")
    assert address not in page.text
    assert page.status_code == 404 or "v1/scans/SCAN_ID/report" in page.text


def test_pages_hold_no_scan_and_need_no_key(service: Service) -> None:
    scan_id = ended_scan(service, "alice")
    guarded = open_service(service.settings.model_copy(update={"host": "0.0.0.0"}))
    make_key(guarded, "alice")
    with client_of(guarded) as client:
        assert client.get("/v1/scans").status_code == 401
        pages = [client.get("/").text, client.get(f"/scans/{scan_id}").text]
    guarded.close()
    assert all("data-needs-key" in page and "model.pt'" not in page.replace("-T model.pt '", "") for page in pages)


def test_on_loopback_no_key_is_asked_for(client: TestClient) -> None:
    assert "data-needs-key" not in client.get("/").text


def test_every_word_of_the_api_has_its_words_for_people(client: TestClient) -> None:
    page = client.get(PAGES[1]).text
    kinds = {"verdict": Verdict, "reason": Reason, "caveat": Caveat, "stage": JobKind, "spared": Spared}
    for kind, names in kinds.items():
        assert [name for name in names if f'<template id="{kind}-{name}">' not in page] == []
    assert [name for name in Verdict if f'<template id="outcome-{name}">' not in client.get("/").text] == []


def test_without_scripts_the_page_says_how_to_go_on(client: TestClient) -> None:
    page = client.get("/").text
    told = page[page.index("<noscript>") : page.index("</noscript>")]
    assert "curl -T model.pt 'http://127.0.0.1:8360/v1/artifacts?kind=model'" in told.replace("&#39;", "'")


def test_limits_are_told_before_anything_is_sent(service: Service) -> None:
    small = open_service(Settings(data_dir=service.settings.data_dir, max_model_bytes=4321))
    with client_of(small) as client:
        assert 'data-limit="4321"' in client.get("/").text
    small.close()
