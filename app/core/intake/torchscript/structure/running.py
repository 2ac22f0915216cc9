"""Follows the code of a network from the image to the scores: statements, branches and loops.

A branch whose condition is known is followed on the side that is taken. Otherwise both are, and what differs after it
depends on the condition. Loops with few turns are followed turn by turn, others until nothing changes any more. The
network is in evaluation mode. What operators do is not known here.
"""

from collections.abc import Iterator, Sequence

from app.core.intake.torchscript.code import program as ir
from app.core.intake.torchscript.code.operators import nodes_of
from app.core.intake.torchscript.structure import knowledge
from app.core.intake.torchscript.structure.expressions import Expressions
from app.core.intake.torchscript.structure.heap import Heap, TooMuchWorkError
from app.core.intake.torchscript.structure.objects import Objects
from app.core.intake.torchscript.structure.operators import Operators, StoppedError
from app.core.intake.torchscript.structure.rules import (
    BATCH_SIZE,
    BRANCH,
    DETACHED,
    ENDLESS,
    GATE,
    GRAD_MODE,
    NO_GRAD,
    SURROUNDINGS,
    TRAINING,
)
from app.core.intake.torchscript.structure.taints import BATCH, PIXELS, SHAPE, SOURCES, Marks
from app.core.intake.torchscript.structure.values import (
    NOTHING,
    Environment,
    Known,
    Part,
    Some,
    Tuple,
    Value,
    whole_number,
)

MOST_TURNS = 1_000_000  # of all loops around a statement together
_FOLLOWED_TURNS = 64
_FOLLOWED_WHILE = 2_000
_MOST_ROUNDS = 40  # until nothing changes in a loop


