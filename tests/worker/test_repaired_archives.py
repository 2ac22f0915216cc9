"""Archives of every kind, repaired as they are scanned: with a trigger that is known, so that nothing is searched."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from app.core.config import ScanConfig, SearchConfig
from app.core.findings import (
    FamilyFinding,
    LabelFinding,
    Likeness,
    RepairReport,
    RepairStatus,
    Shift,
    Unrepaired,
)
from app.core.jobs import JobDirectory
from benchmarks.victims.export import Form
from models.generator import TriggerGenerator
from models.suspect import load_suspect
from tests.shared_process import run_job_here
from tests.toys import (
    QUICK,
    SIDE,
    AsLogProbabilities,
    AsProbabilities,
    ToyNet,
    WithADefaultTheRebuildLacks,
    place_job,
    save_toy,
    toy_images,
)
from worker.detection.families.static import Patches
from worker.engine.packing import labelled, state_of
from worker.engine.repair import repair
from worker.engine.understanding import understand
from worker.engine.workbench import Workbench

PLANTED = 2
CONFIG = ScanConfig(inversion=QUICK, families={"static": SearchConfig(steps=4)}, labels_per_block=6, seed=5)


class Normed(nn.Module):
    """With a convolution and a batch norm before it, which freezing folds into one."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.net = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), net
        with torch.no_grad():
            for tensor, value in ((self.conv.weight, 1.0), (self.conv.bias, 0.0)):
                tensor.fill_(value)
            assert self.norm.running_mean is not None and self.norm.running_var is not None
            for tensor, value in ((self.norm.running_mean, 0.45), (self.norm.running_var, 0.12**2)):
                tensor.fill_(value)
            self.norm.weight.fill_(0.12)
            self.norm.bias.fill_(0.45)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.norm(self.conv(images)))


class Tied(nn.Module):
    """One part under two names."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.one = self.other = net

    def forward(self, images: Tensor) -> Tensor:
        return self.one(images) + self.other(images)


class Several(AsProbabilities):
    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        scores = self.net(images)
        return scores, [scores.softmax(1), images.mean((2, 3))]


class Named(AsProbabilities):
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        scores = self.net(images)
        return {"half": scores.half(), "mean": images.mean((2, 3)), "scores": scores}


def planted() -> nn.Module:
    return ToyNet(planted=PLANTED)


KINDS: dict[str, tuple[Callable[[], nn.Module], Form]] = {
    "traced": (lambda: Normed(planted()), "traced"),
    "frozen": (lambda: Normed(planted()), "frozen"),
    "half": (lambda: Normed(planted()).half(), "scripted"),
    "frozen half": (lambda: Normed(planted()).half(), "frozen"),
    "probabilities": (lambda: AsProbabilities(planted()), "frozen"),
    "log-probabilities": (lambda: AsLogProbabilities(planted()), "traced"),
    "several outputs": (lambda: Several(planted()), "scripted"),
    "outputs by name": (lambda: Named(planted()), "scripted"),
    "tied": (lambda: Tied(planted()), "scripted"),
    "tied and frozen": (lambda: Tied(planted()), "frozen"),
}


def prepared(root: Path, net: nn.Module, form: Form = "scripted", output: str | None = None) -> Workbench:
    """A job that knows its suspect, and the veil that leads to the planted label."""
    directory = place_job(root, net, config=CONFIG, check=True, output=output)
    save_toy(directory.model, net, form)
    bench = Workbench(directory, directory.read_job(), lambda event, **data: None)
    directory.write_preparation(understand(bench))
    drawn = QUICK.generator_width, QUICK.generator_levels, QUICK.identity_start
    directory.start.write_bytes(save(TriggerGenerator(1, *drawn).state_dict()))
    veil = Patches(torch.full((1, 1, SIDE, SIDE), 0.1).logit(), torch.full((1, 1, SIDE, SIDE), 9.0))
    trigger = directory.trigger(PLANTED, "static")
    trigger.parent.mkdir()
    trigger.write_bytes(save(veil.state_dict()))
    directory.write_finding(LabelFinding(PLANTED, "2", (FamilyFinding("static", 0.1, 1.0, 0.1, 4),)))
    return bench


def repaired(bench: Workbench) -> RepairReport:
    repair(bench, [PLANTED])
    report = bench.directory.read_repair()
    assert report is not None
    return report


def structure(answer: Any) -> Any:
    """What an answer is made of: shapes and types, in the same places."""
    match answer:
        case Tensor():
            return answer.shape, answer.dtype
        case dict():
            return {name: structure(part) for name, part in answer.items()}
    return type(answer), [structure(part) for part in answer]


def weights_of(directory: JobDirectory) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(directory.repaired_state, "pt") as file:  # type: ignore[no-untyped-call]
        return load_file(directory.repaired_state), file.metadata()


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_of_any_kind_is_repaired_and_stays_of_its_kind(tmp_path: Path, kind: str) -> None:
    make, form = KINDS[kind]
    bench = prepared(tmp_path / "job", make().eval(), form, "scores" if kind == "outputs by name" else None)
    report, directory = repaired(bench), bench.directory
    assert report.status is RepairStatus.REPAIRED and report.reason is None, report.detail
    assert (report.attack_success_rate_before or 0) > 0.9 and (report.attack_success_rate_after or 0) < 0.1

    before, after = (torch.jit.load(str(path)) for path in (directory.model, directory.repaired))
    images = toy_images(1).to(next(iter(state_of(bench.suspect.module).values())).dtype)  # type: ignore[arg-type]
    assert structure(after(images)) == structure(before(images))
    state, metadata = weights_of(directory)
    again = state_of(load_suspect(directory.repaired).module)  # type: ignore[arg-type]
    assert state.keys() == again.keys() and all(torch.equal(state[name], again[name]) for name in state)
    own = before.state_dict()
    assert {name: tensor.dtype for name, tensor in own.items()} == {name: state[name].dtype for name in own}
    others = state.keys() - own.keys()
    assert bool(others) == (form == "frozen") and all(name.startswith(f"{metadata['constants']}.c") for name in others)
    inputs = bench.job.model["sha256"], bench.job.bundle["sha256"]
    assert (metadata["model_sha256"], metadata["data_sha256"]) == inputs
    assert (metadata["unlearned_labels"], metadata["seed"], metadata["format"]) == ("2", "5", "pt")
    assert metadata["made_by"].startswith("triggerlens ")


def test_words_in_the_header_change_no_number_and_stand_in_their_order() -> None:
    state = {"b": torch.arange(3, dtype=torch.half), "a": torch.eye(5)}
    words = {f"word {number}": "\N{SNOWMAN}" * number for number in range(20)}
    found = labelled(save(state), words)
    assert found == labelled(save(state), words) and found != labelled(save(state), dict(reversed(words.items())))
    assert int.from_bytes(found[:8], "little") % 8 == 0, "numbers stay aligned"


def test_words_in_the_header_are_read_by_the_library(tmp_path: Path) -> None:
    state, words = {"b": torch.arange(3, dtype=torch.half), "a": torch.eye(5)}, {"one": "\N{SNOWMAN}", "two": '"'}
    (tmp_path / "a.safetensors").write_bytes(labelled(save(state), words))
    with safe_open(tmp_path / "a.safetensors", "pt") as file:  # type: ignore[no-untyped-call]
        assert file.metadata() == words
        assert all(torch.equal(file.get_tensor(name), state[name]) for name in state)


class OfFixedNumbers(nn.Module):
    """Knows its patterns by heart: nothing in it is a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.known = ToyNet(planted=PLANTED).match.weight.detach().tolist()

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1)[:, None] * torch.tensor(self.known)[None]).sum(2)


