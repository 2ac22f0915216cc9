"""Programs that no exporter would write: nothing of Python is within their reach, and what does not fit is refused."""

import struct
from collections.abc import Sequence
from itertools import chain

import pytest
import torch

from app.core.intake.torchscript.code import program as ir
from app.core.intake.torchscript.rules import GateRefusal
from app.core.intake.torchscript.values import DeviceValue, ObjectValue, Storage, TensorValue, Value
from models.rebuilt import RebuiltError, RebuiltModule, rebuild

MEMBER = "code/__torch__/net.py"
NET = "__torch__.net.Net"
TENSOR = ir.Type("Tensor")
SELF, X = ir.Name("self", 3), ir.Name("x", 3)
ONES = TensorValue(Storage("data/0", "float32", 3, "cpu"), 0, (3,), (1,), requires_grad=True)


def records(name: str) -> bytes:
    assert name == "data/0"
    return struct.pack("<3f", 1.0, 1.0, 1.0)


def net_of(
    *body: ir.Statement,
    attributes: dict[str, tuple[ir.Type, Value]] | None = None,
    parameters: Sequence[str] = (),
    constants: Sequence[Value] = (),
    functions: Sequence[ir.Function] = (),
) -> RebuiltModule:
    """A net whose forward has this body, and takes x."""
    attributes = attributes or {}
    forward = ir.Function(
        f"{NET}.forward", (ir.Parameter("self", ir.Type(NET)), ir.Parameter("x", TENSOR)), TENSOR, body, MEMBER, 2
    )
    types = {name: kind for name, (kind, _) in attributes.items()}
    defined = ir.Class(NET, "Module", tuple(parameters), (), types, {}, {"forward": forward}, MEMBER, 1)
    program = ir.Program({NET: defined}, {function.name: function for function in functions})
    values = {name: value for name, (_, value) in attributes.items()}
    return rebuild(ObjectValue(NET, values), constants, program, records)


def assign(name: str, value: ir.Expression) -> ir.Assign:
    return ir.Assign((name,), False, value, 3)


def answer(value: ir.Expression) -> ir.Return:
    return ir.Return(value, 4)


def operator(name: str, *arguments: ir.Expression) -> ir.Operator:
    return ir.Operator(name, arguments, (), 3)


PYTHONS = ("__import__", "__builtins__", "exec", "range", "constants", "trips", "number", "f_0", "op_0", "v_x", "home")


@pytest.mark.parametrize("name", PYTHONS)
def test_a_local_with_a_name_of_pythons_is_only_a_local(name: str) -> None:
    net = net_of(assign(name, X), answer(operator("aten::add", ir.Name(name, 4), ir.Literal(1, 4))))
    assert torch.equal(net(torch.zeros(2)), torch.ones(2))


@pytest.mark.parametrize("name", PYTHONS)
def test_what_was_not_assigned_is_not_found_among_pythons_names(name: str) -> None:
    with pytest.raises(RebuiltError, match=f"'v_{name}'"):
        net_of(answer(operator("aten::add", ir.Name(name, 4), ir.Literal(1, 4))))(torch.zeros(2))


@pytest.mark.parametrize("owner", [X, SELF, ir.Literal("text", 3), ir.Sequence("list", (), 3), ir.Reference("f", 3)])
@pytest.mark.parametrize("name", ["__class__", "__dict__", "__globals__", "data", "grad_fn", "forward", "_modules"])
def test_attributes_and_methods_of_pythons_objects_are_out_of_reach(owner: ir.Expression, name: str) -> None:
    function = ir.Function("f", (), TENSOR, (answer(ir.Literal(1, 1)),), MEMBER, 1)
    with pytest.raises(RebuiltError, match=f"'a_{name}'"):
        net_of(answer(ir.Attribute(owner, name, 4)), functions=[function])(torch.zeros(2))
    if (owner, name) != (SELF, "forward"):
        with pytest.raises(RebuiltError, match=f"'m_{name}'"):
            net_of(answer(ir.Method(owner, name, (), (), 4)), functions=[function])(torch.zeros(2))


