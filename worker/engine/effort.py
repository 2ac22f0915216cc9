"""How much the tasks of a scan have to do, and how long each still takes.

A task is pieces of work, one after the other, each so many units of one kind: what one loop shows one network. How many
follows from the config and from what is known of model and images. What a unit takes is measured while it is done;
until then it is what a short try let expect, times how far such expectations have been off so far.

Units are pixels, which makes one kind the same for every number of labels. A step also takes time for itself, as
STEP_PIXELS more would.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from app.core.config import RepairConfig, ScanConfig, SearchConfig
from app.core.families import FAMILIES
from app.core.jobs import ScanJob
from app.core.plan import JobKind
from app.core.progress import Doing
from worker.detection import reactivation
from worker.detection.families.dynamic import EPOCH
from worker.detection.inversion import HALVINGS, READ_IMAGES
from worker.detection.students import BATCH, STEPS

STEP_PIXELS = 8_000.0
TRIED = 5.0  # tries that one try counts as much as, beside what was measured
PERHAPS = 0.5  # how likely it is, before a decision, that something stands out
USUAL_ROUNDS = 2  # of unlearning by matching scores: as many as most repairs take
FORWARD = 0.4  # of a step that takes gradients, a look at as many images takes


@dataclass(frozen=True)
class Kind:
    """Work whose units take about the same time each."""

    act: str
    family: str = ""
    on_student: bool = False


UNPLANNED = Kind("")  # takes what it takes, and nothing is expected of the next


@dataclass(frozen=True)
class Piece:
    """So many units of one kind, done in equal steps: of pieces that people are told of alike, the `number`th."""

    doing: Doing
    kind: Kind
    units: float = 0.0
    steps: int = 1
    number: int = 1
    of: int = 1


@dataclass(frozen=True)
class Later:
    """So many jobs of a kind that come after a task, what each does, and how likely it is that they are needed."""

    kind: JobKind
    jobs: int
    pieces: Sequence[Piece]
    chance: float = 1.0


@dataclass(frozen=True)
class Sizes:
    """How much there is to show to networks."""

    pixels: int  # of an image
    searched_on: int  # images
    read_on: int
    judged_on: int  # by which a repair is judged
    students: int  # that are asked

    def units(self, images: float, steps: float = 1) -> float:
        return images * self.pixels + steps * STEP_PIXELS


class Paces:
    """What a unit of each kind takes."""

    def __init__(self) -> None:
        self._tried: dict[Kind, tuple[float, float]] = {}  # seconds, units
        self._done: dict[Kind, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        self._drift = 1.0  # how many times as long as where they were tried the searches have taken so far

    def expect(self, kind: Kind, seconds: float, units: float) -> None:
        """So many units took so long where they were tried."""
        self._tried[kind] = TRIED * seconds, TRIED * units
        self._drift = self._drifted()

    def measured(self, kind: Kind, seconds: float, units: float) -> None:
        """So many units more took so long."""
        before = self._done[kind]
        self._done[kind] = before[0] + seconds, before[1] + units
        self._drift = self._drifted()

    def of(self, kind: Kind) -> float | None:
        """Seconds of a unit; None where it was neither tried nor done."""
        done, tried = self._done[kind], self._tried.get(kind, (0.0, 0.0))
        units = done[1] + tried[1]
        return (done[0] + self._drift * tried[0]) / units if units else None

    def seconds(self, pieces: Iterable[Piece]) -> float | None:
        """Those of all of these pieces, where each is of a kind that is known."""
        total = 0.0
        for piece in pieces:
            pace = self.of(piece.kind) if piece.units else 0.0
            if pace is None:
                return None
            total += piece.units * pace
        return total

    def _drifted(self) -> float:
        searches = [(kind, *tried) for kind, tried in self._tried.items() if kind.act == "search"]
        expected = sum(self._done[kind][1] * seconds / units for kind, seconds, units in searches)
        taken = sum(self._done[kind][0] for kind, _, _ in searches)
        return taken / expected if expected and taken else 1.0


def unplanned(doing: Doing) -> Piece:
    """A piece of which nobody can say how long it takes."""
    return Piece(doing, UNPLANNED, units=1.0)


def searching(search: SearchConfig, family: str, sizes: Sizes, labels: int, on_student: bool = False) -> list[Piece]:
    """A search for so many labels together, and the reading of what it found."""
    shown = labels * max(1, min(search.batch_size, sizes.searched_on))
    read, readings = sizes.units(2 * labels * sizes.read_on, 2 * labels), labels
    if search.success_level is not None:
        one = sizes.units(labels * min(READ_IMAGES, sizes.read_on))
        read, readings = read + sizes.units(sizes.read_on) + (1 + HALVINGS) * one, 1 + HALVINGS + labels
    return [
        Piece(
            Doing.SEARCH, Kind("search", family, on_student), sizes.units(search.steps * shown, search.steps),
            search.steps,
        ),
        Piece(Doing.READ, Kind("read", family, on_student), read, readings),
    ]  # fmt: skip


def training(config: ScanConfig, sizes: Sizes) -> list[Piece]:
    """What is trained before the search."""
    units = sizes.units(STEPS * BATCH, STEPS)
    students = [
        Piece(Doing.STUDENTS, Kind("train", on_student=True), units, STEPS, number, config.students)
        for number in range(1, config.students + 1)
    ]
    return [*students, *pretraining(config, sizes)]


def pretraining(config: ScanConfig, sizes: Sizes) -> list[Piece]:
    search = config.inversion
    if search.identity_start == "residual":
        return []
    steps = search.pretrain_epochs * max(1, min(sizes.searched_on, EPOCH) // search.batch_size)
    if not steps:
        return []
    units = sizes.units(steps * min(search.batch_size, sizes.searched_on), steps)
    return [Piece(Doing.PRETRAIN, Kind("pretrain"), units, steps)]


def inverting(config: ScanConfig, sizes: Sizes, labels: int) -> list[Piece]:
    """A block of so many labels: in every family on the suspect, and on the students where they are asked."""
    pieces: list[Piece] = []
    for number, (family, search) in enumerate(config.searches.items(), 1):
        pieces += _told(searching(search, family, sizes, labels), number, len(config.searches))
        asked = sizes.students if FAMILIES[family].asks_students else 0
        for student in range(1, asked + 1):
            pieces += _told(searching(search, family, sizes, labels, True), student, asked, ON_STUDENTS)
        if sizes.students:
            tried = labels * sizes.students
            units = sizes.units(tried * sizes.read_on, tried)
            pieces.append(Piece(Doing.TRY_STUDENTS, Kind("try", family, True), units))
    return pieces


def looking_through(config: ScanConfig, sizes: Sizes, labels: int) -> list[Piece]:
    """A first pass over a block of so many labels, in every family."""
    assert config.first_pass is not None
    steps, images = config.first_pass.steps, labels * min(config.first_pass.images, sizes.searched_on)
    units, of = sizes.units(steps * images, steps), len(config.searches)
    return [
        Piece(Doing.LOOK_THROUGH, Kind("search", family), units, 1, number, of)
        for number, family in enumerate(config.searches, 1)
    ]


def searching_alone(
    config: ScanConfig, sizes: Sizes, families: Sequence[str], doing: Mapping[Doing, Doing]
) -> list[Piece]:
    """One label after the other, each in one of these families, on the suspect."""
    searches = [searching(config.searches[family], family, sizes, 1) for family in families]
    return [piece for n, pieces in enumerate(searches, 1) for piece in _told(pieces, n, len(families), doing)]


ON_STUDENTS = {Doing.SEARCH: Doing.SEARCH_STUDENTS, Doing.READ: Doing.READ_STUDENTS}
AGAIN = {Doing.SEARCH: Doing.SEARCH_AGAIN, Doing.READ: Doing.READ_AGAIN}
AFRESH = {Doing.SEARCH: Doing.SEARCH_AFRESH, Doing.READ: Doing.READ_AFRESH}


def _told(pieces: Iterable[Piece], number: int, of: int, doing: Mapping[Doing, Doing] | None = None) -> list[Piece]:
    return [
        replace(piece, doing=piece.doing if doing is None else doing[piece.doing], number=number, of=of)
        for piece in pieces
    ]


def judging(sizes: Sizes, triggers: int) -> Piece:
    """The accuracy of a classifier, and what so many triggers do to it."""
    return Piece(Doing.JUDGE, Kind("judge"), sizes.units((1 + triggers) * sizes.judged_on, 1 + triggers))


PACKAGING = Piece(Doing.PACKAGE, Kind("package"))


def unlearning(config: ScanConfig, sizes: Sizes, families: Sequence[str], rounds: int, is_decided: bool) -> list[Piece]:
    """So many rounds against one trigger of each of these families, with a judgement before and after."""
    judged, matches = judging(sizes, len(families)), config.repair.matching is not None
    pieces = [judged]
    for number in range(1, rounds + 1):
        units, steps = _unlearned(config.repair, sizes, len(families))
        pieces.append(Piece(Doing.UNLEARN, Kind("unlearn"), units, steps, number, rounds))
        pieces += searching_alone(config, sizes, families, AFRESH) if matches and is_decided else []
    return [*pieces, judged, *packaging(config, sizes, len(families))]


def packaging(config: ScanConfig, sizes: Sizes, triggers: int) -> list[Piece]:
    """What follows the unlearning of so many triggers."""
    return [PACKAGING, judging(sizes, triggers), *reactivating(config, sizes, triggers)]


def reactivating(config: ScanConfig, sizes: Sizes, triggers: int) -> list[Piece]:
    """Students repaired as the suspect was; then each trigger tried on what was repaired, and on them."""
    on_suspect, on_student = Kind("unlearn"), Kind("train", on_student=True)
    repaired, _ = _unlearned(config.repair, sizes, triggers)  # in one round, for nothing is searched afresh
    tried, line = _retuned(sizes), sizes.units(len(reactivation.LINE) * FORWARD * sizes.judged_on)
    pieces = [(on_student, repaired)] * sizes.students
    for _ in range(min(triggers, reactivation.MOST_TRIED)):
        pieces.append((on_suspect, tried + line))
        if sizes.students:
            pieces.append((on_student, sizes.students * tried))
    return [
        Piece(Doing.REACTIVATE, kind, units, number=number, of=len(pieces))
        for number, (kind, units) in enumerate(pieces, 1)
    ]


def _retuned(sizes: Sizes) -> float:
    """Units of one network that is tried: noise and re-tuning, and what is judged of each."""
    seen = min(reactivation.MOST_IMAGES, sizes.searched_on + sizes.read_on)
    noise = reactivation.NOISE_STEPS * min(reactivation.BATCH, seen)
    return sizes.units(noise + reactivation.EPOCHS * seen + 3 * FORWARD * sizes.judged_on, reactivation.NOISE_STEPS)


def _unlearned(repair: RepairConfig, sizes: Sizes, triggers: int) -> tuple[float, int]:
    """Units and steps of one round."""
    seen = sizes.searched_on + sizes.read_on
    if repair.matching is not None:
        steps = repair.matching.steps
        return sizes.units(2 * steps * min(repair.batch_size, seen), steps), steps
    shown = repair.epochs * (seen + triggers * min(repair.twins, seen))
    return sizes.units(shown, shown / repair.batch_size), repair.epochs


def after_preparing(job: ScanJob, sizes: Sizes, labels: int, at_once: int) -> list[Later]:
    """What comes after prepare, where so many of the labels are searched at once."""
    first_pass = job.config.first_pass
    if first_pass is None or job.repair_label is not None or not job.config.skims(labels):
        searched = labels if job.repair_label is None else 1
        return [_inverting(job, sizes, searched, at_once), *after_inverting(job, sizes)]
    pieces = looking_through(job.config, sizes, first_pass.labels_per_block)
    looked = Later(JobKind.FIRST_PASS, ceil(labels / first_pass.labels_per_block), pieces)
    return [looked, *after_looking(job, sizes, labels, at_once)]


def after_looking(job: ScanJob, sizes: Sizes, labels: int, at_once: int) -> list[Later]:
    """The same after a first pass, of which nobody knows yet how many labels it leaves: at most so many."""
    first_pass = job.config.first_pass
    assert first_pass is not None
    most = first_pass.lowest * len(job.config.searches) + first_pass.controls
    searched = _inverting(job, sizes, min(labels, most), at_once)
    return [Later(JobKind.SELECT, 1, []), searched, *after_inverting(job, sizes)]


def _inverting(job: ScanJob, sizes: Sizes, labels: int, at_once: int) -> Later:
    return Later(JobKind.INVERT, ceil(labels / at_once), inverting(job.config, sizes, min(labels, at_once)))


def after_inverting(job: ScanJob, sizes: Sizes) -> list[Later]:
    """A search again of one label, where that is done and one is in doubt, and what comes after it."""
    if not job.config.confirms or job.repair_label is not None:
        return after_deciding(job, sizes, PERHAPS)
    again = searching_alone(job.config, sizes, list(job.config.searches), AGAIN)
    return [Later(JobKind.CONFIRM, 1, again, PERHAPS), *after_deciding(job, sizes, PERHAPS)]


def after_deciding(job: ScanJob, sizes: Sizes, chance: float = 1.0) -> list[Later]:
    """A repair, if one is asked for: of one label, that two families accuse."""
    if job.repair_label is None and not job.repair:
        return []
    families, is_decided = list(job.config.searches), job.repair_label is None
    rounds = USUAL_ROUNDS if job.config.repair.matching is not None else 1
    pieces = unlearning(job.config, sizes, families[:2] if is_decided else families, rounds, is_decided)
    return [Later(JobKind.REPAIR, 1, pieces, chance if is_decided else 1.0)]
