"""docker-compose.yml against the compose specification and against what we promise of it, without a Docker engine."""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.core.database import Database
from app.core.repository import access
from app.core.settings import Settings
from app.core.tables import Worker
from tests import factories
from tests.deploy.compose import (
    FILE,
    ROOT,
    MissingVariableError,
    Service,
    interpolate,
    named,
    raw,
    required,
    services,
    variables,
)
from tests.waiting import PATIENCE_SECONDS

PROFILES = ("cpu", "gpu")
SERVERS = ("postgres", "redis", "s3")
RUNS_ONCE = {"migrate"}
WORKERS = {"worker-cpu", "worker-gpu"}
FENCING = ["seccomp=worker/sandbox/container.json", "apparmor=unconfined", "systempaths=unconfined"]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
ALL = services(variables(COMPOSE_PROFILES="gpu"))
EXAMPLE = (ROOT / ".env.example").read_text("utf-8")

every_service = pytest.mark.parametrize("service", ALL.values(), ids=ALL.keys())
every_process_of_ours = pytest.mark.parametrize(
    "service", [service for service in ALL.values() if "build" in service.facts], ids=lambda service: service.name
)


def test_file_is_what_the_compose_specification_asks_for():
    tool = Path(sys.executable).parent / "check-jsonschema"
    checked = subprocess.run([tool, "--builtin-schema", "vendor.compose-spec", FILE], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@every_service
def test_image_has_a_full_version(service: Service):
    name, _, tag = service.facts["image"].rpartition(":")
    assert re.fullmatch(r"\d+\.\d+[\w.-]*", tag), name
    if "build" in service.facts:
        assert tag == VERSION and service.facts["pull_policy"] == "build"


@every_service
def test_container_can_do_little(service: Service):
    facts = service.facts
    assert facts["read_only"] and facts["cap_drop"] == ["ALL"] and "privileged" not in facts
    assert facts["security_opt"] == ["no-new-privileges:true", *(FENCING if service.name in WORKERS else [])]
    assert not any("docker.sock" in str(volume) for volume in facts.get("volumes", []))
    assert facts.get("cap_add", []) == (["CHOWN", "DAC_OVERRIDE", "SETGID", "SETUID"] if service.name == "s3" else [])


@every_service
def test_memory_processes_and_cores_are_limited(service: Service):
    limits = service.facts["deploy"]["resources"]["limits"]
    assert re.fullmatch(r"\d+[MG]", limits["memory"]) and limits["pids"] > 0 and float(limits["cpus"]) > 0


@every_service
def test_service_comes_back_unless_it_runs_once(service: Service):
    assert service.facts["restart"] == ("no" if service.name in RUNS_ONCE else "unless-stopped")
    assert service.name in RUNS_ONCE or "stop_grace_period" in service.facts


@every_service
def test_service_says_whether_it_is_well(service: Service):
    check = service.facts.get("healthcheck")
    if service.name in RUNS_ONCE:
        assert check == {"disable": True}
    elif check is None:  # then its image does
        stage = (ROOT / "Dockerfile").read_text("utf-8").split(f" AS {service.facts['build']['target']}\n")[1]
        assert "HEALTHCHECK" in stage.split("\nFROM")[0]
    else:
        assert check["test"][0] in ("CMD", "CMD-SHELL") and {"interval", "timeout", "retries"} <= check.keys()


@every_service
def test_dependencies_are_waited_for_and_can_be(service: Service):
    for name, how in service.facts.get("depends_on", {}).items():
        expected = "service_completed_successfully" if name in RUNS_ONCE else "service_healthy"
        assert how["condition"] == expected
        assert "profiles" not in ALL[name].facts


@every_process_of_ours
def test_everything_of_ours_waits_for_the_migration(service: Service):
    assert service.name == "migrate" or set(service.facts["depends_on"]) == {"migrate", *SERVERS}


def test_only_the_api_is_published_and_only_on_loopback():
    published = {service.name: service.facts["ports"] for service in ALL.values() if "ports" in service.facts}
    assert published == {"api": ["127.0.0.1:8360:8360"]}
    assert not any("network_mode" in service.facts for service in ALL.values())


def test_nothing_but_the_api_has_a_way_out():
    networks = raw()["networks"]
    assert networks["inside"] == {"internal": True}
    assert {name for name, service in ALL.items() if service.facts["networks"] != ["inside"]} == {"api"}


def test_each_profile_computes_on_its_own_queue():
    for profile in PROFILES:
        started = {
            name: service
            for name, service in services(variables(COMPOSE_PROFILES=profile)).items()
            if profile in service.facts.get("profiles", PROFILES)
        }
        queues = {
            service.command[service.command.index("--queues") + 1]
            for service in started.values()
            if "--queues" in service.command
        }
        assert queues == {"cpu", profile}
        assert {
            service.environment["TRIGGERLENS_COMPUTE_QUEUE"] for service in started.values() if "build" in service.facts
        } == {profile}


def test_gpu_worker_reserves_a_gpu_for_each_of_its_processes():
    for gpus in ("1", "4"):
        worker = services(variables(COMPOSE_PROFILES="gpu", GPUS=gpus))["worker-gpu"]
        (device,) = worker.facts["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": gpus, "capabilities": ["gpu"]}
        assert worker.command[worker.command.index("--concurrency") + 1] == gpus
        assert worker.environment["TRIGGERLENS_DEVICE"] == "cuda"


def test_each_worker_container_has_scratch_of_its_own():
    for name in ("worker-cpu", "worker-gpu"):
        assert ALL[name].facts["volumes"] == ["/data"], "a named volume would be shared by replicas"


def test_redis_keeps_what_it_was_given():
    command = " ".join(ALL["redis"].command)
    assert "--maxmemory-policy noeviction" in command and "--appendonly yes" in command


def test_servers_keep_their_data_in_named_volumes():
    kept = {name: ALL[name].facts["volumes"][0].split(":")[0] for name in SERVERS}
    assert kept == {name: name for name in SERVERS} and set(raw()["volumes"]) == set(SERVERS)


@pytest.mark.parametrize("name", sorted(required()))
def test_compose_refuses_without_a_secret(name: str):
    with pytest.raises(MissingVariableError, match=name):
        services(variables(**{name: ""}))


def test_no_secret_has_a_default():
    assert required() == {"COMPOSE_PROFILES", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "S3_KEY_ID", "S3_SECRET"}
    text = FILE.read_text("utf-8")
    for secret in required() - {"COMPOSE_PROFILES"}:
        assert all(text.startswith(":?", found.end()) for found in re.finditer(rf"\$\{{{secret}", text)), secret
    for service in raw()["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY_ID|AUTH", name):
                assert value.startswith("${"), name


def test_example_names_every_variable_and_sets_none():
    assert set(re.findall(r"^(?:# )?(\w+)=", EXAMPLE, re.M)) == named()
    assert {line for line in EXAMPLE.splitlines() if line and not line.startswith("#")} == {f"{n}=" for n in required()}


@every_service
def test_every_setting_exists(service: Service):
    for name in raw()["services"][service.name].get("environment", {}):
        if name.startswith("TRIGGERLENS_"):
            assert name.removeprefix("TRIGGERLENS_").lower() in Settings.model_fields


@every_process_of_ours
def test_settings_understand_the_environment(service: Service, monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in os.environ if name.startswith("TRIGGERLENS_")]:
        monkeypatch.delenv(name)
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.database.startswith("postgresql+psycopg://triggerlens:")
    assert isinstance(settings.broker_url, SecretStr)
    assert settings.storage_url == "s3://triggerlens" and "-bucket=triggerlens" in ALL["s3"].command


def test_optional_settings_of_the_example_are_understood(monkeypatch: pytest.MonkeyPatch):
    examples = dict(re.findall(r"^# (TRIGGERLENS_\w+)=(\S+)", EXAMPLE, re.M))
    for name, value in examples.items():
        monkeypatch.setenv(name, value)
    assert Settings().allowed_hosts == ("scan.example.org",) and Settings().retention_days == 30


@every_process_of_ours
def test_command_names_a_program_that_exists(service: Service):
    match service.command:
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module)
        case ["celery", "--app", module, *_]:
            assert importlib.util.find_spec(module) and shutil.which("celery", path=Path(sys.executable).parent)
        case ["triggerlens", verb, *options]:
            program = Path(sys.executable).parent / "triggerlens"
            words = subprocess.run([program, verb, "--help"], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
            assert words.returncode == 0, words.stderr
            assert all(option in words.stdout for option in options if option.startswith("--"))
        case other:
            pytest.fail(f"nobody checks {other}")


def health(service: str, database: Database) -> int:
    """The exit code of a service's own health check, on another database."""
    program, *arguments = ALL[service].facts["healthcheck"]["test"][1:]
    assert program == "python"
    environment = {**os.environ, "TRIGGERLENS_DATABASE_URL": database.url.render_as_string(hide_password=False)}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, timeout=PATIENCE_SECONDS
    ).returncode


