"""`python -m tests.newer`: how this environment differs from constraints.txt; `make test-newer` prints it first.

A green run speaks for these versions and no others. A torch that is not newer than the pinned one was not tried, and
its row says so: an installer that has no newer one is no failure.
"""

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.version import Version

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
NAMED = ("torch", "torchvision")  # what has a row in any case


def pins(text: str) -> dict[str, str]:
    """Name -> version."""
    return dict(line.strip().split("==") for line in text.splitlines() if "==" in line)


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def rows(pinned: Mapping[str, str], here: Mapping[str, str | None]) -> Iterator[tuple[str, str, str]]:
    """Name, pinned version, and the one here, of what differs and of torch."""
    for name, pin in pinned.items():
        found = here[name]
        if name in NAMED and (found is None or Version(found) <= Version(pin)):
            yield name, pin, "not run"
        elif found is None or Version(found) != Version(pin):
            yield name, pin, found or "none"


def main() -> None:
    pinned = pins(CONSTRAINTS.read_text())
    table = list(rows(pinned, {name: installed(name) for name in pinned}))
    print(f"Python {platform.python_version()}")
    for row in [("package", "pinned", "newest"), *table]:
        print("{:<28}{:<20}{}".format(*row))
    print(f"{len(pinned) - len(table)} others are as pinned.", flush=True)


if __name__ == "__main__":
    main()
