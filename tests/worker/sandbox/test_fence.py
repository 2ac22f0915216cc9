"""The fence: what is tried behind it fails, and a scan's numbers stay the same."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from app.core.errors import Refusal
from app.core.jobs import JobDirectory
from app.core.plan import FIRST, JobKind, Task
from tests.processes import own_world
from tests.servers import need_fence
from tests.shared_process import sharing_process
from tests.toys import place_job
from worker.launch import ScanSession
from worker.sandbox import container, fence, probes, seccomp
from worker.sandbox.fence import Sandbox

pytestmark = pytest.mark.real

PREPARE, SEARCH = Task(JobKind.PREPARE), Task(JobKind.INVERT, (0, 1, 2, 3, 4, 5))
DECIDE, REPAIR, REPORT = Task(JobKind.DECIDE), Task(JobKind.REPAIR, (2,)), Task(JobKind.REPORT)


@pytest.fixture(scope="module", autouse=True)
def fenced() -> Iterator[None]:
    """There is a fence, and one thread behind it."""
    need_fence()
    with own_world():
        yield


def test_every_probe_is_stopped() -> None:
    stopped = probes.tried()
    assert len(stopped) >= 20
    assert [name for name, how in stopped.items() if how is None] == []


def test_a_probe_that_gets_its_way_is_a_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    lenient = seccomp.program(platform.machine(), ("fork", "vfork"))
    monkeypatch.setattr(seccomp, "program", lambda machine: lenient)
    holes = [name for name, how in probes.tried().items() if how is None]
    assert {"open a local socket", "use the kernel's keys"} <= {*holes}
    assert "read another tenant's file" not in holes, "the walls stand apart"


def test_a_filter_is_the_same_every_time_and_knows_its_machine() -> None:
    for machine in seccomp.AUDIT:
        program = seccomp.program(machine)
        assert len(program) % 8 == 0 and len(program) // 8 < 4096, "the kernel takes no more"
        assert program == seccomp.program(machine)
    with pytest.raises(KeyError):
        seccomp.program("sparc")


def test_a_fence_can_be_put_up_in_a_container_without_rights() -> None:
    assert json.loads(Path(container.__file__).with_suffix(".json").read_text()) == container.profile()
    filtered = os.memfd_create("container")
    os.write(filtered, seccomp.program(platform.machine(), container.REFUSED))
    os.lseek(filtered, 0, os.SEEK_SET)
    unlike_root = ("--unshare-user", "--uid", "10001", "--gid", "10001", "--cap-drop", "ALL", "--bind", "/", "/")
    asked = "from worker.sandbox import fence; print(fence.lacking())"
    command = ["bwrap", *unlike_root, "--seccomp", str(filtered), "--", sys.executable, "-c", asked]
    answer = subprocess.run(command, capture_output=True, text=True, pass_fds=(filtered,), check=True)
    os.close(filtered)
    assert answer.stdout == "None\n"


def test_behind_the_fence_a_scan_has_the_same_numbers(tmp_path: Path) -> None:
    def scanned(backend: Sandbox) -> JobDirectory:
        directory = place_job(tmp_path / backend, repair_label=2, repair=True)
        where = sharing_process() if backend == "none" else nullcontext()
        with where, ScanSession(directory, lambda event: None, sandbox=backend) as session:
            for task in (FIRST, PREPARE, SEARCH, DECIDE, REPAIR, REPORT):
                session.run(task)
        return directory

    inside, outside = scanned("bwrap"), scanned("none")
    assert inside.read_decision() == outside.read_decision() and inside.read_repair() == outside.read_repair()
    assert inside.trigger(2, "dynamic").read_bytes() == outside.trigger(2, "dynamic").read_bytes()
    reports = [directory.read_report() or {} for directory in (inside, outside)]
    assert ["unsandboxed" in report["caveats"] for report in reports] == [False, True]
    assert reports[0]["verdict"] == reports[1]["verdict"]


def test_weights_that_are_configured_are_there_behind_the_fence(tmp_path: Path) -> None:
    directory = place_job(tmp_path / "job", perceptual=str(tmp_path / "no-such-weights.pth"))
    (tmp_path / "no-such-weights.pth").write_bytes(b"no weights")
    with pytest.raises(Refusal) as refusal, ScanSession(directory, lambda event: None, sandbox="bwrap") as session:
        session.run(PREPARE)
    assert "no-such-weights" in refusal.value.problem.detail and "not" in refusal.value.problem.detail


def test_whoever_asks_for_a_fence_where_there_is_none_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    fence.lacking.cache_clear()
    try:
        monkeypatch.setenv("PATH", os.path.dirname(__file__))
        assert fence.choose("auto") == "none" == fence.choose("none")
        with pytest.raises(Refusal, match=r"bubblewrap is not installed.*apt-get install bubblewrap"):
            fence.choose("bwrap")
    finally:
        monkeypatch.undo()
        fence.lacking.cache_clear()
    assert fence.choose("auto") == "bwrap" == fence.choose("bwrap")
