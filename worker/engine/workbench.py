"""What every kind of task in an engine works with: the suspect, the clean images, the perceptual distance.

Loaded once per engine and kept between tasks; a resumed engine loads the same from the same files.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from app.core.errors import Refusal
from app.core.findings import Preparation
from app.core.intake.bundle import Bundle, read_bundle, stack_images
from app.core.jobs import JobDirectory, ScanJob
from models.classifier import Classifier
from models.generator import TriggerGenerator
from models.perceptual import PerceptualDistance, load_perceptual
from models.scorer import Manner, Scorer
from models.scores import Output
from models.student import Student
from models.suspect import Suspect, load_suspect
from worker.detection.clean import CleanImages, Roles, random_numbers, roles_of, sample
from worker.detection.families.base import Beginning, Triggers, triggers_of
from worker.detection.first_pass import easiness
from worker.detection.images import Images
from worker.detection.inversion import Inversion, invert_triggers
from worker.detection.metrics import predictions
from worker.engine.effort import Sizes
from worker.engine.numbering import relabelled
from worker.engine.telling import Emit, Telling

FEWEST_HELD_OUT = 20  # images that can still tell a success of .95 from one of .9
MOST_HELD_OUT, OF_EACH_HELD_OUT = 300, 2  # images, or of each label where there are many, that tell it as well as more
LEARNED = 0.25  # of a label's fair share of the held-out images; a student that gives it to fewer did not learn it


@dataclass
class Workbench:
    """A job with its loaded parts; `emit(event, **data)` reports progress, `deadline` is on the monotonic clock."""

    directory: JobDirectory
    job: ScanJob
    emit: Emit
    deadline: float = float("inf")

    def out_of_time(self) -> bool:
        return time.monotonic() >= self.deadline

    def begin(self, stage: str) -> None:
        """Announce a stage, which goes on until the next one or the end of the task: whoever listens times it."""
        self.emit("stage", stage=stage)

    @cached_property
    def telling(self) -> Telling:
        return Telling(self.emit)

    def sizes(self, students: int) -> Sizes:
        """How much there is to show, where so many students are asked."""
        searched_on, read_on, judged_on = len(self.clean), len(self.held_out), len(self.roles.accept)
        return Sizes(self.images.shape[1:].numel(), searched_on, read_on, judged_on, students)

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
        return read_bundle(self.directory.bundle, classes=self.job.classes, on_picture=self.telling.beat)

    @cached_property
    def images(self) -> Images:
        """All clean images, at the size asked for or their own."""
        declared = self.job.input.filled_from(self.bundle.declared)
        pictures = stack_images(self.bundle, declared.height, declared.width, on_picture=self.telling.beat)
        return Images(torch.from_numpy(pictures), self.device)

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
            return predictions(self.classifier, self.images)
        return relabelled(self.bundle.labels, self.preparation.class_order).to(self.device)

    @cached_property
    def roles(self) -> Roles:
        """What each image is for. Of too few, or of hardly more than one label, all are searched on and judged by."""
        roles = roles_of(self.labels_N)
        labels = min(len(self.labels_N[role].unique()) for role in (roles.invert, roles.confirm))
        if self.job.config.separate_roles and len(roles.confirm) >= FEWEST_HELD_OUT and labels > 1:
            return roles
        everything = torch.arange(len(self.labels_N), device=self.device)
        return roles._replace(invert=everything, confirm=everything)

    @cached_property
    def clean(self) -> CleanImages:
        """The images that triggers are searched on."""
        return self._clean(self.roles.invert)

    @cached_property
    def held_out(self) -> CleanImages:
        """The images that norms and attack success are read on."""
        return self._clean(self._enough_of(self.roles.confirm))

    @cached_property
    def swapped(self) -> tuple[CleanImages, CleanImages]:
        """The images that triggers are searched on and read on in a further round: what judged the first search, and
        what it was done on. Where all serve for both, they do so here."""
        invert, confirm, _ = self.roles
        if invert is confirm:
            return self.clean, self.held_out
        return self._clean(confirm), self._clean(self._enough_of(invert))

    def _enough_of(self, picked: Tensor) -> Tensor:
        """Of these images not more than it takes to judge by, unless roles are one."""
        if not self.job.config.separate_roles:
            return picked
        most = max(MOST_HELD_OUT, OF_EACH_HELD_OUT * self.preparation.num_labels)
        return picked[sample(self.labels_N[picked], most)]

    def _clean(self, picked: Tensor) -> CleanImages:
        return CleanImages(self.shown(picked), self.labels_N[picked], self.perceptual)

    def shown(self, picked: Tensor) -> Images:
        """The images with these indices, or for which a mask is true, as many together as prepare found to fit."""
        return self.images.subset(picked).at_most(self.preparation.images_at_once)

    def load_suspect(self, path: Path) -> Suspect:
        """A model on the device of the job."""
        suspect = load_suspect(path)
        suspect.module.to(self.device)
        return suspect

    def classifier_of(self, module: nn.Module) -> Classifier:
        """A module with what prepare has learned of the one in this job."""
        known = self.preparation
        assert known.input is not None, "a model that cannot be searched has no other tasks"
        manner = Manner(known.takes, known.fixed_batch, known.chosen_output, known.channels_last)
        return Classifier(Scorer(module, manner), known.input, Output(known.output)).to(self.device)

    @cached_property
    def start(self) -> TriggerGenerator:
        """The generator that every label's begins as."""
        inversion = self.job.config.inversion
        channels = self.images.shape[0]
        start = TriggerGenerator(
            channels, inversion.generator_width, inversion.generator_levels, inversion.identity_start
        )
        start.load_state_dict(load_file(self.directory.start))
        return start.to(self.device)

    @cached_property
    def students(self) -> list[nn.Module]:
        """The reference students, in evaluation mode; none where they did not learn enough to be asked."""
        if not self.directory.students.exists():
            return []
        channels, labels = self.images.shape[0], self.preparation.num_labels
        students = nn.ModuleList(Student(channels, labels) for _ in range(self.job.config.students))
        students.load_state_dict(load_file(self.directory.students))
        return list(students.to(self.device).eval().requires_grad_(False))

    @cached_property
    def students_predictions(self) -> list[Tensor]:
        """What each student says of the held-out images, [N] each."""
        return [predictions(student, self.held_out.images) for student in self.students]

    def learned(self, student: int, label: int) -> bool:
        """Whether a student learned a label: of one that has no image in the bundle it has hardly heard.

        What it takes to lead it there then says nothing of the data.
        """
        said_N = self.students_predictions[student]
        fair_share = len(said_N) / self.preparation.num_labels
        return int((said_N == label).sum()) >= max(1.0, LEARNED * fair_share)

    def search(
        self,
        network: nn.Module,
        family: str,
        labels: Sequence[int],
        seed: int,
        on_step: Callable[[int], None] = lambda step: None,
        round: int = 0,
        most_at_once: int | None = None,
    ) -> list[Inversion]:
        """Search triggers of one family that lead the suspect, or another network, to these labels.

        These are two pieces of what the task has planned: the search, and the reading of what it found. Where memory
        was too short for it before, no more than `most_at_once` images are shown together.
        """
        telling = self.telling

        def step(done: int) -> None:
            telling.step(done)
            on_step(done)

        telling.turn()
        searched_on, read_on = self.swapped if round else (self.clean, self.held_out)
        if most_at_once is not None:
            searched_on = replace(searched_on, images=searched_on.images.at_most(most_at_once))
        return invert_triggers(
            network,
            searched_on,
            read_on,
            labels,
            self._starting_triggers(family, labels, seed),
            self.job.config.searches[family],
            seed,
            step,
            self.out_of_time,
            telling.follow,
        )

    def look_through(self, family: str, labels: Sequence[int]) -> list[float]:
        """How easy these labels of the suspect are to reach by triggers of one family, by a coarse look."""
        config = self.job.config
        assert config.first_pass is not None, "there are many labels"
        triggers = self._starting_triggers(family, labels, config.seed)
        return easiness(self.classifier, self.clean, labels, triggers, config.searches[family], config.first_pass)

    def _starting_triggers(self, family: str, labels: Sequence[int], seed: int = 0) -> Triggers:
        """What the search of a family begins with."""
        config = self.job.config.searches[family]
        beginning = Beginning(self.images.shape, self.start, self.perceptual, config)
        return triggers_of(family).begin(beginning, [random_numbers(seed, label) for label in labels]).to(self.device)

    def load_trigger(self, label: int, family: str) -> Triggers:
        """The trigger that a search left, in evaluation mode."""
        trigger = self._starting_triggers(family, [label])
        trigger.load_state_dict(load_file(self.directory.trigger(label, family)))
        return trigger.to(self.device).eval().requires_grad_(False)
