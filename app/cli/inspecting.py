"""What is in a model file: read on this machine without torch, without data, and without running any of it."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from app import terminal
from app.cli.endings import ending_well, print_json
from app.cli.options import as_json_option
from app.core.errors import Problem, Refusal
from app.core.jobs import sha256_of
from app.local_scan import REFUSED

FOUND = 1  # something in the code blocks a verdict
UNSUPPORTED = 3
REFUSED_TITLE = "The model was refused"


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@as_json_option
@click.option("--sarif", "as_sarif", is_flag=True, help="Print a SARIF 2.1.0 log on stdout, for code scanning.")
def inspect(model: Path, as_json: bool, as_sarif: bool) -> None:
    """Say what is in a model file, without running any of it.

    MODEL is a TorchScript archive; docs/gate.md and docs/structure.md have the rules. Exit code 1: its code does what a
    scan could not see through; 3: it uses an operator that is not known.
    """
    if as_json and as_sarif:
        raise click.UsageError("--json and --sarif would both be on stdout: choose one.")
    with ending_well(as_json):
        from app.core.intake.examine import examine_model
        from app.core.report.inspection import inspection_document

        try:
            with terminal.busy(f"Reading {model.name}"):
                document = inspection_document(examine_model(model), model.name)
        except Refusal as refusal:
            _show_refusal(model, replace(refusal.problem, title=REFUSED_TITLE), as_json, as_sarif)
            sys.exit(UNSUPPORTED if refusal.problem.code == "unsupported_operator" else REFUSED)
        if as_json:
            print_json(document)
        elif as_sarif:
            _print_sarif(model, document["sha256"], [], document["findings"])
        else:
            from app.cli.describing import show_inspection

            show_inspection(document)
        if any(found["blocks"] for found in document["findings"]):
            sys.exit(FOUND)


COMMANDS = (inspect,)


def _show_refusal(model: Path, problem: Problem, as_json: bool, as_sarif: bool) -> None:
    if as_json:
        print_json(problem.to_json())
    elif as_sarif:
        _print_sarif(model, _sha256(model), [problem])
    else:
        terminal.show_problem(problem)


def _print_sarif(
    model: Path, sha256: str | None, problems: list[Problem], findings: Sequence[dict[str, Any]] = ()
) -> None:
    from app.core.report.sarif import sarif_log

    uri = model.name if model.is_absolute() else model.as_posix()
    print_json(sarif_log(uri, sha256, problems, findings))


def _sha256(model: Path) -> str | None:
    """Of a file; None where there is none to read."""
    try:
        if model.is_file():
            return sha256_of(model)
    except OSError:
        pass
    return None
