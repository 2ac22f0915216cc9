from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, sync_playwright

from app.core.service import Service
from app.core.settings import Settings
from app.serving import open_service
from tests.api.world import client_of
from tests.servers import do_without
from tests.web.chromium import ADVICE, chromium
from tests.web.visit import Visit, visiting


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    opened = open_service(Settings(data_dir=tmp_path / "data"))
    yield opened
    opened.close()


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with client_of(service) as client:
        yield client


@pytest.fixture(scope="module")  # Playwright keeps an event loop in this thread, where others may run theirs afterwards
def browser() -> Iterator[Browser]:
    binary = chromium()
    if binary is None:
        do_without("Chromium", ADVICE)
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=binary) as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """A browser that knows nothing yet, with a wide window."""
    with visiting(browser) as visit:
        yield visit
