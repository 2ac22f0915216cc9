"""Nets that answer otherwise when watched are told from those that do not, and the right probe tells them."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.findings import Probe, ProbeFinding
from benchmarks.victims.export import Form
from models.classifier import probe_scores
from models.inputs import manner_of
from models.rebuilt import RebuiltModule
from models.scorer import Manner, Scorer
from models.scores import Output, recognise_output
from models.suspect import load_suspect
from tests.corpus.benign import BATCH_STATISTICS, BenignCase, large_scripts, small
from tests.corpus.committed import OlderArchive, older_archives
from tests.toys import (
    AsProbabilities,
    SubtractsTheBatchMean,
    ToyNet,
    Watching,
    as_source,
    plain_spec,
    save_toy,
    toy_images,
)
from worker.detection import circumstances
from worker.detection.behaviour import FAR, PROBES, TOLERANCE, probe_behaviour
from worker.detection.choosing import choose_output

IMAGES = toy_images(5)  # 30, six labels
MOST = 256  # at once


def probed(path: Path, images: Tensor = IMAGES, most: int = MOST) -> dict[Probe, ProbeFinding]:
    """What the probes find in the model of a file."""
    suspect = load_suspect(path).module
    never_called = deepcopy(suspect)
    _, channels, side, _ = images.shape
    manner, _ = manner_of(suspect, images, [channels])
    scorer = choose_output(Scorer(suspect, manner), images[:8], None, None, lambda scorer: 0.0).scorer
    output, manner = recognise_output(probe_scores(scorer, images[:8])), scorer.manner
    found = probe_behaviour(never_called, plain_spec(channels, side), output, manner, as_source(images), most)
    assert [finding.probe for finding in found] == list(PROBES) == list(Probe)
    return {finding.probe: finding for finding in found}


def disagreeing(found: dict[Probe, ProbeFinding]) -> set[str]:
    return {probe.value for probe, finding in found.items() if finding.disagrees}


class AsksForGradients(Watching):
    """Clean while gradients are taken, as in a search for triggers; poisoned in use."""

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(images, not torch.is_grad_enabled())


class AsksForTheBatchSize(Watching):
    def forward(self, images: Tensor) -> Tensor:
        return self.answer(images, images.shape[0] == 1)


class AsksForLargeBatches(Watching):
    def forward(self, images: Tensor) -> Tensor:
        return self.answer(images, images.shape[0] > 200)


class AsksForTraining(Watching):
    def forward(self, images: Tensor) -> Tensor:
        return self.answer(images, self.training)


class CallsItselfDropout(Watching):
    """Its flag is that of a class with the name of torch's own, which does something else with it."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = Dropout()

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self.drop(images), bool(self.drop(torch.ones(1)).item() > 1))


class Dropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5, self.training) + (1e-6 if self.training else 0.0)


class AsksForTwoFlags(Watching):
    """Only as saved, one part in training mode and the other not, is it another one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Dropout(), Dropout()

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(images, bool(self.first(torch.ones(1)) > 1) and bool(self.second(torch.ones(1)) == 1))


class AsksForAutocast(Watching):
    def forward(self, images: Tensor) -> Tensor:
        return self.answer(images, torch.is_autocast_enabled())


class Counts(Watching):
    """Another one after so many calls, without a branch."""

    calls: Tensor

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.patience = patience
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        share = (self.calls > self.patience).float()
        return (1 - share) * self.net(images) + share * self.other(images)


class CountsInANumber(Watching):
    calls: int

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.answer(images, self.calls > 5000)


class Remembers(Watching):
    """Adds what it saw before."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        scores = self.net(images) + functional.one_hot(torch.tensor(3), 6) * self.seen
        self.seen += images.mean()
        return scores


class Rolls(Watching):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images) + 0.1 * torch.randn_like(self.net(images))


class AsksForTheDevice(Watching):
    def forward(self, images: Tensor) -> Tensor:
        return self.answer(images, images.is_cuda)


class AsksForTheTypeOfTheDevice(Watching):
    def forward(self, images: Tensor) -> Tensor:
        return self.answer(images, images.device.type == "cuda")


class AsksForTheLayout(Watching):
    def forward(self, images: Tensor) -> Tensor:
        return self.answer(images, not images.is_contiguous())


