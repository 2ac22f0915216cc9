"""What a stranger's model might try, tried by ourselves behind the fence: `triggerlens doctor` shows what came of it.

    python -m worker.sandbox.probes CANARY PARENT      (inside; a probe that gets its way is a hole)

CANARY is a file outside, as another tenant's upload would be; PARENT a process outside. Prints JSON: name -> how it was
stopped, or null where it was not.
"""

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from worker.sandbox import limits
from worker.sandbox.fence import Fence, run
from worker.sandbox.seccomp import DENIED

LIBC = ctypes.CDLL(None, use_errno=True)
SECRET = "TRIGGERLENS_PROBE_SECRET"
HARMLESS_DEVICES = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "fd", "core", "console"}
HARMLESS_DEVICES |= {"stdin", "stdout", "stderr"}
CHUNK = 2**24


class StoppedError(Exception):
    """A probe found a wall where it looked for a way."""


def main() -> None:
    canary, parent = Path(sys.argv[1]), int(sys.argv[2])
    limits.lower()
    print(json.dumps({name: _tried(probe) for name, probe in probes(canary, parent).items()}))


def probes(canary: Path, parent: int) -> dict[str, Callable[[], object]]:
    """What is tried, by name. Each raises where it is stopped."""
    return {
        "connect to the internet": lambda: socket.create_connection(("1.1.1.1", 53), timeout=2),
        "listen on loopback": lambda: socket.create_server(("127.0.0.1", 0)),
        "open a local socket": lambda: socket.socket(socket.AF_UNIX),
        "read the system's users": lambda: Path("/etc/passwd").read_text(),
        "read another tenant's file": canary.read_bytes,
        "write over another tenant's file": lambda: canary.write_bytes(b"taken"),
        "write over its own inputs": lambda: Path("/inputs/model.pt").write_bytes(b"other"),
        "write into the interpreter": lambda: Path(sys.prefix, "taken").write_bytes(b""),
        "write into our code": lambda: Path(__file__).with_name("taken.py").write_bytes(b""),
        "write to the system": lambda: Path("/usr/taken").write_bytes(b""),
        "read secrets from the environment": _find_secret,
        "fill the memory by temporary files": _fill_temporary,
        "fill the memory by files in the root": lambda: Path("/flood").write_bytes(b"flood"),
        "fill the memory by files among devices": lambda: Path("/dev/flood").write_bytes(b"flood"),
        "write an endless file": _write_endless_file,
        "start a process": lambda: subprocess.run(["/bin/true"], check=True),
        "fork": _fork,
        "see other processes": _see_processes,
        "end a process outside": lambda: os.kill(parent, signal.SIGTERM),
        "trace a process": _system_call("ptrace", 0, 0, 0, 0),
        "read a process's memory": _system_call("process_vm_readv", 1, 0, 0, 0, 0, 0),
        "make a user namespace": _system_call("unshare", 0x10000000),
        "enter a namespace": _system_call("setns", 0, 0),
        "mount": _system_call("mount", 0, 0, 0, 0, 0),
        "change the root": _system_call("chroot", 0),
        "have rights": _have_capabilities,
        "make a device node": lambda: os.mknod("/tmp/sda", 0o60600, os.makedev(8, 0)),
        "see devices": _see_devices,
        "dump its memory": _allow_core_dumps,
        "use the kernel's keys": _system_call("keyctl", 0, 0, 0, 0, 0),
        "load a kernel program": _system_call("bpf", 0, 0, 0),
        "use io_uring": _system_call("io_uring_setup", 8, 0),
        "count the processor's events": _system_call("perf_event_open", 0, 0, -1, -1, 0),
        "handle page faults": _system_call("userfaultfd", 1),
    }


def _tried(probe: Callable[[], object]) -> str | None:
    try:
        probe()
    except (StoppedError, OSError, subprocess.SubprocessError) as stopped:
        return str(stopped)
    return None


def _system_call(name: str, *arguments: int) -> Callable[[], None]:
    def call() -> None:
        number = DENIED[name][0 if platform.machine() == "x86_64" else 1]
        if LIBC.syscall(number, *arguments) != -1:
            return
        if (error := ctypes.get_errno()) == errno.EPERM:  # any other one says that it was let through, and was wrong
            raise PermissionError(error, os.strerror(error))

    return call


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _find_secret() -> None:
    seen = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/environ")]
    if SECRET not in os.environ and not any(SECRET.encode() in environment for environment in seen):
        raise StoppedError("it is not there")


def _fill_temporary() -> None:
    path = Path("/tmp/flood")
    try:
        with path.open("wb") as file:
            for _ in range(64):
                file.write(bytes(CHUNK))
                file.flush()
    finally:
        path.unlink(missing_ok=True)


def _write_endless_file() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Path("/result/endless").open("wb") as file:
        file.seek(limits.FILE_BYTES)
        file.write(b"more")


def _see_processes() -> None:
    seen = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    if seen <= {1, os.getpid()}:
        raise StoppedError("none but itself")


def _have_capabilities() -> None:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    held = [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")]
    if not any(held) and status["NoNewPrivs"] == "1":
        raise StoppedError("none held, none to be had")


def _see_devices() -> None:
    seen = {name for name in os.listdir("/dev") if not name.startswith("nvidia")}
    if seen <= HARMLESS_DEVICES:
        raise StoppedError("harmless ones only")


def _allow_core_dumps() -> None:
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    except ValueError as error:
        raise StoppedError(str(error)) from error


def tried() -> dict[str, str | None]:
    """Try everything behind a fence like an engine's: name -> how it was stopped, None for a hole.

    Raises RuntimeError where the probes themselves do not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs, result, canary = (Path(folder, name) for name in ("inputs", "result", "canary"))
        for made in (inputs, result):
            made.mkdir()
        (inputs / "model.pt").write_bytes(b"model")
        canary.write_bytes(b"canary")
        inner = [sys.executable, "-m", "worker.sandbox.probes", str(canary), str(os.getpid())]
        done = run(Fence({inputs: "/inputs"}, (result, "/result")), inner, {**os.environ, SECRET: "secret"})
        if done.returncode != 0:
            raise RuntimeError(f"the probes ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
        stopped: dict[str, str | None] = json.loads(done.stdout)
        if canary.read_bytes() != b"canary":
            stopped["write over another tenant's file"] = None
        return stopped


if __name__ == "__main__":
    main()
