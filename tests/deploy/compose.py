"""docker-compose.yml as compose would read it, so that tests can start its commands as plain processes.

    api = services(variables(), {"redis": "redis://127.0.0.1:4321/0", "s3": "http://127.0.0.1:4322"})["api"]
    subprocess.Popen(api.command, env=os.environ | api.environment)

Of compose's language this knows what our file uses: `$$`, `${NAME}`, `${NAME:-default}`, `${NAME:?advice}`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
VARIABLE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?::(?P<how>[-?])(?P<word>[^}]*))?\})")


class MissingVariableError(Exception):
    """Compose would refuse to start."""


@dataclass(frozen=True)
class Service:
    """One service, every variable resolved; `facts` is all that the file says of it."""

    name: str
    command: list[str]
    environment: dict[str, str]
    facts: dict[str, Any]


def raw() -> dict[str, Any]:
    """The file with its anchors resolved and its variables not."""
    return yaml.safe_load(FILE.read_text("utf-8"))


def services(variables: Mapping[str, str], places: Mapping[str, str] | None = None) -> dict[str, Service]:
    """Every service by name, with `variables` as the content of `.env`.

    `places` says where servers really are: a variable whose value is a URL with such a host name becomes that URL.
    """
    resolved = _resolve(raw(), variables)["services"]
    return {
        name: Service(
            name=name,
            command=[str(word) for word in facts.get("command", [])],
            environment=_environment(facts.get("environment", {}), variables, places or {}),
            facts=facts,
        )
        for name, facts in resolved.items()
    }


def variables(**given: str) -> dict[str, str]:
    """A `.env` that compose accepts: something for everything that is required, and what is given."""
    secrets = {name: f"{name.lower().replace('_', '')}0123456789" for name in required()}
    return {**secrets, "COMPOSE_PROFILES": "cpu", **given}


def required() -> set[str]:
    """The variables without which compose refuses to start."""
    return {match["name"] for match in VARIABLE.finditer(FILE.read_text("utf-8")) if match["how"] == "?"}


def named() -> set[str]:
    """Every variable that the file reads from `.env`."""
    passed_on = {
        name
        for facts in raw()["services"].values()
        for name, value in facts.get("environment", {}).items()
        if value is None
    }
    return passed_on | {match["name"] for match in VARIABLE.finditer(FILE.read_text("utf-8")) if match["name"]}


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        found = variables.get(match["name"], "")
        if found or match["how"] is None:
            return found
        if match["how"] == "?":
            raise MissingVariableError(f"{match['name']}: {match['word']}")
        return match["word"]

    return VARIABLE.sub(value, text)


def _resolve(node: Any, variables: Mapping[str, str]) -> Any:
    match node:
        case str():
            return interpolate(node, variables)
        case list():
            return [_resolve(item, variables) for item in node]
        case dict():
            return {key: _resolve(item, variables) for key, item in node.items()}
        case _:
            return node


def _environment(facts: Mapping[str, Any], variables: Mapping[str, str], places: Mapping[str, str]) -> dict[str, str]:
    """A variable without a value is passed on where `.env` sets it."""
    environment = {name: variables.get(name) if value is None else str(value) for name, value in facts.items()}
    return {
        name: places.get(urlsplit(value).hostname or "", value) if "://" in value else value
        for name, value in environment.items()
        if value is not None
    }
