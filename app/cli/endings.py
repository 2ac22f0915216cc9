"""How commands end: whatever goes wrong is told in a sentence with advice, as people or as programs read it."""

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from app import terminal
from app.client import ApiError
from app.core.errors import Problem, Refusal
from app.local_scan import OUT_OF_TIME, REFUSED
from worker.launch import EngineCrashError


@contextmanager
def ending_well(as_json: bool = False) -> Iterator[None]:
    """Ends the command with its exit code where the block cannot: python's own for an error reads as "backdoored"."""
    try:
        yield
    except click.ClickException:
        raise
    except (Refusal, ApiError) as refusal:
        refuse(refusal.problem, as_json)
    except EngineCrashError as crash:
        advice = f"{crash.advice} The engine's last words:\n{crash.log}" if crash.log else crash.advice
        refuse(Problem("engine_crashed", f"The engine ended unexpectedly: {crash}.", advice), as_json)
    except KeyboardInterrupt:
        terminal.say("Cancelled.")
        sys.exit(OUT_OF_TIME)
    except Exception as error:
        traceback.print_exc()
        what = f"TriggerLens failed with {type(error).__name__}: {error}."
        refuse(Problem("internal_error", what, "This is a defect: please report it with the lines above."), as_json)


def refuse(problem: Problem, as_json: bool) -> NoReturn:
    if as_json:
        print_json(problem.to_json())
    else:
        terminal.show_problem(problem)
    sys.exit(REFUSED)


def print_json(document: Any) -> None:
    json.dump(document, sys.stdout, indent=1)
    print()
