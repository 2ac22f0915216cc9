"""What an engine tells while it works: what it is at, how long that still takes, and that it lives.

A task plans its pieces, turns to one after the other and says how many steps of each are done. Every network that is
asked is a sign of life, whoever asks it and why, so that no loop over images is silent.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from app.core.progress import Ahead, Doing, Work
from worker.engine.effort import UNPLANNED, Later, Paces, Piece, unplanned

TELL_SECONDS = 1.0  # between two words about the same

Emit = Callable[..., None]


class Telling:
    """Tells of the tasks of one engine, whose paces it learns."""

    def __init__(self, emit: Emit, now: Callable[[], float] = time.monotonic) -> None:
        self.paces = Paces()
        self._emit, self._now = emit, now
        self._left: list[Piece] = []
        self._later: Sequence[Later] = ()
        self._piece: Piece | None = unplanned(Doing.LOAD)  # until the first task plans something
        self._step, self._since = 0, now()
        self._told_at = now()

    def plan(self, pieces: Sequence[Piece], later: Sequence[Later] = ()) -> None:
        """What is left of this task from here on, and what comes after it."""
        self._close()
        self._left, self._later = list(pieces), later
        if self._piece is not None:  # it stays to be told of until the next one begins
            self._step, self._since = self._piece.steps, self._now()

    def end(self) -> None:
        """The task is over."""
        self.plan([])
        self._piece = None

    def turn(self) -> None:
        """The piece at hand is over, and the next one of the plan begins."""
        self._close()
        self._piece = self._left.pop(0) if self._left else None
        self._step, self._since = 0, self._now()
        if self._piece is not None:
            self._tell()

    def step(self, done: int) -> None:
        """So many steps of this piece are done."""
        self._measure(done)
        self.beat()

    def _measure(self, done: int) -> None:
        """What the steps up to this one took, of work that more of is expected."""
        now, piece = self._now(), self._piece
        if piece is not None and done > self._step:
            units = piece.units * (done - self._step) / piece.steps
            if piece.kind != UNPLANNED:
                self.paces.measured(piece.kind, now - self._since, units)
            self._step, self._since = done, now

    def follow(self, done: int) -> None:
        """The same of whoever tells of several pieces, one after the other, each from 0."""
        if done == 0:
            self.turn()
        self.step(done)

    def beat(self) -> None:
        """A sign of life."""
        if self._piece is not None and self._now() - self._told_at >= TELL_SECONDS:
            self._tell()

    @contextmanager
    def hearing_networks(self) -> Iterator[None]:
        """Within, every module of torch that is called beats."""
        handle = nn.modules.module.register_module_forward_hook(lambda *_: self.beat())
        try:
            yield
        finally:
            handle.remove()

    def _close(self) -> None:
        """A piece that is done in one go tells its pace at its end; of another one the last step did."""
        if self._piece is not None and self._piece.steps == 1:
            self._measure(1)

    def _tell(self) -> None:
        self._told_at = self._now()
        self._emit("work", **self._work().to_json())

    def _work(self) -> Work:
        piece = self._piece
        assert piece is not None
        left, ahead = self._seconds_left(piece), []
        for later in self._later:
            if (seconds := self.paces.seconds(later.pieces)) is not None:
                ahead.append(Ahead(later.kind, later.jobs, later.chance * seconds))
        known = len(ahead) == len(self._later)
        return Work(piece.doing, piece.kind.family, piece.number, piece.of, left if known else None, tuple(ahead))

    def _seconds_left(self, piece: Piece) -> float | None:
        """Of this piece, whose steps may be long, and all that are planned after it."""
        part = replace(piece, units=piece.units * (1 - self._step / piece.steps))
        at_hand, rest = self.paces.seconds([part]), self.paces.seconds(self._left)
        if at_hand is None or rest is None:
            return None
        return max(at_hand - (self._now() - self._since), 0.0) + rest
