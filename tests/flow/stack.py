"""The service as docker-compose.yml runs it, as plain processes of this machine over the tests' own servers.

    with Stack(folder, postgresql_server, redis_server, s3_server) as stack:
        scan_id = stack.request(stack.upload_toy())
        (state,) = stack.wait_for([scan_id])

Commands and environments are those of the file; what differs is where servers are, a port that the system
chooses, and the times.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import httpx
from sqlalchemy.exc import OperationalError

from app.api.schemas import InversionOverrides
from app.core.config import InversionConfig
from app.core.database import Database
from app.core.lifecycle import OPEN_SCANS
from app.core.repository import access
from app.core.tables import DEFAULT_TENANT, Job
from tests.deploy import compose
from tests.flow import leases
from tests.servers import PostgresServer, RedisServer, S3Server
from tests.toys import LABELS_PER_BLOCK, QUICK, ToyNet, save_toy, save_toy_bundle
from tests.waiting import PATIENCE_SECONDS, eventually

TIMES = {"LEASE": leases.LEASE_SECONDS, "HEARTBEAT": 5, "SWEEP": 2, "POLL": 0.5}  # the defaults: 60, 10, 15 and 1
END_SECONDS = 30


class Stack:
    """One API, one sweeper and some workers, whose processes can be told apart, killed and started again."""

    def __init__(
        self,
        folder: Path,
        postgresql: PostgresServer,
        redis: RedisServer,
        s3: S3Server,
        workers: int = 2,
        times: dict[str, float] = TIMES,
    ) -> None:
        self.folder = folder
        self.postgresql, self.redis, self.s3 = postgresql, redis, s3
        self.workers = [f"worker-{number}" for number in range(1, workers + 1)]
        places = {"postgres": postgresql.create(f"stack_{uuid4().hex}"), "redis": redis.url, "s3": s3.endpoint}
        self.services = compose.services(compose.variables(TRIGGERLENS_THREADS="1"), places)
        self.times = {f"TRIGGERLENS_{name}_SECONDS": str(seconds) for name, seconds in times.items()}
        self.database = Database(places["postgres"])
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.keys: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            self._run_to_the_end("migrate")
            for tenant_id in (DEFAULT_TENANT, "another"):
                with self.database.writing() as session:
                    _, self.keys[tenant_id] = access.create_key(session, tenant_id, "test")
            for name in ("api", "sweeper", *self.workers):
                self.start(name)
            self.wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for name in self.processes:
            self.end(name)
        self.database.close()

    def start(self, name: str) -> None:
        """Start a service of the file; several workers of it are told apart by a number."""
        command, environment = self._how_to_run(name)
        with (self.folder / f"{name}.log").open("ab") as log, (self.folder / f"{name}.out").open("wb") as out:
            self.processes[name] = subprocess.Popen(
                command, env=environment, cwd=compose.ROOT, stdout=out, stderr=log, start_new_session=True
            )

    def end(self, name: str) -> None:
        """Ask a service to end, wait, and leave nothing of it behind."""
        process = self.processes[name]
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def kill(self, name: str) -> None:
        """kill -9 of the process that was started, and of nothing else."""
        self.processes[name].kill()
        self.processes[name].wait()

    def keep_alive(self) -> None:
        """What `restart: unless-stopped` does."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                self.start(name)

    @property
    def url(self) -> str:
        """The address that the API has said since it was last started; empty, and so out of reach, before that."""
        return (self.folder / "api.out").read_text().strip().replace("0.0.0.0", "127.0.0.1")

    def wait_until_ready(self) -> None:
        """Return when the API is ready and every worker was seen."""

        def ready() -> bool:
            answer = httpx.get(f"{self.url}/readyz", trust_env=False, timeout=PATIENCE_SECONDS)
            return answer.status_code == 200 and answer.json()["workers_alive"] >= len(self.workers)

        eventually(ready, unavailable=httpx.TransportError)

    def ask(
        self,
        method: str,
        path: str,
        tenant_id: str = DEFAULT_TENANT,
        headers: Mapping[str, str] | None = None,
        **content: Any,
    ) -> httpx.Response:
        """What the API answers a tenant; an API that is away, or misses a server, is asked again."""

        def answered() -> httpx.Response | None:
            answer = httpx.request(
                method, f"{self.url}{path}", headers=sent, trust_env=False, timeout=PATIENCE_SECONDS, **content
            )
            return None if answer.status_code == 503 else answer

        sent = {"Authorization": f"Bearer {self.keys[tenant_id]}", **(headers or {})}
        return eventually(answered, unavailable=httpx.TransportError)

    def upload(self, path: Path, kind: str, tenant_id: str = DEFAULT_TENANT) -> str:
        answer = self.ask("PUT", f"/v1/artifacts?kind={kind}", tenant_id, content=path.read_bytes())
        return str(answer.raise_for_status().json()["sha256"])

    def upload_toy(self, tenant_id: str = DEFAULT_TENANT, planted: int = 2, **bundle: int) -> dict[str, str]:
        """A small network with a backdoor and clean images, by hash, as a request for a scan names them."""
        model = save_toy(self.folder / "toy.pt", ToyNet(bundle.get("labels", 6), planted=planted))
        images = save_toy_bundle(self.folder / "toy.npz", **bundle)
        return {
            "model": self.upload(model, "model", tenant_id),
            "bundle": self.upload(images, "bundle", tenant_id),
        }

    def request(
        self,
        inputs: dict[str, str],
        tenant_id: str = DEFAULT_TENANT,
        inversion: InversionConfig = QUICK,
        **options: Any,
    ) -> str:
        """The id of a new scan. The key makes sure that asking twice, of an API that dies, is asking once."""
        open_to_users = {name: getattr(inversion, name) for name in InversionOverrides.model_fields}
        body = {
            **inputs,
            "preset": "paper",
            "input": {"mean": [0.0], "std": [1.0]},
            "config": {"inversion": open_to_users, "labels_per_block": LABELS_PER_BLOCK},
        }
        once = {"Idempotency-Key": uuid4().hex}
        answer = self.ask("POST", "/v1/scans", tenant_id, once, json={"force": True, **body, **options})
        return str(answer.raise_for_status().json()["id"])

    def state(self, scan_id: str, tenant_id: str = DEFAULT_TENANT) -> dict[str, Any]:
        answer: dict[str, Any] = self.ask("GET", f"/v1/scans/{scan_id}", tenant_id).raise_for_status().json()
        return answer

    def wait_for(
        self, scan_ids: Sequence[str], seconds: float = PATIENCE_SECONDS, tenant_id: str = DEFAULT_TENANT
    ) -> list[dict[str, Any]]:
        """The scans' last states, once all have ended. In the tests' times the leases of the dead run out meanwhile."""

        def ended(scan_id: str) -> dict[str, Any] | None:
            if self.times:
                leases.run_out(self.database)
            state = self.state(scan_id, tenant_id)
            return None if state["status"] in OPEN_SCANS else state

        return [
            eventually(lambda scan_id=scan_id: ended(scan_id), seconds, unavailable=OperationalError, pause=0.5)
            for scan_id in scan_ids
        ]

    def jobs(self, scan_id: str) -> Sequence[Job]:
        with self.database.reading() as session:
            return session.query(Job).where(Job.scan_id == scan_id).order_by(Job.id).all()

    def times_done(self) -> Counter[str]:
        """How often the workers' logs say of each job that its results were recorded."""
        lines = [line for name in self.workers for line in (self.folder / f"{name}.log").read_text().splitlines()]
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return Counter(event["job"] for event in events if event["event"] == "job_done")

    def _run_to_the_end(self, name: str) -> None:
        command, environment = self._how_to_run(name)
        subprocess.run(command, env=environment, cwd=compose.ROOT, check=True)

    def _how_to_run(self, name: str) -> tuple[list[str], dict[str, str]]:
        service = self.services["worker-cpu" if name in self.workers else name]
        data = self.folder / name  # of each container its own
        data.mkdir(exist_ok=True)
        passed_on = {key: os.environ[key] for key in ("HOME", "TORCH_HOME", "OMP_NUM_THREADS") if key in os.environ}
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**passed_on, "PATH": programs, "TRIGGERLENS_DATA_DIR": str(data), **self.times}
        program = shutil.which(service.command[0], path=programs)
        assert program is not None, service.command
        words = ["0" if word == "8360" else word for word in service.command[1:]]
        return [program, *words], {**environment, **service.environment}


def children_of(process: int) -> list[int]:
    """The processes that a process has started."""
    return [pid for pid, (_, parent) in _processes().items() if parent == process]


def engines_below(folder: Path) -> list[int]:
    """The engines at work in job directories below a folder."""
    there = f"{folder}{os.sep}"
    return [pid for pid, (words, _) in _processes().items() if "worker.engine" in words and there in " ".join(words)]


def _processes() -> dict[int, tuple[list[str], int]]:
    """Command line and parent of every process of this machine."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            found[int(path.name)] = words, int(parent)
    return found
