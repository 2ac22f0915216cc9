"""The API as an ASGI application: `uvicorn --factory app.main:create_app`. Wiring, nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import structlog
from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from app.api import artifacts, events, health, reports, scans
from app.api.checks import Checks
from app.api.documentation import DocumentedAPI
from app.api.metrics import Metrics
from app.api.middleware import OwnHostOnly, RequestRecord, SmallBodies
from app.api.problems import handle_problems
from app.core.errors import Refusal
from app.core.logs import configure_logs
from app.core.repository import access
from app.core.service import Service
from app.core.settings import Settings
from app.web import pages

log = structlog.get_logger()

ABOUT = """Finds planted backdoors in image classifiers, shows them, and gives back repaired weights.

Upload a TorchScript model and a bundle of clean images (`PUT /v1/artifacts`), ask for a scan of the two
(`POST /v1/scans`), follow it (`/events`), read its report. Errors are RFC 9457 problems with a stable `code`."""


def create_app(settings: Settings | None = None, service: Service | None = None) -> FastAPI:
    """The application. A service that is given is used and left open; else one is opened while the application runs."""
    settings = settings or (service.settings if service else Settings())
    configure_logs()

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        opened = service or Service.open(settings)
        try:
            await run_in_threadpool(demand_a_key, opened)
            app.state.service, app.state.checks = opened, Checks(opened)
            yield
        finally:
            if opened is not service:
                opened.close()

    app = DocumentedAPI(
        title="TriggerLens",
        version=version("triggerlens"),
        description=ABOUT,
        lifespan=life,
        docs_url=None,  # they load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,  # an address is written in one way
    )
    app.state.metrics = Metrics(lambda: app.state.checks)
    for module in (artifacts, scans, events, reports, health, pages):
        app.include_router(module.router)
    handle_problems(app)
    app.add_middleware(SmallBodies)
    app.add_middleware(OwnHostOnly, settings=settings)
    app.add_middleware(RequestRecord, metrics=app.state.metrics)  # the last one added is the outermost
    return app


def demand_a_key(service: Service) -> None:
    """Raises Refusal `key_required` for a service that others can reach and that no key opens."""
    if service.settings.is_loopback:
        return
    try:
        with service.database.reading() as session:
            usable = access.usable_keys(session)
    except SQLAlchemyError as error:  # every request will ask for a key, and answer why the database is not there
        log.warning("keys_not_checked", error=type(error).__name__)
        return
    if not usable:
        raise Refusal(
            "key_required",
            f"Others can reach this service at {service.settings.host}, and there is no API key yet.",
            "Make one with `triggerlens keys create`, or serve on 127.0.0.1.",
        )