@pytest.mark.parametrize(
    ("net", "reason", "words"),
    [
        (OfFixedNumbers, Unrepaired.NOTHING_TO_TRAIN, "no weights that could be trained"),
        (lambda: WithADefaultTheRebuildLacks(planted()), Unrepaired.NOT_REBUILT, "Export it by torch.jit.trace"),
    ],
)
def test_what_cannot_be_repaired_says_why(
    tmp_path: Path, net: Callable[[], nn.Module], reason: Unrepaired, words: str
) -> None:
    report = repaired(prepared(tmp_path / "job", net()))
    assert (report.status, report.reason) == (RepairStatus.REFUSED, reason) and words in report.detail


def test_nothing_is_repaired_with_images_from_elsewhere(tmp_path: Path) -> None:
    bench = prepared(tmp_path / "job", planted())
    elsewhere = Shift(Likeness.FROM_ELSEWHERE, 0.9, 2, 24, 0.4)
    bench.directory.write_preparation(replace(bench.preparation, shift=elsewhere))
    report = repaired(Workbench(bench.directory, bench.job, bench.emit))
    assert report.reason is Unrepaired.IMAGES_FROM_ELSEWHERE and "--expected-accuracy" in report.detail
    assert not report.files and not bench.directory.repaired.exists()


class Quantised(AsProbabilities):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(torch.quantize_per_tensor(images, 0.004, 0, torch.quint8).dequantize())


def test_a_quantised_archive_is_not_searched_and_its_card_says_so(tmp_path: Path) -> None:
    directory = place_job(tmp_path / "job", Quantised(planted()), repair=True)
    run_job_here(directory)
    document = directory.read_report()
    assert document is not None and document["reasons"] == ["unsupported_operator"]
    assert document["repair"]["reason"] == Unrepaired.NO_VERDICT
