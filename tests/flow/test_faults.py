"""Whatever is killed, flushed, restarted or paused while a scan runs: it ends well, once, and soon."""

from collections.abc import Iterator
from random import Random

import pytest

from tests.flow.faults import FAULTS, scans_there, try_fault
from tests.flow.stack import Stack, engines_below
from tests.processes import needs_proc, own_world
from tests.servers import PostgresServer, RedisServer, S3Server

pytestmark = [needs_proc, pytest.mark.slow]
SEED = 4


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    postgresql_server: PostgresServer,
    redis_server: RedisServer,
    s3_server: S3Server,
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with own_world(), Stack(folder, postgresql_server, redis_server, s3_server) as stack:
        yield stack
    assert engines_below(folder) == [], "nothing is left at work"


@pytest.fixture(scope="module")
def inputs(stack: Stack) -> dict[str, str]:
    return stack.upload_toy()


@pytest.mark.parametrize("fault", [*FAULTS, "worker killed", "engine killed"])
def test_a_scan_survives(stack: Stack, inputs: dict[str, str], request: pytest.FixtureRequest, fault: str) -> None:
    before = scans_there(stack)
    trial = try_fault(stack, inputs, fault, Random(f"{SEED} {request.node.name}"))
    assert trial.is_good, trial
    assert scans_there(stack) == before + 1
