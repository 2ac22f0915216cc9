"""Whatever is killed, flushed, restarted or paused while a scan runs: it ends well, and once."""

from random import Random

import pytest

from tests.flow.faults import FAULTS, scans_there, try_fault
from tests.flow.stack import Stack
from tests.processes import needs_proc

pytestmark = [needs_proc, pytest.mark.slow, pytest.mark.real]
SEED = 4


@pytest.fixture(scope="module")
def inputs(stack: Stack) -> dict[str, str]:
    return stack.upload_toy()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_scan_survives(stack: Stack, inputs: dict[str, str], request: pytest.FixtureRequest, fault: str) -> None:
    before = scans_there(stack)
    trial = try_fault(stack, inputs, fault, Random(f"{SEED} {request.node.name}"))
    assert trial.survived, trial
    assert scans_there(stack) == before + trial.scans_asked_for
