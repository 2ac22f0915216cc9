"""The roles of clean images."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.detection.clean import roles_of


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80))
def test_every_image_has_one_role_and_every_label_has_its_share_of_each(labels: list[int]) -> None:
    labels_N = torch.tensor(labels)
    roles = roles_of(labels_N)
    assert sorted(torch.cat(list(roles)).tolist()) == list(range(len(labels)))
    for label in set(labels):
        count = labels.count(label)
        invert, confirm, accept = (int((labels_N[role] == label).sum()) for role in roles)
        assert accept == -(-count // 5) and confirm == (count + 2) // 5 and invert == count - accept - confirm
