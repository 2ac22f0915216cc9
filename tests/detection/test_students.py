"""Reference students: they learn the task from the clean images, and not the backdoor."""

import pytest
import torch

from models.classifier import Classifier
from tests.toys import VEIL, ToyNet, as_source, plain_spec, toy_images, toy_labels
from worker.detection import students
from worker.detection.metrics import attack_success_rate, clean_accuracy
from worker.detection.students import train_student, train_students

PLANTED = 2
SEEN, UNSEEN = as_source(toy_images(10, seed=0)), toy_images(10, seed=1)


@pytest.fixture(autouse=True)
def short_lesson(monkeypatch: pytest.MonkeyPatch) -> None:
    """A toy is learned in fewer steps."""
    monkeypatch.setattr(students, "STEPS", 150)


def suspect() -> Classifier:
    return Classifier(ToyNet(planted=PLANTED), plain_spec()).requires_grad_(False).eval()


def test_a_student_learns_the_labels_and_knows_nothing_of_the_trigger() -> None:
    student = train_student(suspect(), SEEN, seed=0)
    labels, veiled = toy_labels(10), (UNSEEN + VEIL).clamp(0, 1)
    assert attack_success_rate(suspect(), veiled, labels, PLANTED) == 1.0
    assert clean_accuracy(student, UNSEEN, labels) > 0.9
    assert attack_success_rate(student, veiled, labels, PLANTED) < 0.1


def test_a_student_depends_on_its_seed_and_leaves_the_global_random_numbers_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(students, "STEPS", 5)
    classifier, state = suspect(), torch.random.get_rng_state()
    one, again, other = (train_student(classifier, SEEN.subset(torch.arange(12)), seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(map(torch.equal, one.state_dict().values(), again.state_dict().values()))
    assert not all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_a_student_is_ready_for_use_at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(students, "STEPS", 5)
    for side in (12, 28, 40):
        seen = as_source(toy_images(1, side=side))
        student = train_student(lambda images: images.mean((2, 3)).repeat(1, 4), seen, seed=0)  # type: ignore[arg-type]
        assert student(torch.rand(2, 1, side, side)).shape == (2, 4)
        assert not student.training and not any(parameter.requires_grad for parameter in student.parameters())


def test_students_tell_by_images_they_were_kept_from_whether_they_learned_the_task() -> None:
    trained, agreement = train_students(suspect(), SEEN, seeds=(0, 1))
    assert len(trained) == 2 and agreement > 0.9
    noise = as_source(torch.rand(60, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    _, agreement = train_students(lambda images: 50 * images[:, 0, ::5, ::5].flatten(1).sin()[:, :8], noise, (0, 1))  # type: ignore[arg-type]
    assert agreement < 0.7
    assert train_students(suspect(), SEEN.subset(torch.arange(14)), seeds=(0, 1)) == ([], 0.0)
