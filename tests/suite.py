"""The tests, as `make` runs them: what failed and has to do with the real world is tried a second time.

    python -m tests.suite fast                 what `make test` runs
    python -m tests.suite slow                 what it leaves out
    python -m tests.suite often --runs 3       everything so many times on a busy machine, and a table of what failed

A test marked `real` is about real processes, servers or a browser, whose scheduling nobody owns. When nothing else
failed, those that did run once more, alone, in a new pytest; the last lines name them. Any other failure is final, and
so is a crash.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARTS = {"fast": "not slow", "slow": "slow"}
DELICATE = "real or threads"  # what a busy machine could upset
DELICATE_TIMES = 10
OTHERS = 2  # processes that keep the machine's cores busy meanwhile
SIDE_BY_SIDE = ("-n", "2", "--dist", "worksteal")  # neighbours stay together until one has nothing left to do
TESTS_FAILED = 1  # pytest's exit code for just that: not interrupted, no usage error, no crash of its own


@dataclass(frozen=True)
class Run:
    """One pytest: how it ended, how many tests of each kind it ran, and which of them failed."""

    exit_code: int
    ran: int
    ran_real: int
    failed: tuple[str, ...]
    only_real_failed: bool

    @property
    def deserves_another(self) -> bool:
        return self.exit_code == TESTS_FAILED and bool(self.failed) and self.only_real_failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.suite", description=__doc__)
    parser.add_argument("what", choices=[*PARTS, "often"])
    parser.add_argument("--runs", type=int, default=3, help="how many times `often` runs everything")
    parser.add_argument("--log", type=Path, default=Path("tests-often.jsonl"), help="what `often` goes on from")
    options = parser.parse_args()
    if options.what == "often":
        return run_often(options.runs, options.log)
    return with_second_try("-m", PARTS[options.what], *SIDE_BY_SIDE)


def with_second_try(*arguments: str) -> int:
    """The exit code of pytest, or of the second try of the real tests that failed in it; and say which those were."""
    first = run_pytest(*arguments)
    if not first.deserves_another:
        return first.exit_code
    second = try_again()
    for test in first.failed:
        print(f"needed a second try, and {'failed again' if test in second.failed else 'passed'}: {test}", flush=True)
    return second.exit_code


def try_again() -> Run:
    """The real tests that failed in the last run, alone."""
    return run_pytest("--lf", "--lfnf=none", "-m", "real")


def run_pytest(*arguments: str) -> Run:
    """pytest in a process of its own, which says what it has to say on our own streams."""
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Path(folder) / "outcomes"
        command = [sys.executable, "-m", "pytest", "--outcomes", str(outcomes), *arguments]
        exit_code = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
        lines = outcomes.read_text().splitlines() if outcomes.exists() else []
    tests = [json.loads(line) for line in lines]
    failed = [test for test in tests if not test["passed"]]
    return Run(
        exit_code,
        ran=len(tests),
        ran_real=sum(test["real"] for test in tests),
        failed=tuple(test["test"] for test in failed),
        only_real_failed=all(test["real"] for test in failed),
    )


def run_often(runs: int, log: Path) -> int:
    """Everything `runs` times, the delicate tests ten times, beside busy processes.

    What the log holds is not run again, so an interrupted one goes on where it was. Returns 1 if an unmarked test
    failed, or a real one twice in a row.
    """
    done = Counter(line["part"] for line in _read(log))
    wanted = {**dict.fromkeys(PARTS.values(), runs), DELICATE: DELICATE_TIMES}
    with _busy_machine(OTHERS):
        for part, times in wanted.items():
            for _ in range(times - done[part]):
                _note(log, part)
    lines = _read(log)
    _show(lines)
    return int(any(line["final"] for line in lines))


def _note(log: Path, part: str) -> None:
    """Run a part once, and the second try that CI would give it; leave one line about both."""
    first = run_pytest("-m", part, *SIDE_BY_SIDE)
    again = try_again() if first.deserves_another else first
    line = {"part": part, "ran": first.ran, "real": first.ran_real, "failed": first.failed, "final": again.failed}
    if first.exit_code not in (0, TESTS_FAILED):
        line["final"] = [f"pytest ended with {first.exit_code}"]
    with log.open("a") as file:
        file.write(f"{json.dumps(line)}\n")


def _show(lines: Sequence[dict[str, Any]]) -> None:
    ran, real = sum(line["ran"] for line in lines), sum(line["real"] for line in lines)
    second_tries = sum(len(line["failed"]) for line in lines if not line["final"])
    print(f"\n{len(lines)} runs of a part, {ran:,} of a test; {real:,} of these of a real one")
    print(f"{second_tries} passed by a second try ({second_tries / max(real, 1):.2%} of the real ones)")
    failures = Counter(test for line in lines for test in line["failed"])
    final = Counter(test for line in lines for test in line["final"])
    for test, times in (failures | final).most_common():
        print(f"{times:4} times{f', {final[test]} of them for good' if final[test] else ''}: {test}")


def _read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@contextmanager
def _busy_machine(processes: int) -> Iterator[None]:
    """Others who want the machine as well."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


if __name__ == "__main__":
    sys.exit(main())
