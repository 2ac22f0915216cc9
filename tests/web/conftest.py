from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.core.service import Service
from app.core.settings import Settings
from app.serving import open_service
from tests.api.world import client_of
from tests.servers import do_without
from tests.web.browser import Chromium, chromium


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    opened = open_service(Settings(data_dir=tmp_path / "data"))
    yield opened
    opened.close()


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with client_of(service) as client:
        yield client


@pytest.fixture(scope="session")
def one_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if chromium() is None:
        do_without("Chromium", "apt-get install chromium")
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(one_browser: Chromium, tmp_path: Path) -> Iterator[Chromium]:
    """A browser that knows nothing yet, with a wide window."""
    one_browser.begin(tmp_path)
    one_browser.look(1280)
    yield one_browser
    one_browser.end()
