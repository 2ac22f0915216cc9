"""How long a scan still takes, on timelines that are made up: what each kind of work takes is not what was expected."""

import heapq
import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from app.core.intake.declaration import DeclaredInput
from app.core.jobs import ScanJob
from app.core.lifecycle import JobState
from app.core.plan import JobKind, blocks
from app.core.presets import preset_config
from app.core.progress import Doing, JobProgress, Outlook, Work, outlook
from worker.engine import effort
from worker.engine.effort import AGAIN, Kind, Later, Paces, Piece, Sizes
from worker.engine.telling import TELL_SECONDS, Telling

FACTOR = 1.5  # asked of an estimate, from a tenth of the scan on
TRIED_AFTER = 2.0  # seconds
ASKED = 10  # times that a network is asked in a step, each a sign of life
A_MOMENT = 2.0  # seconds, which no estimate is held against
SMALL = Sizes(pixels=28 * 28, searched_on=360, read_on=108, judged_on=120, students=3)
LARGE = Sizes(pixels=224 * 224, searched_on=120, read_on=40, judged_on=40, students=3)


@dataclass
class Hands:
    """A clock that is turned by hand."""

    time: float = 0.0

    def now(self) -> float:
        return self.time


def job_of(preset: str = "standard", repair: bool = False) -> ScanJob:
    file = {"name": "model.pt", "bytes": 5, "sha256": "0" * 64}
    return ScanJob(model=file, bundle=file, config=preset_config(preset), input=DeclaredInput(), repair=repair)


class World:
    """What work takes where a scan is done: seconds for a thousand pixels, of the suspect and of a student.

    A try sees as much of it as one can; `beside` is how many times as long everything takes where all lanes are busy.
    """

    def __init__(self, suspect: float, student: float, generator: float, beside: float = 1.0) -> None:
        self.networks = {False: suspect, True: student}
        self.generator, self.beside = generator, beside

    def of(self, kind: Kind) -> float:
        """Seconds of a unit."""
        network = self.networks[kind.on_student] + (self.generator if kind.family == "dynamic" else 0.0)
        share = {"search": 1.0, "read": 0.3, "try": 0.25, "train": 0.9, "judge": 0.35, "unlearn": 1.2, "pretrain": 0.4}
        return network * share.get(kind.act, 0.0) / 1000

    def tried(self, paces: Paces, searches: Sequence[str], sizes: Sizes) -> None:
        for family in searches:
            for on_student in (False, True):
                seconds, units = self.of(Kind("search", family, on_student)) * 1.15, sizes.units(40)
                paces.expect(Kind("search", family, on_student), seconds * units, units)
                paces.expect(Kind("read", family, on_student), 0.4 * seconds * units, units)
                paces.expect(Kind("try", family, True), 0.4 * seconds * units, units)
        plain = self.of(Kind("search", "static"))
        for act, factor in (("judge", 0.4), ("unlearn", 1.0), ("pretrain", 1.0)):
            paces.expect(Kind(act), factor * plain * units, units)
        paces.expect(Kind("train", on_student=True), 1.3 * self.of(Kind("search", "static", True)) * units, units)


@dataclass
class Told:
    """A job from its beginning to its end: what it told when."""

    kind: JobKind
    labels: int
    seconds: float
    words: list[tuple[float, Work]]
    begun: float = 0.0

    def at(self, time: float) -> JobProgress:
        if time < self.begun:
            return JobProgress(self.kind, JobState.READY, "cpu", self.labels)
        heard = bisect_right(self.words, time - self.begun, key=lambda word: word[0])
        state = JobState.DONE if time >= self.begun + self.seconds else JobState.RUNNING
        worked = min(time - self.begun, self.seconds)
        return JobProgress(self.kind, state, "cpu", self.labels, worked, self.words[heard - 1][1] if heard else None)


