"""What an engine has of a job: a folder with the inputs and a result folder of its own, apart from ours.

    <job>/cell/            job.json, model.pt, bundle.*: the job's own, under another name
    <job>/cell/result/     what the engine writes and reads again

An engine that has run a stranger's model may write anything there: links to our files, gigabytes, text where numbers
belong. So nobody but this module looks into it. What is known by name is copied out, opened without following links,
within a size, and JSON of the expected shape; the rest stays there and is deleted with the cell.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from app.core.jobs import DECISION, JobDirectory, write_whole
from worker.sandbox.removal import remove_tree
from worker.sandbox.results import (
    TENSORS,
    UntrustworthyError,
    check_file,
    largest_bytes,
    record_of,
    rewritten,
)

MOST_FILES = 100_000
DEEPEST = 8  # folders within each other
FOLDERS = ("first_pass", "labels", "confirmations", "triggers", "strips")
Stamp = tuple[int, int, int]  # by which a changed file is known


class Cell:
    """The folder of the engines of one job, one after the other; `lane` tells those side by side apart."""

    def __init__(self, directory: JobDirectory, lane: int = 0) -> None:
        self.directory = directory
        self.root = directory.root / (f"cell-{lane}" if lane else "cell")
        self.result = self.root / "result"
        self._same: dict[str, tuple[Stamp, Stamp]] = {}  # files that are alike there and here

    def furnish(self) -> None:
        """Make it ready for an engine: the inputs, and an empty folder for results."""
        self.remove()
        self.result.mkdir(parents=True)
        self._same.clear()
        for path in (self.directory.root / "job.json", self.directory.model, self.directory.bundle):
            _link(path, self.root / path.name)

    def remove(self) -> None:
        remove_tree(self.root)

    def bring(self) -> None:
        """Give the engine, which is waiting, what it lacks of our results: of other engines, and what was decided."""
        with _opened(self.result) as inside:
            for path in sorted(self.directory.result.rglob("*.*")):
                name = path.relative_to(self.directory.result).as_posix()
                wanted = DECISION.fullmatch(name) or TENSORS.fullmatch(name) or record_of(name)
                if wanted and self._same.get(name, (None, None))[1] != _stamp(path.stat()):
                    self._same[name] = _put(inside, name, path), _stamp(path.stat())

    def collect(self) -> None:
        """Copy what the engine has left since the last time; raises UntrustworthyError."""
        model_bytes = self.directory.model.stat().st_size
        with _opened(self.result) as inside:
            for name in _names(inside):
                record = record_of(name)
                if record is None and not TENSORS.fullmatch(name):
                    continue
                with _plain_file(inside, name) as (file, facts):
                    if self._same.get(name, (None, None))[0] == _stamp(facts):
                        continue
                    largest = largest_bytes(name, model_bytes)
                    if facts.st_size > largest:
                        raise UntrustworthyError(f"{name} is {facts.st_size:,} bytes large")
                    path = self.directory.result / name
                    content = None if record is None else rewritten(name, record, file.read(largest))
                    write_whole(path, partial(_write, name=name, content=content, file=file, largest=largest))
                    self._same[name] = _stamp(facts), _stamp(path.stat())

    def size(self) -> float:
        """How many bytes lie there, at least; infinitely many where it is more than can be looked at, or hidden."""
        total, looked_at, folders = 0, 0, [(self.root, 0)]
        while folders:
            folder, depth = folders.pop()
            try:
                for entry in os.scandir(folder):
                    looked_at += 1
                    with suppress(FileNotFoundError):
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append((Path(entry.path), depth + 1))
            except (FileNotFoundError, NotADirectoryError):  # it was removed, or replaced
                continue
            except PermissionError:
                return float("inf")
            if looked_at > MOST_FILES or depth > DEEPEST:
                return float("inf")
        return total


def _link(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except OSError:  # not every file system has links
        shutil.copyfile(path, place)


@contextmanager
def _opened(folder: Path | str, within: int | None = None) -> Iterator[int]:
    """A descriptor of a folder that is no link; UntrustworthyError where it is none."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=within)
    except OSError as error:
        raise UntrustworthyError(f"{Path(folder).name} is no folder") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _names(inside: int) -> Iterator[str]:
    """All files at the top and in the folders that we know; whether they are plain is not looked at."""
    for name in sorted(os.listdir(inside)):
        if name in FOLDERS:
            with _opened(name, inside) as folder:
                yield from (f"{name}/{file}" for file in sorted(os.listdir(folder)))
        else:
            yield name


@contextmanager
def _parent(inside: int, name: str) -> Iterator[tuple[int, str]]:
    """The folder that a file lies in, as a descriptor, and its name there."""
    folder, _, file = name.rpartition("/")
    if not folder:
        yield inside, file
        return
    with _opened(folder, inside) as descriptor:
        yield descriptor, file


@contextmanager
def _plain_file(inside: int, name: str) -> Iterator[tuple[IO[bytes], os.stat_result]]:
    """A file to read, if it is one: no link, pipe or device."""
    with _parent(inside, name) as (folder, file):
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except OSError as error:
            raise UntrustworthyError(f"{name} is no plain file") from error
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        raise UntrustworthyError(f"{name} is no plain file")
    with os.fdopen(descriptor, "rb") as opened:
        yield opened, facts


def _put(inside: int, name: str, path: Path) -> Stamp:
    """Write a file of ours into the cell, in place of whatever has its name there."""
    with suppress(FileExistsError):
        if "/" in name:
            os.mkdir(name.partition("/")[0], dir_fd=inside)
    with _parent(inside, name) as (folder, file):
        try:
            with suppress(FileNotFoundError):
                os.unlink(file, dir_fd=folder)
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=folder)
        except (IsADirectoryError, FileExistsError, PermissionError) as error:
            raise UntrustworthyError(f"{name} is no plain file") from error
    with os.fdopen(descriptor, "wb") as copy, path.open("rb") as original:
        shutil.copyfileobj(original, copy)
        copy.flush()
        return _stamp(os.fstat(descriptor))


def _write(place: Path, name: str, content: bytes | None, file: IO[bytes], largest: int) -> None:
    """A record as it was understood, or tensors up to the size that was agreed to, whatever the file is by now."""
    if content is not None:
        place.write_bytes(content)
        return
    with place.open("wb") as copy:
        left = largest
        while left > 0 and (part := file.read(min(left, 2**20))):
            left -= copy.write(part)
    check_file(name, place)


def _stamp(facts: os.stat_result) -> Stamp:
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
