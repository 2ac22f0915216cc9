"""Steps that a GPU replays do what they did when they were told one by one."""

import math

import pytest
import torch

from models.student import random_student
from tests.toys import as_source
from worker.detection import recorded
from worker.detection.recorded import Recorded, adam
from worker.detection.students import train_student

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_without_a_gpu_each_call_is_a_step() -> None:
    done: list[int] = []
    step = Recorded(lambda: done.append(len(done)), torch.device("cpu"))
    for _ in range(2 * recorded.WARM_UPS):
        step()
    assert done == [*range(2 * recorded.WARM_UPS)]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_a_schedule_changes_the_rate_of_the_next_step(device: str) -> None:
    weight = torch.nn.Parameter(torch.zeros(1, device=device))
    optimizer = adam([weight], 1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)

    def descend() -> None:
        optimizer.zero_grad(set_to_none=True)
        weight.sum().backward()
        optimizer.step()

    step = Recorded(descend, weight.device)
    for _ in range(2 * recorded.WARM_UPS):
        step()
        schedule.step()
    assert weight.item() == pytest.approx(-sum(0.5**step for step in range(2 * recorded.WARM_UPS)), rel=1e-5)


@needs_gpu
def test_a_student_learns_the_same_from_recorded_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    images = as_source(torch.rand((60, 1, 28, 28), generator=torch.Generator().manual_seed(0)).cuda())
    classifier = random_student(1, 10, seed=1).cuda().eval()
    replayed = train_student(classifier, images, seed=2)
    monkeypatch.setattr(recorded, "WARM_UPS", math.inf)
    told = train_student(classifier, images, seed=2)
    for one, other in zip(replayed.parameters(), told.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)
