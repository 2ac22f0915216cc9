"""Scans, checks and repairs: computed on this machine, or by a service where `--server` says so."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from app import terminal
from app.cli.endings import ending_well, print_json
from app.cli.following import check_there, scan_there, show_check, show_document
from app.cli.options import check_options, declared_input, engine_options, key_option, said
from app.client import Client
from app.core.intake.declaration import read_class_file
from app.core.jobs import ScanJob
from app.core.presets import DEFAULT_PRESET, preset_config
from app.core.signing import signer_at
from app.installed import demand_engine
from app.local_scan import OUT_OF_TIME, LocalResult, job_for, run_check, run_scan
from worker.lanes import cores
from worker.launch import run_weights
from worker.sandbox.fence import Wanted, choose

# Of a service, its operator decides these.
LOCAL_ONLY = ("device", "threads", "lanes", "sandbox", "perceptual", "time_limit", "signing_key")


@click.command()
@engine_options
@click.option("--repair", is_flag=True, help="Unlearn the trigger of each flagged label and write repaired weights.")
@click.option("--server", help="Have the service at this address compute it.")
@key_option
@click.pass_context
def scan(ctx: click.Context, /, server: str | None, key: str | None, as_json: bool, **options: Any) -> None:
    """Search a model for a backdoor.

    MODEL is a TorchScript image classifier, BUNDLE a .zip, .tar.gz or .npz of clean images; see docs/export.md.
    """
    with ending_well(as_json):
        if server is None:
            _run_here(as_json, repair_label=None, **options)
        _refuse_local_only(ctx)
        with Client(server, key) as client:
            _run_there(client, as_json, **options)


@click.command()
@check_options
@click.option("--server", help="Have the service at this address look.")
@key_option
@click.pass_context
def check(
    ctx: click.Context, /, model: Path, bundle: Path, as_json: bool, output: str | None, classes: Path | None,
    device: str, threads: int, sandbox: Wanted, server: str | None, key: str | None, **declared: Any,
) -> None:  # fmt: skip
    """Say what a scan would take for true, without a search.

    Which output, which labels, which pixels, and how well they go together. Exit code 0: ready; 3: something is in
    doubt; 4: refused.
    """
    with ending_well(as_json):
        if server is not None:
            _refuse_local_only(ctx)
        else:
            demand_engine()
        config = preset_config(DEFAULT_PRESET)
        known = model, bundle, declared, output, classes
        job = _job_of(*known, config=config, device=device, threads=threads, check=True)
        if server is not None:
            with Client(server, key) as client:
                check_there(client, model, bundle, as_json, _asked_of_a_service(job))
        with terminal.busy(f"Looking at {model.name} and {bundle.name}"):
            document = run_check(job, model, bundle, lambda event: None, choose(sandbox))
        show_check(document, as_json)


@click.command()
@engine_options
@click.option("--label", "repair_label", type=click.IntRange(0), required=True, help="Whose trigger is unlearned.")
def repair(as_json: bool, **options: Any) -> None:
    """Unlearn the trigger of one label, without a verdict.

    Exit code 3: no repair was good.
    """
    with ending_well(as_json):
        _run_here(as_json, repair=True, **options)


@click.command()
@click.argument("action", required=False, type=click.Choice(["fetch"]))
def weights(action: str | None) -> None:
    """Say which LPIPS backbone a scan uses.

    `fetch` downloads torchvision's AlexNet (233 MB) once.
    """
    with ending_well():
        demand_engine()
        sys.exit(run_weights([action] if action else []))


COMMANDS = (scan, check, repair, weights)


def _run_here(
    as_json: bool, *, model: Path, bundle: Path, out: Path | None, preset: str, max_accuracy_drop: float, seed: int,
    device: str, threads: int, lanes: int | None, time_limit: float | None, sandbox: Wanted, perceptual: Path | None,
    repair: bool, repair_label: int | None, output: str | None, classes: Path | None, signing_key: Path | None,
    **declared: Any,
) -> NoReturn:  # fmt: skip
    """Run a job on this machine, show it, and leave with its exit code."""
    demand_engine()
    signer = signer_at(signing_key)  # one that cannot be used is refused before anything is computed
    out = out or _usual_place(model)
    job = _job_of(
        model,
        bundle,
        declared,
        output,
        classes,
        config=preset_config(preset, seed, max_accuracy_drop),
        repair=repair,
        repair_label=repair_label,
        device=device,
        threads=threads,
        perceptual=str(perceptual.resolve()) if perceptual else None,
    )
    try:
        with terminal.progress_display(job.model["name"]) as on_event:
            limits = time_limit, choose(sandbox)
            result = run_scan(job, model, bundle, out, on_event, *limits, lanes=lanes or cores(), signer=signer)
    except KeyboardInterrupt:
        terminal.say(f"Cancelled. The same command goes on where it stopped ({out}).")
        sys.exit(OUT_OF_TIME)
    _show(result, out, as_json)
    sys.exit(result.exit_code)


def _show(result: LocalResult, out: Path, as_json: bool) -> None:
    if result.document is not None:
        show_document(result.document, out / "report.html", as_json)
    elif result.repair is None:
        terminal.say("Out of time before anything could be reported. The same command goes on where it stopped.")
    elif as_json:
        print_json(asdict(result.repair))
    else:
        terminal.show_repair(result.repair, out)


def _run_there(
    client: Client, as_json: bool, *, model: Path, bundle: Path, out: Path | None, preset: str,
    max_accuracy_drop: float, seed: int, repair: bool, device: str, threads: int, lanes: int | None,
    time_limit: float | None, sandbox: Wanted, perceptual: Path | None, output: str | None, classes: Path | None,
    signing_key: Path | None, **declared: Any,
) -> NoReturn:  # fmt: skip
    """The same by a service: what is refused here is refused before anything is sent."""
    config = preset_config(preset, seed, max_accuracy_drop)
    job = _job_of(model, bundle, declared, output, classes, config=config)
    asked = {"preset": preset, "seed": seed, "max_accuracy_drop": max_accuracy_drop, "repair": repair}
    scan_there(client, model, bundle, out or _usual_place(model), as_json, asked | _asked_of_a_service(job))


def _job_of(
    model: Path, bundle: Path, declared: dict[str, Any], output: str | None, classes: Path | None, **options: Any
) -> ScanJob:
    """The job for two files, with what the command line says of them."""
    given, indices = declared_input(**declared), read_class_file(classes) if classes else None
    return job_for(model, bundle, input=given, output=output, classes=indices, **options)


def _asked_of_a_service(job: ScanJob) -> dict[str, Any]:
    """What is known of model and images, as the API takes it."""
    classes = {} if job.classes is None else {"classes": job.classes}
    return {"input": said(job.input), "output": job.output, **classes}


def _refuse_local_only(ctx: click.Context) -> None:
    for name in LOCAL_ONLY:
        if name in ctx.params and ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} is for scans on this machine; of a service, its operator decides it.")


def _usual_place(model: Path) -> Path:
    return Path(f"{model.stem}-triggerlens")
