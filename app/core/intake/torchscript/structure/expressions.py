"""Works out expressions: names, constants, attributes, calls; what operators do is operators.py's."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from app.core.intake.torchscript.code import program as ir
from app.core.intake.torchscript.structure.heap import Heap
from app.core.intake.torchscript.structure.objects import Objects
from app.core.intake.torchscript.structure.operators import Operators
from app.core.intake.torchscript.structure.values import (
    NOTHING,
    Body,
    Callee,
    Container,
    Environment,
    Known,
    Part,
    Plain,
    Some,
    Tuple,
    Value,
)

Call = Callable[[ir.Function, Sequence[Value], dict[str, Value]], Value]


class Expressions:
    """The values of expressions; `call` is how a function is followed."""

    def __init__(self, objects: Objects, operators: Operators, program: ir.Program, call: Call) -> None:
        self.objects, self.operators, self.program, self.call = objects, operators, program, call
        self.heap: Heap = operators.heap

    def value(self, node: ir.Expression, environment: Environment) -> Value:
        self.heap.spend()
        match node:
            case ir.Name(name):
                return environment.variables.get(name, NOTHING)
            case ir.Literal(value):
                return Known(value)
            case ir.ConstantTensor() | ir.DeviceLiteral():
                return self.objects.constant(node)
            case ir.Attribute(value, name):
                owner = self.value(value, environment)
                assert isinstance(owner, Part)
                return self.objects.attribute(owner, name)
            case ir.Operator(_, arguments, keywords):
                values = self._values(arguments, environment)
                return self.operators.apply(node, values, self._named(keywords, environment), environment.member)
            case ir.Method() | ir.Call():
                return self._called(node, environment)
            case ir.Item(value, index):
                found = self.value(value, environment)
                return self.operators.lists.item(found, self.value(index, environment))
            case ir.Sequence("tuple", items):
                return Tuple(tuple(self._values(items, environment)))
            case ir.Sequence(_, items):
                return self.operators.at_site(node, self.heap.listed(self._values(items, environment)))
            case ir.Mapping(keys, values):
                pairs = zip(self._values(keys, environment), self._values(values, environment), strict=True)
                return self.operators.at_site(node, self._mapping(list(pairs)))
            case ir.Typed(kind, value):
                return _typed(self.value(value, environment), kind)
            case ir.Reference(name):
                return Callee((self.program.functions.get(name) or self.program.classes[name],))
            case ir.Uninitialized():
                return NOTHING

    def _values(self, nodes: Sequence[ir.Expression], environment: Environment) -> list[Value]:
        return [self.value(node, environment) for node in nodes]

    def _named(self, keywords: Sequence[tuple[str, ir.Expression]], environment: Environment) -> dict[str, Value]:
        return {name: self.value(value, environment) for name, value in keywords}

    def _mapping(self, pairs: list[tuple[Value, Value]]) -> Container:
        if all(isinstance(key, Known) for key, _ in pairs):
            entries: dict[Plain, Value] = {key.value: value for key, value in pairs if isinstance(key, Known)}
            return Container("dict", Body(entries, born=self.heap.side))
        made = Container("dict", Body(None, born=self.heap.side))
        for key, value in pairs:
            self.heap.collapse(made, value, self.heap.evidence(key))
        return made

    def _called(self, node: ir.Method | ir.Call, environment: Environment) -> Value:
        """The result of a call; where it is not known what is called, of all that may be."""
        callees: list[tuple[ir.Function | ir.Class, list[Value]]] = []
        if isinstance(node, ir.Method):
            owner = self.value(node.value, environment)
            assert isinstance(owner, Part)
            taint = owner.taint
            for one in owner.objects:
                callees.append((self._method(one.type_name, node.name), [Part((one,))]))
        else:
            callee = self.value(node.function, environment)
            assert isinstance(callee, Callee)
            taint = callee.taint
            callees += [(each, []) for each in callee.meanings]
        arguments = self._values(node.arguments, environment)
        keywords = self._named(node.keywords, environment)
        if len(callees) == 1:
            return self._result(callees[0][0], [*callees[0][1], *arguments], keywords)
        found: Value = NOTHING
        for meaning, own in callees:
            with self.heap.perhaps(taint):
                found = self.heap.join(found, self._result(meaning, [*own, *arguments], keywords), taint)
        return found

    def _result(self, callee: ir.Function | ir.Class, arguments: Sequence[Value], keywords: dict[str, Value]) -> Value:
        if isinstance(callee, ir.Function):
            return self.call(callee, arguments, keywords)
        return Tuple((*arguments, *(keywords.get(name, NOTHING) for name in [*callee.attributes][len(arguments) :])))

    def _method(self, type_name: str, name: str) -> ir.Function:
        return self.program.classes[type_name].methods[name]


def _typed(value: Value, kind: ir.Type) -> Value:
    """A value that is said to be of a type."""
    if isinstance(value, Some) and kind.name == "Tensor" and not value.is_tensor:
        return replace(value, is_tensor=True)
    return value
