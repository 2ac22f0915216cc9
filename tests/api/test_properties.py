"""The API held against its own description: requests made from /openapi.json by schemathesis, fitting it and not.

Whatever is asked, nothing fails, and each answer has a status, a form and a content that the description knows.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.core.database import Database
from app.core.tables import DEFAULT_TENANT
from tests.api.world import description, ended_scan, make_service, queued_scan, served, store_artifact
from tests.waiting import PATIENCE_SECONDS

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
EXAMPLES = 10  # for each route


def with_names() -> dict[str, Any]:
    """What the API says of itself, with names for what is there beside whatever else a name may be."""
    found = deepcopy(description())
    there = {"scan_id": ["ENDED", "QUEUED"], "sha256": ["MODEL", "BUNDLE"], "name": ["label_1.png"]}
    for path, operations in found["paths"].items():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    known = there[parameter["name"]][: 1 if path.endswith("/events") else None]  # others go on and on
                    parameter["schema"] = {"anyOf": [{"enum": known}, {"type": "string", "minLength": 1}]}
    for name in ("model", "bundle"):
        schema = found["components"]["schemas"]["NewScan"]["properties"][name]
        found["components"]["schemas"]["NewScan"]["properties"][name] = {"anyOf": [{"enum": [name.upper()]}, schema]}
    return found


@pytest.fixture
def place(database: Database, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a real server, and what the names of the description stand for there."""
    service = make_service(database, tmp_path)
    with served(service) as url:
        names = {"ENDED": ended_scan(service), "QUEUED": queued_scan(service)}
        for kind in ("model", "bundle"):
            names[kind.upper()] = store_artifact(service, DEFAULT_TENANT, f"a {kind}".encode(), kind)
        yield url, names


api = schemathesis.openapi.from_dict(with_names(), config=SchemathesisConfig())


@api.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_the_description_says(case: schemathesis.Case, place: tuple[str, dict[str, str]]) -> None:
    url, names = place
    case.path_parameters = _named(case.path_parameters, names)
    if isinstance(case.body, dict):
        case.body = _named(case.body, names)
    case.call_and_validate(base_url=url, checks=CHECKS, timeout=PATIENCE_SECONDS)


def _named(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {key: names.get(value, value) if isinstance(value, str) else value for key, value in values.items()}
