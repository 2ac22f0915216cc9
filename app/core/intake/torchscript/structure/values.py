"""Values that are known in part: a constant is known, of a tensor it is known what its numbers depend on.

Tensors show memories, which several of them share, so that what is written into a view is seen in the whole. Lists and
dicts are shared likewise. Numbers of pixels are never known here.
"""

from dataclasses import dataclass, field

from app.core.intake.torchscript.code.program import Class, Function
from app.core.intake.torchscript.values import DeviceValue, ObjectValue

Plain = bool | int | float | str | DeviceValue | None


class Memory:
    """The numbers that one tensor or several show; what they depend on only grows."""

    __slots__ = ("born", "is_kept", "taint")

    def __init__(self, taint: int = 0, born: int = 0, is_kept: bool = False) -> None:
        self.taint = taint
        self.born = born  # the side of a branch in which it was made, see Heap.side
        self.is_kept = is_kept  # it belongs to the network, and is there at the next call


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A constant."""

    value: Plain
    of_training: int = 0  # 1: computed from the flag that says whether the network trains; 2: which was saved as True


@dataclass(frozen=True, slots=True, eq=False)
class Some:
    """A number, a text or a tensor of which only this is known."""

    taint: int = 0  # beside what its memories depend on
    memories: frozenset[Memory] = frozenset()
    dims: "tuple[Value, ...] | None" = None  # of a tensor, where their number is known
    spread: int = 0  # what any of its dimensions depends on
    is_tensor: bool = False  # for sure; otherwise it may also be None
    is_whole: bool = False  # its numbers are whole, or it is a type of whole numbers
    is_positive: bool = False  # it is the size of an image, which has at least one pixel
    fused: frozenset[Memory] | None = None  # the weights, if it comes from a fused operator and nothing else


@dataclass(frozen=True, slots=True, eq=False)
class Tuple:
    items: "tuple[Value, ...]"


@dataclass(slots=True, eq=False)
class Body:
    """What is in a list or a dict: its entries, or where these are not known, what any of them may be."""

    entries: "dict[Plain, Value] | None"
    rest: "Value | None" = None
    taint: int = 0  # what its length depends on
    born: int = 0  # as that of a memory
    is_kept: bool = False


@dataclass(slots=True, eq=False)
class Container:
    """A list or a dict; two of which it is not known which one a name means share their body."""

    kind: str  # "list" or "dict"
    body: Body

    @property
    def values(self) -> "list[Value]":
        if self.body.entries is not None:
            return list(self.body.entries.values())
        return [] if self.body.rest is None else [self.body.rest]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """An object of the archive, or one of several of one class."""

    objects: tuple[ObjectValue, ...]
    taint: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Callee:
    """Functions or named tuples of the archive that can be called."""

    meanings: tuple[Function | Class, ...]
    taint: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Nothing:
    """A variable that is set before it is read."""


Value = Known | Some | Tuple | Container | Part | Callee | Nothing
NONE = Known(None)
NOTHING = Nothing()


@dataclass
class Environment:
    """The variables of one call."""

    member: str
    variables: dict[str, Value] = field(default_factory=dict)


def is_tensor(value: Value) -> bool:
    """Whether it is or may be one."""
    return isinstance(value, Some) and (value.is_tensor or bool(value.memories))


def is_positive_size(value: Value) -> bool:
    number = whole_number(value)
    return number > 0 if number is not None else isinstance(value, Some) and value.is_positive


def whole_number(value: Value) -> int | None:
    """The number that is known, and is one."""
    return value.value if isinstance(value, Known) and type(value.value) is int else None
