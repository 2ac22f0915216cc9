"""Printed code is read as torch means it, and whatever torch would not print is refused by rule, member and line."""

import gc
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from app.core.intake.torchscript.code.program import (
    Assign,
    Call,
    Class,
    ConstantTensor,
    DeviceLiteral,
    Expression,
    For,
    If,
    Item,
    Literal,
    Mapping,
    Method,
    Name,
    Operator,
    Parameter,
    Reference,
    Return,
    Sequence,
    SetAttribute,
    Type,
    Typed,
    Uninitialized,
    While,
)
from app.core.intake.torchscript.code.syntax import parse_source, read_program
from app.core.intake.torchscript.rules import GateRefusal
from tests.core.intake.torchscript.hostile_code import HOSTILE
from tests.core.intake.torchscript.sources import MEMBER, PAGE, page_with, sources_of, understood

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

TENSOR, INT = Type("Tensor"), Type("int")


def page() -> Class:
    return parse_source(PAGE, MEMBER).classes["__torch__.page.Net"]


def assigned(line: str) -> Expression:
    """What the line, put in front of forward's body, assigns."""
    first = (
        parse_source(page_with(f"    {line}")[MEMBER], MEMBER).classes["__torch__.page.Net"].methods["forward"].body[0]
    )
    assert isinstance(first, Assign)
    return first.value


# What torch prints


def test_a_class_has_what_it_declares() -> None:
    net = page()
    assert (net.kind, net.parameters, net.buffers, net.member, net.line) == ("Module", ("weight",), ("0",), MEMBER, 1)
    assert list(net.attributes) == ["weight", "0", "training", "_is_full_backward_hook", "counter", "part"]
    assert net.attributes["_is_full_backward_hook"] == Type("Optional", (Type("bool"),))
    assert net.attributes["part"] == Type("__torch__.page.Part")
    assert net.constants == {
        "device": DeviceLiteral("cpu", 11),
        "scale": (float("-inf"), (-(2**63), "a\"'\\\n\0é")),
        "name": ConstantTensor(0, 13),
    }


def test_a_named_tuple_has_its_fields_in_order() -> None:
    answer = parse_source(PAGE, MEMBER).classes["__torch__.page.Answer"]
    assert (answer.kind, list(answer.attributes)) == ("NamedTuple", ["scores", "more"])


def test_a_parameter_has_its_type_and_its_default() -> None:
    forward = page().methods["forward"]
    sizes = Type("List", (INT,))
    assert forward.parameters == (
        Parameter("self", Type("__torch__.page.Net")),
        Parameter("x", TENSOR),
        Parameter("sizes", sizes, (1, 2), True),
        Parameter("flag", Type("bool"), False, True),
        Parameter("more", Type("Optional", (sizes,)), None, True),
        Parameter("eps", Type("float"), 1e-5, True),
    )
    assert (forward.returns, forward.line) == (Type("__torch__.page.Answer"), 14)


def test_names_are_qualified_by_the_member() -> None:
    text = "def f(x: Tensor) -> Tensor:\n  return x\n"
    program = parse_source(text, "code/__torch__/a/___torch_mangle_3.py")
    assert list(program.functions) == ["__torch__.a.___torch_mangle_3.f"]
    assert list(parse_source(text, "code/__torch__.py").functions) == ["__torch__.f"]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("f = x", Name("x", 20)),
        ("f = -1", Literal(-1, 20)),
        ("f = -9223372036854775808", Literal(-(2**63), 20)),
        ("f = 1.0000000000000001e-05", Literal(1e-5, 20)),
        ("f = 0.", Literal(0.0, 20)),
        ("f = -inf", Literal(float("-inf"), 20)),
        ("f = None", Literal(None, 20)),
        ("f = True", Literal(True, 20)),
        (r'f = "\303\251 \"\\"', Literal('é "\\', 20)),
        ("f = CONSTANTS.c12", ConstantTensor(12, 20)),
        ('f = torch.device("cuda:1")', DeviceLiteral("cuda:1", 20)),
        ("f = torch.device(x)", Operator("aten::device", (Name("x", 20),), (), 20)),
        ("f = (sizes)[-1]", Item(Name("sizes", 20), Literal(-1, 20), 20)),
        ("f = sizes[0]", Item(Name("sizes", 20), Literal(0, 20), 20)),
        ("f = (x,)", Sequence("tuple", (Name("x", 20),), 20)),
        ("f = [x, 1]", Sequence("list", (Name("x", 20), Literal(1, 20)), 20)),
        ('f = {"a": x}', Mapping((Literal("a", 20),), (Name("x", 20),), 20)),
        (
            "f = torch.add(x, 1, alpha=2)",
            Operator("aten::add", (Name("x", 20), Literal(1, 20)), (("alpha", Literal(2, 20)),), 20),
        ),
        ("f = ops.prim.dtype(x)", Operator("prim::dtype", (Name("x", 20),), (), 20)),
        ("f = int(x)", Operator("aten::Int", (Name("x", 20),), (), 20)),
        ("f = torch.autograd.grad(x)", Operator("aten::grad", (Name("x", 20),), (), 20)),
        ("print(x, 1)", Operator("prim::Print", (Name("x", 20), Literal(1, 20)), (), 20)),
        ("f = (self).forward(x, )", Method(Name("self", 20), "forward", (Name("x", 20),), (), 20)),
        ("f = __torch__.a.b(x, )", Call(Reference("__torch__.a.b", 20), (Name("x", 20),), (), 20)),
        ("f = annotate(Tuple[()], ())", Typed(Type("Tuple"), Sequence("tuple", (), 20), 20)),
        ("f : Optional[Tensor] = x", Typed(Type("Optional", (TENSOR,)), Name("x", 20), 20, "declared")),
        ("f = uninitialized(Tensor)", Uninitialized(TENSOR, 20)),
        (
            "f = annotate(List[int], x.tolist())",
            Typed(Type("List", (INT,)), Operator("prim::tolist", (Name("x", 20),), (), 20), 20),
        ),
    ],
)
def test_an_expression_is_read_as_torch_means_it(line: str, value: Expression) -> None:
    assert assigned(line) == value


