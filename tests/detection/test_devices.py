"""The tensor part of a scan on pretend CUDA: whatever meets there lies there, and hardly anything is read from it."""

from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from app.core.config import FirstPassConfig, InversionConfig, MatchingConfig, RepairConfig, SearchConfig
from app.core.families import FAMILIES
from models.classifier import Classifier
from models.generator import TriggerGenerator
from models.perceptual import PACKAGED, PerceptualDistance, load_perceptual
from models.student import random_student
from tests.detection.beginnings import SHAPE, each
from tests.detection.pretend import CUDA, on_pretend_cuda, pretend_cuda
from tests.toys import plain_spec
from worker.detection import students
from worker.detection.clean import CleanImages
from worker.detection.families.base import Beginning, Triggers, triggers_of
from worker.detection.families.dynamic import pretrain_generator
from worker.detection.first_pass import easiness
from worker.detection.images import Images
from worker.detection.inversion import Inversion, invert_triggers
from worker.detection.preprocessing import fit
from worker.detection.repairing.paper import unlearn_trigger
from worker.detection.repairing.standard import match_scores

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")

IMAGES, BLOCK = 24, range(2)
HOW_MANY_LABELS = pytest.mark.parametrize("labels", [10, 1000])
GENERATOR = InversionConfig(success_level=0.95, generator_width=4, generator_levels=1)


class There(CleanImages):
    """Clean images on the device. Which of them have another label, no pretended number tells."""

    def others(self, target: int) -> Tensor:
        return torch.arange(len(self) - 1, device=CUDA)

    def told_by(self, target: int, said_N: Tensor) -> Tensor:
        return self.others(target)

    @property
    def fewest_others(self) -> int:
        return len(self) - 1


@pytest.fixture
def reads() -> Iterator[Counter[str]]:
    with pretend_cuda() as reads:
        yield reads


@pytest.fixture
def perceptual(reads: Counter[str]) -> PerceptualDistance:
    return on_pretend_cuda(lambda: load_perceptual(PACKAGED))


@pytest.fixture
def images(reads: Counter[str]) -> Images:
    channels, height, width = SHAPE
    return Images(torch.zeros((IMAGES, height, width, channels), dtype=torch.uint8), CUDA)


@pytest.fixture
def clean(images: Images, perceptual: PerceptualDistance) -> There:
    return There(images, torch.zeros(IMAGES, dtype=torch.long, device=CUDA), perceptual)


def suspect(labels: int) -> Classifier:
    def made() -> Classifier:
        return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(SHAPE.numel(), labels)), plain_spec())

    return on_pretend_cuda(made).requires_grad_(False)


def student(labels: int) -> nn.Module:
    return on_pretend_cuda(lambda: random_student(SHAPE[0], labels, seed=0)).eval().requires_grad_(False)


def triggers(family: str, perceptual: PerceptualDistance, labels: Sequence[int] = BLOCK) -> Triggers:
    def begun() -> Triggers:
        generator = TriggerGenerator(SHAPE[0], GENERATOR.generator_width, GENERATOR.generator_levels)
        return triggers_of(family).begin(Beginning(SHAPE, generator, perceptual, config_of(family)), each(labels))

    return on_pretend_cuda(begun)


def config_of(family: str, steps: int = 1) -> SearchConfig:
    config = GENERATOR if family == "dynamic" else SearchConfig(success_level=0.95)
    return type(config)(**{**vars(config), "steps": steps})


def searched(family: str, network: nn.Module, clean: CleanImages, steps: int = 1) -> list[Inversion]:
    return invert_triggers(
        network, clean, clean, BLOCK, triggers(family, clean.perceptual), config_of(family, steps), seed=0
    )


@HOW_MANY_LABELS
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_searched_and_read_where_the_suspect_is(family: str, labels: int, clean: There) -> None:
    networks = [suspect(labels), *([student(labels)] if FAMILIES[family].asks_students else [])]
    for network in networks:
        found = searched(family, network, clean)
        assert [inversion.label for inversion in found] == [*BLOCK]
        assert all(tensor.is_cuda for inversion in found for tensor in inversion.trigger.state_dict().values())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loop_of_a_search_reads_nothing_from_the_device(family: str, clean: There, reads: Counter[str]) -> None:
    """What is read before and after is read whatever the number of steps."""
    counted = []
    for steps in (1, 3):
        reads.clear()
        searched(family, suspect(10), clean, steps)
        counted.append(+reads)
    assert counted[0] == counted[1]


@HOW_MANY_LABELS
@pytest.mark.parametrize("family", FAMILIES)
def test_a_first_pass_looks_where_the_suspect_is(family: str, labels: int, clean: There, reads: Counter[str]) -> None:
    """What it reads, it reads whatever the number of steps."""
    counted = []
    for steps in (1, 3):
        begun, look = triggers(family, clean.perceptual), FirstPassConfig(steps=steps, images=8)
        reads.clear()
        easiness(suspect(labels), clean, BLOCK, begun, config_of(family), look)
        counted.append(+reads)
    assert counted[0] == counted[1]


@HOW_MANY_LABELS
def test_students_learn_where_the_suspect_is(
    labels: int, images: Images, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def there(*of: int) -> nn.Module:
        net = on_pretend_cuda(lambda: random_student(*of))
        net.to = lambda device: net  # type: ignore[method-assign, assignment]
        return net

    monkeypatch.setattr(students, "STEPS", 3)
    monkeypatch.setattr(students, "random_student", there)
    learned, agreement = students.train_students(suspect(labels), images, [0, 1])
    assert len(learned) == 2 and agreement == 0.0
    assert all(parameter.is_cuda for net in learned for parameter in net.parameters())


def test_a_generator_learns_to_give_back_its_input_there(clean: There, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TriggerGenerator, "to", lambda generator, device: on_pretend_cuda(lambda: generator))
    config = InversionConfig(identity_start="trained", pretrain_epochs=1, batch_size=8, generator_width=4)
    generator = pretrain_generator(clean, clean.perceptual, config, seed=0)
    assert all(parameter.is_cuda for parameter in generator.parameters())


@HOW_MANY_LABELS
def test_a_suspect_is_met_there(labels: int, images: Images) -> None:
    answered = fit(suspect(labels).module, images[torch.arange(4)], plain_spec(), "as given")
    assert answered.logits_NK.shape == (4, labels) and answered.logits_NK.is_cuda


@HOW_MANY_LABELS
@pytest.mark.parametrize("family", FAMILIES)
def test_a_repair_steps_where_the_suspect_is(family: str, labels: int, clean: There) -> None:
    trigger, held = triggers(family, clean.perceptual, [0]), triggers("warp", clean.perceptual, [1])
    config = RepairConfig(epochs=1, batch_size=8, matching=MatchingConfig(steps=2))
    unlearn_trigger(suspect(labels), [trigger.on], clean.images, clean.labels_N, config, seed=0)
    match_scores(suspect(labels), suspect(labels), [trigger], clean.images, config, 0.01, seed=0, held=[held])


def test_what_was_left_behind_is_found() -> None:
    """A tensor that is no parameter and no buffer stays where it was, and a test here fails on it."""

    class Leaves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = torch.ones(3)

        def forward(self, images: Tensor) -> Tensor:
            return images + self.left

    with pretend_cuda(), pytest.raises(RuntimeError, match="device"):
        on_pretend_cuda(Leaves)(torch.zeros(3, device=CUDA))
