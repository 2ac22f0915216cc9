"""A session and its engine: one process for all tasks, gone when nobody needs it any more, whatever happened."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from app.core.jobs import JobDirectory
from app.core.plan import FIRST, JobKind, Task
from app.local_scan import OUT_OF_TIME, run_scan, run_tasks
from tests.clocks import PretendClock
from tests.processes import all_end, engines_of, needs_proc, run_job
from tests.shared_process import sharing_process
from tests.toys import QUICK, Talking, ToyNet, place_job, quick_job, save_toy, save_toy_bundle
from worker import launch
from worker.launch import LOG, EngineCrashError, EngineOverdueError, ScanSession
from worker.sandbox.events import Event

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("small_world")]

ROOT = Path(__file__).parents[2]
ENDLESS = replace(QUICK, steps=1_000_000)
PREPARE, SEARCH = Task(JobKind.PREPARE), Task(JobKind.INVERT, (0, 1))


@pytest.fixture
def endless(tmp_path: Path) -> JobDirectory:
    """A job whose search does not end by itself."""
    return place_job(tmp_path / "job", inversion=ENDLESS)


@needs_proc
def test_tasks_of_one_session_share_an_engine_that_starts_with_the_first_which_needs_it(tmp_path: Path) -> None:
    directory = place_job(tmp_path / "job")
    engines: set[int] = set()
    with ScanSession(directory, lambda event: engines.update(engines_of(directory.root))) as session:
        session.run(FIRST)
        assert engines_of(directory.root) == [], "to look at an archive needs no torch"
        session.run(PREPARE)
        session.run(SEARCH)
        assert len(engines) == 1 and engines_of(directory.root) == list(engines), "it waits for more"
    assert engines_of(directory.root) == []


def test_a_finished_task_is_told_again_and_not_repeated(tmp_path: Path) -> None:
    directory = place_job(tmp_path / "job")
    events: list[Event] = []
    with sharing_process(), ScanSession(directory, events.append) as session:
        for task in (PREPARE, SEARCH):
            session.run(task)
        told = [event for event in events if event["event"] in ("prepared", "label")]
        events.clear()
        for task in (PREPARE, SEARCH):
            session.run(task)
    assert events == told


def test_the_environment_of_a_session_reaches_its_engine(tmp_path: Path) -> None:
    """A GPU worker gives its engine one device to see; here the word is one that any engine obeys."""
    directory = place_job(tmp_path / "job")
    told_to_fail = {"PYTHONPATH": str(tmp_path)}
    (tmp_path / "torch.py").write_text("raise ImportError('told to fail')")
    session = ScanSession(directory, lambda event: None, environment=told_to_fail)
    with pytest.raises(EngineCrashError, match="code 1") as crash, session:
        session.run(PREPARE)
    assert "told to fail" in crash.value.log


@pytest.mark.parametrize(("given", "seen"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")], ids=["by default", "as given"])
def test_threads_of_an_engine_wait_asleep_unless_somebody_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str | None, seen: str
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    directory = place_job(tmp_path / "job")
    (tmp_path / "torch.py").write_text("import os; raise ImportError(os.environ.get('OMP_WAIT_POLICY'))")
    session = ScanSession(directory, lambda event: None, environment={"PYTHONPATH": str(tmp_path)})
    with pytest.raises(EngineCrashError) as crash, session:
        session.run(PREPARE)
    assert f"ImportError: {seen}" in crash.value.log


@needs_proc
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_an_engine_ends_when_its_launcher_dies(endless: JobDirectory, busy: bool) -> None:
    tasks = "session.run(Task(JobKind.INVERT, (0, 1)))" if busy else "print('idle', flush=True); time.sleep(3600)"
    code = f"""
import sys, time
from pathlib import Path
from app.core.jobs import JobDirectory
from app.core.plan import JobKind, Task
from worker.launch import ScanSession
with ScanSession(JobDirectory(Path(sys.argv[1])), lambda event: print(event["event"], flush=True)) as session:
    session.run(Task(JobKind.PREPARE))
    {tasks}