def test_nan_is_a_number() -> None:
    for line in ("f = nan", "f = -nan"):
        literal = assigned(line)
        assert isinstance(literal, Literal) and literal.value != literal.value


def test_statements_keep_their_order_and_their_lines() -> None:
    body = page().methods["forward"].body
    kinds = [type(statement) for statement in body if not isinstance(statement, Assign)]
    assert kinds == [SetAttribute, If, For, While, Return]
    unpacked = {
        statement.targets: statement for statement in body if isinstance(statement, Assign) and statement.unpacks
    }
    assert list(unpacked) == [("height", "width"), ("values", "indices"), ("_3", "y2")]
    assert unpacked["height", "width"].line == 27


def test_both_ways_of_an_if_leave_a_variable_behind() -> None:
    lines = ["    if flag:", "      f = x", "    else:", "      f = self.weight", "    g = f"]
    parse_source(page_with("\n".join(lines))[MEMBER], MEMBER)


@pytest.mark.parametrize(
    "lines",
    [
        ["    if flag:", "      f = x", "    else:", "      pass", "    g = f"],
        ["    for i in range(3):", "      f = x", "    g = f"],
        ["    while flag:", "      f = x", "    g = f"],
        ["    for i in range(3):", "      pass", "    g = i"],
    ],
)
def test_what_is_assigned_on_one_way_only_is_gone_afterwards(lines: list[str]) -> None:
    with pytest.raises(GateRefusal, match="used before it is assigned") as caught:
        parse_source(page_with("\n".join(lines))[MEMBER], MEMBER)
    assert caught.value.problem.line == 19 + len(lines)


# Nets as people write them


class Answer(NamedTuple):
    scores: Tensor
    more: Tensor | None


class Loops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.steps = 0

    def forward(self, x: Tensor, times: int = 2, scale: tuple[int, float] = (1, float("inf"))) -> Tensor:
        kept: list[Tensor] = []
        for layer in self.layers:
            x = layer(x)
            kept.append(x)
        for i in range(times):
            for j in range(2):
                if i == j:
                    continue
                x = x + i * j
            if i > 3:
                break
        while bool(x.sum() > 100):
            x = x / 2
        self.steps += 1
        return torch.stack(kept).sum(0) + x.clamp(max=scale[1])


class Returns(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Answer:
        if mask is None:
            return Answer(x, None)
        assert mask.size(0) == x.size(0), f"{mask.size(0)} masks"
        if x.dim() > 2:
            raise ValueError("no images")
        return Answer(scores=x, more=mask)


class UsesAnswer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Returns()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        answer = self.inner(x, x)
        more = answer.more
        return {"é": answer.scores, "more": x if more is None else more}


class Slices(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, list[int], str]:
        y = x.clone()
        y[0] = 1
        y[:, 1] += 2
        y[y > 0] = 0.0
        head = x.split(2, 1)[0]
        shape = [size * 2 for size in x.shape]
        text = "{} of {}".format(len(shape), "x".upper())
        return y[..., None].squeeze(-1) + head.sum().to(torch.device("cpu")), sorted(shape)[1:], text


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(self.attention(x, x, x)[0])


class Resizes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        x = functional.pad(functional.pixel_shuffle(x, 2), (1, 1, 1, 1), mode="reflect")
        return torch.einsum("bchw,bchw->bc", x, functional.dropout(x, 0.5, self.training))


def layers() -> nn.Module:
    parts = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    return nn.Sequential(*parts, nn.Softmax(1)).eval()


IMAGES = torch.rand(2, 3, 8, 8)
TOYS: dict[str, Callable[[], torch.jit.ScriptModule]] = {
    "loops": lambda: torch.jit.script(Loops()),
    "early returns": lambda: torch.jit.script(Returns()),
    "a named tuple and a dict": lambda: torch.jit.script(UsesAnswer()),
    "slices and texts": lambda: torch.jit.script(Slices()),
    "attention": lambda: torch.jit.script(Attends()),
    "resizing": lambda: torch.jit.script(Resizes()),
    "scripted layers": lambda: torch.jit.script(layers()),
    "scripted in train mode": lambda: torch.jit.script(layers().train()),
    "traced layers": lambda: torch.jit.trace(layers(), IMAGES),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(layers())),
    "traced and frozen": lambda: torch.jit.freeze(torch.jit.trace(layers(), IMAGES)),
    "half": lambda: torch.jit.script(layers().half()),
    "traced to a dict": lambda: torch.jit.trace(Outputs(), IMAGES, strict=False),
    "traced slices": lambda: torch.jit.trace(Baked(), IMAGES),
}


