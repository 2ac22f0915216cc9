"""The options that commands share."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from app.core.config import RepairConfig
from app.core.intake.declaration import DeclaredInput
from app.core.presets import DEFAULT_PRESET, PRESETS

DEFAULT_SERVER = "http://127.0.0.1:8360"

Command = Callable[..., None]


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


def _all_of(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


as_json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
key_option = click.option("--key", envvar="TRIGGERLENS_KEY", help="API key of the service. [env: TRIGGERLENS_KEY]")
data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where everything is kept. [default: triggerlens-data]",
)

# What `scan`, `repair` and `check` share: the inputs, what the user knows of them, and how it is computed.
_inputs = _all_of(
    click.argument("model", type=click.Path(path_type=Path)),
    click.argument("bundle", type=click.Path(path_type=Path)),
)
_knowledge = _all_of(
    click.option("--size", type=Numbers(int, 2), help="Height and width that the model takes."),
    click.option("--mean", type=Numbers(float), help="Mean to subtract: one number, or one per channel."),
    click.option("--std", type=Numbers(float), help="Deviation to divide by: one number, or one per channel."),
    click.option("--range", "range_", type=Numbers(float, 2), help="What pixels 0 and 255 become before that: 0,1"),
    click.option("--channel-order", type=click.Choice(["rgb", "bgr"]), help="Which colour the model takes first."),
    click.option("--output", metavar="NAME", help="Which output to scan, of a model that has several: logits, or 1"),
    click.option("--expected-accuracy", type=click.FloatRange(0, 1), help="What the model's maker promised."),
    click.option("--classes", type=click.Path(path_type=Path),
                 help="File with the index of each class: JSON, or one name a line in the order of the outputs."),
)  # fmt: skip
_computing = _all_of(
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    click.option("--threads", type=click.IntRange(1), default=os.cpu_count,
                 help="Of what runs alone: all but the search.  [default: all cores]"),
    click.option("--sandbox", type=click.Choice(["auto", "bwrap", "none"]), default="auto", show_default=True,
                 help="Fence around the model while it runs; auto: bubblewrap where it works."),
)  # fmt: skip
check_options = _all_of(_inputs, _knowledge, _computing, as_json_option)

# What `scan` and `repair` share.
engine_options = _all_of(
    _inputs,
    click.option("--preset", type=click.Choice(list(PRESETS)), default=DEFAULT_PRESET, show_default=True),
    click.option("--max-accuracy-drop", type=click.FloatRange(0, 1), default=RepairConfig.max_accuracy_drop,
                 show_default=True, help="A repair that costs more accuracy than this is not handed out."),
    click.option("--out", type=click.Path(path_type=Path), help="Output directory. [default: MODEL-triggerlens]"),
    _knowledge,
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    _computing,
    click.option("--lanes", type=click.IntRange(1),
                 help="Blocks of labels side by side, one thread each.  [default: as cores and memory allow]"),
    click.option("--time-limit", type=click.FloatRange(0, min_open=True), help="Seconds until the scan ends."),
    click.option("--perceptual", type=click.Path(path_type=Path, exists=True, dir_okay=False),
                 help="LPIPS backbone weights; see `triggerlens weights`."),
    click.option("--signing-key", type=click.Path(path_type=Path),
                 help="Ed25519 key in PEM that signs the statement beside repaired weights."),
    as_json_option,
)  # fmt: skip

# What every command that talks to a service has.
service_options = _all_of(
    click.option("--server", envvar="TRIGGERLENS_SERVER", default=DEFAULT_SERVER, show_default=True,
                 help="Address of the service. [env: TRIGGERLENS_SERVER]"),
    key_option,
    as_json_option,
)  # fmt: skip


def declared_input(
    size: tuple[int, int] | None,
    range_: tuple[float, float] | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    channel_order: str | None,
    expected_accuracy: float | None,
) -> DeclaredInput:
    """What the options say about the model's input."""
    height, width = size or (None, None)
    return DeclaredInput(
        height=height,
        width=width,
        range=range_,
        mean=mean,
        std=std,
        channel_order=channel_order,
        expected_accuracy=expected_accuracy,
    )


def said(declared: DeclaredInput) -> dict[str, Any]:
    """The same as the API takes it: without what was left open."""
    return {name: value for name, value in asdict(declared).items() if value is not None}
