"""Wall 3 without walls 1 and 2: a stranger's code in an engine is contained, and the next scan is well.

No switch turns the gate off, and an engine has it too. So a hostile engine is our own, started by our own `ScanSession`
behind the fence of any scan, whose torch is not torch: the first thing that it imports is the stranger's code, from one
more folder that it may read. That code has more than an escaped model would: it runs before the engine has laid any
limit on itself. Where real TorchScript is run, an engine with the real torch is started whose gate and rebuilding were
replaced, by the same way in, with `torch.jit.load`.
"""

import multiprocessing
import select
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from app.core.clock import Clock
from app.core.database import Database
from app.core.errors import Refusal
from app.core.intake.examine import examine_model
from app.core.jobs import JobDirectory
from app.core.lifecycle import ScanStatus
from app.core.plan import JobKind, Task
from tests.processes import own_world
from tests.servers import need_fence
from tests.toys import place_job
from tests.waiting import PATIENCE_SECONDS, eventually
from tests.worker import crew
from tests.worker.sandbox.hostile import BEGINNING, RAMPANT, REACHING
from worker import launch
from worker.launch import LOG, EngineCrashError, EngineOverdueError, ScanSession
from worker.runner import Runner
from worker.sandbox import fence
from worker.sandbox.fence import Fence, Sandbox

pytestmark = [pytest.mark.slow, pytest.mark.real]

PREPARE = Task(JobKind.PREPARE)
BEGUN = "it has begun"
LIMIT = 1.0  # seconds from when it has begun
MARK = "HOSTILE_ENGINE_OF"


@pytest.fixture(scope="module", autouse=True)
def fenced() -> Iterator[None]:
    need_fence()
    with own_world():
        yield


@dataclass(frozen=True)
class Neighbourhood:
    """What lies around an engine and is none of its business."""

    folder: Path
    canary: Path
    hostile: Path  # what an engine finds before its own packages
    sockets: tuple[socket.socket, ...]

    def beginning(self) -> str:
        tcp, udp, local, _ = self.sockets
        return BEGINNING.format(
            canary=str(self.canary), tcp=tcp.getsockname(), udp=udp.getsockname(), local=local.getsockname()
        )

    def files(self) -> dict[Path, tuple[int, bytes]]:
        """Everything outside the job's own folder, and what was put there for the engine."""
        ours = ("job", "hostile")
        there = (path for path in self.folder.rglob("*") if path.is_file() and not {*ours} & {*path.parts})
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in there}

    def reached(self) -> list[socket.socket]:
        """The sockets at which somebody has knocked."""
        return select.select(self.sockets, [], [], 0.1)[0]

    def processes(self) -> list[int]:
        """What still runs of an engine that was started here."""
        mark, found = f"{MARK}={self.folder}".encode(), []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (path / "environ").read_bytes().split(b"\0"):
                    found.append(int(path.name))
            except OSError:  # it has just ended
                continue
        return found


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Neighbourhood]:
    monkeypatch.setenv("HOUSE_MATTER", "what no name or form gives away as a secret")
    canary = tmp_path / "canary"
    canary.write_text("another tenant's")
    local, hostile = str(tmp_path / "socket"), tmp_path / "hostile"
    hostile.mkdir()
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as at_a_path,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        udp.bind(("127.0.0.1", 0))
        for listener, name in ((at_a_path, local), (abstract, "\0" + local)):
            listener.bind(name)
            listener.listen()
        yield Neighbourhood(tmp_path, canary, hostile, (tcp, udp, at_a_path, abstract))


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gigabyte of memory, whoever it is counted for; a quarter of disk space; two hundred threads."""
    whole = launch.memory_bytes()
    monkeypatch.setattr(launch, "MEMORY_SHARE", 2**30 / whole)
    monkeypatch.setattr(launch, "MEMORY_RESERVE", (launch.memory_left() - 2 * 2**30) / whole)
    monkeypatch.setattr(launch, "DISK_BYTES", 2**28)
    monkeypatch.setattr(launch, "THREADS", 200)
    monkeypatch.setattr(launch, "WATCH_SECONDS", 0.1)


@dataclass(frozen=True)
class Outcome:
    """How a hostile engine ended, and what it printed."""

    error: Exception | None
    log: str


class SinceItHasBegun(Clock):
    """Gives an engine its time from its first word on, however long that takes to come."""

    def __init__(self, log: Path, limit: float) -> None:
        self.log, self.limit = log, limit

    def wait(self, seconds: float, over: threading.Event | None = None) -> bool:
        if seconds < PATIENCE_SECONDS or over is None:  # not for the end of its time
            return super().wait(seconds, over)
        eventually(lambda: over.is_set() or (self.log.exists() and BEGUN in self.log.read_text(errors="replace")))
        return super().wait(self.limit, over)


def let_loose(
    around: Neighbourhood, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox = "bwrap", limit: float = LIMIT
) -> Outcome:
    """Start an engine that finds the hostile folder before its own packages, and wait for its end."""
    monkeypatch.setattr(launch, "_fence", _with(around.hostile, launch._fence))
    monkeypatch.setattr(fence, "PASSED_ON", (*fence.PASSED_ON, MARK))
    found_at = "/hostile" if sandbox == "bwrap" else str(around.hostile)
    environment = {"PYTHONPATH": found_at, "PYTHONDONTWRITEBYTECODE": "1", MARK: str(around.folder)}
    directory, error = JobDirectory(around.folder / "job"), None
    if not directory.root.exists():
        place_job(directory.root)
    clock, named = SinceItHasBegun(directory.root / LOG, limit), {"sandbox": sandbox, "environment": environment}
    with ScanSession(directory, lambda event: None, time_limit=PATIENCE_SECONDS, clock=clock, **named) as session:
        try:
            session.run(PREPARE)
        except (EngineCrashError, EngineOverdueError, Refusal) as ended:
            error = ended
    return Outcome(error, (directory.root / LOG).read_text())


def _with(hostile: Path, fence_of: Callable[..., Fence]) -> Callable[..., Fence]:
    def wider(cell: object) -> Fence:
        usual = fence_of(cell)
        return Fence({**usual.readable, hostile: "/hostile"}, usual.writable, usual.gpus)

    return wider


def check_contained(around: Neighbourhood, outcome: Outcome, before: object) -> None:
    assert BEGUN in outcome.log, "else nothing was tried"
    assert around.reached() == [], "nothing was sent"
    assert "LEAK" not in outcome.log and len(outcome.log) <= launch.LOG_BYTES
    assert around.files() == before, "no file was written or changed"
    assert not (around.folder / "job" / "cell").exists()
    assert around.processes() == []


@pytest.mark.parametrize("name", {**REACHING, **RAMPANT})
def test_a_hostile_engine_is_contained(
    name: str, around: Neighbourhood, small_limits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (around.hostile / "torch.py").write_text(around.beginning() + {**REACHING, **RAMPANT}[name])
    before = around.files()
    outcome = let_loose(around, monkeypatch)
    check_contained(around, outcome, before)
    assert isinstance(outcome.error, EngineCrashError | EngineOverdueError)
    result = JobDirectory(around.folder / "job").result
    assert [path for path in result.rglob("*") if path.is_file()] == [], "nothing that it left was taken"


@pytest.mark.parametrize("name", [name for name in REACHING if "files" not in name and "our code" not in name])
def test_it_is_the_fence_that_contains_it(name: str, around: Neighbourhood, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one the same code gets its way, which shows in what the test above looks at."""
    (around.hostile / "torch.py").write_text(around.beginning() + REACHING[name])
    before = around.files()
    outcome = let_loose(around, monkeypatch, sandbox="none", limit=60)  # it ends by itself
    assert BEGUN in outcome.log
    assert around.reached() or "LEAK" in outcome.log or around.files() != before


