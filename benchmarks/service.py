"""What the service costs: `python -m benchmarks.service overhead|start|upload|polling|workers`

overhead  a scan of the examples' digits model by the embedded service, and by the bare engine
start     seconds until the API answers, and whether it has loaded torch
upload    the largest memory of the API while 2 GB are uploaded
polling   latency of 30 clients that ask once a second, over 10,000 scans in SQLite and beside one that computes
workers   a scan of ten labels by one Celery worker and by two, over PostgreSQL, Redis and an S3 server

Everything runs on one thread per engine; the result goes to `benchmarks/results/`.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import httpx
from sqlalchemy import insert

from app.client import Client
from app.core import migrating
from app.core.database import Database
from app.core.findings import FamilyFinding
from app.core.intake.declaration import DeclaredInput
from app.core.lifecycle import JobState, ScanStatus
from app.core.plan import JobKind
from app.core.presets import preset_config
from app.core.tables import DEFAULT_TENANT, Event, Job, LabelRow, Scan, new_id
from app.local_scan import job_for, run_scan
from benchmarks.datasets import REPOSITORY
from benchmarks.faults import running_stack
from benchmarks.recording import write_result
from tests import factories
from tests.flow.stack import Stack, children_of
from tests.waiting import eventually

MODEL = REPOSITORY / "examples" / "digits_wanet.pt"
BUNDLE = REPOSITORY / "examples" / "digits_bundle.npz"
MB = 10**6
NICENESS = 10


@dataclass(frozen=True)
class Served:
    """`triggerlens serve`, at work."""

    url: str
    process: int
    start_seconds: float

    def status(self, name: str) -> float:
        """A figure that Linux keeps about the API's process, in MB."""
        line = next(line for line in Path(f"/proc/{self.process}/status").read_text().splitlines() if name in line)
        return int(line.split()[1]) * 1024 / MB

    @property
    def loaded_torch(self) -> bool:
        return "torch" in Path(f"/proc/{self.process}/maps").read_text()


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """The embedded service over a data folder."""
    program = [Path(sys.executable).with_name("triggerlens"), "serve", "--port", "0", "--data-dir", folder]
    environment = {**os.environ, "TRIGGERLENS_THREADS": "1", "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    with (folder / "serve.log").open("ab") as log:
        process = subprocess.Popen(
            program, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()  # which it says when it listens
        httpx.get(f"{url}/healthz", trust_env=False).raise_for_status()
        yield Served(url, process.pid, time.monotonic() - began)
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


@contextmanager
def new_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="triggerlens-") as name:
        yield Path(name)


def overhead(repeats: int) -> dict[str, Any]:
    """Seconds of whole scans, one after the other in turn."""
    engine, service = [], []
    for _ in range(repeats):
        with new_folder() as folder:
            began = time.monotonic()
            job = job_for(MODEL, BUNDLE, config=preset_config("paper"), input=DeclaredInput(), device="cpu", threads=1)
            bare = run_scan(job, MODEL, BUNDLE, folder / "out", lambda event: None).document
            engine.append(time.monotonic() - began)
        with new_folder() as folder, served(folder) as at, Client(at.url) as client:
            eventually(lambda at=at: httpx.get(f"{at.url}/readyz", trust_env=False).json()["workers_alive"], 30)
            began = time.monotonic()
            model, bundle = client.upload(MODEL, "model").sha256, client.upload(BUNDLE, "bundle").sha256
            scan = client.wait(client.request_scan(model, bundle, preset="paper").id)
            service.append(time.monotonic() - began)
            report = client.report(scan.id)
            assert bare is not None and [row["norm"] for row in report["labels"]] == [
                row["norm"] for row in bare["labels"]
            ]
    return {
        "engine_seconds": engine,
        "service_seconds": service,
        "difference_seconds": median(service) - median(engine),
        "goal_seconds": 10,
    }


def start(repeats: int) -> dict[str, Any]:
    """Of a service that has been there before."""
    seconds, torch = [], []
    with new_folder() as folder:
        for _ in range(repeats + 1):
            with served(folder) as at:
                seconds.append(at.start_seconds)
                torch.append(at.loaded_torch)
    return {"first_seconds": seconds[0], "seconds": seconds[1:], "loaded_torch": any(torch), "goal_seconds": 3}


def upload(megabytes: int) -> dict[str, Any]:
    """One upload, as fast as it goes."""

    def chunks() -> Iterator[bytes]:
        for number in range(megabytes):
            yield number.to_bytes(8, "big") * (MB // 8)

    with new_folder() as folder, served(folder) as at:
        before, began = at.status("VmRSS"), time.monotonic()
        put = partial(httpx.put, f"{at.url}/v1/artifacts", params={"kind": "model"}, timeout=600, trust_env=False)
        answer = put(content=chunks())
        assert answer.status_code == 201 and answer.json()["size"] == megabytes * MB, answer.text
        seconds, peak = time.monotonic() - began, at.status("VmHWM")
    return {
        "megabytes": megabytes,
        "seconds": seconds,
        "rss_before_mb": before,
        "peak_rss_mb": peak,
        "goal_mb": 150,
    }


def polling(scans: int, clients: int, seconds: int) -> dict[str, Any]:
    """Each client asks for the scan that computes and for one of those that have ended, in turn."""
    with new_folder() as folder:
        stored = fill(folder, scans)
        with served(folder) as at, Client(at.url) as client:
            (worker,) = eventually(lambda: children_of(at.process), 30)
            os.setpriority(os.PRIO_PROCESS, worker, NICENESS)  # the engine inherits it
            model, bundle = client.upload(MODEL, "model").sha256, client.upload(BUNDLE, "bundle").sha256
            scan_id = client.request_scan(model, bundle, config={"inversion": {"steps": 100_000}}).id
            eventually(lambda: client.scan(scan_id).stage == JobKind.INVERT, 120, pause=1.0)
            over = time.monotonic() + seconds
            with ThreadPoolExecutor(clients) as pool:
                asked = list(pool.map(lambda number: ask(at.url, scan_id, stored, over, number), range(clients)))
            assert client.scan(scan_id).status == ScanStatus.RUNNING, "it computed all the while"
            client.cancel(scan_id)
    latencies = sorted(1000 * latency for latencies in asked for latency in latencies)
    return {
        "scans": scans,
        "clients": clients,
        "requests": len(latencies),
        **{f"p{share}_ms": latencies[int(len(latencies) * share / 100)] for share in (50, 95, 99)},
        "max_ms": latencies[-1],
        "goal_p99_ms": 100,
    }


def ask(url: str, scan_id: str, stored: list[str], over: float, number: int) -> list[float]:
    """Seconds of each answer to one client, which asks once a second."""
    dice, latencies = random.Random(number), []
    with httpx.Client(base_url=url, trust_env=False) as client:
        time.sleep(dice.random())
        while (began := time.monotonic()) < over:
            wanted = scan_id if len(latencies) % 2 else dice.choice(stored)
            client.get(f"/v1/scans/{wanted}").raise_for_status()
            latencies.append(time.monotonic() - began)
            time.sleep(max(0.0, 1 - latencies[-1]))
    return latencies


def fill(folder: Path, count: int) -> list[str]:
    """A database of so many finished scans, each with all that one of ten labels leaves. Returns their ids."""
    database = Database(f"sqlite:///{folder / 'triggerlens.sqlite3'}")
    migrating.upgrade(database)
    with database.writing() as session:
        pattern = factories.scan(session, status=ScanStatus.FINISHED, stage=JobKind.REPORT, verdict="no_backdoor_found")
        columns = {column.key: getattr(pattern, column.key) for column in Scan.__table__.columns}
        session.delete(pattern)
    summary = {"flagged_labels": [], "model_anomaly_index": 1.2, "reasons": [], "caveats": [], "repair_status": None}
    ended = {"started_at": 1.0, "finished_at": 60.0, "labels_total": 10, "last_event": 20, "summary": summary}
    ids = [new_id() for _ in range(count)]
    mine = {"tenant_id": DEFAULT_TENANT}
    kinds = [kind for kind in JobKind if kind is not JobKind.REPAIR]
    finding = {"name": "0", "families": [vars(FamilyFinding("dynamic", 0.05, 0.98, 0.1, 200, anomaly_index=1.0))]}
    with database.writing() as session:
        session.execute(insert(Scan), [columns | ended | {"id": scan_id} for scan_id in ids])
        for table, rows in (
            (Job, [{"id": None, "kind": kind, "labels": [], "queue": "cpu", "state": JobState.DONE} for kind in kinds]),
            (LabelRow, [{"label": label, "finding": finding | {"label": label}} for label in range(10)]),
            (Event, [{"number": number, "name": "label", "data": {"label": 0}} for number in range(1, 21)]),
        ):
            for begin in range(0, count, 1000):
                few = [mine | row | {"scan_id": scan_id} for scan_id in ids[begin : begin + 1000] for row in rows]
                session.execute(insert(table), [row | {"id": new_id()} if "id" in row else row for row in few])
    database.close()
    return ids


def workers(repeats: int) -> dict[str, Any]:
    """Seconds from the first block's start to the last one's end, and of the whole scan, by one worker and by two."""
    inversion: dict[int, list[float]] = {1: [], 2: []}
    whole: dict[int, list[float]] = {1: [], 2: []}
    for count in inversion:
        with running_stack(workers=count) as stack:
            inputs = {"model": stack.upload(MODEL, "model"), "bundle": stack.upload(BUNDLE, "bundle")}
            for _ in range(repeats):
                scan_id = request_paper(stack, inputs)
                (state,) = stack.wait_for([scan_id], 1800)
                assert state["status"] == ScanStatus.FINISHED, state
                jobs = stack.jobs(scan_id)
                blocks = [job for job in jobs if job.kind == JobKind.INVERT]
                inversion[count].append(_span(blocks))
                whole[count].append(_span(list(jobs)))
    return {
        "inversion_seconds": inversion,
        "scan_seconds": whole,
        "inversion_ratio": mean(inversion[2]) / mean(inversion[1]),
        "scan_ratio": mean(whole[2]) / mean(whole[1]),
        "goal_inversion_ratio": 0.65,
    }


def request_paper(stack: Stack, inputs: dict[str, str]) -> str:
    """A scan by the paper's method, whose time the search takes."""
    answer = stack.ask("POST", "/v1/scans", json={**inputs, "preset": "paper", "force": True})
    return str(answer.raise_for_status().json()["id"])


def _span(jobs: list[Job]) -> float:
    return max(job.finished_at or 0.0 for job in jobs) - min(job.started_at or 0.0 for job in jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-result", action="store_true", help="print only: this was a trial")
    commands = parser.add_subparsers(dest="command", required=True)
    for measure, options in (
        (overhead, {"repeats": 3}),
        (start, {"repeats": 5}),
        (upload, {"megabytes": 2000}),
        (polling, {"scans": 10_000, "clients": 30, "seconds": 60}),
        (workers, {"repeats": 3}),
    ):
        command = commands.add_parser(measure.__name__)
        command.set_defaults(measure=measure)
        for name, default in options.items():
            command.add_argument(f"--{name}", type=int, default=default)
    given = vars(parser.parse_args())
    name, no_result, measure = given.pop("command"), given.pop("no_result"), given.pop("measure")
    result = {**measure(**given), "threads": 1}
    print(json.dumps(result, indent=1))
    if not no_result:
        write_result(f"service-{name}", result)


if __name__ == "__main__":
    main()
