"""The roles of clean images."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.detection.clean import roles_of, sample


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80))
def test_every_image_has_one_role_and_every_label_has_its_share_of_each(labels: list[int]) -> None:
    labels_N = torch.tensor(labels)
    roles = roles_of(labels_N)
    assert sorted(torch.cat(list(roles)).tolist()) == list(range(len(labels)))
    for label in set(labels):
        count = labels.count(label)
        invert, confirm, accept = (int((labels_N[role] == label).sum()) for role in roles)
        assert accept == -(-count // 5) and confirm == (count + 2) // 5 and invert == count - accept - confirm


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.integers(1, 90))
def test_a_sample_has_as_many_of_each_label_as_there_are(labels: list[int], most: int) -> None:
    labels_N = torch.tensor(labels)
    picked = sample(labels_N, most)
    assert len(picked) == min(most, len(labels)) and picked.tolist() == sorted({*picked.tolist()})
    counts = {label: int((labels_N[picked] == label).sum()) for label in set(labels)}
    for label, count in counts.items():
        assert count == labels.count(label) or count >= max(counts.values()) - 1