@pytest.mark.parametrize("name", ["__class__", "forward", "_parameters", "training_", "constants", "0", "to"])
def test_an_attribute_may_be_called_as_python_calls_its_own(name: str) -> None:
    read = answer(operator("aten::add", X, ir.Attribute(SELF, name, 4)))
    for kind in (TENSOR, ir.Type("Optional", (TENSOR,))):
        net = net_of(read, attributes={name: (kind, ONES)}, parameters=[name])
        assert torch.equal(net(torch.zeros(3)), torch.ones(3))
        assert list(net.state_dict()) == [name]
        net.requires_grad_(True)(torch.zeros(3)).sum().backward()
    assert torch.equal(net_of(read, attributes={name: (ir.Type("int"), 2)})(torch.zeros(1)), torch.tensor([2.0]))


def test_a_message_template_cannot_look_into_its_values() -> None:
    net = net_of(answer(operator("aten::format", ir.Literal("{0.__class__} {}", 4), ir.Literal(1.0, 4))))
    assert net(torch.zeros(1)) == "{0.__class__} 1."


def test_code_that_raises_or_prints_does_so_in_our_words(capsys: pytest.CaptureFixture[str]) -> None:
    shout = ir.Assign((), False, operator("prim::Print", ir.Literal("hello", 3)), 3)
    warn = ir.Assign((), False, operator("aten::warn", ir.Literal("hello", 3), ir.Literal(2, 3)), 3)
    failure = ir.Assign((), False, operator("prim::RaiseException", ir.Literal("no", 3)), 3)
    with pytest.raises(RebuiltError, match="The model's own code raised: no"):
        net_of(shout, warn, failure, answer(X))(torch.zeros(1))
    assert capsys.readouterr() == ("", "")


def test_endless_recursion_is_an_error_of_the_module() -> None:
    again = ir.Function(
        "f", (ir.Parameter("x", TENSOR),), TENSOR, (answer(ir.Call(ir.Reference("f", 1), (X,), (), 1)),), MEMBER, 1
    )
    with pytest.raises(RuntimeError, match="recursion"):
        net_of(answer(ir.Call(ir.Reference("f", 3), (X,), (), 3)), functions=[again])(torch.zeros(1))


def test_a_device_that_was_saved_is_the_device_of_the_module() -> None:
    read = answer(operator("aten::to", X, ir.Attribute(SELF, "device", 4)))
    net = net_of(read, attributes={"device": (ir.Type("Device"), DeviceValue("cuda:3"))})
    assert net(torch.zeros(1)).device.type == "cpu"
    assert net.to("meta")(torch.zeros(1)).device.type == "meta"


def test_a_device_that_was_saved_cannot_be_told_by_its_name() -> None:
    device = {"device": (ir.Type("Device"), DeviceValue("cuda:3"))}
    named = ir.Attribute(SELF, "device", 4), ir.DeviceLiteral("cpu", 4), operator("aten::device", ir.Literal("cpu", 4))
    for one in named:
        for statements in (
            [answer(operator("prim::type", one))],
            [answer(operator("aten::eq", operator("prim::device", X), one))],
            [answer(one)],
            [
                assign("b", X),
                assign("c", ir.Name("b", 4)),
                assign("b", one),
                answer(operator("aten::str", ir.Name("c", 4))),
            ],
        ):
            with pytest.raises(GateRefusal, match="more with a device it names"):
                net_of(*statements, attributes=device)


def test_a_shared_object_is_one_module() -> None:
    layer = "__torch__.net.Layer"
    child = ObjectValue(layer, {"weight": ONES})
    program = ir.Program(
        {
            NET: ir.Class(
                NET,
                "Module",
                (),
                (),
                {"a": ir.Type(layer), "b": ir.Type(layer)},
                {},
                {
                    "forward": ir.Function(
                        f"{NET}.forward", (ir.Parameter("self", ir.Type(NET)),), TENSOR, (), MEMBER, 1
                    )
                },
                MEMBER,
                1,
            ),
            layer: ir.Class(layer, "Module", ("weight",), (), {"weight": TENSOR}, {}, {}, MEMBER, 1),
        }
    )
    net = rebuild(ObjectValue(NET, {"a": child, "b": child}), (), program, records)
    assert net.get_submodule("a") is net.get_submodule("b")
    assert [name for name, _ in net.named_parameters()] == ["a.weight"]


