"""What the names in a program refer to: each must be there, and be of the right kind.

TorchScript lets a tensor be asked for any operator as if it were a method (`x.save("...")`), and torch never prints it
so. Hence methods and attributes are taken of modules alone, and it is followed here which variables hold a module:
those that were assigned `self`, or a module that is an attribute of one. Whatever else a value is, is not known.
"""

from collections.abc import Collection, Iterable

from app.core.intake.torchscript.code.calls import check_calls
from app.core.intake.torchscript.code.grad_mode import NO_GRAD
from app.core.intake.torchscript.code.program import (
    Assign,
    Attribute,
    Call,
    Class,
    Expression,
    For,
    Function,
    If,
    Item,
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
from app.core.intake.torchscript.code.rules import REFERENCE
from app.core.text import printable

Meaning = Class | Function | None  # of an expression: a module, a function, or data
Keywords = tuple[tuple[str, Expression], ...]


def merge(programs: Iterable[Program]) -> Program:
    """All members' programs as one, in which every name was found to refer to something."""
    merged = Program()
    for program in programs:
        merged.classes.update(program.classes)
        merged.functions.update(program.functions)
    check_references(merged)
    return merged


def check_references(program: Program) -> None:
    """Raises GateRefusal for a name without a meaning, for a call that does not fit, and for endless calls."""
    functions = dict(program.functions)
    calls: dict[str, list[str]] = {}
    for class_ in program.classes.values():
        for type_ in class_.attributes.values():
            if not (class_.kind == "Module" and _module(type_, program)):
                _check_type(type_, program, class_.member, class_.line)
        for name, method in class_.methods.items():
            functions[_label(class_, name)] = method
            calls[_label(class_, name)] = _Body(program, method, class_).check()
    for name, function in program.functions.items():
        calls[name] = _Body(program, function).check()
    check_calls(functions, calls)


class _Body:
    """A function, the meaning of each of its variables, and what it calls."""

    def __init__(self, program: Program, function: Function, owner: Class | None = None) -> None:
        self.program = program
        self.function = function
        self.meanings: dict[str, Meaning] = {parameter.name: None for parameter in function.parameters}
        self.calls: list[str] = []
        of_data = function.parameters
        if owner:
            self.meanings[function.parameters[0].name] = owner
            of_data = function.parameters[1:]
        for parameter in of_data:
            self.check_type(parameter.type, function.line)
        self.check_type(function.returns, function.line)

    def check(self) -> list[str]:
        """The names of all that is called, once for each call."""
        self.block(self.function.body)
        return self.calls

    def refusal(self, detail: str, line: int) -> Exception:
        return REFERENCE.refusal(detail, self.function.member, line)

    def check_type(self, type_: Type, line: int) -> None:
        _check_type(type_, self.program, self.function.member, line)

    # Statements

    def block(self, statements: Iterable[Statement]) -> None:
        for statement in statements:
            self.statement(statement)

    def statement(self, statement: Statement) -> None:
        match statement:
            case Assign(targets, True, Sequence(_, items)):
                for target, item in zip(targets, items, strict=True):
                    self.assign(target, self.meaning(item), statement.line)
            case Assign((target,), False, value):
                self.assign(target, self.meaning(value), statement.line)
            case Assign(targets, _, value):
                self.data(value)
                for target in targets:
                    self.assign(target, None, statement.line)
            case SetAttribute(value, name, new):
                if self.attribute(value, name, statement.line, may_be_constant=False):
                    raise self.refusal(f"The module `{name}` is replaced while the network runs.", statement.line)
                self.data(new)
            case If(condition, then, otherwise):
                self.data(condition)
                self.block((*then, *otherwise))
            case For(target, trips, body):
                self.data(trips)
                self.assign(target, None, statement.line)
                self.block(body)
            case While(condition, body):
                self.data(condition)
                self.block(body)
            case NoGrad(_, body):
                if NO_GRAD not in self.program.classes:
                    raise self.refusal(f"The archive has no class `{NO_GRAD}`.", statement.line)
                self.block(body)
            case Return(value):
                self.data(value)

    def assign(self, name: str, meaning: Meaning, line: int) -> None:
        """A variable means one thing in all of a function, so it does not matter in which order it runs."""
        if self.meanings.setdefault(name, meaning) is not meaning:
            raise self.refusal(
                f"The variable `{name}` is a module or a function in one place, and not in another.", line
            )

    # Expressions

    def data(self, expression: Expression) -> None:
        if self.meaning(expression) is not None:
            raise self.refusal("A module or a function is used as if it were data.", expression.line)

    def all_data(self, expressions: Iterable[Expression]) -> None:
        for expression in expressions:
            self.data(expression)

    def meaning(self, expression: Expression) -> Meaning:
        match expression:
            case Name(name):
                return self.meanings[name]
            case Reference(name, line):
                return self.definition(name, line)
            case Attribute(value, name, line):
                return self.attribute(value, name, line)
            case Method(value, name, arguments, keywords, line):
                self.method(value, name, arguments, keywords, line)
            case Call(function, arguments, keywords, line):
                self.call(self.meaning(function), arguments, keywords, line)
            case Operator(_, arguments, keywords):
                self.all_data((*arguments, *(value for _, value in keywords)))
            case Item(value, index):
                self.all_data((value, index))
            case Sequence(_, items):
                self.all_data(items)
            case Mapping(keys, values):
                self.all_data((*keys, *values))
            case Typed(type_, value, line):
                self.check_type(type_, line)
                self.data(value)
            case Uninitialized(type_, line):
                self.check_type(type_, line)
        return None

    def definition(self, name: str, line: int) -> Class | Function:
        """A function, or the class of a named tuple, which is made by calling it."""
        class_ = self.program.classes.get(name)
        found = self.program.functions.get(name) or (class_ if class_ and class_.kind == "NamedTuple" else None)
        if found is None:
            raise self.refusal(f"The archive has no function or named tuple `{printable(name)}`.", line)
        return found

    def module(self, value: Expression, line: int) -> Class:
        found = self.meaning(value)
        if not isinstance(found, Class) or found.kind != "Module":
            raise self.refusal("An attribute or a method is asked of something that is not a module.", line)
        return found

    def attribute(self, value: Expression, name: str, line: int, may_be_constant: bool = True) -> Class | None:
        """The module that an attribute is; None if it is data."""
        owner = self.module(value, line)
        if name in owner.attributes:
            return _module(owner.attributes[name], self.program)
        if may_be_constant and name in owner.constants:
            return None
        raise self.refusal(f"`{printable(owner.name)}` has no attribute `{printable(name)}`.", line)

    def method(
        self, value: Expression, name: str, arguments: tuple[Expression, ...], keywords: Keywords, line: int
    ) -> None:
        owner = self.module(value, line)
        if name not in owner.methods:
            raise self.refusal(f"`{printable(owner.name)}` has no method `{printable(name)}`.", line)
        self.fit(owner.methods[name].parameters[1:], arguments, keywords, line)
        self.calls.append(_label(owner, name))

    def call(self, callee: Meaning, arguments: tuple[Expression, ...], keywords: Keywords, line: int) -> None:
        if isinstance(callee, Function):
            self.fit(callee.parameters, arguments, keywords, line)
            self.calls.append(callee.name)
        elif callee is not None and callee.kind == "NamedTuple":
            self.fit([Parameter(*field) for field in callee.attributes.items()], arguments, keywords, line)
        else:
            raise self.refusal("Something is called that is no function.", line)

    def fit(
        self, parameters: Collection[Parameter], arguments: tuple[Expression, ...], keywords: Keywords, line: int
    ) -> None:
        """Every argument finds a parameter, and every parameter an argument or a default."""
        self.all_data((*arguments, *(value for _, value in keywords)))
        open_ones = {parameter.name: parameter for parameter in list(parameters)[len(arguments) :]}
        for name, _ in keywords:
            if open_ones.pop(name, None) is None:
                raise self.refusal(f"A call has an argument `{printable(name)}` too many.", line)
        if len(arguments) > len(parameters) or not all(parameter.has_default for parameter in open_ones.values()):
            raise self.refusal("A call has too many arguments, or too few.", line)


def _label(owner: Class, method: str) -> str:
    return f"{owner.name}.{method}()"  # no function's name ends so


def _module(type_: Type, program: Program) -> Class | None:
    """The class of a module, if the type is one."""
    class_ = program.classes.get(type_.name)
    return class_ if class_ and class_.kind == "Module" and not type_.arguments else None


def _check_type(type_: Type, program: Program, member: str, line: int) -> None:
    """Types of data hold no modules; the classes they name are named tuples of the archive."""
    if type_.name.startswith("__torch__."):
        class_ = program.classes.get(type_.name)
        if class_ is None or class_.kind != "NamedTuple":
            detail = f"`{printable(type_.name)}` is not a named tuple of the archive, and stands where only data may."
            raise REFERENCE.refusal(detail, member, line)
    for inner in type_.arguments:
        _check_type(inner, program, member, line)