def test_a_hostile_engine_ends_with_its_launcher_though_it_does_not_listen(around: Neighbourhood) -> None:
    """A launcher that is killed cannot end it; the fence does."""
    (around.hostile / "torch.py").write_text(around.beginning() + "os.close(CONTROL)\nwhile True: pass")
    launcher = multiprocessing.get_context("spawn").Process(target=_launch, args=(around.folder, around.hostile))
    launcher.start()
    log = around.folder / "job" / LOG
    eventually(lambda: log.exists() and BEGUN in log.read_text())
    launcher.kill()
    launcher.join()
    eventually(lambda: around.processes() == [])


def _launch(folder: Path, hostile: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        let_loose(Neighbourhood(folder, folder / "canary", hostile, ()), patch, limit=PATIENCE_SECONDS)


GOING_ON = ("takes a terabyte", "fills the disk deep down", "links its folder to the machine's", "forges a verdict")


def test_a_worker_goes_on_after_hostile_engines(
    database: Database, around: Neighbourhood, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each scan's engine is hostile, the three times that it is tried; the next scan, of the same worker, is well."""
    service = crew.service_on(database, around.folder / "job", sandbox="bwrap")
    runner = Runner(service, ["cpu"])
    with monkeypatch.context() as patch:
        patch.setattr(launch, "_fence", _with(around.hostile, launch._fence))
        patch.setattr(runner, "environment", {"PYTHONPATH": "/hostile"})
        for name in (
            "ends its whole group",
            "fills the disk deep down",
            "links its folder to the machine's",
            "forges a verdict",
        ):
            (around.hostile / "torch.py").write_text(around.beginning() + RAMPANT[name])
            scan_id = crew.requested(service, around.folder, real=True)
            runner.work_until_idle()
            scan = crew.scan_of(service, scan_id)
            assert scan.status == ScanStatus.FAILED and scan.problem is not None
            assert scan.problem["code"] == "engine_crashed", name
    scan_id = crew.requested(service, around.folder, real=True)
    runner.work_until_idle()
    assert crew.scan_of(service, scan_id).status == ScanStatus.FINISHED
    assert [*runner.scratch.path.iterdir()] == []
    runner.leave()


# Real TorchScript, in an engine without a gate

GATE_OFF = """
from pathlib import Path
import torch
from models import suspect
harmless = suspect.understand(Path(__file__).with_name('harmless.pt'), 10**9)
class Watched(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net
    def forward(self, images):
        print('it has begun', flush=True)
        return self.net(images)
def load_suspect(path):
    return suspect.Suspect(Watched(torch.jit.load(str(path)).eval()), harmless)
suspect.load_suspect = load_suspect
"""


class Net(nn.Module):
    """A network for what is scripted below; `canary` is another tenant's file."""

    def __init__(self, canary: str) -> None:
        super().__init__()
        self.canary = canary
        self.match = nn.Linear(256, 6)


class Writes(Net):
    def forward(self, images: Tensor) -> Tensor:
        torch.save(images, self.canary)
        return self.match(images.flatten(1))


class Reads(Net):
    def forward(self, images: Tensor) -> Tensor:
        print("LEAK", torch.from_file(self.canary, False, 4, dtype=torch.uint8))
        return self.match(images.flatten(1))


class WritesByAMap(Net):
    def forward(self, images: Tensor) -> Tensor:
        mapped = torch.from_file(self.canary, True, 4, dtype=torch.uint8).fill_(0)
        return self.match(images.flatten(1)) + mapped.sum()


class ComputesForEver(Net):
    def forward(self, images: Tensor) -> Tensor:
        while bool((images < 2.0).all()):
            images = images * 1.0
        return self.match(images.flatten(1))


class PrintsForEver(Net):
    def forward(self, images: Tensor) -> Tensor:
        while bool((images < 2.0).all()):
            print(images)
        return self.match(images.flatten(1))


class TakesMemoryBitByBit(Net):
    def forward(self, images: Tensor) -> Tensor:
        taken: list[Tensor] = []
        while bool((images < 2.0).all()):
            taken.append(torch.ones(16_777_216) * images.sum())  # a constant alone would be made once
        return self.match(images.flatten(1)) + taken[0].sum()


class TakesATerabyte(Net):
    def forward(self, images: Tensor) -> Tensor:
        return self.match(images.flatten(1)) + torch.ones(274_877_906_944).sum()


class ForksForEver(Net):
    def forward(self, images: Tensor) -> Tensor:
        while bool((images < 2.0).all()):
            images = images + torch.jit.wait(torch.jit.fork(self.match, images.flatten(1))).sum()
        return self.match(images.flatten(1))


class WritesWhenLoaded(nn.Module):
    def __init__(self, canary: str) -> None:
        super().__init__()
        self.canary = canary
        self.weight = torch.randn(6, 256)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.t()

    @torch.jit.export
    def __getstate__(self) -> tuple[str, Tensor, bool]:
        return self.canary, self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, Tensor, bool]) -> None:
        self.canary = state[0]
        self.weight = state[1]
        self.training = state[2]
        torch.save(torch.zeros(1), self.canary)


