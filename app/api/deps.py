"""What routes ask for: the service, who is asking, and the scan in the address."""

import time
from typing import Annotated

from fastapi import Depends, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app import actions
from app.api.checks import Checks
from app.api.metrics import Metrics
from app.api.schemas import SCAN_ID
from app.core.errors import Refusal
from app.core.repository import access
from app.core.service import Service
from app.core.tables import DEFAULT_TENANT, Scan

USE_NOTED_SECONDS = 60.0  # how exactly the last use of a key is known

HOW_TO_SEND_A_KEY = "Send a key as `Authorization: Bearer tl_...`; `triggerlens keys create` makes one."


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _checks(request: Request) -> Checks:
    checks: Checks = request.app.state.checks
    return checks


def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


ServiceDep = Annotated[Service, Depends(_service)]
ChecksDep = Annotated[Checks, Depends(_checks)]
MetricsDep = Annotated[Metrics, Depends(_metrics)]
KeyDep = Annotated[
    HTTPAuthorizationCredentials | None,
    Depends(HTTPBearer(auto_error=False, description="Needed unless the service is bound to loopback")),
]


def _tenant(request: Request, service: ServiceDep, checks: ChecksDep, key: KeyDep) -> str:
    """Who is asking. A key that was sent has to be good; without one, only loopback is served."""
    checks.require_migrated()
    if key is not None:
        tenant_id = _tenant_of(service, key.credentials)
    elif service.settings.is_loopback:
        tenant_id = DEFAULT_TENANT
    else:
        raise Refusal("unauthenticated", "No API key came with the request.", HOW_TO_SEND_A_KEY)
    request.state.tenant = tenant_id  # for the log
    return tenant_id


def _tenant_of(service: Service, secret: str) -> str:
    with service.database.reading() as session:
        key = access.key_for(session, secret)
    if key is None:
        raise Refusal("unauthenticated", "The API key is unknown, or was revoked.", HOW_TO_SEND_A_KEY)
    if key.last_used_at is None or key.last_used_at < time.time() - USE_NOTED_SECONDS:
        with service.database.writing() as session:
            access.touch_key(session, key.id)
    return key.tenant_id


TenantDep = Annotated[str, Depends(_tenant)]
ScanId = Annotated[str, Path(description="The `id` of a scan", examples=[SCAN_ID])]


def _valid_scan(service: ServiceDep, tenant_id: TenantDep, scan_id: ScanId) -> Scan:
    """The scan in the address, if it is the tenant's."""
    with service.database.reading() as session:
        return actions.get_scan(session, tenant_id, scan_id)


ScanDep = Annotated[Scan, Depends(_valid_scan)]
