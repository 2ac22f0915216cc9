"""The outputs of a module: each has a name, those that could be scores are found, the others called what they are."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from app.core.errors import Refusal
from models.outputs import candidates, named_outputs, scores_of, shape_of

SCORES, OTHERS = torch.randn(5, 6), torch.randn(5, 4)


class Answer(NamedTuple):
    logits: Tensor
    aux: Tensor | None


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (SCORES, [""]),
        ((SCORES, OTHERS), ["0", "1"]),
        ([SCORES, [OTHERS, None, "text"]], ["0", "1.0", "1.2"]),
        ({"out": SCORES, "more": {"aux": OTHERS}, 3: OTHERS}, ["out", "more.aux", "3"]),
        (Answer(SCORES, None), ["logits"]),
        ({"a.b": SCORES, "a": {"b": OTHERS}}, ["a.b", "a.b'"]),
        ({"bad\x1bname": SCORES}, ["bad�name"]),
        ((), [""]),
    ],
)
def test_every_output_has_a_name_of_its_own(answer: Any, names: list[str]) -> None:
    assert list(named_outputs(answer)) == names


@pytest.mark.parametrize(
    "scores",
    [SCORES, SCORES[:, :, None, None], SCORES[:, None], SCORES[:, None, :, None], SCORES.half(), SCORES.double()],
)
def test_scores_are_found_in_every_harmless_shape(scores: Tensor) -> None:
    found = scores_of(scores, 5, None)
    assert torch.equal(found, SCORES.to(found.dtype))


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (torch.tensor(0.5), "one number"),
        (torch.tensor(3), "one number of int64"),
        (torch.zeros(5), "[N]"),
        (torch.zeros(5, 1), "[N, 1]"),
        (torch.zeros(5, 6, dtype=torch.bool), "[N, 6] of bool"),
        (torch.zeros(5, 6, dtype=torch.int64), "[N, 6] of int64"),
        (torch.zeros(5, 6, dtype=torch.complex64), "[N, 6] of complex64"),
        (torch.zeros(5, 6, 4, 4), "[N, 6, 4, 4]"),
        (torch.zeros(0), "[0]"),
        (torch.zeros(5, 0), "[N, 0]"),
        (torch.zeros(3, 6), "[3, 6]"),
        ("cat", "text"),
        (7, "int"),
        ((), "tuple"),
        ({}, "dict"),
    ],
)
def test_what_is_no_scores_is_passed_by_and_called_what_it_is(value: Any, shape: str) -> None:
    answer = {"other": value, "scores": SCORES}
    assert list(candidates(answer, 5)) == ["scores"] and torch.equal(scores_of(answer, 5, None), SCORES)
    assert shape_of(value, 5) == shape
    with pytest.raises(Refusal) as alone:
        scores_of(value, 5, None)
    with pytest.raises(Refusal) as named:
        scores_of(answer, 5, "other")
    for caught in (alone, named):
        assert caught.value.problem.code in ("unsupported_output", "output_not_scores", "single_output")


@pytest.mark.parametrize(
    ("answer", "name", "code", "words"),
    [
        ((SCORES, OTHERS), None, "output_ambiguous", r"`0` \(\[N, 6\]\), `1` \(\[N, 4\]\).* --output"),
        ((SCORES, OTHERS), "2", "output_not_found", r"no output `2`.* `0` \(\[N, 6\]\), `1`"),
        (SCORES, "logits", "output_not_found", "one output, which has no name.* leave it out"),
        (
            (SCORES[:, :, None].expand(5, 6, 7), torch.zeros(())),
            None,
            "output_not_scores",
            r"None .* `1` \(one number\)",
        ),
        (SCORES.argmax(1), None, "output_not_scores", r"\[N\] of int64.* without `argmax`"),
        (SCORES[:, :1], None, "single_output", "K = 1.* two outputs"),
        (
            SCORES[:, :, None, None].expand(5, 6, 9, 9),
            None,
            "output_not_scores",
            r"shape \[5, 6, 9, 9\].* segmentation",
        ),
        (SCORES[:3], None, "output_not_scores", r"5 images with shape \[3, 6\]"),
        ("cat", None, "unsupported_output", "returns str, not a tensor.* Wrap the model"),
        (None, None, "unsupported_output", "returns nothing"),
    ],
)
def test_an_answer_without_the_scores_is_refused_with_what_it_has(
    answer: Any, name: str | None, code: str, words: str
) -> None:
    with pytest.raises(Refusal, match=words) as caught:
        scores_of(answer, 5, name)
    assert caught.value.problem.code == code
