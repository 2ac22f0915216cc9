"""Problems on their way between processes: nothing that one says is lost."""

import json

import pytest

from app.core.errors import Problem, Refusal

PROBLEMS = [
    Problem("bundle_empty", "Nothing inside.", "Fill it."),
    Problem("worker_lost", "It was lost.", "Try again.", title="The scan failed", retryable=True),
    Problem("unsafe_code", "A hook.", "Remove it.", rule="code-hook", member="code/a.py", line=7),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.code)
def test_a_problem_is_the_same_after_it_was_told(problem: Problem) -> None:
    told = json.loads(json.dumps(problem.to_json()))
    assert Problem.from_json(told | {"status": 422, "request_id": "1"}) == problem
    assert Refusal.of(problem).problem == problem
    assert str(Refusal.of(problem)) == f"{problem.detail} {problem.advice}"


@pytest.mark.parametrize("told", [{}, [], {"code": "x"}, None, 3, "code"])
def test_what_is_no_problem_is_not_taken_for_one(told: object) -> None:
    with pytest.raises(TypeError):
        Problem.from_json(told)  # type: ignore[arg-type]
