"""The allowlist of operators: each entry exists, none is dangerous, and what is off it is refused or named."""

import re

import pytest
import torch

from app.core.intake.torchscript.code.operators import allowlist, is_forbidden
from app.core.intake.torchscript.rules import GateRefusal
from benchmarks.allowlist import ALLOWLIST, reviewed
from tests.core.intake.torchscript.sources import MEMBER, page_with, understood

DANGEROUS = (
    r"save|load|file|path|read|write|import|exec|system|pickle|library|process|socket|rpc|fork|await|wait|remote|owner"
    r"|seed|set_grad|grad_enabled_|set_data|set_source|storage_|resize|as_strided|_alias|pin_memory|stream|quantize_"
    r"|mkldnn_|backward|requires_grad_|retain|python|class|getattr|setattr|hook|profile|test|debug|cudnn|c10d|symm"
)


def test_every_allowed_operator_exists() -> None:
    assert len(allowlist()) > 200
    assert [name for name in sorted(allowlist()) if not torch._C._jit_get_schemas_for_operator(name)] == []


def test_no_allowed_operator_is_dangerous_by_its_name() -> None:
    assert [name for name in sorted(allowlist()) if re.search(DANGEROUS, name)] == ["aten::storage_offset"]
    assert [name for name in sorted(allowlist()) if is_forbidden(name)] == []


def test_no_allowed_operator_takes_or_gives_anything_but_numbers() -> None:
    """Files, futures, remote values and objects of other kinds show in an operator's types."""
    harmless = {"Tensor", "bool", "int", "float", "complex", "number", "str", "Device", "Generator", "t", "t1", "t2"}
    harmless |= {"Optional", "List", "Dict", "Tuple", "AnyEnumType"}
    for name in sorted(allowlist() - {"aten::len"}):  # one of its forms takes whatever has a length
        for schema in torch._C._jit_get_schemas_for_operator(name):
            types = " ".join(argument.type.annotation_str for argument in (*schema.arguments, *schema.returns))
            assert {*re.findall(r"\w+", types)} <= harmless, schema


def test_the_file_is_sorted_and_says_how_it_was_made() -> None:
    lines = ALLOWLIST.read_text("ascii").splitlines()
    names = [line for line in lines if not line.startswith("#")]
    assert names == sorted(set(names))
    assert "benchmarks.allowlist" in "".join(lines[:3])
    assert reviewed() <= allowlist()


@pytest.mark.parametrize(
    "call",
    [
        'torch.save(x, "f")',
        'torch.load("f")',
        'torch.from_file("f")',
        "torch.set_grad_enabled(False)",
        "torch.manual_seed(1)",
        "torch.seed()",
        "torch.set_data(x, x)",
        "torch.set_(x, x)",
        "torch.requires_grad_(x)",
        "torch.autograd.backward(x)",
        "torch.wait(x)",
        "ops.prim.fork(x)",
        "ops.prim.rpc_async(x)",
        "ops.prim.awaitable_wait(x)",
        "ops.prim.PythonOp(x)",
        "ops.prim.CallMethod(x)",
        "ops.quantized.linear(x)",
        "ops.profiler._record_function_enter(x)",
        "ops.c10d.send(x)",
        "ops.torchvision.nms(x)",
        "ops.aten_.relu(x)",
    ],
)
def test_what_reaches_beyond_the_numbers_is_refused_for_good(call: str) -> None:
    with pytest.raises(GateRefusal, match="reaches beyond") as caught:
        understood(page_with(f"    f = {call}"))
    problem = caught.value.problem
    assert (problem.code, problem.rule) == ("unsafe_code", "code-forbidden-operator")
    assert (problem.member, problem.line) == (MEMBER, 20)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("torch.stft(x, 3)", "aten::stft"),
        ("torch.autograd.grad(x)", "aten::grad"),
        ("torch.no_such_operator(x)", "aten::no_such_operator"),
        ("ops.prim.no_such_operator(x)", "prim::no_such_operator"),
        ("ops.aten.stft(x)", "aten::stft"),
    ],
)
def test_an_operator_that_nobody_looked_at_is_named(call: str, name: str) -> None:
    with pytest.raises(GateRefusal, match=name) as caught:
        understood(page_with(f"    f = {call}"))
    problem = caught.value.problem
    assert (problem.code, problem.rule) == ("unsupported_operator", "operator-unknown")
    assert (problem.member, problem.line) == (MEMBER, 20)


def test_the_forbidden_is_named_before_the_unknown() -> None:
    with pytest.raises(GateRefusal) as caught:
        understood(page_with('    f = torch.stft(x, 3)\n    torch.save(x, "f")'))
    assert (caught.value.problem.rule, caught.value.problem.line) == ("code-forbidden-operator", 21)


def test_uses_are_counted_wherever_they_stand() -> None:
    _, uses = understood(page_with("    f = [torch.tanh(torch.tanh(x)), {1: (torch.tanh(x))[torch.tanh(0)]}]"))
    assert uses["aten::tanh"] == 4
