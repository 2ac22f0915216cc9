"""Nothing of the benign corpus is refused, and what is rebuilt without torch.jit computes what torch.jit computes."""

import pytest
import torch

from app.core.intake.torchscript.archive.walk import walk
from app.core.intake.torchscript.gate import Understood, understand
from models.rebuilt import RebuiltModule, rebuild
from tests.corpus.benign import BenignCase, large, small
from tests.corpus.committed import OlderArchive, older_archives
from tests.corpus.truth import truth_of

QUICK = [pytest.param(case, id=case.name) for case in (*small(), *older_archives())]
LARGE = [pytest.param(case, id=case.name, marks=pytest.mark.slow) for case in large()]
MOST_BYTES = 1 << 30


def rebuilt(understood: Understood) -> RebuiltModule:
    with walk(understood.path, MOST_BYTES) as walked:
        return rebuild(
            understood.module,
            understood.constants,
            understood.program,
            lambda record: walked.read(record, MOST_BYTES),
            understood.format_version,
        )


@pytest.mark.parametrize("case", [*QUICK, *LARGE])
def test_an_honest_archive_is_understood_and_rebuilt(case: BenignCase | OlderArchive) -> None:
    found = truth_of(rebuilt(understand(case.path(), MOST_BYTES)), case.example())
    wanted = case.truth_of_jit() if case.jit_agrees else case.truth()
    torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.gradient, wanted.gradient, rtol=0, atol=1e-3 * float(wanted.gradient.abs().max()))


@pytest.mark.parametrize(
    ("name", "part"),
    [("saved_on_cuda-scripted", "tensors"), ("saved_on_cuda-frozen", "tensors"), ("cuda_literals-traced", "code")],
)
def test_an_archive_as_saved_on_a_gpu_is_said_to_be_one(name: str, part: str) -> None:
    (case,) = (case for case in small() if case.name == name)
    assert understand(case.path(), MOST_BYTES).manifest()["devices"][part] == ["cuda:0"]