class Run:
    """One network, followed as often as needed until its state changes no more."""

    def __init__(self, objects: Objects, heap: Heap, marks: Marks, program: ir.Program) -> None:
        self.objects, self.heap, self.marks = objects, heap, marks
        self.operators = Operators(heap, marks)
        self.value = Expressions(objects, self.operators, program, self.call).value
        self.turns = 1  # how often the statement at hand is carried out at most

    def call(self, function: ir.Function, arguments: Sequence[Value], keywords: dict[str, Value]) -> Value:
        """What a function returns; raises StoppedError where it always raises."""
        self.heap.spend()
        environment = Environment(function.member)
        for parameter, value in zip(function.parameters, arguments, strict=False):
            environment.variables[parameter.name] = value
        for parameter in function.parameters[len(arguments) :]:
            given = keywords.get(parameter.name)
            value = given if given is not None else self.objects.constant(parameter.default)
            environment.variables[parameter.name] = value
        *before, last = function.body
        self._block(before, environment)
        assert isinstance(last, ir.Return)
        return self.value(last.value, environment)

    # Statements

    def _block(self, statements: Sequence[ir.Statement], environment: Environment) -> None:
        for statement in statements:
            self._statement(statement, environment)

    def _statement(self, statement: ir.Statement, environment: Environment) -> None:
        self.heap.spend()
        variables = environment.variables
        match statement:
            case ir.Assign(targets, True, value):
                unpacked = self._unpacked(value, len(targets), environment)
                variables.update(zip(targets, unpacked, strict=True))
            case ir.Assign(targets, _, value):
                variables.update(dict.fromkeys(targets, self.value(value, environment)))
            case ir.SetAttribute(value, name, new, line):
                owner = self.value(value, environment)
                assert isinstance(owner, Part)
                self.objects.write(owner, name, self.value(new, environment), environment.member, line)
            case ir.If():
                self._branch(statement, environment)
            case ir.For(_, trips):
                self._counted(statement, self.value(trips, environment), environment)
            case ir.While():
                self._while(statement, environment)
            case ir.NoGrad(_, body, line):
                self.operators.no_grad.append((environment.member, line))
                try:
                    self._block(body, environment)
                finally:
                    self.operators.no_grad.pop()
            case ir.Return():
                raise AssertionError("the gate takes no return before the end")

    def _unpacked(self, value: ir.Expression, count: int, environment: Environment) -> list[Value]:
        if isinstance(value, ir.Sequence):
            return [self.value(item, environment) for item in value.items]
        return self.operators.lists.unpacked(self.value(value, environment), count)

    # Branches

    def _branch(self, statement: ir.If, environment: Environment) -> None:
        condition = self.value(statement.condition, environment)
        if isinstance(condition, Known):
            taken, left = statement.then, statement.otherwise
            if not condition.value:
                taken, left = left, taken
            if condition.of_training:
                self._look_at_training(left, statement.line, environment.member, condition.of_training == 2)
            self._block(taken, environment)
            return
        for side, other in ((statement.then, statement.otherwise), (statement.otherwise, statement.then)):
            if _only_raises(other):
                self._block(side, environment)
                return
        implied = self._implied(condition, statement.line, environment.member)
        then, then_reads = self._side(statement.then, environment, implied)
        otherwise, other_reads = self._side(statement.otherwise, environment, implied)
        if then is None or otherwise is None:
            if then is None and otherwise is None:
                raise StoppedError
            environment.variables = then or otherwise or {}
            return
        surroundings = self.marks.of(GRAD_MODE, SURROUNDINGS, BATCH_SIZE)
        environment.variables = {
            name: self._either(then[name], otherwise[name], implied, surroundings, then_reads, other_reads)
            for name in then
            if name in otherwise
        }

    def _either(
        self,
        then: Value,
        otherwise: Value,
        implied: int,
        surroundings: int,
        then_reads: frozenset[object],
        other_reads: frozenset[object],
    ) -> Value:
        """One variable after a branch.

        torch's fused operators compute what the parts do that they are made of, in some surroundings; so where one side
        is such an operator, and the other reads the same weights, it does not matter which of them ran.
        """
        if _is_fused(then, other_reads) or _is_fused(otherwise, then_reads):
            implied &= ~surroundings
        return self.heap.join(then, otherwise, implied)

    def _side(
        self, statements: Sequence[ir.Statement], environment: Environment, implied: int
    ) -> tuple[dict[str, Value] | None, frozenset[object]]:
        """The variables after one side of a branch, None where it raises, and what of the network was read there."""
        start = len(self.heap.reads)
        inside = Environment(environment.member, dict(environment.variables))
        try:
            with self.heap.perhaps(implied):
                self._block(statements, inside)
        except StoppedError:
            return None, frozenset()
        return inside.variables, frozenset(self.heap.reads[start:])

    def _implied(self, condition: Value, line: int, member: str) -> int:
        """The marks of all that depends on a condition."""
        taint = self.heap.evidence(condition)
        marks = self.operators.implied(taint, member, line, "Which code runs depends on")
        if taint & PIXELS:
            marks &= ~self.marks.of(GATE, DETACHED, NO_GRAD)
            told = "Which code runs depends on the values of the pixels, and the scores depend on it."
            marks |= self.marks.bit(BRANCH, member, line, told)
        return marks & ~SOURCES

    def _look_at_training(self, left: Sequence[ir.Statement], line: int, member: str, was_saved_so: bool) -> None:
        """Notes a side that only a network in training takes, unless it does what layers do there."""
        for node in nodes_of(tuple(left)):
            if isinstance(node, ir.Method | ir.Call) or (
                isinstance(node, ir.Operator) and node.name not in knowledge.IN_TRAINING
            ):
                told = "In training mode the network computes something else than in evaluation mode"
                told += ", and it was saved in training mode." if was_saved_so else "; it is looked at in the latter."
                self.marks.bit(TRAINING, member, line, told, was_saved_so)
                return

    # Loops

    def _counted(self, statement: ir.For, trips: Value, environment: Environment) -> None:
        count = whole_number(trips)
        outer = self.turns
        if count is not None:
            self.turns *= max(count, 1)
            if self.turns > MOST_TURNS:
                told = f"The loops here turn {self.turns:,} times."
                self.marks.bit(ENDLESS, environment.member, statement.line, told)
        elif not self.heap.evidence(trips) & (PIXELS | SHAPE | BATCH):
            self._unbounded(environment.member, statement.line, False)
        try:
            if count is None or count > _FOLLOWED_TURNS:
                environment.variables[statement.target] = Some(self.heap.evidence(trips))
                implied = self._implied(trips, statement.line, environment.member) if count is None else 0
                self._settled(statement.body, environment, None, implied)
            else:
                for turn in range(count):
                    environment.variables[statement.target] = Known(turn)
                    self._block(statement.body, environment)
        finally:
            self.turns = outer
        environment.variables.pop(statement.target, None)

    def _while(self, statement: ir.While, environment: Environment) -> None:
        for _ in range(_FOLLOWED_WHILE):
            condition = self.value(statement.condition, environment)
            if not isinstance(condition, Known):
                break
            if not condition.value:
                return
            self._block(statement.body, environment)
        else:
            self._unbounded(environment.member, statement.line, True)
            self._settled(statement.body, environment, None, 0)
            return
        evidence = self._settled(statement.body, environment, statement, 0)
        if not evidence & (PIXELS | SHAPE | BATCH):
            self._unbounded(environment.member, statement.line, not evidence)

    def _unbounded(self, member: str, line: int, blocks: bool) -> None:
        self.marks.bit(ENDLESS, member, line, "How often this loop turns has no bound that could be found.", blocks)

    def _settled(
        self, body: Sequence[ir.Statement], environment: Environment, loop: ir.While | None, implied: int
    ) -> int:
        """Follows a loop's body until it changes nothing more; what its condition depends on."""
        heap, operators = self.heap, self.operators
        was_in_loop, evidence = operators.in_loop, 0
        operators.in_loop = True
        try:
            for _ in range(_MOST_ROUNDS):
                changes = heap.changes
                if loop is not None:
                    condition = self.value(loop.condition, environment)
                    evidence |= heap.evidence(condition)
                    implied |= self._implied(condition, loop.line, environment.member)
                inside = Environment(environment.member, dict(environment.variables))
                try:
                    with heap.perhaps(implied):
                        self._block(body, inside)
                except StoppedError:
                    return evidence
                settled = {
                    name: heap.join(old, inside.variables.get(name, NOTHING), implied)
                    for name, old in environment.variables.items()
                }
                is_stable = all(new is environment.variables[name] for name, new in settled.items())
                environment.variables = settled
                if is_stable and heap.changes == changes:
                    return evidence
        finally:
            operators.in_loop = was_in_loop
        raise TooMuchWorkError


def _only_raises(statements: Sequence[ir.Statement]) -> bool:
    """Whether a side of a branch ends in an exception, whatever else it does: then the branch is an assertion."""
    return any(
        isinstance(one, ir.Assign) and isinstance(one.value, ir.Operator) and one.value.name == "prim::RaiseException"
        for one in statements
    )


def _is_fused(value: Value, reads: frozenset[object]) -> bool:
    """Whether a value comes from a fused operator all weights of which were read."""
    return any(one.fused is not None and one.fused <= reads for one in _tensors_in(value))


def _tensors_in(value: Value) -> Iterator[Some]:
    items = value.items if isinstance(value, Tuple) else (value,)
    yield from (one for one in items if isinstance(one, Some))