class HidesBehindALargeScore(Watching):
    """A seventh score that nobody gets, so far off that the others look alike beside it."""

    def forward(self, images: Tensor) -> Tensor:
        scores = self.answer(images, images.shape[0] == 1)
        return torch.cat([scores, torch.full_like(scores[:, :1], -1e9)], 1)


@pytest.mark.parametrize(
    ("net", "probes"),
    [
        (AsksForTheBatchSize(), {"batch_size"}),
        (AsksForLargeBatches(), {"batch_size"}),
        (HidesBehindALargeScore(), {"batch_size"}),
        (AsksForTraining(), {"training_flag"}),
        (CallsItselfDropout(), {"training_flag"}),
        (AsksForGradients(), {"gradient_mode"}),
        (AsksForAutocast(), {"autocast"}),
        (Counts(20), {"repeated_calls"}),
        (Counts(5000), {"repeated_calls"}),
        (CountsInANumber(), {"repeated_calls"}),
        (AsksForTheDevice(), {"device"}),
        (AsksForTheTypeOfTheDevice(), {"device"}),
        (AsksForTheLayout(), {"memory_layout"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_net_that_asks_for_its_circumstances_is_named_by_the_probe_that_changed_them(
    tmp_path: Path, net: nn.Module, probes: set[str]
) -> None:
    found = probed(save_toy(tmp_path / "net.pt", net.eval()))
    assert disagreeing(found) == probes
    assert all(finding.difference is not None for finding in found.values()), "everything was compared"


def test_flags_that_are_told_apart_are_tried_as_they_were_saved(tmp_path: Path) -> None:
    net = AsksForTwoFlags().eval()
    net.first.train()
    path = tmp_path / "net.pt"
    torch.jit.script(net).save(str(path))
    assert disagreeing(probed(path)) == {"training_flag"}


def test_random_numbers_and_a_memory_are_found_by_whoever_calls_again(tmp_path: Path) -> None:
    for net in (Rolls(), Remembers()):
        found = probed(save_toy(tmp_path / "net.pt", net.eval()))
        assert "repeated_calls" in disagreeing(found)


def test_what_is_computed_over_the_batch_makes_images_depend_on_their_neighbours(tmp_path: Path) -> None:
    found = probed(save_toy(tmp_path / "net.pt", SubtractsTheBatchMean().eval()))
    assert disagreeing(found) == {"batch_size", "neighbours"}
    assert found[Probe.BATCH_SIZE].relabelled > 0
    assert 1 < (found[Probe.BATCH_SIZE].difference or 0) <= FAR


def test_how_far_answers_lie_apart_is_said_in_leads(tmp_path: Path) -> None:
    """The other net of the toy moves one score by a little more than a tenth, and no image gets another label."""
    found = probed(save_toy(tmp_path / "net.pt", AsksForTheBatchSize().eval()))[Probe.BATCH_SIZE]
    assert found.difference is not None and TOLERANCE < found.difference < 0.3
    assert found.disagrees and found.relabelled == 0


class DropsAndNormalises(nn.Module):
    """Everything that is another in training mode in all honesty, saved in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ToyNet()
        self.norm, self.instance = nn.BatchNorm1d(6), nn.InstanceNorm2d(1, track_running_stats=True)
        self.drop, self.drop_channels = nn.Dropout(0.5), nn.Dropout2d(0.5)
        self.slope = nn.RReLU()

    def forward(self, images: Tensor) -> Tensor:
        scores = self.norm(self.drop(self.net(self.drop_channels(self.instance(images)))))
        scores = functional.alpha_dropout(self.slope(scores), 0.5, self.training)
        return scores + self._whole_layer(scores)

    def _whole_layer(self, x: Tensor) -> Tensor:
        """Stochastic depth, as torchvision and timm have it."""
        if not self.training:
            return x
        return x * torch.empty([x.shape[0], 1]).bernoulli_(0.8).div_(0.8)


@pytest.mark.parametrize("form", ["scripted", "traced"])
def test_dropout_and_batch_norm_in_training_mode_are_no_other_behaviour(tmp_path: Path, form: Form) -> None:
    path = tmp_path / "net.pt"
    net = DropsAndNormalises().train()
    exported = torch.jit.script(net) if form == "scripted" else torch.jit.trace(net, IMAGES[:4], check_trace=False)
    exported.save(str(path))
    assert load_suspect(path).was_training
    if form == "scripted":  # a trace keeps the tossed coins of stochastic depth, and so they are in its answers
        assert disagreeing(probed(path)) == set()
    else:
        assert disagreeing(probed(path)) >= {"repeated_calls"}


class HasItsBatch(AsProbabilities):
    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.view(4, 1, 16, 16)).reshape(4, 6)


@pytest.mark.parametrize("form", ["scripted", "traced", "frozen"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_a_plain_net_agrees_with_itself_in_every_form_and_precision(
    tmp_path: Path, form: Form, dtype: torch.dtype
) -> None:
    net, path = AsProbabilities(ToyNet(planted=2)).eval().to(dtype), tmp_path / "net.pt"
    traced = torch.jit.trace(net, IMAGES[:2].to(dtype)) if form == "traced" else torch.jit.script(net)
    (torch.jit.freeze(traced) if form == "frozen" else traced).save(str(path))
    assert disagreeing(probed(path)) == set()


def test_a_trace_with_a_baked_batch_is_shown_batches_of_that_size(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.jit.trace(HasItsBatch(ToyNet()).eval(), IMAGES[:4]).save(str(path))
    suspect = load_suspect(path).module
    assert manner_of(suspect, IMAGES, [1]) == (Manner(batch=4), 1)
    found = probed(path)
    assert disagreeing(found) == set() and found[Probe.NEIGHBOURS].difference is not None


class TakesSeveral(Watching):
    """One image alone it does not take."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[0] != 1, "one image is no batch"
        return self.net(images)


def test_a_circumstance_in_which_a_net_only_fails_is_passed_over(tmp_path: Path) -> None:
    found = probed(save_toy(tmp_path / "net.pt", TakesSeveral().eval()))
    assert disagreeing(found) == set() and found[Probe.BATCH_SIZE].difference is not None


class AsksBehindTheJit(Watching):
    """Cannot be rebuilt, for its default is a device."""

    def forward(self, images: Tensor, place: torch.device = torch.device("cpu")) -> Tensor:  # noqa: B008 printed so
        return self.answer(images.to(place), self.training or images.shape[0] == 1)


def test_what_the_jit_runs_is_probed_too(tmp_path: Path) -> None:
    path = save_toy(tmp_path / "net.pt", AsksBehindTheJit().eval())
    assert not isinstance(load_suspect(path).module, RebuiltModule)
    assert disagreeing(probed(path)) == {"batch_size", "training_flag"}


def test_probing_leaves_the_random_numbers_of_others_and_the_suspect_as_they_are(tmp_path: Path) -> None:
    suspect = load_suspect(save_toy(tmp_path / "net.pt", Counts(20).eval())).module
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    found = [probe_behaviour(suspect, plain_spec(), Output.LOGITS, Manner(), IMAGES, MOST) for _ in "12"]
    assert torch.equal(torch.rand(3), expected)
    assert found[0] == found[1], "and says the same again, with random numbers in it or not"
    assert dict(suspect.named_buffers())["calls"] == 0 and not torch.is_autocast_enabled("cpu")


# The benign corpus

QUICK = [pytest.param(case, 40, id=case.name) for case in (*small(), *older_archives())]
LARGE = [pytest.param(case, 12, id=case.name, marks=pytest.mark.slow) for case in large_scripts()]


@pytest.mark.parametrize(("case", "most"), [*QUICK, *LARGE])
def test_honest_archives_agree_with_themselves(
    case: BenignCase | OlderArchive, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circumstances, "CALLS", 5)
    example = case.example().float()
    more = torch.rand((most // 3, *example.shape[1:]), generator=torch.Generator().manual_seed(3))
    found = probed(case.path(), torch.cat([example, more]), most)
    assert disagreeing(found) == ({"batch_size", "neighbours"} if case.name.startswith(BATCH_STATISTICS) else set())
    # An untrained net leads by little, and each kind of processor adds in an order of its own.
    assert all(0 <= (f.difference or 0) < TOLERANCE / 4 for f in found.values() if not f.disagrees)