class Outputs(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"scores": x.mean((2, 3)), "largest": x.amax((2, 3))}


class Baked(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.view(x.shape[0], -1)[:, ::2] + torch.arange(2, device=x.device).sum() + torch.zeros(1, dtype=torch.half)
        y[y > 1] = 0
        return y, functional.one_hot(y.argmax(1), 200)


@pytest.mark.parametrize("toy", TOYS)
def test_what_people_export_is_understood(toy: str) -> None:
    program, uses = understood(sources_of(TOYS[toy]()))
    assert any("forward" in class_.methods for class_ in program.classes.values())
    assert all(name.startswith(("aten::", "prim::")) for name in uses)


# What torch does not print


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_code_is_refused_by_rule_member_and_line(case: str) -> None:
    make, rule, shown = HOSTILE[case]
    sources = make()
    started = time.process_time()
    with pytest.raises(GateRefusal) as caught:
        understood(sources)
    assert time.process_time() - started < 2
    problem = caught.value.problem
    assert (problem.rule, problem.code) == (rule, caught.value.rule.code)
    assert problem.member in sources
    assert problem.line is None or shown in sources[problem.member].split("\n")[problem.line - 1]
    assert problem.line is not None or not shown
    assert len(problem.detail) < 400 and problem.detail.isprintable()


@pytest.mark.parametrize(
    "member", ["code/../__torch__/a.py", "code/__torch__/a b.py", "code/torch.py", "code/__torch__/a.py.debug_pkl", ""]
)
def test_a_member_of_another_name_is_refused(member: str) -> None:
    with pytest.raises(GateRefusal, match="name does not say"):
        parse_source("", member)


@pytest.mark.parametrize("block", ["if flag:", "while flag:"])
def test_many_variables_in_many_branches_are_read_soon(block: str) -> None:
    variables = ", ".join(f"a{number}" for number in range(15_000))
    text = page_with(f"    {variables}, = x\n" + f"    {block}\n      pass\n" * 15_000)[MEMBER]
    started = time.process_time()
    parse_source(text, MEMBER)
    assert time.process_time() - started < 4  # copying the variables for each branch took 20 seconds


def test_many_members_are_refused_before_they_add_up() -> None:
    text = "def f(x: Tensor) -> Tensor:\n  y = [" + "1," * 60_000 + "]\n  return x\n"
    started = time.process_time()
    with pytest.raises(GateRefusal, match="more than 250,000 words") as caught:
        read_program((f"code/__torch__/part{number}.py", text) for number in range(100))
    assert (caught.value.problem.rule, caught.value.problem.member) == ("code-limit", "code/__torch__/part2.py")
    assert time.process_time() - started < 2


def test_several_threads_read_code_at_once() -> None:
    statements = "\n".join(f"  y{number} = torch.add(x, {number})" for number in range(300))
    text = f"def f(x: Tensor) -> Tensor:\n{statements}\n  return x\n"
    often, slices = gc.get_threshold(), lambda phase, info: time.sleep(0)  # a chance for another thread in mid-parse
    gc.callbacks.append(slices)
    gc.set_threshold(50)
    try:
        with ThreadPoolExecutor(4) as threads:
            pages = list(threads.map(lambda _: parse_source(text, MEMBER), range(12)))
    finally:
        gc.set_threshold(*often)
        gc.callbacks.remove(slices)
    assert all(page == pages[0] for page in pages)


WORDS = [
    *"()[]{},:.=-+\n\\\"'#;@*é\0\t ",
    "    ",
    "\n  ",
    "__torch__",
    "self",
    "x",
    "torch.save",
    "lambda",
    "if ",
    "1e9",
]
ANYTHING = st.one_of(st.sampled_from(WORDS), st.text(max_size=5))
CHANGES = st.lists(st.tuples(st.integers(0, len(PAGE)), st.integers(0, 40), ANYTHING), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(CHANGES)
def test_changed_code_is_understood_or_refused_and_nothing_else(changes: list[tuple[int, int, str]]) -> None:
    text = PAGE
    for position, cut, new in changes:
        text = text[:position] + new + text[position + cut :]
    with suppress(GateRefusal):
        understood({MEMBER: text})


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(len(PAGE.split("\n")) - 1)))
def test_shuffled_lines_are_understood_or_refused_and_nothing_else(order: list[int]) -> None:
    lines = PAGE.split("\n")
    with suppress(GateRefusal):
        understood({MEMBER: "\n".join([*lines[:14], *(lines[place] for place in order)])})
