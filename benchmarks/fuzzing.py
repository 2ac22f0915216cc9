"""Does a damaged archive ever get past the gate unseen? `python -m benchmarks.fuzzing --minutes 20`

Benign archives are damaged at random: bytes anywhere in the file, and, so that the parsers behind the zip are reached,
bytes of a pickle or words of the code, packed again with checksums that are right. Two processes look at each:

    ours    the gate, the rebuild and one run of the module, within limits of time and memory
    torch   torch.jit.load and one run, to compare with where ours took the archive

A refusal is fine. A failure is any other error, a crash, more than LONGEST_SECONDS in the gate, or an archive of which
torch reads other tensors or computes other scores than ours. Failing archives are kept in `runs/fuzzing`.
"""

import argparse
import json
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from benchmarks.datasets import REPOSITORY
from benchmarks.recording import write_result

FAILURES = REPOSITORY / "runs" / "fuzzing"
LONGEST_SECONDS = 2.0  # of processor time, in the gate
PATIENCE = 20  # seconds that either process may take for one archive
MEMORY = 4 << 30  # bytes of address space of the process that runs ours
TOLERANCE = 1e-4
MOST_BYTES = 1 << 30
WORDS = re.compile(rb"[A-Za-z_0-9.]+|[^\sA-Za-z_0-9.]")


# Damage


def damaged(original: bytes, dice: random.Random) -> bytes:
    """One archive, damaged in one to three places."""
    damage = dice.choice([_bytes_changed, _repacked, _repacked])
    for _ in range(dice.randint(1, 3)):
        original = damage(original, dice)
    return original


def _bytes_changed(content: bytes, dice: random.Random) -> bytes:
    """Bits flipped, a piece cut out, doubled, moved or overwritten."""
    at, length = dice.randrange(max(1, len(content))), dice.choice([1, 1, 2, 4, 16, 200])
    piece = content[at : at + length]
    return dice.choice(
        [
            lambda: content[:at] + bytes(byte ^ (1 << dice.randrange(8)) for byte in piece) + content[at + length :],
            lambda: content[:at] + content[at + length :],
            lambda: content[:at] + piece + content[at:],
            lambda: content[:at] + dice.randbytes(len(piece)) + content[at + length :],
        ]
    )()


def _repacked(content: bytes, dice: random.Random) -> bytes:
    """A pickle or a piece of code damaged, in an archive that is otherwise sound."""
    with tempfile.SpooledTemporaryFile(MOST_BYTES) as before, tempfile.SpooledTemporaryFile(MOST_BYTES) as after:
        before.write(content)
        try:
            with zipfile.ZipFile(before) as archive:
                members = [(info, archive.read(info)) for info in archive.infolist()]
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, EOFError, OverflowError):
            return _bytes_changed(content, dice)
        chosen = dice.choice([info.filename for info, _ in members if info.filename.endswith((".py", ".pkl"))] or [""])
        change = _words_changed if chosen.endswith(".py") else _bytes_changed
        with zipfile.ZipFile(after, "w") as archive:
            for info, inside in members:
                archive.writestr(info.filename, change(inside, dice) if info.filename == chosen else inside)
        after.seek(0)
        return after.read()


def _words_changed(code: bytes, dice: random.Random) -> bytes:
    """A word exchanged for another one of the code, dropped or doubled."""
    words = list(WORDS.finditer(code))
    if not words:
        return code
    word, other = dice.choice(words), dice.choice(words).group()
    there = dice.choice([other, other, b"", word.group() * 2, b"0", b"-1", b"None", b"9" * 19])
    return code[: word.start()] + there + code[word.end() :]


# The two processes


class Child:
    """A process that answers one line of JSON for each path, and is started again when it died."""

    def __init__(self, role: str) -> None:
        self.role = role
        self._process: subprocess.Popen[str] | None = None

    def ask(self, path: Path) -> dict[str, Any]:
        """What it says of an archive; {"died": code} where it was killed or crashed."""
        if self._process is None or self._process.poll() is not None:
            program = [sys.executable, "-W", "ignore", "-m", "benchmarks.fuzzing", "--as", self.role]
            self._process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        pipe, answer = self._process.stdin, self._process.stdout
        assert pipe is not None and answer is not None
        pipe.write(f"{path}\n")
        pipe.flush()
        line = answer.readline()
        if not line:
            return {"died": self._process.wait()}
        said: dict[str, Any] = json.loads(line)
        return said

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def serve(role: str, questions: IO[str], answers: IO[str]) -> None:
    """Be one of the two, until the questions end. An archive that takes too long kills it."""
    import torch

    torch.set_num_threads(1)
    look: Callable[[Path], dict[str, Any]] = {"ours": _look, "torch": _look_as_torch}[role]
    if role == "ours":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in questions:
        signal.alarm(PATIENCE)
        said = look(Path(line.rstrip("\n")))
        signal.alarm(0)
        print(json.dumps(said), file=answers, flush=True)


def _look(path: Path) -> dict[str, Any]:
    from app.core.errors import Refusal
    from app.core.intake.torchscript.archive.walk import walk
    from app.core.intake.torchscript.gate import understand
    from models.rebuilt import rebuild

    began = time.process_time()
    try:
        archive = understand(path, MOST_BYTES)
    except Refusal as refusal:
        return {"refused": refusal.problem.rule or refusal.problem.code, "seconds": time.process_time() - began}
    seconds = time.process_time() - began
    try:
        with walk(path, MOST_BYTES) as walked:
            module = rebuild(
                archive.module,
                archive.constants,
                archive.program,
                lambda name: walked.read(name, MOST_BYTES),
                archive.format_version,
            )
    except Refusal as refusal:
        return {"refused": refusal.problem.rule or refusal.problem.code, "seconds": seconds}
    return {"seconds": seconds, "tensors": _tensors(module), **_run(module)}


