"""The service as compose runs it, over real servers: two workers find what one would, and everything is done once."""

import os
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.core.config import ScanConfig
from app.core.intake.declaration import DeclaredInput
from app.core.lifecycle import JobState, ScanStatus
from app.core.plan import JobKind
from app.core.queue import CeleryQueue, make_celery
from app.core.tables import DEFAULT_TENANT
from app.local_scan import job_for, run_scan
from tests.flow.stack import Stack, children_of
from tests.processes import needs_proc
from tests.toys import LABELS_PER_BLOCK, SHORT
from tests.waiting import PATIENCE_SECONDS, eventually
from worker.sandbox.fence import choose

pytestmark = [needs_proc, pytest.mark.slow, pytest.mark.long, pytest.mark.real]


def assert_done_once(stack: Stack, scan_id: str, times_done: Counter[str]) -> None:
    """Each job was claimed once, and recorded once."""
    jobs = stack.jobs(scan_id)
    assert {(job.state, job.lease_token, job.losses) for job in jobs} == {(JobState.DONE, 1, 0)}
    assert {times_done[job.id] for job in jobs} == {1}


def numbers(report: dict[str, Any]) -> dict[str, Any]:
    """A report without its durations."""
    return {name: value for name, value in report.items() if name != "timings"}


def test_one_scan_over_two_workers_gives_the_numbers_of_a_scan_on_a_laptop(stack: Stack, tmp_path: Path) -> None:
    inputs = stack.upload_toy()
    names = {"model_name": "toy.pt", "bundle_name": "toy.npz"}
    for _ in range(10):  # one worker may stand still until the other has done all
        scan_id = stack.request(inputs, inversion=SHORT, repair=True, **names)
        (state,) = stack.wait_for([scan_id])
        assert state["status"] == ScanStatus.FINISHED
        assert_done_once(stack, scan_id, stack.times_done())
        if len({job.lease_owner for job in stack.jobs(scan_id) if job.kind == JobKind.INVERT}) == 2:
            break
    else:
        pytest.fail("the workers do not share a scan")

    model, bundle = stack.folder / "toy.pt", stack.folder / "toy.npz"
    config, declared = (
        ScanConfig(inversion=SHORT, labels_per_block=LABELS_PER_BLOCK),
        DeclaredInput(mean=(0.0,), std=(1.0,)),
    )
    job = job_for(model, bundle, config=config, input=declared, repair=True, threads=1)
    local = run_scan(job, model, bundle, tmp_path / "out", lambda event: None, sandbox=choose("auto"))
    report = stack.ask("GET", f"/v1/scans/{scan_id}/report").json()
    assert local.document is not None
    assert numbers(report) == numbers(local.document)
    if state["summary"]["repair_status"] == "repaired":
        weights = stack.ask("GET", f"/v1/scans/{scan_id}/repaired?format=safetensors").content
        assert weights == (tmp_path / "out" / "repaired.safetensors").read_bytes()


def test_sixteen_scans_submitted_at_once_all_finish_and_none_is_doubled(stack: Stack) -> None:
    inputs = {tenant_id: stack.upload_toy(tenant_id, labels=3) for tenant_id in (DEFAULT_TENANT, "another")}
    asked = [(tenant_id, seed) for tenant_id in inputs for seed in range(8)]
    with ThreadPoolExecutor(len(asked)) as pool:
        scan_ids = list(pool.map(lambda ask: stack.request(inputs[ask[0]], ask[0], seed=ask[1]), asked))
    assert len(set(scan_ids)) == 16
    for tenant_id in inputs:
        mine = [scan_id for scan_id, (owner, _) in zip(scan_ids, asked, strict=True) if owner == tenant_id]
        ended = stack.wait_for(mine, 1800, tenant_id)
        assert {state["status"] for state in ended} == {ScanStatus.FINISHED}
        assert sorted(state["seed"] for state in ended) == list(range(8))
        other = "another" if tenant_id == DEFAULT_TENANT else DEFAULT_TENANT
        assert stack.ask("GET", f"/v1/scans/{mine[0]}", other).status_code == 404
        listed = {scan["id"] for scan in stack.ask("GET", "/v1/scans?limit=100", tenant_id).json()["items"]}
        assert set(mine) <= listed and not listed & (set(scan_ids) - set(mine))
    times_done = stack.times_done()
    for scan_id in scan_ids:
        assert_done_once(stack, scan_id, times_done)


def test_a_hundred_rings_for_one_scan_are_one_execution(stack: Stack) -> None:
    inputs = stack.upload_toy()
    queue = CeleryQueue(make_celery(stack.redis.url))
    scan_id = stack.request(inputs)
    for _ in range(100):
        queue.ring("cpu")
    assert stack.wait_for([scan_id])[0]["status"] == ScanStatus.FINISHED
    assert_done_once(stack, scan_id, stack.times_done())


def test_a_cancel_frees_the_workers(stack: Stack) -> None:
    scan_id = stack.request(stack.upload_toy(), inversion=replace(SHORT, steps=100_000))
    eventually(lambda: stack.state(scan_id)["stage"] == JobKind.INVERT)
    stack.ask("POST", f"/v1/scans/{scan_id}/cancel")
    assert stack.wait_for([scan_id])[0]["status"] == ScanStatus.CANCELLED


def test_a_pool_ends_with_its_parent_however_that_ends(stack: Stack) -> None:
    """Killed, or asked to end after one of its processes was killed."""
    for name, was_shot in zip(stack.workers, (False, True), strict=True):
        parent = stack.processes[name].pid
        (child,) = eventually(lambda parent=parent: children_of(parent))  # one that ends is followed by another
        if was_shot:
            os.kill(child, signal.SIGKILL)
            (child,) = eventually(lambda parent=parent, shot=child: set(children_of(parent)) - {shot})
            stack.processes[name].terminate()
            stack.processes[name].wait(PATIENCE_SECONDS)
        else:
            stack.kill(name)
        eventually(lambda child=child: not Path(f"/proc/{child}").exists())
        stack.start(name)
    stack.wait_until_ready()
