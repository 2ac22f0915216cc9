"""The fence around an engine, which runs what strangers uploaded: bubblewrap, or none.

Within the fence there is the interpreter with its packages, to read; the inputs of one job, to read; one folder to
write to; an empty network, no other processes, no devices but those that are computed on, an environment of a few
names, no rights, and no system calls that computing does not need (`seccomp.py`). What it cannot take is time, memory
and disk space: those `launch.py` watches. docs/threat-model.md says what is left.
"""

import functools
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from app.core.errors import Refusal
from worker.sandbox import seccomp

Sandbox = Literal["bwrap", "none"]
Wanted = Literal["auto", "bwrap", "none"]

PROBE_SECONDS = 20.0
PACKAGES = ("app", "models", "worker")  # ours
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")  # libraries
CORES = "/sys/devices/system/cpu"
MEMORY = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.stat")  # what a container may use, and does
GPU_DEVICES = ("nvidia[0-9]*", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-caps/*")
GPU_SYSTEM = ("/sys/module", "/sys/bus/pci", "/sys/devices", "/etc/vulkan", "/run/nvidia-persistenced")
PASSED_ON = ("LANG", "LC_ALL", "TZ", "PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "CUDA_VISIBLE_DEVICES", "TORCH_HOME")
PASSED_ON_PREFIXES = ("OMP_", "MKL_", "KMP_", "CUDA_", "NVIDIA_", "CUBLAS_", "TORCH_")
TEMPORARY = ("/tmp", "/dev/shm")
TEMPORARY_BYTES = 256 * 2**20  # of each


@dataclass(frozen=True)
class Fence:
    """What one engine may see beside the interpreter: paths to read, one to write, and whether GPUs are there."""

    readable: Mapping[Path, str]  # where each is outside -> inside
    writable: tuple[Path, str]
    gpus: bool = False

    def command(self, inner: Sequence[str], filter_descriptor: int) -> list[str]:
        """The command in bubblewrap; the system call filter is read from a descriptor that has to be passed on.

        It is to be started in the environment of `known_inside`: bubblewrap passes its own on, and stays to be looked
        at from within.
        """
        return [
            *("bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534"),
            *("--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "engine"),
            *("--proc", "/proc", "--dev", "/dev"),
            *(word for place in TEMPORARY for word in ("--size", str(TEMPORARY_BYTES), "--tmpfs", place)),
            *(word for path in _interpreter() for word in ("--ro-bind", str(path), str(path))),
            *(self._gpu_words() if self.gpus else ()),
            *(word for outside, inside in self.readable.items() for word in ("--ro-bind", str(outside), inside)),
            *("--bind", str(self.writable[0]), self.writable[1]),
            *("--remount-ro", "/dev", "--remount-ro", "/"),  # they are memory, of which nobody would see the use
            *("--chdir", "/tmp", "--seccomp", str(filter_descriptor), "--", *inner),
        ]

    @staticmethod
    def _gpu_words() -> Iterator[str]:
        for pattern in GPU_DEVICES:
            for device in sorted(map(str, Path("/dev").glob(pattern))):
                yield from ("--dev-bind", device, device)
        for path in GPU_SYSTEM:
            if Path(path).exists():
                yield from ("--ro-bind", path, path)


def _interpreter() -> list[Path]:
    """Python, its packages and ours, and the libraries of the system; a path within another one is left out."""
    ours = [Path(spec.origin).parent for name in PACKAGES if (spec := importlib.util.find_spec(name)) and spec.origin]
    paths = [*map(Path, (*SYSTEM, CORES, *MEMORY, sys.prefix, sys.base_prefix)), *ours, *_hub_caches()]
    there = [path for path in dict.fromkeys(paths) if path.exists()]
    return [path for path in there if not any(path != other and path.is_relative_to(other) for other in there)]


def _hub_caches() -> list[Path]:
    """Where torch keeps the perceptual backbones that were downloaded; the fence has the same home for it to look."""
    home = os.environ.get("TORCH_HOME")
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return [Path(home or Path(cache) / "torch").expanduser() / "hub" / "checkpoints"]


def known_inside(given: Mapping[str, str]) -> dict[str, str]:
    """What the engine may know of the environment: how to find its libraries and how to compute."""
    passed = {name: value for name, value in given.items() if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)}
    ours = importlib.util.find_spec("worker")
    assert ours is not None and ours.origin is not None
    paths = [str(Path(ours.origin).parents[1]), *filter(None, [passed.get("PYTHONPATH")])]
    home = str(_hub_caches()[0].parents[1])
    return {**passed, "PYTHONPATH": os.pathsep.join(paths), "TORCH_HOME": home, "HOME": "/tmp", "TMPDIR": "/tmp"}


def filter_file() -> int:
    """A descriptor to read the system call filter of this machine from. The caller closes it."""
    descriptor = os.memfd_create("seccomp")
    os.write(descriptor, seccomp.program(platform.machine()))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def run(
    fence: Fence, inner: Sequence[str], environment: Mapping[str, str], seconds: float = PROBE_SECONDS
) -> subprocess.CompletedProcess[str]:
    """A short command behind a fence, with what it printed."""
    filtered = filter_file()
    try:
        return subprocess.run(
            fence.command(inner, filtered),
            capture_output=True,
            text=True,
            timeout=seconds,
            env=known_inside(environment),
            pass_fds=(filtered,),
            check=False,
        )
    finally:
        os.close(filtered)


class Lack(NamedTuple):
    """Why there can be no fence here, and what to do about it."""

    found: str
    advice: str


@functools.cache
def lacking() -> Lack | None:
    """What bubblewrap lacks to fence an engine here; None where it can. Tried once in a process."""
    if sys.platform != "linux" or platform.machine() not in seccomp.AUDIT:
        return Lack(f"none is built for {sys.platform} on {platform.machine()}", "Use a Linux machine, or a container.")
    if shutil.which("bwrap") is None:
        return Lack("bubblewrap is not installed", "`apt-get install bubblewrap`, or what your system calls it.")
    try:
        with tempfile.TemporaryDirectory() as folder:
            tried = run(Fence({}, (Path(folder), "/out")), [sys.executable, "-c", "pass"], os.environ)
    except subprocess.TimeoutExpired:
        return Lack(f"bubblewrap did not start within {PROBE_SECONDS:.0f} s", "See what keeps this machine busy.")
    if tried.returncode == 0:
        return None
    why = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
    return Lack(f"bubblewrap fails ({why})", "Allow user namespaces; in a container as docs/deploy.md says.")


def choose(wanted: Wanted) -> Sandbox:
    """The backend to use; by "auto" bubblewrap where it works. Raises Refusal where it is asked for and does not."""
    if wanted == "none" or (wanted == "auto" and lacking() is not None):
        return "none"
    if (lack := lacking()) is not None:
        raise Refusal("no_sandbox", f"The sandbox does not work here: {lack.found}.", lack.advice)
    return "bwrap"