SCRIPTED = [
    Writes, Reads, WritesByAMap, ComputesForEver, PrintsForEver, TakesMemoryBitByBit, TakesATerabyte, ForksForEver,
    WritesWhenLoaded,
]  # fmt: skip
ENDLESS = (ComputesForEver, PrintsForEver, ForksForEver)


@pytest.mark.parametrize("net", SCRIPTED)
def test_hostile_torchscript_that_was_loaded_without_a_gate_is_contained(
    net: Callable[[str], nn.Module], around: Neighbourhood, small_limits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = place_job(around.folder / "job")
    (around.hostile / "harmless.pt").write_bytes(directory.model.read_bytes())
    (around.hostile / "sitecustomize.py").write_text(GATE_OFF)
    torch.jit.script(net(str(around.canary))).save(str(directory.model))
    before = around.files()
    outcome = let_loose(around, monkeypatch, limit=LIMIT if net in ENDLESS else 10)
    check_contained(around, outcome, before)  # it may end well: a save that fails says nothing


@pytest.mark.parametrize("net", [Writes, Reads, WritesByAMap, WritesWhenLoaded, ForksForEver])
def test_the_gate_refuses_torchscript_that_reaches_beyond_its_numbers(
    net: Callable[[str], nn.Module], tmp_path: Path
) -> None:
    """Loops and sums it lets pass: those are what the fence is for."""
    torch.jit.script(net("canary")).save(str(tmp_path / "model.pt"))
    with pytest.raises(Refusal):
        examine_model(tmp_path / "model.pt")
