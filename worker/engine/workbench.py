"""What every kind of task in an engine works with: the suspect, the clean images, the perceptual distance.

Loaded once per engine and kept between tasks; a resumed engine loads the same from the same files.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from app.core.config import Family
from app.core.errors import Refusal
from app.core.findings import Preparation
from app.core.intake.bundle import Bundle, check_labels, read_bundle, stack_images
from app.core.jobs import JobDirectory, ScanJob
from models.classifier import Classifier, FixedBatch, Output
from models.generator import TriggerGenerator
from models.perceptual import PerceptualDistance, load_perceptual
from models.student import Student
from models.suspect import Suspect, load_suspect
from worker.detection.clean import CleanImages, random_numbers
from worker.detection.families.base import Triggers
from worker.detection.families.dynamic import Generators
from worker.detection.families.static import Patches
from worker.detection.families.warp import Warps
from worker.detection.metrics import predictions

Emit = Callable[..., None]


@dataclass
class Workbench:
    """A job with its loaded parts; `emit(event, **data)` reports progress, `deadline` is on the monotonic clock."""

    directory: JobDirectory
    job: ScanJob
    emit: Emit
    deadline: float = float("inf")

    def out_of_time(self) -> bool:
        return time.monotonic() >= self.deadline

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Announce a stage and add its duration to the timings."""
        self.emit("stage", stage=stage)
        with self.directory.timed(stage):
            yield

    @cached_property
    def device(self) -> torch.device:
        if self.job.device == "cuda" and not torch.cuda.is_available():
            raise Refusal("no_cuda", "There is no CUDA device that torch can use.", "Use --device auto or cpu.")
        if self.job.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.job.device)

    @cached_property
    def preparation(self) -> Preparation:
        preparation = self.directory.read_preparation()
        assert preparation is not None, "every other task comes after prepare"
        return preparation

    @cached_property
    def suspect(self) -> Suspect:
        return self.load_suspect(self.directory.model)

    @cached_property
    def bundle(self) -> Bundle:
        return read_bundle(self.directory.bundle)

    @cached_property
    def images_NCHW(self) -> Tensor:
        """All clean images in [0, 1], at the size asked for or their own."""
        declared = self.job.input.filled_from(self.bundle.declared)
        images_NHWC = stack_images(self.bundle, declared.height, declared.width)
        return torch.as_tensor(images_NHWC).permute(0, 3, 1, 2).contiguous().to(self.device).float() / 255

    @cached_property
    def classifier(self) -> Classifier:
        return self.classifier_of(self.suspect.module)

    @cached_property
    def perceptual(self) -> PerceptualDistance:
        path = self.job.perceptual
        return load_perceptual(Path(path) if path else None).to(self.device)

    @cached_property
    def labels_N(self) -> Tensor:
        """The true labels, or the suspect's own predictions for images that came without."""
        if self.bundle.labels is None:
            return predictions(self.classifier, self.images_NCHW)
        check_labels(self.bundle, self.preparation.num_labels)
        return torch.as_tensor(self.bundle.labels).to(self.device)

    @cached_property
    def clean(self) -> CleanImages:
        return CleanImages.measure(self.images_NCHW, self.labels_N, self.perceptual)

    def load_suspect(self, path: Path) -> Suspect:
        """A model on the device of the job."""
        suspect = load_suspect(path)
        suspect.module.to(self.device)
        return suspect

    def classifier_of(self, module: nn.Module) -> Classifier:
        """A module with what prepare has learned of the one in this job."""
        known = self.preparation
        assert known.input is not None, "a model that cannot be searched has no other tasks"
        fed = module if known.fixed_batch is None else FixedBatch(module, known.fixed_batch)
        return Classifier(fed, known.input, Output(known.output)).to(self.device)

    @cached_property
    def start(self) -> TriggerGenerator:
        """The generator that every label's begins as."""
        inversion = self.job.config.inversion
        channels = self.images_NCHW.shape[1]
        start = TriggerGenerator(
            channels, inversion.generator_width, inversion.generator_levels, inversion.identity_start
        )
        start.load_state_dict(load_file(self.directory.start))
        return start.to(self.device)

    @cached_property
    def students(self) -> list[nn.Module]:
        """The reference students, in evaluation mode."""
        if not self.job.config.students:
            return []
        channels, labels = self.images_NCHW.shape[1], self.preparation.num_labels
        students = nn.ModuleList(Student(channels, labels) for _ in range(self.job.config.students))
        students.load_state_dict(load_file(self.directory.students))
        return list(students.to(self.device).eval().requires_grad_(False))

    def starting_triggers(self, family: Family, labels: Sequence[int]) -> Triggers:
        """What the search of a family begins with."""
        shape = self.images_NCHW.shape[1:]
        random = [random_numbers(self.job.config.seed, label) for label in labels]
        match family:
            case "dynamic":
                return Generators.from_start(self.start, len(labels), self.perceptual, self.job.config.inversion)
            case "static":
                return Patches.random(shape, random).to(self.device)
            case "warp":
                return Warps.random(shape, random).to(self.device)

    def load_trigger(self, label: int, family: Family) -> Triggers:
        """The trigger that a search left, in evaluation mode."""
        trigger = self.starting_triggers(family, [label])
        trigger.load_state_dict(load_file(self.directory.trigger(label, family)))
        return trigger.to(self.device).eval().requires_grad_(False)
