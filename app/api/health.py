"""For those who run the service: is the process there, can it work, and how much does it do. No key is needed, and
nothing here says whose."""

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError

from app.api.checks import Checks
from app.api.deps import ChecksDep, MetricsDep
from app.api.documentation import GUARD, only_problems
from app.api.problems import problem_response
from app.api.schemas import Health, Part, Readiness
from app.core.errors import Refusal
from app.core.migrating import MigrationState
from app.core.repository import jobs

router = APIRouter(tags=["operation"])


@router.get("/healthz", responses=only_problems(*GUARD))
async def healthz() -> Health:
    """Is the process there? It asks nobody else."""
    return Health(status="ok", version=version("triggerlens"))


@router.get("/readyz", response_model=Readiness, responses=only_problems("not_ready", *GUARD))
def readyz(request: Request, checks: ChecksDep) -> Any:
    """Can the service work?

    503 while the database, its migrations or the artifact store fail, and `parts` says which. That no worker lives, or
    that the broker is away, is told but is no failure: scans are accepted and wait.
    """
    parts, facts = _database(checks)
    parts["storage"] = Part(ok=True, detail="works") if checks.storage_works.fresh() else Part(ok=False, detail="fails")
    failing = [name for name, part in parts.items() if not part.ok]
    if failing:
        refusal = Refusal(
            "not_ready", f"Not working: {', '.join(failing)}.", "The operator finds more in the log.", retryable=True
        )
        told = {name: part.model_dump() for name, part in parts.items()}
        return problem_response(request.state.request_id, refusal.problem, parts=told)
    broker = checks.broker.fresh() if checks.broker else None
    return Readiness(status="ready", parts=parts, broker_reachable=broker, **facts)


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"example": 'triggerlens_scans{status="finished"} 12.0\n'}}},
        **only_problems(*GUARD),
    },
)
def metrics(metrics: MetricsDep) -> Response:
    """Figures for Prometheus: jobs, scans, workers, requests, uploaded bytes."""
    return Response(metrics.page(), media_type=CONTENT_TYPE_LATEST)


def _database(checks: Checks) -> tuple[dict[str, Part], dict[str, Any]]:
    """How the database is, and what it says about the work."""
    try:
        state = checks.migrations.fresh()
    except SQLAlchemyError as error:
        return {"database": Part(ok=False, detail=type(error).__name__)}, {}
    parts = {"migrations": Part(ok=state is MigrationState.CURRENT, detail=state)}
    if state is not MigrationState.CURRENT:
        return parts, {}
    try:
        with checks.service.database.reading() as session:
            facts = {
                "workers_alive": len(checks.live_workers(session)),
                "oldest_ready_seconds": jobs.oldest_ready_seconds(session),
            }
    except SQLAlchemyError as error:
        return {"database": Part(ok=False, detail=type(error).__name__)} | parts, {}
    return {"database": Part(ok=True, detail="reachable")} | parts, facts
