"""Reference students: how easy is each label to reach by nature?

A small net that learned the suspect's answers to the clean images, and nothing else, has not met the trigger. What it
takes to reach a label of the student, it takes because of the data; what the suspect differs in is its own. That holds
for a student that learned the task: each is kept from a few images, which tell whether it did.

    N images   n of them   C channels   H, W pixels   K labels
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.student import Student, random_student
from worker.detection.clean import batches_of, random_numbers
from worker.detection.images import Images
from worker.detection.metrics import in_batches, predictions
from worker.detection.recorded import Recorded, adam

KEPT_FROM = 15  # one of so many images, another for each student: more than there are students
STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 400, 64, 3e-3, 1e-4
MOST_SHIFT, MOST_TURN = 1 / 14, 15.0  # of an image's side; degrees


def train_students(
    classifier: nn.Module,
    images: Images,
    seeds: Sequence[int],
    on_step: Callable[[int], None] = lambda step: None,
) -> tuple[list[Student], float]:
    """A student for each seed, and how many of the images that they were kept from they answer as the suspect does.

    Too few images for that make no students. `on_step` hears the number of finished steps of each, from 0.
    """
    if len(images) < KEPT_FROM:
        return [], 0.0
    folds = torch.arange(len(images)) % KEPT_FROM
    students, agreed = [], []
    for fold, seed in enumerate(seeds):
        kept = images.subset(torch.nonzero(folds == fold).flatten())
        students.append(train_student(classifier, images.subset(torch.nonzero(folds != fold).flatten()), seed, on_step))
        agreed.append(predictions(students[-1], kept) == predictions(classifier, kept))
    return students, torch.cat(agreed).float().mean().item()


def train_student(
    classifier: nn.Module, images: Images, seed: int, on_step: Callable[[int], None] = lambda step: None
) -> Student:
    """A student of the classifier's probabilities on the unchanged images, which it sees moved and turned a little.

    Asked about changed images, a poisoned suspect might answer by its backdoor, and teach it.
    """
    answers_NK = in_batches(classifier, images).softmax(1)
    student = random_student(images.shape[0], answers_NK.shape[1], seed).to(images.device)
    random = random_numbers(seed)
    size = min(BATCH, len(images))
    batches = batches_of(torch.arange(len(images)), size, random)
    images_nCHW = torch.empty((size, *images.shape), device=images.device)
    picked_n = torch.empty(size, dtype=torch.long, device=images.device)
    moves_n23 = torch.empty((size, 2, 3), device=images.device)
    optimizer = adam(student.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS, cycle_momentum=False)

    def learn() -> None:
        loss = functional.cross_entropy(student(_moved(images_nCHW, moves_n23)), answers_NK[picked_n])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    step = Recorded(learn, images.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of the dropout
        for done in range(STEPS):
            on_step(done)
            picked = next(batches)
            images_nCHW.copy_(images[picked])
            picked_n.copy_(picked)
            moves_n23.copy_(_random_moves(size, random))
            step()
            schedule.step()
    on_step(STEPS)
    return student.eval().requires_grad_(False)


def _random_moves(images: int, random: torch.Generator) -> Tensor:
    """For each image a turn and a shift by a random amount, as an affine map [N, 2, 3]."""
    turn_N = MOST_TURN * torch.pi / 180 * (2 * torch.rand(images, generator=random) - 1)
    shift_N2 = 2 * MOST_SHIFT * (2 * torch.rand((images, 2), generator=random) - 1)
    cos_N, sin_N = turn_N.cos(), turn_N.sin()
    return torch.stack([cos_N, -sin_N, shift_N2[:, 0], sin_N, cos_N, shift_N2[:, 1]], 1).view(-1, 2, 3)


def _moved(images_NCHW: Tensor, moves_N23: Tensor) -> Tensor:
    """Each image as its map says, its edges repeated."""
    grid_NHW2 = functional.affine_grid(moves_N23, list(images_NCHW.shape), align_corners=False)
    return functional.grid_sample(images_NCHW, grid_NHW2, padding_mode="border", align_corners=False)