class Lane:
    """An engine that works by hand."""

    def __init__(self, world: World, sizes: Sizes, job: ScanJob) -> None:
        self.world, self.sizes, self.job, self.hands = world, sizes, job, Hands()
        self.told: list[tuple[float, Work]] = []
        self.telling = Telling(self._hear, self.hands.now)
        self.has_tried = False

    def _hear(self, event: str, **data: Any) -> None:
        assert event == "work"
        self.told.append((self.hands.time, Work.from_json(data)))

    def do(
        self, kind: JobKind, labels: int, pieces: Sequence[Piece], later: Sequence[Later], slow: float, first: float = 0
    ) -> Told:
        began, self.told = self.hands.time, []
        if not self.has_tried:
            self.hands.time += first
            self.world.tried(self.telling.paces, list(self.job.config.searches), self.sizes)
            self.has_tried = True
        self.telling.plan(pieces, later)
        for piece in pieces:
            self.telling.turn()
            for done in range(1, piece.steps + 1):
                self._do(slow * self.world.of(piece.kind) * piece.units / piece.steps)
                self.telling.step(done)
        self.telling.end()
        return Told(kind, labels, self.hands.time - began, [(when - began, work) for when, work in self.told])

    def _do(self, seconds: float) -> None:
        """A step, in which a long one is a sign of life as often as a network is asked."""
        asked = ASKED if seconds > TELL_SECONDS else 1
        for _ in range(asked):
            self.hands.time += seconds / asked
            self.telling.beat()


def scan(
    world: World, sizes: Sizes, job: ScanJob, labels: int, lanes: int, doubted: int, repaired: bool, rounds: int = 2
) -> list[Told]:
    """The jobs of a scan with the times at which each is begun."""
    engines, config = [Lane(world, sizes, job) for _ in range(lanes)], job.config
    cut = blocks(range(labels), config, "cpu")
    first = engines[0].do(
        JobKind.PREPARE,
        0,
        effort.training(config, sizes),
        effort.after_preparing(job, sizes, labels, len(cut[0])),
        1.0,
        first=TRIED_AFTER,
    )
    jobs, now = [first], first.seconds
    free = [(now, lane) for lane in range(lanes)]
    for block in cut:
        begun, lane = heapq.heappop(free)
        pieces, later = effort.inverting(config, sizes, len(block)), effort.after_inverting(job, sizes)
        done = engines[lane].do(JobKind.INVERT, len(block), pieces, later, world.beside, first=1.0)
        jobs.append(replace(done, begun=begun))
        heapq.heappush(free, (begun + done.seconds, lane))
    now = max(time for time, _ in free) + 1
    jobs.append(Told(JobKind.DECIDE, 0, 1.0, [], now - 1))
    if doubted:
        pieces = effort.searching_alone(config, sizes, ["static", "warp"] * doubted, AGAIN)
        done = engines[0].do(JobKind.CONFIRM, doubted, pieces, effort.after_deciding(job, sizes), 1.0)
        jobs.append(replace(done, begun=now))
        now += done.seconds + 1
    if repaired:
        pieces = effort.unlearning(config, sizes, ["static", "warp"], rounds, True)
        done = engines[0].do(JobKind.REPAIR, 1, pieces, [], 1.0)
        jobs.append(replace(done, begun=now))
        now += done.seconds
    return [*jobs, Told(JobKind.REPORT, 0, 1.0, [], now)]


def end_of(jobs: Sequence[Told]) -> float:
    return max(job.begun + job.seconds for job in jobs)


def looks(jobs: Sequence[Told], lanes: int) -> Iterator[tuple[float, Outlook]]:
    """What somebody is told who looks, a hundred times in all. A job is there once all before it are done."""
    for look in range(100):
        now = end_of(jobs) * look / 100
        known = [job for job in jobs if now >= min(other.begun for other in jobs if other.kind is job.kind)]
        yield now, outlook([job.at(now) for job in known], repair=True, lanes=lanes)


WORLDS = {
    "a small net": (World(suspect=0.00008, student=0.00003, generator=0.0003), SMALL),
    "one that takes nearly all of the time": (World(suspect=0.002, student=0.00003, generator=0.0003), SMALL),
    "photographs": (World(suspect=0.0008, student=0.00002, generator=0.0003), LARGE),
    "students take as long": (World(suspect=0.00006, student=0.00006, generator=0.0001), SMALL),
    "lanes that slow each other": (World(suspect=0.0002, student=0.00004, generator=0.0003, beside=1.4), SMALL),
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("lanes", "labels", "doubted", "repair"),
    [(1, 10, 0, False), (2, 10, 1, True), (3, 43, 3, True), (2, 10, 1, False), (4, 10, 0, True)],
)
def test_what_is_left_is_known_once_a_search_was_tried(
    world: str, lanes: int, labels: int, doubted: int, repair: bool
) -> None:
    """Within a factor of FACTOR; before a decision, of the end with or without what follows if something stands out."""
    of, sizes = WORLDS[world]
    jobs, without, with_all = (
        scan(of, sizes, job_of(repair=repair), labels, lanes, in_doubt, repair and bool(in_doubt))
        for in_doubt in (doubted, 0, max(doubted, 1))
    )
    decided = next(job.begun + job.seconds for job in jobs if job.kind is JobKind.DECIDE)
    shares = []
    for now, told in looks(jobs, lanes):
        shares.append(told.share)
        if now < max(TRIED_AFTER + TELL_SECONDS, 0.1 * end_of(jobs)):
            continue
        ends = [jobs] if now > decided else [without, with_all]
        soonest, latest = (end_of(end) - now + A_MOMENT for end in (ends[0], ends[-1]))
        assert told.seconds_left is not None
        left = told.seconds_left + A_MOMENT
        assert soonest / FACTOR <= left <= latest * FACTOR, (
            f"at {now:.0f}: {left:.0f}, not {soonest:.0f} to {latest:.0f}"
        )
    assert shares[0] < 0.1 and shares[-1] > (0.9 if doubted or not repair else 0.6)
    assert all(later > earlier - 0.2 for earlier, later in itertools.pairwise(shares))


