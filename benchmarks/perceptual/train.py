"""Distil the packaged perceptual net from LPIPS: `python -m benchmarks.perceptual.train --teachers FOLDER`.

Every round draws fresh pictures, distorts each in three ways and asks two teachers (LPIPS with AlexNet and with
SqueezeNet 1.1) how far apart the four are, and in which direction of pixels their answer grows. The student learns the
teachers' mean log distance for all six pairs and the direction of its gradient, for a scan will follow that. A part of
the distortions is chosen by the student itself: what it takes for small, or for large, and the teachers may not.

Nothing but random numbers goes in. FOLDER holds `alexnet-features.pth` and `squeezenet1_1-features.pth` (torchvision's
weights). The checkpoint in runs/perceptual is written every fifty rounds, and a run that is stopped goes on from there;
its memory of lessons starts empty again, so its weights are close to those of an unbroken run, not equal.

    G groups of one picture and three distorted ones   C channel   H, W pixels
"""

import argparse
import itertools
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from benchmarks.computing import set_up_torch
from benchmarks.datasets import REPOSITORY
from benchmarks.perceptual.distortions import ALL, distort
from benchmarks.perceptual.drawings import draw
from models.perceptual import BLUEPRINTS, PACKAGED, PerceptualDistance, load_perceptual

PAIRS = tuple(itertools.combinations(range(4), 2))  # the first three compare with the undistorted picture
PAIR_WEIGHTS = (1.0, 1.0, 1.0, 0.5, 0.5, 0.5)
LOG_FLOOR = 1e-6  # added to a distance before its logarithm
SIDES, SIDE_ODDS = (28, 32, 40, 48, 64), (0.25, 0.45, 0.1, 0.1, 0.1)


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights, given torch's version."""

    seed: int = 0
    rounds: int = 1000
    groups: int = 32  # pictures per round
    repeats: int = 3  # updates per round: one on its fresh lesson, the others on lessons of earlier rounds
    memory: int = 300  # lessons kept
    learning_rate: float = 2e-3
    gradient_weight: float = 0.3
    hard_share: float = 0.3  # of the rounds with distortions chosen by the student


@dataclass(frozen=True)
class Lesson:
    """One batch and the teachers' answers to it."""

    images_4GCHW: Tensor
    log_distances_PG: Tensor  # mean of the teachers, for PAIRS
    directions_2GCHW: Tensor  # unit gradients of the teachers' log distance between the first pair, at its second image


def new_student(seed: int) -> PerceptualDistance:
    """The packaged net with random weights and equal heads, ready to be trained."""
    torch.manual_seed(seed)
    blueprint = BLUEPRINTS["packaged"]
    net = blueprint.build()
    weights = {f"features.{key}": value for key, value in net.state_dict().items()}
    for depth, layers in enumerate(blueprint.depths):
        conv = net[layers - 2]
        assert isinstance(conv, torch.nn.Conv2d)
        torch.nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        weights[f"heads.{depth}"] = torch.full((conv.out_channels,), 0.15)
    return PerceptualDistance("packaged", weights, sha256="in training").requires_grad_(True)


def log_distances(net: PerceptualDistance, features: list[list[Tensor]]) -> Tensor:
    return torch.stack([(net.distance(features[a], features[b]) + LOG_FLOOR).log() for a, b in PAIRS])


def direction(net: PerceptualDistance, anchor: list[Tensor], image_GCHW: Tensor, for_training: bool = False) -> Tensor:
    """The unit gradient, per image, of the log distance from `anchor`."""
    distance_G = (net.distance(net.features(image_GCHW), anchor) + LOG_FLOOR).log()
    (gradient_GCHW,) = torch.autograd.grad(distance_G.sum(), image_GCHW, create_graph=for_training)
    return functional.normalize(gradient_GCHW.flatten(1), dim=1, eps=1e-6).view_as(image_GCHW)


def pictures(recipe: Recipe, number: int) -> Tensor:
    """The four images of each group of a round, drawn from the round's own random numbers."""
    random = np.random.default_rng((recipe.seed, number))
    side = int(random.choice(SIDES, p=SIDE_ODDS))
    originals = [draw(random, side) for _ in range(recipe.groups)]
    stacks = [originals]
    for _ in range(3):
        strengths = np.exp(random.uniform(np.log(0.01), 0, recipe.groups))
        families = random.choice(ALL, recipe.groups)
        others = originals[1:] + originals[:1]
        changes = zip(families, originals, others, strengths, strict=True)
        stacks.append([distort(family, one, other, strength, random) for family, one, other, strength in changes])
    return torch.as_tensor(np.stack(stacks)).permute(0, 1, 4, 2, 3).contiguous()


