"""What processes take of this machine, as far as it can be asked (Linux)."""

import os
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


def memory_bytes() -> float:
    """The memory of this machine, or what its container may use of it."""
    whole = float(os.sysconf("SC_PHYS_PAGES") * PAGE)
    try:
        return min(whole, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or no limit: "max"
        return whole


def memory_left() -> float:
    """What can still be taken before something has to give way, however it is taken: a process can hold memory that is
    not counted as its own, in files without a name, say."""
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        left = float(fields["MemAvailable"].split()[0]) * 1024
    except OSError:
        return float("inf")
    try:
        most = float(Path("/sys/fs/cgroup/memory.max").read_text())
        held = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
        return min(left, most - float(held["anon"]) - float(held["shmem"]))
    except (OSError, ValueError):
        return left


def usage(process: int) -> tuple[int, int]:
    """Resident bytes and threads of a process and all that it has started; zeros of one that has ended."""
    proc = Path("/proc") / str(process)
    try:
        resident = int((proc / "statm").read_text().split()[1]) * PAGE
        threads = len(os.listdir(proc / "task"))
        children = [
            int(child) for task in (proc / "task").iterdir() for child in (task / "children").read_text().split()
        ]
    except (OSError, IndexError):
        return 0, 0
    below = [usage(child) for child in children]
    return resident + sum(bytes_ for bytes_, _ in below), threads + sum(threads for _, threads in below)
