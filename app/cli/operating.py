"""What keeps a service: serve it, migrate its database, make its keys, find out what is wrong with it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app import terminal
from app.cli.endings import ending_well, print_json
from app.cli.options import as_json_option, data_dir_option
from app.core.errors import Refusal

if TYPE_CHECKING:  # each command imports what it needs: the web framework and the database take seconds
    from app.core.service import Service
    from app.core.settings import Settings

LOG = "service.log"
DEFAULT_TENANT = "default"


@click.command()
@click.option("--host", help="Address to listen at; any but this machine's own needs an API key. [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="0 finds a free one. [default: 8360]")
@data_dir_option
@click.option("--verbose", is_flag=True, help="Show the log here instead of keeping it in the data folder.")
def serve(host: str | None, port: int | None, data_dir: Path | None, verbose: bool) -> None:
    """Run the service on this machine.

    API, database, storage and a worker in one process tree, and all that they keep in one data folder.
    """
    is_shown = verbose or not terminal.console.is_terminal
    with (
        ending_well(),
        _service(host=host, port=port, data_dir=data_dir) as service,
        _kept_log(service.settings, is_shown) as log,
        ending_well(),
    ):
        from app.serving import serve as serve_until_interrupted

        try:
            serve_until_interrupted(service, lambda address: _say_ready(service.settings, address, log))
        except KeyboardInterrupt:
            terminal.say("Stopped.")


@click.command()
@data_dir_option
def migrate(data_dir: Path | None) -> None:
    """Bring the database to what this version expects."""
    with ending_well(), _service(data_dir=data_dir) as service:
        from app.api.checks import DATABASE_AHEAD
        from app.core import migrating
        from app.core.migrating import MigrationState

        if migrating.state(service.database) is MigrationState.AHEAD:
            raise DATABASE_AHEAD
        migrating.upgrade(service.database)
        terminal.say("The database is as this version expects it.")


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command()
@click.option("--tenant", default=DEFAULT_TENANT, show_default=True, help="Whose files and scans it opens.")
@click.option("--name", required=True, help="What it is for.")
@data_dir_option
@as_json_option
def create(tenant: str, name: str, data_dir: Path | None, as_json: bool) -> None:
    """Make a key, and print its secret: this once, on stdout."""
    with ending_well(as_json), _service(data_dir=data_dir) as service:
        from app.core.repository import access

        with service.database.writing() as session:
            key, secret = access.create_key(session, tenant, name)
        if as_json:
            print_json({"id": key.id, "tenant": tenant, "name": name, "secret": secret})
        else:
            terminal.say(f"Key {key.id} of {tenant}. Its secret is shown this once:")
            print(secret)


@keys.command("list")
@data_dir_option
@as_json_option
def list_keys(data_dir: Path | None, as_json: bool) -> None:
    """List all keys, without their secrets."""
    with ending_well(as_json), _service(data_dir=data_dir) as service:
        from app.core.repository import access

        with service.database.reading() as session:
            rows = [_key_row(key) for key in access.keys(session)]
        if as_json:
            print_json(rows)
        elif rows:
            terminal.show_table(list(rows[0]), [[value or "-" for value in row.values()] for row in rows])
        else:
            terminal.say("There are no keys. Make one: triggerlens keys create --name WHAT-FOR")


@keys.command()
@click.argument("key_id", metavar="ID")
@data_dir_option
def revoke(key_id: str, data_dir: Path | None) -> None:
    """Make a key useless from now on."""
    with ending_well(), _service(data_dir=data_dir) as service:
        from app.core.repository import access

        with service.database.writing() as session:
            if not access.revoke_key(session, key_id):
                raise Refusal("key_not_found", f"There is no usable key {key_id}.", "`triggerlens keys list` has all.")
        terminal.say("Revoked.")


@click.command()
@data_dir_option
@as_json_option
def doctor(data_dir: Path | None, as_json: bool) -> None:
    """Say what is wrong with a service, and what to do.

    Exit code 1: something is wrong.
    """
    with ending_well(as_json):
        from app import doctor

        with terminal.busy("Looking"):
            checks = doctor.examine(_settings(data_dir=data_dir))
        if as_json:
            print_json([asdict(check) for check in checks])
        else:
            terminal.show_checks(checks)
        sys.exit(any(check.state == "wrong" for check in checks))


COMMANDS = (serve, migrate, keys, doctor)


def _settings(**said: Any) -> "Settings":
    """The settings, with what the options say; the worker inherits it by the environment."""
    from pydantic import ValidationError

    from app.core.settings import Settings

    for name, value in said.items():
        if value is not None:
            os.environ[f"TRIGGERLENS_{name.upper()}"] = str(value)
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = f"TRIGGERLENS_{str(first['loc'][0]).upper()}"
        raise Refusal("invalid_setting", f"{name}: {first['msg']}.", "docs/deploy.md lists every setting.") from error


@contextmanager
def _service(**said: Any) -> Iterator["Service"]:
    """The service of its settings and of what the options say, for its operator."""
    from sqlalchemy.exc import SQLAlchemyError

    from app.serving import open_service

    try:
        service = open_service(_settings(**said))
        try:
            yield service
        finally:
            service.close()
    except SQLAlchemyError as error:
        why = str(getattr(error, "orig", error)).splitlines()[0]
        advice = "Check TRIGGERLENS_DATABASE_URL, and run `triggerlens migrate` if its tables were never made."
        raise Refusal("database_unavailable", f"The database does not do its work: {why}.", advice) from error


@contextmanager
def _kept_log(settings: "Settings", is_shown: bool) -> Iterator[Path | None]:
    """Have everything that this process and its worker log lie in a file, and words for people still appear."""
    if is_shown:
        yield None
        return
    log = settings.data_dir.absolute() / LOG
    if log.exists():
        os.replace(log, log.with_name(f"{LOG}.before"))
    with log.open("a") as file, os.fdopen(os.dup(sys.stderr.fileno()), "w") as people:
        os.dup2(file.fileno(), sys.stderr.fileno())
        terminal.console.file = people
        yield log


def _say_ready(settings: "Settings", address: str, log: Path | None) -> None:
    facts = {"TriggerLens": address, "data": str(settings.data_dir.absolute())}
    if log is not None:
        facts["log"] = str(log)
    terminal.show_facts(facts)
    terminal.say("Ctrl-C ends it.")
    if not sys.stdout.isatty():
        print(address, flush=True)  # for the program that started us


def _key_row(key: Any) -> dict[str, str | None]:
    return {
        "id": key.id,
        "tenant": key.tenant_id,
        "name": key.name,
        "created": _day(key.created_at),
        "last used": _day(key.last_used_at),
        "revoked": _day(key.revoked_at),
    }


def _day(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