def test_worker_is_well_while_it_is_seen(database: Database):
    assert health("worker-cpu", database) == 1
    with database.writing() as session:
        access.see_worker(
            session, Worker(id="w", queues="cpu", host=platform.node(), process=1, device="cpu", version=VERSION)
        )
    assert health("worker-cpu", database) == 0


def test_sweeper_is_well_while_no_lost_job_lies_unnoticed(database: Database):
    with database.writing() as session:
        factories.begun(session)
        job = factories.taken(session, lease_seconds=-30)
    assert health("sweeper", database) == 0, "it may be about to notice"
    with database.writing() as session:
        factories.aged(session, job, "lease_expires_at", 60)
    assert health("sweeper", database) == 1


def test_health_checks_fail_without_a_database(tmp_path: Path):
    gone = Database(f"sqlite:///{tmp_path}/empty.sqlite3")
    assert health("worker-cpu", gone) == 1 and health("sweeper", gone) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$$HOME", "$HOME"),
        ("${SET}", "value"),
        ("${UNSET}", ""),
        ("${UNSET:-2}/${SET:-2}/${EMPTY:-2}", "2/value/2"),
        ("a${SET:?advice}b", "avalueb"),
    ],
)
def test_variables_are_resolved_as_compose_does(text: str, expected: str):
    assert interpolate(text, {"SET": "value", "EMPTY": ""}) == expected


def test_helper_puts_real_servers_in_the_place_of_names():
    places = {
        "postgres": "postgresql+psycopg://tests@/db?host=/tmp/socket",
        "redis": "redis://127.0.0.1:4321/0",
        "s3": "http://127.0.0.1:4322",
    }
    api = services(variables(TRIGGERLENS_MAX_DISK_BYTES="5"), places)["api"]
    assert api.command == ["triggerlens", "serve", "--host", "0.0.0.0", "--port", "8360"]
    assert api.environment["TRIGGERLENS_DATABASE_URL"] == places["postgres"]
    assert api.environment["TRIGGERLENS_BROKER_URL"] == places["redis"]
    assert api.environment["TRIGGERLENS_STORAGE_ENDPOINT"] == places["s3"]
    assert api.environment["TRIGGERLENS_STORAGE_URL"] == "s3://triggerlens"
    assert api.environment["TRIGGERLENS_MAX_DISK_BYTES"] == "5"
    assert "TRIGGERLENS_ALLOWED_HOSTS" not in api.environment
