"""A service as people start it, in processes of its own."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.client import Client
from app.core.config import InversionConfig
from app.core.database import Database
from tests.flow import leases
from tests.flow.cli import command
from tests.processes import needs_proc as needs_proc
from tests.waiting import PATIENCE_SECONDS, eventually

LANES = 2
# In a hurry, but for the lease: a worker that is killed is missed when a test lets its leases run out.
HASTE = {"HEARTBEAT_SECONDS": "0.5", "SWEEP_SECONDS": "0.5", "POLL_SECONDS": "0.2"}


@dataclass(frozen=True)
class Served:
    """A running `triggerlens serve`; `client` talks to it."""

    process: "subprocess.Popen[str]"
    address: str
    data: Path
    client: Client

    def processes(self) -> dict[str, list[int]]:
        """The ids of its living children by what they run: the worker was told the data folder by the environment, an
        engine its job directory below it by the command."""
        found: dict[str, list[int]] = {"worker.embedded": [], "worker.engine": []}
        mark = f"TRIGGERLENS_DATA_DIR={self.data}".encode()
        for path in Path("/proc").glob("[0-9]*"):
            try:
                environment, words = (path / "environ").read_bytes(), (path / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            if mark in environment.split(b"\0") or any(word.startswith(os.fsencode(self.data)) for word in words):
                for module, ids in found.items():
                    if module.encode() in words:
                        ids.append(int(path.name))
        return found

    def one(self, module: str) -> int:
        """The process that runs a module, once there is one."""
        return eventually(lambda: self.processes()[module])[0]

    def let_leases_run_out(self) -> None:
        """Those of workers that are no more."""
        database = Database(f"sqlite:///{self.data / 'triggerlens.sqlite3'}")
        leases.run_out(database)
        database.close()


@contextmanager
def serving(data: Path, search: InversionConfig | None = None) -> Iterator[Served]:
    """A service on a free port; ended, if the test has not done so, when the block ends."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRIGGERLENS_")}
    environment |= {f"TRIGGERLENS_{name}": value for name, value in HASTE.items()}
    environment |= {"TRIGGERLENS_LEASE_SECONDS": str(leases.LEASE_SECONDS), "TRIGGERLENS_THREADS": "1"}
    environment["TRIGGERLENS_LANES"] = str(LANES)
    asked = command(["serve", "--port", 0, "--data-dir", data], search)
    with data.with_suffix(".log").open("w") as log:
        process = subprocess.Popen(
            asked, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=data.parent
        )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    try:
        with Client(address) as client:
            yield Served(process, address, data, client)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_SECONDS)
        process.stdout.close()
