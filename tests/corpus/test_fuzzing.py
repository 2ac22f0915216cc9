"""A minute of damage to benign archives: nothing crashes, hangs, or is read otherwise than torch reads it."""

import json
import random
from pathlib import Path

import pytest

from benchmarks.fuzzing import damaged, hunt, originals


@pytest.mark.slow
@pytest.mark.long
def test_a_minute_of_damaged_archives_finds_nothing(tmp_path: Path) -> None:
    seed = random.randrange(2**32)  # another one each time; the archives that fail are in tmp_path
    found = hunt(originals(), 60, seed, tmp_path)
    if found.failures:
        pytest.fail(f"seed {seed}: {json.dumps(found.failures, indent=1)}")  # whole; an assertion would shorten it
    assert found.archives > 100 and found.compared > 10, found.summary()


def test_damage_changes_an_archive_and_can_be_repeated() -> None:
    original = bytes(range(256)) * 40
    assert damaged(original, random.Random(7)) == damaged(original, random.Random(7)) != original
