"""The benign corpus: as large as promised, and honest, so that whoever refuses one of its archives is wrong."""

import hashlib
from collections import defaultdict

import pytest
import torch

from tests.corpus.architectures import ARCHITECTURES
from tests.corpus.benign import BenignCase, benign_archives, large, small
from tests.corpus.committed import FOLDER, OlderArchive, older_archives
from tests.corpus.nets import LABELS
from tests.corpus.truth import load, truth_of

QUICK = [pytest.param(case, id=case.name) for case in (*small(), *older_archives())]
LARGE = [pytest.param(case, id=case.name, marks=pytest.mark.slow) for case in large()]

NAMED = {case.name: case for case in benign_archives()}


def test_twenty_architectures_are_there_as_scripts_and_as_traces() -> None:
    forms = defaultdict(set)
    for case in benign_archives():
        forms[case.family].add(case.form)
    assert len([name for name in ARCHITECTURES if forms[name] >= {"scripted", "traced"}]) >= 20


def test_no_two_cases_share_a_name() -> None:
    names = [case.name for case in benign_archives()]
    assert len(names) == len(set(names)) >= 48


@pytest.mark.parametrize("case", [*QUICK, *LARGE])
def test_torch_computes_what_the_net_computed(case: BenignCase | OlderArchive) -> None:
    truth = case.truth()
    assert truth.scores.shape[0] == len(case.example())
    assert truth.scores.std(0).mean() > 0.01, "the scores do not depend on the image"
    assert truth.gradient.shape == case.example().shape
    assert truth.gradient.abs().max() > 1e-3
    if case.jit_agrees:
        torch.testing.assert_close(case.truth_of_jit().scores, truth.scores, rtol=0, atol=case.tolerance)


# The cases are what their names say


def test_a_trace_with_a_baked_batch_takes_no_other_batch() -> None:
    case = NAMED["baked_batch-traced"]
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        load(case.path())(case.example()[:1])


def test_a_trace_with_a_dynamic_batch_takes_any() -> None:
    case = NAMED["dynamic_batch-traced"]
    assert load(case.path())(case.example()[:1]).shape == (1, LABELS)


@pytest.mark.parametrize("layer", ["dropout", "batch_norm"])
def test_a_trace_in_train_mode_keeps_computing_as_in_training(layer: str) -> None:
    case = NAMED[f"{layer}_training-traced"]
    found = truth_of(load(case.path()).eval(), case.example())
    assert (found.scores - case.truth().scores).abs().max() > 0.01


# Archives that an older torch saved


def test_six_older_archives_of_two_generations_weigh_less_than_a_megabyte() -> None:
    assert len(older_archives()) >= 6
    assert len({archive.torch_version for archive in older_archives()}) >= 2
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 1_000_000


@pytest.mark.parametrize("archive", older_archives(), ids=lambda archive: archive.name)
def test_a_committed_archive_is_the_one_that_was_made(archive: OlderArchive) -> None:
    assert hashlib.sha256(archive.path().read_bytes()).hexdigest() == archive.sha256
