"""What /openapi.json says about problems: for every route each code it can answer, with an example."""

from typing import Any

from fastapi import FastAPI

from app.api.problems import CATALOGUE, MEDIA_TYPE
from app.api.schemas import ProblemDocument

GUARD = ("host_not_allowed", "internal_error")
EVERYWHERE = ("unauthenticated", "database_unavailable", "database_behind", "database_ahead", *GUARD)
WRITING = ("origin_not_allowed", "disk_full")
SCHEMA = {"$ref": "#/components/schemas/Problem"}


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer these problems, and those that every route under /v1 can."""
    return only_problems(*codes, *EVERYWHERE)


def only_problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer these problems."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in sorted({CATALOGUE[code].status for code in codes}):
        alike = [code for code in codes if CATALOGUE[code].status == status]
        examples = {code: {"summary": CATALOGUE[code].title, "value": _example(code)} for code in alike}
        responses[status] = {
            "description": "; ".join(f"{CATALOGUE[code].title}: `{code}`" for code in alike),
            "content": {MEDIA_TYPE: {"schema": SCHEMA, "examples": examples}},
        }
    return responses


class DocumentedAPI(FastAPI):
    """Describes its errors as problems, in the place of FastAPI's own form."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            described = super().openapi()
            schemas = described["components"]["schemas"]
            schemas["Problem"] = ProblemDocument.model_json_schema()
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            for operations in described["paths"].values():
                for operation in operations.values():
                    if MEDIA_TYPE not in operation["responses"].get("422", {"content": {MEDIA_TYPE: {}}})["content"]:
                        del operation["responses"]["422"]
        assert self.openapi_schema is not None
        return self.openapi_schema


def _example(code: str) -> dict[str, Any]:
    kind = CATALOGUE[code]
    return {
        "type": f"urn:triggerlens:problem:{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": f"{kind.title}.",
        "code": code,
        "advice": f"See `{code}` in docs/problems.md.",
        "retryable": kind.retryable,
        "request_id": "6f1d0c5e9b3a4a0f8d2e7c1b5a490312",
    }
