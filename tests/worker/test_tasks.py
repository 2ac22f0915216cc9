"""The Celery worker, as far as no broker is needed: what it imports, how it is set up, and which GPU it sees."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.core.queue import RING_TASK, make_celery

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "torchvision", "lpips", "safetensors"}


def test_importing_a_service_needs_no_environment_no_server_and_no_torch(tmp_path: Path) -> None:
    code = f"""
import socket, sys
def refuse(*arguments): raise AssertionError("it talks to somebody")
socket.socket.connect = refuse
import worker.celery, worker.tasks, worker.sweeper, worker.embedded, app.main
print(sorted({{*sys.modules}} & {HEAVY!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT), "PATH": os.defpath},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
    assert list(tmp_path.iterdir()) == [], "it makes no files"


def test_the_application_is_a_plain_celery_that_knows_the_ring() -> None:
    from celery import Celery

    from worker.celery import app
    from worker.tasks import ring

    assert type(app) is Celery and ring.name == RING_TASK
    app.loader.import_default_modules()
    assert RING_TASK in app.tasks


def test_rings_are_acknowledged_early_never_hoarded_and_leave_no_result() -> None:
    conf = make_celery("redis://example/0").conf
    assert not conf.task_acks_late and conf.worker_disable_prefetch and conf.worker_prefetch_multiplier == 1
    assert conf.task_ignore_result and conf.result_backend is None and conf.worker_pool == "prefork"
    assert {queue.name for queue in conf.task_queues} == {"cpu", "gpu"} and not conf.task_create_missing_queues
    timeouts = {
        conf.visibility_timeout,
        conf.broker_transport_options["visibility_timeout"],
        conf.result_backend_transport_options["visibility_timeout"],
    }
    assert len(timeouts) == 1, "the shortest wins"


@pytest.mark.parametrize(
    ("environment", "seen"),
    [
        ({}, ["0", "1", "2"]),
        ({"CUDA_VISIBLE_DEVICES": "4,5,6"}, ["4", "5", "6"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a"}, ["GPU-a", "GPU-a", "GPU-a"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, ["", "", ""]),
    ],
    ids=["all", "three", "one for several", "none"],
)
def test_each_process_of_a_pool_sees_one_gpu(environment: dict[str, str], seen: list[str]) -> None:
    from worker.tasks import own_gpu

    assert [own_gpu(environment, index)["CUDA_VISIBLE_DEVICES"] for index in range(3)] == seen
