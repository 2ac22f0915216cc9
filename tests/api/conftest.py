from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.core.database import Database
from app.core.service import Service
from tests.api.world import client_of, make_service


@pytest.fixture
def service(database: Database, tmp_path: Path) -> Service:
    return make_service(database, tmp_path)


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with client_of(service) as client:
        yield client
