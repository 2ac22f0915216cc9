"""Images are bytes until a batch of them is needed, and no batch is larger than memory allows."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from app.core.config import SearchConfig
from models.classifier import Classifier
from models.perceptual import PACKAGED, PerceptualDistance, load_perceptual
from tests.detection.beginnings import begun, each
from tests.toys import QUICK, SIDE, ToyNet, as_source, plain_spec, toy_images, toy_labels
from worker.detection import clean as cleaning
from worker.detection import images as sources
from worker.detection import metrics, students
from worker.detection.clean import CleanImages
from worker.detection.families.base import Beginning, triggers_of
from worker.detection.families.dynamic import pretrain_generator
from worker.detection.images import Images, at_once
from worker.detection.inversion import Inversion, invert_triggers

ONE = 4 * SIDE**2  # bytes of a toy, as numbers
LABELS = range(3)


@pytest.fixture(scope="module")
def perceptual() -> PerceptualDistance:
    return load_perceptual(PACKAGED)


class Counting(Images):
    """Remembers how many images were asked for at once, of it and of its parts."""

    def __init__(self, images_NCHW: Tensor) -> None:
        source = as_source(images_NCHW)
        super().__init__(source._pictures_NHWC, source.device)
        self.asked: list[int] = []

    def __getitem__(self, picked: Tensor) -> Tensor:
        self.asked.append(picked.numel())
        return super().__getitem__(picked)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_their_bytes_in_order_and_as_people_lay_them_out(channels: int) -> None:
    bytes_NHWC = torch.randint(256, (5, 4, 6, channels), generator=torch.Generator().manual_seed(0)).byte()
    images = Images(bytes_NHWC, torch.device("cpu"))
    expected_NCHW = bytes_NHWC.permute(0, 3, 1, 2).contiguous().float() / 255
    assert len(images) == 5 and images.shape == (channels, 4, 6)
    two_by_two = images[torch.tensor([[4, 0], [2, 2]])]
    assert torch.equal(two_by_two, expected_NCHW[[4, 0, 2, 2]].view(2, 2, channels, 4, 6))
    assert images[torch.tensor([3, 1])].stride() == (channels * 24, 24, 6, 1), "channels do not pass for the last"
    assert [len(batch) for batch in images.split(2)] == [2, 2, 1]
    assert torch.equal(torch.cat([*images.split(2)]), expected_NCHW)


def test_a_part_of_a_part_is_of_the_same_bytes() -> None:
    bytes_NHWC = torch.arange(6).view(6, 1, 1, 1).byte()
    images = Images(bytes_NHWC, torch.device("cpu"))
    part = images.subset(torch.tensor([5, 3, 1])).subset(torch.tensor([False, True, True]))
    bytes_NHWC *= 10
    assert (part[torch.arange(2)].flatten() * 255).round().tolist() == [30, 10]


def test_the_larger_images_are_the_fewer_are_shown_together() -> None:
    assert at_once(torch.empty(1, 1, 28, 28)) > 1_000
    assert 10 <= at_once(torch.empty(1, 3, 224, 224)) <= 16
    assert at_once(torch.empty(1, 3, 4_000, 4_000, device="meta")) == 1 == at_once(torch.empty(3, 1_000, 1_000))


def test_where_memory_is_short_so_many_images_are_shown_together_and_of_parts_no_more() -> None:
    images = as_source(toy_images(6))
    few = images.at_most(5)
    assert at_once(few) == at_once(few.subset(torch.arange(8))) == 5 < at_once(images) == at_once(few.at_most(None))
    large = Images(torch.zeros(1, 1_000, 1_000, 1, dtype=torch.uint8), torch.device("cpu"))
    assert at_once(large.at_most(100)) == at_once(large) == 2


def searched(images: Images, perceptual: PerceptualDistance, family: str, seen: list[int]) -> list[Inversion]:
    clean = CleanImages(images, toy_labels(6), perceptual)
    suspect = Classifier(ToyNet(planted=2), plain_spec()).requires_grad_(False)
    suspect.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    config = replace(QUICK, success_level=0.9, norm="lpips")
    if family == "dynamic":
        start = pretrain_generator(clean, perceptual, config, 0)
        triggers = triggers_of(family).begin(Beginning(images.shape, start, perceptual, config), each(LABELS))
        return invert_triggers(suspect, clean, clean, LABELS, triggers, config, seed=0)
    triggers = begun(family, LABELS)
    return invert_triggers(suspect, clean, clean, LABELS, triggers, SearchConfig(steps=4, success_level=0.9), seed=0)


@pytest.mark.parametrize("family", ["dynamic", "static"])
def test_a_search_shows_the_suspect_no_more_at_once_than_memory_allows_and_finds_the_same(
    family: str, perceptual: PerceptualDistance, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, together, in_pieces = Counting(toy_images(6)), list[int](), list[int]()
    whole = searched(images, perceptual, family, together)
    images.asked.clear()
    monkeypatch.setattr(sources, "ON_CPU", 7 * ONE)
    pieces = searched(images, perceptual, family, in_pieces)
    assert max(together) > 7 >= max(in_pieces)
    assert max(images.asked) <= QUICK.batch_size * len(LABELS), "what a step is about, and no more"
    for one, other in zip(whole, pieces, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-3)
        assert one.norm == pytest.approx(other.norm, rel=0.03), "strengths are found to 2 %"


def test_students_ask_for_no_more_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    images = Counting(toy_images(40))
    monkeypatch.setattr(students, "STEPS", 2)
    monkeypatch.setattr(metrics, "BATCH", 100)
    students.train_students(ToyNet(), images, seeds=(0,))
    assert max(images.asked) == 100, "which is what is measured at once"


def test_features_are_kept_where_few_and_the_same_where_they_are_not(
    perceptual: PerceptualDistance, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, picked = as_source(toy_images(2)), torch.tensor([7, 0, 3])
    kept = CleanImages(images, toy_labels(2), perceptual).features_of(picked, torch.empty(0))
    budget = 4 * sum(layer[0].nbytes for layer in kept)
    monkeypatch.setattr(cleaning, "MOST_FEATURES", budget)
    counting = Counting(toy_images(2))
    clean = CleanImages(counting, toy_labels(2), perceptual)
    computed = clean.features_of(picked, images[picked])
    assert clean._features is None and counting.asked == [1], "one image tells how large they are"
    for one, other, own in zip(kept, computed, perceptual.features(images[picked]), strict=True):
        torch.testing.assert_close(one, own)
        torch.testing.assert_close(other, own)
    four = CleanImages(images.subset(torch.arange(4)), toy_labels(2)[:4], perceptual)
    assert sum(layer.nbytes for layer in four._features or ()) == budget
