"""The commands of who keeps a service: keys, migrations, the doctor, and a sentence for every bad surrounding."""

import json
import signal
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from app import doctor
from app.cli import main, scanning
from app.core.database import Database
from app.core.settings import Settings
from app.installed import demand_engine

pytestmark = pytest.mark.real


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to serve from; what `serve` sets in this process is set back."""
    term = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)
    for name in ("DATA_DIR", "HOST", "PORT", "SERVER", "KEY", "THREADS"):
        monkeypatch.setenv(f"TRIGGERLENS_{name}", "x")
        monkeypatch.delenv(f"TRIGGERLENS_{name}")
    yield tmp_path
    signal.signal(signal.SIGTERM, term)


def invoke(*arguments: object) -> Result:
    """A command in this process: it ends before anything runs for long."""
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_a_key_is_shown_once_listed_without_its_secret_and_revoked(here: Path) -> None:
    made = invoke("keys", "create", "--tenant", "acme", "--name", "ci")
    secret = made.stdout.strip()
    assert made.exit_code == 0 and secret.startswith("tl_") and secret not in made.stderr
    (row,) = json.loads(invoke("keys", "list", "--json").stdout)
    assert (row["tenant"], row["name"], row["revoked"]) == ("acme", "ci", None)
    assert "acme" in invoke("keys", "list").stderr
    assert invoke("keys", "revoke", row["id"]).exit_code == 0
    assert json.loads(invoke("keys", "list", "--json").stdout)[0]["revoked"]
    again = invoke("keys", "revoke", row["id"])
    assert again.exit_code == 4 and "no usable key" in again.stderr


def test_a_service_that_others_reach_demands_a_key(here: Path) -> None:
    refused = invoke("serve", "--host", "0.0.0.0", "--port", 0)
    assert refused.exit_code == 4 and "triggerlens keys create" in refused.stderr


def test_a_port_in_use_is_told(here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = invoke("serve", "--port", taken.getsockname()[1])
    assert refused.exit_code == 4 and "Address already in use" in refused.stderr and "--port" in refused.stderr


def test_a_host_that_is_none_is_told(here: Path) -> None:
    assert invoke("keys", "create", "--name", "any").exit_code == 0
    refused = invoke("serve", "--host", "192.0.2.1", "--port", 0)
    assert refused.exit_code == 4 and "192.0.2.1" in refused.stderr


def test_a_data_folder_that_cannot_be_written_is_told(here: Path) -> None:
    (here / "file").write_text("")
    refused = invoke("serve", "--data-dir", here / "file" / "data")
    assert refused.exit_code == 4 and "Not a directory" in refused.stderr and "--data-dir" in refused.stderr


def test_a_database_of_a_newer_version_is_left_alone(here: Path) -> None:
    assert invoke("migrate").exit_code == 0
    database = Database(Settings().database)
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    for command in (["serve"], ["migrate"], ["keys", "list"]):
        refused = invoke(*command)
        assert refused.exit_code == 4 and "newer version" in refused.stderr, command


def test_a_file_that_is_no_database_is_told(here: Path) -> None:
    (here / "triggerlens-data").mkdir()
    (here / "triggerlens-data" / "triggerlens.sqlite3").write_text("no database" * 100)
    refused = invoke("serve")
    assert refused.exit_code == 4 and "file is not a database" in refused.stderr and "Traceback" not in refused.stderr


def test_a_setting_that_makes_no_sense_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIGGERLENS_THREADS", "many")
    refused = invoke("serve")
    assert refused.exit_code == 4 and "TRIGGERLENS_THREADS" in refused.stderr


def test_without_torch_a_scan_says_how_to_get_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "demand_engine", partial(demand_engine, lambda name: None))
    refused = invoke("scan", "model.pt", "bundle.zip")
    assert refused.exit_code == 4 and "pip install 'triggerlens[engine]'" in refused.stderr


# The doctor


def states(settings: Settings) -> dict[str, str]:
    return {check.name: check.state for check in doctor.examine(settings, lambda: "")}


def test_the_doctor_says_what_is_wrong(here: Path) -> None:
    assert states(Settings())["database"] == "note", "nothing was served here yet, and nothing is made by looking"
    assert list(here.iterdir()) == []
    away = {"database_url": "postgresql+psycopg://nobody@127.0.0.1:9/none", "broker_url": "redis://127.0.0.1:9/0"}
    ill = states(Settings(device="cuda", max_model_bytes=10**18, **away))
    assert {name for name, state in ill.items() if state == "wrong"} == {"database", "broker", "GPU", "disk"}


def test_a_signing_key_that_cannot_be_used_is_told_before_a_worker_fails_by_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert states(Settings())["signing"] == "note"
    monkeypatch.setenv("TRIGGERLENS_SIGNING_KEY", "none.pem")
    assert states(Settings())["signing"] == "wrong"
    refused = invoke("serve", "--port", 0)
    assert refused.exit_code == 4 and "openssl genpkey" in refused.stderr


def test_the_doctor_sees_migrations_that_were_not_run(here: Path) -> None:
    Database(Settings().database).engine.connect().close()
    (check,) = (check for check in doctor.examine(Settings(), lambda: "") if check.name == "database")
    assert check.state == "wrong" and "triggerlens migrate" in check.advice
