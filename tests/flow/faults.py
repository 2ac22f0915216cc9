"""What may go wrong with a running stack, and one trial of it: a scan is asked for, something breaks at a random moment
of it, and the scan has to end as if nothing had happened. Used by test_faults.py and by benchmarks/faults.py.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from sqlalchemy import func, select

from app.core.lifecycle import OPEN_SCANS, JobState, ScanStatus
from app.core.plan import JobKind
from app.core.repository import scans
from app.core.tables import DEFAULT_TENANT, Scan
from tests.flow.stack import Stack, children_of, engines_below
from tests.waiting import eventually

MOMENTS = 10.0  # seconds of a small scan in which something may break
PAUSE = 4.0  # seconds that the storage does not answer
LONGEST_SECONDS = 90.0  # until a scan has got over it


@dataclass(frozen=True)
class Trial:
    """One fault and what became of the scan under way."""

    fault: str
    scans_asked_for: int  # those that ended before anything broke, too
    after_seconds: float  # of the scan
    recovery_seconds: float  # from the fault to the end of the scan, the rest of its work included
    status: str
    blocks_repeated: int
    jobs_repeated: int
    doubled: int  # jobs, findings or ends that were recorded twice, and scans that were made twice

    @property
    def survived(self) -> bool:
        return self.status == ScanStatus.FINISHED and self.blocks_repeated <= 1 and not self.doubled

    @property
    def is_good(self) -> bool:
        """Soon, too."""
        return self.survived and self.recovery_seconds <= LONGEST_SECONDS


class TooLate(Exception):
    """The scan had ended before anything could break."""


def _check_under_way(stack: Stack) -> None:
    with stack.database.reading() as session:
        if not session.scalar(select(func.count()).select_from(Scan).where(Scan.status.in_(OPEN_SCANS))):
            raise TooLate


def _kill(*processes: int) -> None:
    for process in processes:
        os.kill(process, signal.SIGKILL)


def kill_one_worker(stack: Stack, random: Random) -> None:
    stack.kill(random.choice(stack.workers))


def kill_a_process_of_a_pool(stack: Stack, random: Random) -> None:
    _kill(*children_of(stack.processes[random.choice(stack.workers)].pid))


def kill_an_engine(stack: Stack, random: Random) -> None:
    """One that is at work, for which some moments are too early."""

    def at_work() -> list[int]:
        _check_under_way(stack)
        return engines_below(stack.folder)

    _kill(random.choice(eventually(at_work)))


def stop_one_worker(stack: Stack, random: Random) -> None:
    """In order, as `docker compose stop` does."""
    stack.end(random.choice(stack.workers))


def flush_redis(stack: Stack, random: Random) -> None:
    stack.redis.client.flushall()


def restart_redis(stack: Stack, random: Random) -> None:
    stack.redis.stop()
    stack.redis.start()


def restart_postgresql(stack: Stack, random: Random) -> None:
    """As `pg_ctl restart -m fast` does."""
    stack.postgresql.stop()
    stack.postgresql.start()


def pause_the_storage(stack: Stack, random: Random) -> None:
    assert stack.s3.process is not None
    stack.s3.process.send_signal(signal.SIGSTOP)
    time.sleep(PAUSE)
    stack.s3.process.send_signal(signal.SIGCONT)


FAULTS: dict[str, Callable[[Stack, Random], None]] = {
    "api killed": lambda stack, random: stack.kill("api"),
    "sweeper killed": lambda stack, random: stack.kill("sweeper"),
    "worker killed": kill_one_worker,
    "pool process killed": kill_a_process_of_a_pool,
    "engine killed": kill_an_engine,
    "worker stopped": stop_one_worker,
    "redis flushed": flush_redis,
    "redis restarted": restart_redis,
    "postgresql restarted": restart_postgresql,
    "storage paused": pause_the_storage,
}


def try_fault(stack: Stack, inputs: dict[str, str], fault: str, random: Random) -> Trial:
    """Ask for a scan, let something break at a random moment of it, and look at the end."""
    asked_for = 0
    while True:
        asked_for += 1
        scan_id, began = stack.request(inputs), time.monotonic()
        time.sleep(random.uniform(0, MOMENTS))
        broke = time.monotonic()
        try:
            _check_under_way(stack)
            FAULTS[fault](stack, random)
            break
        except TooLate:
            continue  # a scan that ended before anything broke says nothing
    stack.keep_alive()
    (state,) = stack.wait_for([scan_id])
    recovery = time.monotonic() - broke
    jobs = stack.jobs(scan_id)
    claims = {job.id: job.lease_token - 1 for job in jobs}
    return Trial(
        fault=fault,
        scans_asked_for=asked_for,
        after_seconds=round(broke - began, 1),
        recovery_seconds=round(recovery, 1),
        status=state["status"],
        blocks_repeated=sum(claims[job.id] for job in jobs if job.kind == JobKind.INVERT),
        jobs_repeated=sum(claims.values()),
        doubled=doubled(stack, scan_id),
    )


def doubled(stack: Stack, scan_id: str) -> int:
    """How much of a scan is there more often than once."""
    with stack.database.reading() as session:
        scan = scans.find(session, DEFAULT_TENANT, scan_id)
        assert scan is not None
        told = Counter(
            (event.name, event.data.get("label"))
            for event in scans.events_after(session, scan, 0)
            if event.name != "stage"
        )
    unfinished = sum(job.state != JobState.DONE for job in stack.jobs(scan_id))
    return sum(count - 1 for count in told.values()) + unfinished


def scans_there(stack: Stack) -> int:
    with stack.database.reading() as session:
        return session.scalar(select(func.count()).select_from(Scan)) or 0