def deep(levels: int) -> ir.Expression:
    value: ir.Expression = X
    for _ in range(levels):
        value = operator("aten::neg", value)
    return value


def loops(levels: int) -> ir.Statement:
    body: ir.Statement = assign("y", X)
    for _ in range(levels):
        body = ir.While(ir.Literal(False, 3), (body,), 3)
    return body


OPERATOR, INCONSISTENT = "rebuild-operator", "rebuild-inconsistent"
ONE_TOO_FAR = TensorValue(ONES.storage, 1, (3,), (1,), requires_grad=False)
TOO_LARGE = TensorValue(Storage("data/0", "float64", 3, "cpu"), 0, (3,), (1,), requires_grad=False)

# What forward does -> the rule that refuses it.
BODIES: dict[str, tuple[str, list[ir.Statement]]] = {
    "an operator that the gate stops": (OPERATOR, [answer(operator("aten::save", X))]),
    "an operator of nobody": (OPERATOR, [answer(operator("prim::rpc_async", X))]),
    "a function that is not there": (INCONSISTENT, [answer(ir.Reference("os.system", 4))]),
    "a constant that is not there": (INCONSISTENT, [answer(ir.ConstantTensor(0, 4))]),
    "an expression of 100,000 levels": (INCONSISTENT, [answer(deep(100_000))]),
    "thirty loops in one another": (INCONSISTENT, [loops(30), answer(X)]),
}
# An attribute with the type that its class declares, and its value.
ATTRIBUTES: dict[str, dict[str, tuple[ir.Type, Value]]] = {
    "a number where a tensor belongs": {"a": (TENSOR, 3)},
    "a tensor where a module belongs": {"a": (ir.Type(NET), ONES)},
    "an object of no class": {"a": (ir.Type(NET), ObjectValue("os"))},
    "an object in a list": {"a": (ir.Type("List"), [ObjectValue(NET)])},
    "a name with a dot": {"a.b": (TENSOR, ONES)},
    "a tensor that reaches beyond its record": {"a": (TENSOR, ONE_TOO_FAR)},
    "a record that is too short": {"a": (TENSOR, TOO_LARGE)},
}


@pytest.mark.parametrize(("rule", "body"), BODIES.values(), ids=BODIES)
def test_code_that_cannot_be_compiled_is_refused(rule: str, body: list[ir.Statement]) -> None:
    with pytest.raises(GateRefusal) as refused:
        net_of(*body)
    problem = refused.value.problem
    assert (problem.rule, problem.member) == (rule, MEMBER)
    assert problem.line in (2, 3, 4)


@pytest.mark.parametrize("attributes", ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_objects_that_do_not_fit_their_class_are_refused(attributes: dict[str, tuple[ir.Type, Value]]) -> None:
    with pytest.raises(GateRefusal) as refused:
        net_of(answer(X), attributes=attributes)
    assert refused.value.problem.rule == INCONSISTENT


def test_a_constant_that_is_an_object_is_refused() -> None:
    with pytest.raises(GateRefusal, match="Constant 0 of the code is ObjectValue"):
        net_of(answer(X), constants=[ObjectValue(NET)])


def test_no_type_of_python_or_torch_has_a_name_with_our_prefixes() -> None:
    kinds = [torch.Tensor, torch.nn.Parameter, torch.device, str, int, float, bool, list, tuple, dict, type(None)]
    names = chain.from_iterable(dir(kind) for kind in [*kinds, type(records), RebuiltModule])
    assert [name for name in names if name.startswith(("a_", "m_"))] == []
