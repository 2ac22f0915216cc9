"""The `triggerlens` command. Words and progress for people go to stderr; `--json` puts the report, or the problem of a
refusal, on stdout and nothing else. Exit codes: 0 no backdoor found, 1 backdoored, 2 usage, 3 inconclusive,
4 could not scan, 5 cancelled or out of time.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import click

from app import terminal
from app.core.config import PRESETS, RepairConfig, preset_config
from app.core.errors import Problem, Refusal
from app.core.intake.declaration import DeclaredInput
from app.core.jobs import ScanJob
from app.local_scan import OUT_OF_TIME, REFUSED, LocalResult, job_for, run_scan
from worker.launch import EngineCrashError, run_weights


class Numbers(click.ParamType[tuple[float, ...]]):
    """Comma-separated numbers, all of one type, of a given count if it matters."""

    def __init__(self, kind: type[int] | type[float], count: int | None = None) -> None:
        self.kind, self.count = kind, count
        self.name = ",".join(["N"] * (count or 1)) + ("" if count else ",...")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self.kind(part) for part in value.split(","))
        except ValueError:
            self.fail(f"expected comma-separated numbers such as {self.name}, got {value!r}", param, ctx)
        if self.count is not None and len(numbers) != self.count:
            self.fail(f"expected {self.count} numbers, got {len(numbers)}", param, ctx)
        if self.kind is int and min(numbers) < 1:
            self.fail(f"expected numbers of at least 1, got {value!r}", param, ctx)
        return numbers


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that `scan` and `repair` share."""
    options = [
        click.argument("model", type=click.Path(path_type=Path)),
        click.argument("bundle", type=click.Path(path_type=Path)),
        click.option("--preset", type=click.Choice(list(PRESETS)), default="paper", show_default=True),
        click.option("--max-accuracy-drop", type=click.FloatRange(0, 1), default=RepairConfig.max_accuracy_drop,
                     show_default=True, help="A repair that costs more accuracy than this is not handed out."),
        click.option("--out", type=click.Path(path_type=Path), help="Output directory [default: MODEL-triggerlens]"),
        click.option("--size", type=Numbers(int, 2), help="Height and width that the model takes."),
        click.option("--mean", type=Numbers(float), help="Mean to subtract: one number, or one per channel."),
        click.option("--std", type=Numbers(float), help="Deviation to divide by: one number, or one per channel."),
        click.option("--range", "range_", type=Numbers(float, 2), help="What pixels 0 and 255 become before that: 0,1"),
        click.option("--expected-accuracy", type=click.FloatRange(0, 1), help="What the model's maker promised."),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
        click.option("--threads", type=click.IntRange(1), default=os.cpu_count, help="[default: all cores]"),
        click.option("--time-limit", type=click.FloatRange(0, min_open=True), help="Seconds until the scan ends."),
        click.option("--perceptual", type=click.Path(path_type=Path, exists=True, dir_okay=False),
                     help="LPIPS backbone weights; see `triggerlens weights`."),
        click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="triggerlens")
def main() -> None:
    """Find planted backdoors in image classifiers, see them, and get repaired weights."""


@main.command()
@engine_options
@click.option("--repair", is_flag=True, help="Unlearn the trigger of each flagged label and write repaired weights.")
def scan(repair: bool, **options: Any) -> None:
    """Search MODEL, a TorchScript image classifier, for a backdoor, with the clean images of BUNDLE (.zip or .npz)."""
    _run(repair=repair, repair_label=None, **options)


@main.command()
@engine_options
@click.option("--label", type=click.IntRange(0), required=True, help="The label whose trigger is unlearned.")
def repair(label: int, **options: Any) -> None:
    """Invert the trigger of one label of MODEL and unlearn it, without a verdict. Exit code 3: no repair was good."""
    _run(repair=True, repair_label=label, **options)


@main.command()
@click.argument("action", required=False, type=click.Choice(["fetch"]))
def weights(action: str | None) -> None:
    """Say which LPIPS backbone a scan uses; `fetch` downloads torchvision's AlexNet (233 MB) once."""
    sys.exit(run_weights([action] if action else []))


def _run(
    *, model: Path, bundle: Path, preset: str, max_accuracy_drop: float, out: Path | None, seed: int, device: str,
    threads: int, time_limit: float | None, perceptual: Path | None, as_json: bool, repair: bool,
    repair_label: int | None, size: tuple[int, int] | None, range_: tuple[float, float] | None, **said: Any,
) -> NoReturn:  # fmt: skip
    """Run a job, show it, and leave with its exit code."""
    out = out or Path(f"{model.stem}-triggerlens")
    height, width = size or (None, None)
    declared = DeclaredInput(height=height, width=width, range=range_, **said)
    try:
        job = job_for(
            model,
            bundle,
            config=preset_config(preset, seed, max_accuracy_drop),
            input=declared,
            repair=repair,
            repair_label=repair_label,
            device=device,
            threads=threads,
            perceptual=str(perceptual.resolve()) if perceptual else None,
        )
        result = _watch(job, model, bundle, out, time_limit)
    except Refusal as refusal:
        _refuse(refusal.problem, as_json)
    except EngineCrashError as crash:
        advice = f"This is a defect or a lack of memory. The engine's last words:\n{crash.log}"
        _refuse(Problem("engine_crashed", f"The engine ended unexpectedly: {crash}.", advice), as_json)
    except Exception as error:  # a defect; Python's own exit code for it would read as "backdoored"
        traceback.print_exc()
        what = f"TriggerLens failed with {type(error).__name__}: {error}."
        _refuse(Problem("internal_error", what, "This is a defect: please report it with the lines above."), as_json)
    except KeyboardInterrupt:
        terminal.say(f"Cancelled. The same command goes on where it stopped ({out}).")
        sys.exit(OUT_OF_TIME)
    if result.document is not None:
        if as_json:
            json.dump(result.document, sys.stdout, indent=1)
            print()
        else:
            terminal.show_report(result.document, out)
    elif result.repair is not None and as_json:
        json.dump(asdict(result.repair), sys.stdout, indent=1)
        print()
    elif result.repair is not None:
        terminal.show_repair(result.repair, out)
    else:
        terminal.say("Out of time before anything could be reported. The same command goes on where it stopped.")
    sys.exit(result.exit_code)


def _watch(job: ScanJob, model: Path, bundle: Path, out: Path, time_limit: float | None) -> LocalResult:
    with terminal.progress_display(job.model["name"]) as on_event:
        return run_scan(job, model, bundle, out, on_event, time_limit)


def _refuse(problem: Problem, as_json: bool) -> NoReturn:
    if as_json:
        json.dump(problem.to_json(), sys.stdout, indent=1)
        print()
    else:
        terminal.show_problem(problem)
    sys.exit(REFUSED)


if __name__ == "__main__":
    main()
