"""Every name in a program refers to something of the right kind, and calls come to an end."""

import pytest

from app.core.intake.torchscript.rules import GateRefusal
from tests.core.intake.torchscript.sources import MEMBER, PAGE, page_with, understood

OTHER = "code/__torch__/other.py"


def chain(length: int, times: int) -> str:
    """Functions, each of which calls the one before so many times."""
    calls = "".join(f"  y{i} = __torch__.other.f{{before}}(x, )\n" for i in range(times))
    first = "def f0(x: Tensor) -> Tensor:\n  return x\n"
    return first + "".join(
        f"def f{i}(x: Tensor) -> Tensor:\n{calls.format(before=i - 1)}  return x\n" for i in range(1, length)
    )


@pytest.mark.parametrize(
    "line",
    [
        "f = (self).nothing(x, )",
        "f = (x).relu()",
        "f = (torch.relu(x)).sigmoid()",
        "f = ((self).forward(x, )).scores",
        'f = (getattr(self, "0")).data',
        "f = self.nothing",
        "f = self.forward",
        "f = x(x)",
        "f = self(x)",
        "f = __torch__.page.Part(x)",
        "f = __torch__.page.Part",
        "f = __torch__.page.Answer(x)",
        "f = __torch__.page.Answer(x, x, x)",
        "f = __torch__.page.double(x, )",
        "f = __torch__.page.double(x, 1, 2, )",
        "f = __torch__.page.double(x, factor=1, factors=2)",
        "f = __torch__.page.double(x, x=x)",
        "f = [self]",
        "f = torch.relu(__torch__.page.double)",
        "f = (__torch__.page.double, x)",
        "f, g = self, x\n    h = (g).forward(x, )",
        "f = self\n    f = x",
        "f = x\n    f = self",
        "f = self\n    f = self.part",
        "f = unchecked_cast(__torch__.page.Part, x)",
        "f = annotate(List[__torch__.page.Net], [])",
        "f = uninitialized(__torch__.page.Nothing)",
        "self.part = self.part",
        "self.nothing = x",
        "self.name = x",
        "self.part = x",
        "x.data = x",
    ],
)
def test_a_name_without_a_meaning_is_refused_where_it_stands(line: str) -> None:
    with pytest.raises(GateRefusal) as caught:
        understood(page_with(f"    {line}"))
    problem = caught.value.problem
    assert (problem.rule, problem.member) == ("code-reference", MEMBER)
    assert problem.line in range(20, 21 + line.count("\n"))


@pytest.mark.parametrize(
    "line",
    [
        "f = (self.part).forward(x, )",
        "f = self\n    g = (f.part).forward(x, )",
        "f, g = self.part, x\n    h = (f).forward(g, )",
        "if flag:\n      f = self.part\n    else:\n      f = self.part\n    g = (f).forward(x, )",
        "f = self.name",
        "f = __torch__.page.Answer(x, more=None)",
        "f = (__torch__.page.Answer(x, None))[0]",
        "f = __torch__.page.double(x, factor=1)",
        "f = annotate(List[__torch__.page.Answer], [])",
        "f = (self.part).__len__()",
    ],
)
def test_a_name_with_a_meaning_is_understood(line: str) -> None:
    understood(page_with(f"    {line}"))


def test_a_class_may_have_only_modules_and_data_that_exist() -> None:
    for old, new in (
        ("__torch__.page.Part\n", "__torch__.page.Nothing\n"),
        ("Optional[bool]", "List[__torch__.page.Part]"),
    ):
        with pytest.raises(GateRefusal) as caught:
            understood({MEMBER: PAGE.replace(old, new, 1)})
        assert caught.value.problem.rule == "code-reference"


def test_functions_of_other_members_are_found() -> None:
    line = "    f = __torch__.other.f2(x, )"
    understood({**page_with(line), OTHER: chain(3, 1)})
    with pytest.raises(GateRefusal, match=r"no function or named tuple `__torch__\.other\.f2`"):
        understood(page_with(line))


@pytest.mark.parametrize(("length", "times"), [(99, 1), (6, 8), (1, 0)])
def test_calls_that_come_to_an_end_are_understood(length: int, times: int) -> None:
    understood({OTHER: chain(length, times)})


@pytest.mark.parametrize(("length", "times"), [(300, 1), (60, 2), (9, 10)])
def test_an_avalanche_of_calls_is_refused(length: int, times: int) -> None:
    with pytest.raises(GateRefusal, match="too many functions") as caught:
        understood({OTHER: chain(length, times)})
    assert (caught.value.problem.rule, caught.value.problem.member) == ("code-limit", OTHER)


def test_a_circle_of_calls_is_refused() -> None:
    text = "".join(f"def f{i}(x: Tensor) -> Tensor:\n  return __torch__.other.f{(i + 1) % 5}(x, )\n" for i in range(5))
    with pytest.raises(GateRefusal, match="calls itself") as caught:
        understood({OTHER: text})
    assert caught.value.problem.rule == "code-recursion"
