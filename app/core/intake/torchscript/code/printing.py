"""A program, printed afresh in the Python subset that torch reads: the way back from syntax.py.

Every form has one spelling here, and what stands in a text comes from the tree alone, so nothing that the reader did
not understand can reach torch. Lines are those of this print, not of the original. Whether torch will find the code
sound, its types above all, is not known.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from app.core.intake.torchscript.code.expressions import PYTHON_OPERATORS
from app.core.intake.torchscript.code.grad_mode import NO_GRAD, NO_GRAD_KIND, NO_GRAD_TEXT
from app.core.intake.torchscript.code.program import (
    Assign,
    Attribute,
    Call,
    Class,
    Constant,
    ConstantTensor,
    DeviceLiteral,
    Expression,
    For,
    Function,
    If,
    Item,
    Literal,
    Mapping,
    Method,
    Name,
    NoGrad,
    Operator,
    Parameter,
    Program,
    Reference,
    Return,
    Sequence,
    SetAttribute,
    Statement,
    Type,
    Typed,
    Uninitialized,
    While,
)
from app.core.intake.torchscript.code.spelling import (
    is_plain,
    listed,
    spelled,
    spelled_text,
    spelled_tuple,
    spelled_type,
)
from app.core.intake.torchscript.rules import EXPORT_AGAIN, Rule

CONSTANT = Rule("code-constant", "unsafe_code", EXPORT_AGAIN)

_INDENT = "  "
_PYTHON_NAMES = {operator: name for name, operator in PYTHON_OPERATORS.items()}


def print_program(program: Program) -> dict[str, str]:
    """The members that define the program, such as `code/__torch__/torchvision/models/resnet.py`, with their texts."""
    lines: defaultdict[str, list[str]] = defaultdict(list)
    for class_ in program.classes.values():
        lines[class_.member] += _class(class_)
    for function in program.functions.values():
        lines[function.member] += _function(function)
    return {member: "\n".join([*lines[member], ""]) for member in sorted(lines)}


# Definitions


def _class(class_: Class) -> Iterator[str]:
    if class_.kind == NO_GRAD_KIND:
        yield from NO_GRAD_TEXT.splitlines()
        return
    yield f"class {_last(class_.name)}({class_.kind}):"
    if class_.kind == "Module":
        yield f"{_INDENT}__parameters__ = [{listed(map(spelled_text, class_.parameters))}]"
        yield f"{_INDENT}__buffers__ = [{listed(map(spelled_text, class_.buffers))}]"
    elif not class_.attributes:
        yield f"{_INDENT}pass"
    for name, type_ in class_.attributes.items():
        stated = f"{name} :" if is_plain(name) else f"__annotations__[{spelled_text(name)}] ="
        yield f"{_INDENT}{stated} {spelled_type(type_)}"
    for name, value in class_.constants.items():
        type_ = class_.constant_types[name]
        printed = _constant(value, type_, class_.member, class_.line)
        yield f"{_INDENT}{name} : Final[{spelled_type(type_)}] = {printed}"
    for method in class_.methods.values():
        yield from _function(method, _INDENT)


def _function(function: Function, indent: str = "") -> Iterator[str]:
    parameters = listed(_parameter(parameter, function) for parameter in function.parameters)
    yield f"{indent}def {_last(function.name)}({parameters}) -> {spelled_type(function.returns)}:"
    yield from _block(function.body, indent + _INDENT)


def _parameter(parameter: Parameter, function: Function) -> str:
    stated = f"{parameter.name}: {spelled_type(parameter.type)}"
    if not parameter.has_default:
        return stated
    return f"{stated}={_constant(parameter.default, parameter.type, function.member, function.line)}"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _constant(value: Constant, type_: Type, member: str, line: int) -> str:
    """A value that a definition states; its type tells a list from a tuple."""
    match value, type_:
        case _, Type("Optional", (inner,)):
            return _constant(value, inner, member, line)
        case (), Type("List"):
            return f"annotate({spelled_type(type_)}, [])"
        case tuple(), Type("List", (inner,)):
            return f"[{listed(_constant(part, inner, member, line) for part in value)}]"
        case tuple(), Type("Tuple", inners) if len(inners) == len(value):
            return spelled_tuple([_constant(*pair, member, line) for pair in zip(value, inners, strict=True)])
        case ConstantTensor() | DeviceLiteral() as node, _:
            return _expression(node)
        case None | bool() | int() | float() | str() as scalar, _:
            return spelled(scalar)
    raise CONSTANT.refusal(f"A constant is not of the type `{spelled_type(type_)}` that it states.", member, line)


# Statements


def _block(statements: Iterable[Statement], indent: str) -> list[str]:
    return [line for statement in statements for line in _statement(statement, indent)] or [f"{indent}pass"]


def _statement(statement: Statement, indent: str) -> Iterator[str]:
    inner = indent + _INDENT
    match statement:
        case Assign(targets, unpacks, value):
            yield f"{indent}{_assignment(targets, unpacks, value)}"
        case SetAttribute(value, name, new):
            yield f"{indent}{_base(value)}.{name} = {_expression(new)}"
        case If(condition, then, otherwise):
            yield f"{indent}if {_expression(condition)}:"
            yield from _block(then, inner)
            yield f"{indent}else:"
            yield from _block(otherwise, inner)
        case For(target, trips, body):
            yield f"{indent}for {target} in range({_expression(trips)}):"
            yield from _block(body, inner)
        case While(condition, body):
            yield f"{indent}while {_expression(condition)}:"
            yield from _block(body, inner)
        case NoGrad(guard, body):
            yield f"{indent}{guard} = {NO_GRAD}.__new__({NO_GRAD})"
            yield f"{indent}{guard}.prev = False"
            yield f"{indent}with {guard}:"
            yield from _block(body, inner)
        case Return(value):
            yield f"{indent}return {_expression(value)}"


def _assignment(targets: tuple[str, ...], unpacks: bool, value: Expression) -> str:
    match targets, value:
        case (), _:
            return _expression(value)
        case (target,), Typed(type_, typed, _, "declared"):
            return f"{target} : {spelled_type(type_)} = {_expression(typed)}"
    printed = "".join(f"{target}, " for target in targets) if unpacks else f"{targets[0]} "
    return f"{printed}= {_expression(value)}"


# Expressions


def _expression(node: Expression) -> str:
    match node:
        case Name(name) | Reference(name):
            return name
        case Literal(value):
            return spelled(value)
        case ConstantTensor(index):
            return f"CONSTANTS.c{index}"
        case DeviceLiteral(name):
            return f"torch.device({spelled_text(name)})"
        case Attribute(value, name) if is_plain(name):
            return f"{_base(value)}.{name}"
        case Attribute(value, name):
            return f"getattr({_expression(value)}, {spelled_text(name)})"
        case Item(value, index):
            return f"{_base(value)}[{_expression(index)}]"
        case Sequence("tuple", items):
            return spelled_tuple(list(map(_expression, items)))
        case Sequence(_, items):
            return f"[{listed(map(_expression, items))}]"
        case Mapping(keys, values):
            pairs = zip(map(_expression, keys), map(_expression, values), strict=True)
            return f"{{{listed(f'{key}: {value}' for key, value in pairs)}}}"
        case Operator(name, arguments, keywords):
            return f"{_operator(node)}({_arguments(arguments, keywords)})"
        case Call(function, arguments, keywords):
            return f"{_base(function)}({_arguments(arguments, keywords)})"
        case Method(value, name, arguments, keywords):
            return f"{_base(value)}.{name}({_arguments(arguments, keywords)})"
        case Typed(type_, Operator("prim::tolist", (value,), ()), _, form):
            return f"{form}({spelled_type(type_)}, {_base(value)}.tolist())"
        case Typed(type_, value, _, form):
            return f"{form}({spelled_type(type_)}, {_expression(value)})"
        case Uninitialized(type_):
            return f"uninitialized({spelled_type(type_)})"


def _operator(node: Operator) -> str:
    """How an operator is called: some have names of Python, where they take what Python's take."""
    namespace, _, name = node.name.partition("::")
    as_python_calls = not node.keywords and (len(node.arguments) == 1 or node.name == "prim::Print")
    if node.name in _PYTHON_NAMES and as_python_calls:
        return _PYTHON_NAMES[node.name]
    return f"torch.{name}" if namespace == "aten" else f"ops.{namespace}.{name}"


def _arguments(arguments: Iterable[Expression], keywords: Iterable[tuple[str, Expression]]) -> str:
    named = [f"{name}={_expression(value)}" for name, value in keywords]
    return listed([*map(_expression, arguments), *named])


def _base(node: Expression) -> str:
    """What is called, asked or subscripted: in brackets, unless it is a name with dots."""
    return _expression(node) if _is_dotted(node) else f"({_expression(node)})"


def _is_dotted(node: Expression) -> bool:
    match node:
        case Name() | Reference():
            return True
        case Attribute(value, name):
            return is_plain(name) and _is_dotted(value)
    return False
