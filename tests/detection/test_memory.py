"""What a step takes of memory is told before it is taken, from one image and two."""

import weakref
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from app.core.presets import PRESETS
from models.classifier import Classifier, ModelFailedError, is_out_of_memory
from tests.toys import plain_spec
from worker.detection.memory import Footprint, fitting, footprint, kept

BYTES = st.integers(0, 2**34)


def test_what_autograd_keeps_is_counted_once_and_only_where_it_is_kept() -> None:
    x = torch.ones(1000, requires_grad=True)
    assert kept(lambda: (x.exp() * 2).sum()) == 4000, "the result of exp is kept, what it is multiplied with is not"
    assert kept(lambda: (x * x).sum()) == 4000, "one tensor, twice"
    with torch.no_grad():
        assert kept(lambda: x.exp().sum()) == 0


def test_nothing_is_left_of_what_was_tried() -> None:
    network, left = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 1)), []

    def compute() -> Tensor:
        shown = torch.rand(8, 4)
        left.append(weakref.ref(shown))
        loss: Tensor = network(shown).sigmoid().sum()
        return loss

    kept(compute)
    assert left[0]() is None


def test_a_footprint_is_read_off_few_images_and_holds_for_many() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(256, 3))

    def step(labels: int, images: int) -> Tensor:
        pattern = torch.zeros(labels, 1, 1, 8, 8, requires_grad=True)
        shown = torch.rand(labels, images, 1, 8, 8) + pattern.sigmoid()
        loss: Tensor = network(shown.flatten(0, 1)).square().sum()
        return loss

    found = footprint(step)
    assert found.image > 4 * 8 * 8 * 4 and found.label == 8 * 8 * 4
    told = found.step + 5 * found.label + 80 * found.image
    assert kept(lambda: step(5, 16)) == pytest.approx(told, rel=0.01)


def test_of_a_network_that_takes_so_many_images_at_once_portions_count() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh())

    def step(labels: int, images: int) -> Tensor:
        shown = torch.rand(labels * images, 1, 2, 2, requires_grad=True).exp()
        filled = [torch.cat([part, part.new_zeros(8 - len(part), 1, 2, 2)]) for part in shown.split(8)]
        return torch.stack([network(part).sum() for part in filled]).sum()

    found = footprint(step, portion=8)
    assert kept(lambda: step(2, 40)) == pytest.approx(found.step + 2 * found.label + 80 * found.image, rel=0.1)


@given(BYTES, BYTES, BYTES, st.integers(1, 20), st.integers(1, 16), st.floats(0, 2**40))
def test_what_is_chosen_fits_wherever_anything_does(
    step: int, label: int, image: int, labels: int, of_each: int, left: float
) -> None:
    takes = Footprint(step, label, image)
    chosen, shown = fitting(takes, labels, labels * of_each, left)
    assert 1 <= chosen <= labels and chosen <= shown <= labels * of_each
    if takes.of(1, 1) <= left - 2:  # as bytes are rounded
        assert takes.of(chosen, shown) <= left + 2
    if takes.of(labels, labels * of_each) <= left:
        assert (chosen, shown) == (labels, labels * of_each)


def test_small_networks_on_small_images_are_searched_as_planned_wherever_there_are_gigabytes() -> None:
    """Three times a ResNet-18 of full width on 32 x 32 pixels: what the partition is must not depend on the machine."""
    takes, planned = Footprint(step=2**26, label=2**20, image=3 * 10 * 2**20), PRESETS["standard"].labels_per_block
    images = planned * max(search.batch_size for search in PRESETS["standard"].searches.values())
    assert fitting(takes, planned, images, 4 * 2**30) == (planned, images)


def test_first_fewer_images_are_shown_together_and_then_fewer_labels_searched() -> None:
    takes = Footprint(step=0, label=0, image=100)
    assert fitting(takes, 5, 80, 1.5 * 8000) == (5, 80)
    assert fitting(takes, 5, 80, 1.5 * 7999) == (5, 79)
    assert fitting(takes, 5, 80, 1.5 * 500) == (5, 5)
    assert fitting(takes, 5, 80, 1.5 * 499) == (4, 4)
    assert fitting(takes, 5, 80, 0) == (1, 1)


def huge() -> None:
    torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize("fail", [huge, lambda: bytearray(2**62)], ids=["torch", "python"])
def test_a_failed_allocation_is_told_from_other_failures(fail: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as failed:
        fail()
    assert is_out_of_memory(failed.value)
    with pytest.raises(RuntimeError) as other:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_out_of_memory(other.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory.")) and not is_out_of_memory(ValueError())


def test_a_classifier_that_memory_fails_has_not_failed_itself() -> None:
    class Large(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            huge()
            return images

    with pytest.raises(RuntimeError) as failed:
        Classifier(Large(), plain_spec())(torch.zeros(1, 1, 16, 16))
    assert is_out_of_memory(failed.value) and not isinstance(failed.value, ModelFailedError)