def _look_as_torch(path: Path) -> dict[str, Any]:
    import torch

    try:
        module = torch.jit.load(str(path), map_location="cpu").eval()
    except Exception as error:  # whatever torch says to nonsense
        return {"refused": type(error).__name__}
    return {"tensors": _tensors(module), **_run(module)}


def _tensors(module: Any) -> dict[str, list[Any]]:
    """Type, shape and a sum for each parameter and buffer; constants of the code are in no state dict of torch's."""
    state = {name: tensor for name, tensor in module.state_dict().items() if not name.startswith("constants.")}
    return {
        name: [str(tensor.dtype), list(tensor.shape), tensor.double().abs().sum().item()]
        for name, tensor in state.items()
    }


def _run(module: Any) -> dict[str, Any]:
    import torch

    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            scores = module(images)
    except (RuntimeError, torch.jit.Error) as error:
        return {"raises": type(error).__name__}
    return {"scores": scores.double().flatten().tolist() if isinstance(scores, torch.Tensor) else str(type(scores))}


# The hunt


@dataclass
class Hunt:
    """What came of all archives so far."""

    refused: Counter[str] = field(default_factory=Counter)
    taken: int = 0  # by ours
    compared: int = 0  # of them by torch as well, with equal tensors and scores
    slowest: float = 0.0  # seconds of processor time in the gate
    failures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def archives(self) -> int:
        return self.taken + self.refused.total() + len(self.failures)

    def summary(self) -> dict[str, Any]:
        return {
            "archives": self.archives,
            "refused": self.refused.total(),
            "taken": self.taken,
            "taken_by_torch_too_and_equal": self.compared,
            "slowest_gate_cpu_seconds": round(self.slowest, 3),
            "failures": self.failures,
            "rules": dict(self.refused.most_common()),
        }


def hunt(originals: Sequence[bytes], seconds: float, seed: int, keep: Path = FAILURES) -> Hunt:
    """Damage, look, compare, until the time is up."""
    dice, found, ours, torchs = random.Random(seed), Hunt(), Child("ours"), Child("torch")
    over = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "suspect.pt"
        try:
            while time.monotonic() < over:
                path.write_bytes(damaged(dice.choice(originals), dice))
                failure = _judge(found, ours.ask(path), lambda: torchs.ask(path))
                if failure is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    kept = keep / f"{seed}-{found.archives}.pt"
                    kept.write_bytes(path.read_bytes())
                    found.failures.append({"archive": kept.name, "why": failure})
        finally:
            ours.close()
            torchs.close()
    return found


def _judge(found: Hunt, ours: dict[str, Any], ask_torch: Callable[[], dict[str, Any]]) -> str | None:
    """Count an answer; what is wrong with it, or None."""
    if "died" in ours:
        return f"ours died with {ours['died']}"
    found.slowest = max(found.slowest, ours["seconds"])
    if ours["seconds"] > LONGEST_SECONDS:
        return f"the gate took {ours['seconds']:.1f} s"
    if "refused" in ours:
        found.refused[ours["refused"]] += 1
        return None
    theirs = ask_torch()
    if "tensors" in theirs:
        different = next(_differences(ours, theirs), None)
        if different is not None:
            return different
        found.compared += 1
    found.taken += 1
    return None


def _differences(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    if ours["tensors"].keys() != theirs["tensors"].keys():
        yield f"torch reads the tensors {sorted(theirs['tensors'])}, ours {sorted(ours['tensors'])}"
        return
    for name, (dtype, shape, total) in theirs["tensors"].items():
        if ours["tensors"][name][:2] != [dtype, shape] or not _close(ours["tensors"][name][2], total):
            yield f"torch reads {name} as {dtype, shape, total}, ours as {ours['tensors'][name]}"
    if "scores" in ours and "scores" in theirs:
        if isinstance(theirs["scores"], str) or isinstance(ours["scores"], str):
            return
        if not all(map(_close, ours["scores"], theirs["scores"])) or len(ours["scores"]) != len(theirs["scores"]):
            yield "torch computes other scores"


def _close(one: float, other: float) -> bool:
    if one == other or (one != one and other != other):  # infinite, or no number
        return True
    return abs(one - other) <= TOLERANCE * max(1.0, abs(other))


def originals() -> list[bytes]:
    """Small grey nets of the benign corpus in every form; none that draws random numbers."""
    from tests.corpus.benign import GREY, small

    return [case.path().read_bytes() for case in small() if case.input_shape[1:] == GREY[1:] and case.jit_agrees]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--as", dest="role", choices=["ours", "torch"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        serve(arguments.role, sys.stdin, sys.stdout)
        return
    found = hunt(originals(), 60 * arguments.minutes, arguments.seed)
    result = {"minutes": arguments.minutes, "seed": arguments.seed, **found.summary()}
    print(json.dumps(result, indent=1))
    write_result("fuzzing", result)
    sys.exit(bool(found.failures))


if __name__ == "__main__":
    main()
