"""What a service needs, looked at from this machine with its settings: one check after the other, none of them fatal.

It changes nothing but a probe that it writes into the store and deletes. A process of its own asks torch about GPUs.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError

from app.api.checks import Checks
from app.core import migrating
from app.core.errors import Refusal
from app.core.intake.guards import readable_size
from app.core.migrating import MigrationState
from app.core.service import Service
from app.core.settings import Settings
from app.core.storage import StorageError
from app.core.versions import version_of
from app.installed import demand_engine
from worker.sandbox import fence, gpus, probes


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `note`: nothing is wrong, but somebody may have expected otherwise."""

    name: str
    state: Literal["ok", "note", "wrong"]
    found: str
    advice: str = ""


def examine(settings: Settings, ask_gpus: Callable[[], str] | None = None) -> list[Check]:
    """Every check, in the order in which things are worth putting right."""
    return [
        *_versions(settings),
        _gpu(settings, ask_gpus or (lambda: gpus.visible("none", os.environ))),
        _sandbox(settings),
        _disk(settings),
        _signing(settings),
        *_service(settings),
    ]


def _versions(settings: Settings) -> Iterator[Check]:
    yield Check("triggerlens", "ok", f"{version_of('triggerlens')}, Python {platform.python_version()}")
    try:
        demand_engine()
    except Refusal as refusal:
        state: Literal["note", "wrong"] = "note" if settings.broker_url else "wrong"  # with a broker, others compute
        yield Check("engine", state, "not installed", refusal.problem.advice)
    else:
        yield Check("engine", "ok", f"torch {version_of('torch')}, torchvision {version_of('torchvision')}")


def _gpu(settings: Settings, ask: Callable[[], str]) -> Check:
    if version_of("torch") is None:
        return Check("GPU", "note", "torch is needed to ask")
    try:
        found = ask()
    except (subprocess.SubprocessError, OSError) as error:
        return Check("GPU", "wrong", f"torch fails: {type(error).__name__}", "Try `python -c 'import torch'`.")
    if found:
        return Check("GPU", "ok", found)
    if settings.device == "cuda":
        return Check("GPU", "wrong", "none", "Set TRIGGERLENS_DEVICE=auto, or repair the driver: see `nvidia-smi`.")
    return Check("GPU", "note", "none: scans compute on the CPU")


def _sandbox(settings: Settings) -> Check:
    """Whether a model that is scanned here is fenced in, by trying what it might try."""
    if settings.sandbox == "none":
        return Check("sandbox", "note", "none, as set", "TRIGGERLENS_SANDBOX=auto fences models in.")
    if (lack := fence.lacking()) is not None:
        return Check("sandbox", "wrong" if settings.sandbox == "bwrap" else "note", f"none: {lack.found}", lack.advice)
    try:
        stopped = probes.tried()
    except (RuntimeError, subprocess.SubprocessError, ValueError) as error:
        return Check("sandbox", "wrong", str(error), "The fence does not work: set TRIGGERLENS_SANDBOX=none.")
    if holes := [name for name, how in stopped.items() if how is None]:
        return Check("sandbox", "wrong", f"a model can {', '.join(holes)}", "Update bubblewrap and the kernel.")
    return Check("sandbox", "ok", f"bubblewrap; {len(stopped)} probes of {len(stopped)} were stopped")


def _disk(settings: Settings) -> Check:
    place = next(
        path for path in (settings.data_dir.absolute(), *settings.data_dir.absolute().parents) if path.exists()
    )
    free, wanted = shutil.disk_usage(place).free, settings.max_model_bytes + settings.max_bundle_bytes
    found = f"{readable_size(free)} free at {place}"
    if free >= wanted:
        return Check("disk", "ok", found)
    return Check("disk", "wrong", found, f"The largest uploads together need {readable_size(wanted)}: make room.")


def _signing(settings: Settings) -> Check:
    """Who signs what is stated of repaired weights."""
    try:
        signer = settings.signer()
    except Refusal as refusal:
        return Check("signing", "wrong", refusal.problem.detail, refusal.problem.advice)
    if signer is None:
        return Check("signing", "note", "no key: statements beside repaired weights are unsigned")
    return Check("signing", "ok", f"Ed25519, key id {signer.public_key.keyid[:16]}")


def _service(settings: Settings) -> Iterator[Check]:
    """What only a service that was started once has."""
    if settings.database_url is None and not Path(settings.data_dir, "triggerlens.sqlite3").exists():
        yield Check("database", "note", f"none yet in {settings.data_dir.absolute()}", "`triggerlens serve` makes it.")
        return
    try:
        service = Service.open(settings)
    except (StorageError, OSError, ValueError) as error:
        yield Check("storage", "wrong", str(error), "Check TRIGGERLENS_STORAGE_URL and TRIGGERLENS_DATA_DIR.")
        return
    yield from _database(service)
    yield _storage(service)
    yield _broker(service)
    service.close()


def _database(service: Service) -> Iterator[Check]:
    try:
        state = migrating.state(service.database)
        where = f"{service.database.url.get_backend_name()}, migrations {state}"
        if state is MigrationState.AHEAD:
            yield Check("database", "wrong", where, "A newer version was here: install it, or restore the backup.")
        elif state is not MigrationState.CURRENT:
            yield Check("database", "wrong", where, "Run `triggerlens migrate`.")
        else:
            yield Check("database", "ok", where)
            yield _workers(service)
    except SQLAlchemyError as error:
        why = str(getattr(error, "orig", error)).splitlines()[0]
        yield Check("database", "wrong", why, "See that it runs, and check TRIGGERLENS_DATABASE_URL.")


def _workers(service: Service) -> Check:
    with service.database.reading() as session:
        alive = Checks(service).live_workers(session)
    if alive:
        return Check("workers", "ok", f"{len(alive)} alive: {', '.join(f'{w.host} ({w.queues})' for w in alive)}")
    if service.settings.broker_url is None:
        return Check("workers", "note", "none: the service is not running", "`triggerlens serve` has its own.")
    return Check("workers", "wrong", "none alive", "Start one: celery --app worker.celery worker --queues cpu,gpu")


def _storage(service: Service) -> Check:
    where = service.settings.storage_url or str(service.settings.data_dir.absolute() / "blobs")
    try:
        service.store.check()
    except (StorageError, Refusal) as error:
        return Check("storage", "wrong", str(error), "See that it runs, has room, and that we may write there.")
    return Check("storage", "ok", f"{where} can be written")


def _broker(service: Service) -> Check:
    if service.settings.broker_url is None:
        return Check("broker", "ok", "none is needed")
    if service.queue.is_reachable():
        return Check("broker", "ok", "reachable")
    return Check("broker", "wrong", "does not answer", "See that it runs, and check TRIGGERLENS_BROKER_URL.")