"""
    command = [sys.executable, "-c", code, str(endless.root)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        for line in launcher.stdout:
            if line.strip() == ("step" if busy else "idle"):
                break
        assert engines_of(endless.root)
        launcher.kill()
    assert all_end(endless.root)


@pytest.mark.parametrize(
    ("work", "code"),
    [(b"", 0), (b'{"kind": "prepare", "labels": [], "round": 0}\n', 5), (b'{"kind": "prepare"}\n', 1)],
    ids=["idle", "busy", "misunderstood"],
)
def test_an_engine_says_by_its_exit_code_whether_it_was_interrupted(
    endless: JobDirectory, work: bytes, code: int
) -> None:
    """Tasks come in on stdin where no other descriptor is given, so one can talk to an engine by hand."""
    command = [sys.executable, "-m", "worker.engine", str(endless.root)]
    done = subprocess.run(command, cwd=ROOT, input=work, capture_output=True)
    assert done.returncode == code, done.stderr


@needs_proc
@pytest.mark.parametrize("from_another_thread", [True, False], ids=["from another thread", "as by a signal"])
def test_a_session_that_is_killed_ends_for_good(endless: JobDirectory, from_another_thread: bool) -> None:
    """Its search would not end by itself."""

    def listen(event: Event) -> None:
        if event["event"] == "step" and event["done"] == 1:
            threading.Thread(target=session.kill).start() if from_another_thread else session.kill()

    with ScanSession(endless, listen) as session:
        session.run(PREPARE)
        with pytest.raises(EngineCrashError) as crash:
            session.run(SEARCH)
        assert crash.value.code == -signal.SIGKILL
        assert engines_of(endless.root) == []
        for task in (FIRST, PREPARE):
            with pytest.raises(EngineCrashError):
                session.run(task)
        session.kill()
    assert engines_of(endless.root) == []


def test_a_session_may_be_killed_before_it_has_an_engine(tmp_path: Path) -> None:
    with ScanSession(place_job(tmp_path / "job"), lambda event: None) as session:
        session.kill()
        with pytest.raises(EngineCrashError):
            session.run(PREPARE)


@needs_proc
def test_a_listener_that_fails_leaves_no_engine_behind(endless: JobDirectory) -> None:
    def give_up(event: Event) -> None:
        if event["event"] == "step":
            raise KeyboardInterrupt

    session = ScanSession(endless, give_up)
    with pytest.raises(KeyboardInterrupt), session:
        run_tasks([session], endless.read_job())
    assert engines_of(endless.root) == []


@needs_proc
def test_after_a_listener_failed_or_an_engine_crashed_the_next_task_has_a_new_engine(endless: JobDirectory) -> None:
    """What the old one still had to say must not be taken for the answer to the next task."""
    failing = True

    def listen(event: Event) -> None:
        if event["event"] == "step" and failing:
            raise LookupError
        if event["event"] == "step":
            os.kill(*engines_of(endless.root), signal.SIGKILL)

    with ScanSession(endless, listen) as session:
        session.run(PREPARE)
        with pytest.raises(LookupError):
            session.run(SEARCH)
        failing = False
        with pytest.raises(EngineCrashError):
            session.run(SEARCH)
        session.run(PREPARE)
        assert len(engines_of(endless.root)) == 1
    assert endless.read_findings() == []


def test_a_watchdog_can_tell_when_something_was_last_heard(tmp_path: Path) -> None:
    directory = place_job(tmp_path / "job")
    heard: list[float] = []
    session = ScanSession(directory, lambda event: heard.append(session.last_event_at))
    with sharing_process(), session:
        begun = time.monotonic()
        session.run(PREPARE)
    assert begun < heard[0] < heard[-1] <= session.last_event_at < time.monotonic()


def test_a_model_that_prints_is_heard_by_nobody(tmp_path: Path) -> None:
    directory = place_job(tmp_path / "job", Talking(ToyNet()), inversion=replace(QUICK, steps=1))
    events = run_job(directory)
    assert "done" not in {event["event"] for event in events}
    assert '{"event": "done"}' not in (directory.root / LOG).read_text()
    assert len(directory.read_findings()) == 6


def test_an_engine_that_fails_is_a_crash_with_its_last_words(tmp_path: Path) -> None:
    directory = place_job(tmp_path / "job")
    (directory.root / "job.json").write_text("{}")
    with pytest.raises(EngineCrashError) as crash, ScanSession(directory, lambda event: None) as session:
        session.run(PREPARE)
    assert crash.value.code == 1 and "KeyError" in crash.value.log


# An engine that ignores its time limit


@needs_proc
def test_an_engine_that_ignores_its_time_limit_is_killed_and_no_other_is_started(
    endless: JobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This one has not even imported torch by then."""
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.1)
    with ScanSession(endless, lambda event: None, time_limit=0.1) as session:
        for _ in range(2):
            with pytest.raises(EngineOverdueError):
                session.run(PREPARE)
            assert engines_of(endless.root) == []
        session.run(FIRST)


def test_a_scan_that_was_killed_after_its_time_limit_leaves_a_partial_report(tmp_path: Path) -> None:
    model, bundle = save_toy(tmp_path / "model.pt", ToyNet()), save_toy_bundle(tmp_path / "bundle.npz")
    out, clock, is_alive = tmp_path / "out", PretendClock("deadline"), []

    def listen(event: Event) -> None:
        if event["event"] == "step" and event["labels"] == [2, 3]:
            for seconds in (600, launch.GRACE_SECONDS):
                clock.let_pass(seconds)
                is_alive.append(bool(engines_of(out / ".job")))

    job = quick_job(model, bundle, repair=True)
    result = run_scan(job, model, bundle, out, listen, time_limit=600, clock=clock)
    assert is_alive[0], "an engine has some time to end by itself"
    assert result.exit_code == OUT_OF_TIME and result.document is not None
    assert result.document["reasons"] == ["search_truncated"] and result.document["coverage"]["labels_searched"] == 2
    assert result.document["repair"]["status"] == "refused" and "time limit" in result.document["repair"]["detail"]
    assert {"report.json", "report.html", ".job"} <= {path.name for path in out.iterdir()}
    with sharing_process():
        finished = run_scan(job, model, bundle, out, lambda event: None)
    assert finished.document is not None and finished.document["finished"] and not (out / ".job").exists()
