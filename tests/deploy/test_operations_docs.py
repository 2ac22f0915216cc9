"""What docs/deploy.md and docs/operations.md say about settings, figures and commands is what the code says."""

import re
from typing import Any

from app.core.settings import Settings
from tests.deploy.compose import ROOT, named, services, variables

DEPLOY = (ROOT / "docs" / "deploy.md").read_text("utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")


def default_of(field: Any) -> str:
    """As the table tells it: nothing for none, a word for what the machine decides."""
    if field.default_factory is not None:
        return "cores"
    return "" if field.default is None else f"`{field.default}`"


def test_table_of_settings_is_complete_and_in_order():
    rows = re.findall(r"^\| `TRIGGERLENS_(\w+)` \| (.*?) ?\|", DEPLOY, re.M)
    assert rows == [(name.upper(), default_of(field)) for name, field in Settings.model_fields.items()]


def test_table_of_services_is_complete():
    table = DEPLOY.split("| service |")[1].split("\n\n")[0]
    ours = set(re.findall(r"`([a-z0-9-]+)`", " ".join(row.split("|")[1] for row in table.splitlines()[2:])))
    assert ours == services(variables()).keys()


def test_variables_that_the_pages_name_exist():
    known = {f"TRIGGERLENS_{name.upper()}" for name in Settings.model_fields} | named()
    pages = DEPLOY + OPERATIONS
    assert set(re.findall(r"TRIGGERLENS_[A-Z_]+", pages)) <= known
    assert set(re.findall(r"`([A-Z][A-Z0-9_]{3,})`", pages)) <= known | {"DATA_DIR"}


def test_figures_and_log_events_that_the_pages_name_exist():
    code = "".join(path.read_text("utf-8") for part in ("app", "worker") for path in (ROOT / part).rglob("*.py"))
    table = OPERATIONS.split("| metric |")[1].split("\n\n")[0]
    figures = {name.removesuffix("_total") for name in re.findall(r"^\| `(triggerlens_\w+)", table, re.M)}
    assert figures == set(re.findall(r'"(triggerlens_\w+)"', (ROOT / "app/api/metrics.py").read_text("utf-8")))
    events = OPERATIONS.split("Worth an alert:")[1].split(". ")[0]
    for name in re.findall(r"`(\w+)`", events):
        assert f'"{name}"' in code, name


def test_volumes_and_networks_that_the_pages_name_exist():
    project = services(variables())
    for name in re.findall(r"triggerlens_(postgres|s3|redis)\b", OPERATIONS):
        assert project[name].facts["volumes"][0].startswith(f"{name}:")
    assert "triggerlens_inside" in OPERATIONS and project["s3"].facts["networks"] == ["inside"]