def heard_by(hands: Hands) -> tuple[Telling, list[Work]]:
    heard: list[Work] = []
    return Telling(lambda event, **data: heard.append(Work.from_json(data)), hands.now), heard


def test_whoever_works_is_heard_once_a_second_and_whenever_it_turns_to_something_else() -> None:
    hands = Hands()
    telling, heard = heard_by(hands)
    telling.beat()
    assert heard == [], "nothing was begun"
    telling.plan([effort.unplanned(Doing.LOAD), effort.unplanned(Doing.UNDERSTAND)])
    telling.turn()
    for _ in range(10):
        hands.time += 0.3
        telling.beat()
    assert [work.doing for work in heard] == [Doing.LOAD] * 3, "at 0, 1.2 and 2.4 seconds"
    telling.turn()
    assert heard[-1] == Work(Doing.UNDERSTAND)
    telling.end()
    hands.time += 100
    telling.beat()
    assert len(heard) == 4, "the task is over"


def test_what_is_done_between_two_pieces_is_told_of_too() -> None:
    """Such as asking the suspect about thousands of images before the first student learns from its answers."""
    hands = Hands()
    telling, heard = heard_by(hands)
    telling.plan([effort.unplanned(Doing.TRY)])
    telling.turn()
    kind = Kind("train", on_student=True)
    telling.paces.expect(kind, 1.0, 1.0)
    telling.plan([Piece(Doing.STUDENTS, kind, units=30.0)])
    hands.time += TELL_SECONDS
    telling.beat()
    assert (heard[-1].doing, heard[-1].seconds_left) == (Doing.TRY, 30.0)


def test_an_engine_that_loads_for_long_says_so_and_expects_nothing_of_it() -> None:
    hands = Hands()
    telling, heard = heard_by(hands)
    for _ in range(3):
        hands.time += TELL_SECONDS
        telling.beat()
    assert heard == [Work(Doing.LOAD)] * 3
    telling.plan([Piece(Doing.JUDGE, Kind("judge"), units=0.0)])
    telling.turn()
    assert heard[-1].seconds_left == 0.0 and telling.paces.of(effort.UNPLANNED) is None


def test_every_network_that_is_asked_is_a_sign_of_life() -> None:
    hands = Hands()
    telling, heard = heard_by(hands)
    telling.plan([effort.unplanned(Doing.UNDERSTAND)])
    telling.turn()
    network, image = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.zeros(1, 1, 2, 2)
    with telling.hearing_networks():
        for _ in range(3):
            hands.time += TELL_SECONDS
            network(image)
    hands.time += TELL_SECONDS
    network(image)
    assert len(heard) == 1 + 3


def test_what_is_measured_counts_more_and_more_beside_what_was_expected() -> None:
    paces, kind, other = Paces(), Kind("search", "static"), Kind("search", "warp")
    assert paces.of(kind) is None and paces.seconds([Piece(Doing.SEARCH, kind, 1.0)]) is None
    paces.expect(kind, seconds=2.0, units=1.0)
    paces.expect(other, seconds=1.0, units=1.0)
    assert (paces.of(kind), paces.of(other)) == (2.0, 1.0)
    for _ in range(100):
        paces.measured(kind, seconds=6.0, units=1.0)
    assert paces.of(kind) == pytest.approx(6.0, rel=0.1)
    assert paces.of(other) == pytest.approx(3.0), "three times as long as expected, as it seems"