def hard_images(student: PerceptualDistance, images_GCHW: Tensor, random: torch.Generator, steps: int = 5) -> Tensor:
    """Changes of random size that the student takes for as small (or as large) as it can find in a few steps."""
    sign = 1.0 if torch.rand((), generator=random) < 0.5 else -1.0
    size_G111 = torch.exp(torch.empty(len(images_GCHW), 1, 1, 1).uniform_(-5.5, -1.5, generator=random))
    change_GCHW = torch.randn(images_GCHW.shape, generator=random)
    if torch.rand((), generator=random) < 0.5:
        change_GCHW = functional.avg_pool2d(change_GCHW, 3, stride=1, padding=1)
    with torch.no_grad():
        anchor = student.features(images_GCHW)
    for _ in range(steps):
        change_GCHW = size_G111 * change_GCHW / change_GCHW.square().mean((1, 2, 3), keepdim=True).sqrt()
        step_GCHW = direction(student, anchor, (images_GCHW + change_GCHW).requires_grad_())
        change_GCHW = change_GCHW + sign * 0.5 * size_G111 * step_GCHW * images_GCHW[0].numel() ** 0.5
    change_GCHW = size_G111 * change_GCHW / change_GCHW.square().mean((1, 2, 3), keepdim=True).sqrt()
    return (images_GCHW + change_GCHW).clamp(0, 1).detach()


def ask(teachers: list[PerceptualDistance], images_4GCHW: Tensor) -> Lesson:
    answers, directions = [], []
    for teacher in teachers:
        with torch.no_grad():
            features = [teacher.features(images_GCHW) for images_GCHW in images_4GCHW]
            answers.append(log_distances(teacher, features))
        directions.append(direction(teacher, features[0], images_4GCHW[1].clone().requires_grad_()))
    return Lesson(images_4GCHW, torch.stack(answers).mean(0), torch.stack(directions))


def loss_of(student: PerceptualDistance, lesson: Lesson, gradient_weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, with its two parts: error of the log distance, and cosine between the gradients."""
    features = [student.features(images_GCHW) for images_GCHW in lesson.images_4GCHW]
    errors_PG = functional.huber_loss(log_distances(student, features), lesson.log_distances_PG, reduction="none")
    error = (errors_PG.mean(1) * torch.tensor(PAIR_WEIGHTS)).sum() / sum(PAIR_WEIGHTS)
    own_GCHW = direction(student, features[0], lesson.images_4GCHW[1].clone().requires_grad_(), for_training=True)
    cosine = (own_GCHW * lesson.directions_2GCHW).sum((2, 3, 4)).mean()
    return error + gradient_weight * (1 - cosine), error.detach(), cosine.detach()


def train(recipe: Recipe, teachers: list[PerceptualDistance], checkpoint: Path) -> PerceptualDistance:
    student = new_student(recipe.seed)
    optimizer = torch.optim.Adam(student.parameters(), recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.rounds * recipe.repeats, pct_start=0.05
    )
    first, lessons = 0, deque[Lesson](maxlen=recipe.memory)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["round"]
    began, parts = time.monotonic(), []
    for number in range(first, recipe.rounds):
        random = torch.Generator().manual_seed(recipe.seed * 1_000_003 + number)
        images_4GCHW = pictures(recipe, number)
        if number > recipe.rounds // 20 and torch.rand((), generator=random) < recipe.hard_share:
            images_4GCHW[1] = hard_images(student, images_4GCHW[0], random)
        lessons.append(ask(teachers, images_4GCHW))
        older = torch.randint(len(lessons), (recipe.repeats - 1,), generator=random).tolist()
        for lesson in (lessons[-1], *(lessons[index] for index in older)):
            loss, error, cosine = loss_of(student, lesson, recipe.gradient_weight)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for head_C in student.heads:
                    head_C.clamp_(min=0)
            if lesson is lessons[-1]:
                parts.append((error.item(), cosine.item()))
        if (number + 1) % 50 == 0 or number + 1 == recipe.rounds:
            error_mean, cosine_mean = np.mean(parts, 0)
            seconds = time.monotonic() - began
            print(f"round {number + 1}: error {error_mean:.4f}, cosine {cosine_mean:.3f}, {seconds:.0f} s", flush=True)
            state = {"student": student.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state | {"schedule": schedule.state_dict(), "round": number + 1}, checkpoint)
            parts = []
    return student


def export(student: PerceptualDistance, path: Path) -> None:
    weights = {f"features.{key}": value.detach().contiguous() for key, value in student.backbone.state_dict().items()}
    weights |= {f"heads.{depth}": head_C.detach() for depth, head_C in enumerate(student.heads)}
    save_file(weights, path)


def load_teachers(folder: Path) -> list[PerceptualDistance]:
    return [load_perceptual(folder / f"{name}-features.pth") for name in ("alexnet", "squeezenet1_1")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--teachers", type=Path, required=True, help="the folder with torchvision's two feature nets")
    parser.add_argument("--out", type=Path, default=PACKAGED)
    parser.add_argument("--checkpoint", type=Path, default=REPOSITORY / "runs" / "perceptual" / "student.ckpt")
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = vars(parser.parse_args())
    teachers, out, checkpoint = (
        load_teachers(arguments.pop("teachers")),
        arguments.pop("out"),
        arguments.pop("checkpoint"),
    )
    set_up_torch()
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    export(train(Recipe(**arguments), teachers, checkpoint), out)


if __name__ == "__main__":
    main()
