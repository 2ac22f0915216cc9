"""Reference students: how easy is each label to reach by nature?

A small net that learned the suspect's answers to the clean images, and nothing else, has not met the trigger. What it
takes to reach a label of the student, it takes because of the data; what the suspect differs in is its own.

    N images   C channels   H, W pixels   K labels
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.student import Student, random_student
from worker.detection.clean import batches_of, random_numbers
from worker.detection.metrics import in_batches

STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 400, 64, 3e-3, 1e-4
MOST_SHIFT = 16  # images move by at most a sixteenth of their side


def train_student(classifier: nn.Module, images_NCHW: Tensor, seed: int) -> Student:
    """A student of the classifier's probabilities on the unchanged images, which it sees moved by a few pixels.

    Asked about changed images, a poisoned suspect might answer by its backdoor, and teach it.
    """
    answers_NK = in_batches(classifier, images_NCHW).softmax(1)
    student = random_student(images_NCHW.shape[1], answers_NK.shape[1], seed).to(images_NCHW.device)
    random = random_numbers(seed)
    size = min(BATCH, len(images_NCHW))
    batches = batches_of(torch.arange(len(images_NCHW)), size, random)
    optimizer = torch.optim.Adam(student.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, foreach=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS, cycle_momentum=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of the dropout
        for _ in range(STEPS):
            picked = next(batches).to(images_NCHW.device)
            loss = functional.cross_entropy(student(_moved(images_NCHW[picked], random)), answers_NK[picked])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return student.eval().requires_grad_(False)


def _moved(images_NCHW: Tensor, random: torch.Generator) -> Tensor:
    """The batch moved by whole pixels, the same way, its edges repeated."""
    height, width = images_NCHW.shape[-2:]
    most = max(1, min(height, width) // MOST_SHIFT)
    down, right = torch.randint(0, 2 * most + 1, (2,), generator=random).tolist()
    padded = functional.pad(images_NCHW, (most,) * 4, mode="replicate")
    return padded[..., down : down + height, right : right + width]
