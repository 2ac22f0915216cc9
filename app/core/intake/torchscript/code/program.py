"""The code of a TorchScript archive as a tree: the Python subset that torch prints, and nothing else. No torch.

Every node knows its line; the class or function that holds it knows its member.
"""

from dataclasses import dataclass, field

Scalar = None | bool | int | float | str


@dataclass(frozen=True, slots=True)
class Type:
    """`Tensor`, `Optional[Tensor]`, `List[int]`, `Tuple[int, int]`, or a class such as `__torch__.a.B`."""

    name: str
    arguments: "tuple[Type, ...]" = ()


# Expressions


@dataclass(frozen=True, slots=True)
class Name:
    """A local variable."""

    name: str
    line: int


@dataclass(frozen=True, slots=True)
class Literal:
    value: Scalar  # floats may be infinite or NaN
    line: int


@dataclass(frozen=True, slots=True)
class ConstantTensor:
    """`CONSTANTS.c3`: the fourth of constants.pkl, which may also be a text that is not ASCII."""

    index: int
    line: int


@dataclass(frozen=True, slots=True)
class DeviceLiteral:
    """`torch.device("cuda:0")`."""

    name: str
    line: int


@dataclass(frozen=True, slots=True)
class Reference:
    """`__torch__.torch.nn.functional.relu`: a function of the archive, or one of its classes."""

    name: str
    line: int


@dataclass(frozen=True, slots=True)
class Attribute:
    """`self.conv1` or `getattr(self, "0")`."""

    value: "Expression"
    name: str
    line: int


@dataclass(frozen=True, slots=True)
class Item:
    """`(pair)[0]`."""

    value: "Expression"
    index: "Expression"
    line: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """A tuple or a list."""

    kind: str  # "tuple" or "list"
    items: "tuple[Expression, ...]"
    line: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """`{"out": x, }`."""

    keys: "tuple[Expression, ...]"
    values: "tuple[Expression, ...]"
    line: int


@dataclass(frozen=True, slots=True)
class Operator:
    """A call of an operator of torch: `torch.conv2d(...)` is `aten::conv2d`, `ops.prim.dtype(x)` is `prim::dtype`.

    Conversions that are printed as Python's own (`int(x)`, `float(x)`, `bool(x)`, `str(x)`) are `aten::Int`,
    `aten::Float`, `aten::Bool`, `aten::str`.
    """

    name: str
    arguments: "tuple[Expression, ...]"
    keywords: "tuple[tuple[str, Expression], ...]"
    line: int


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a function or a class of the archive, by its reference or by a variable that holds it."""

    function: "Expression"
    arguments: "tuple[Expression, ...]"
    keywords: "tuple[tuple[str, Expression], ...]"
    line: int


@dataclass(frozen=True, slots=True)
class Method:
    """`(conv1).forward(x, )`: a method of an object of the archive."""

    value: "Expression"
    name: str
    arguments: "tuple[Expression, ...]"
    keywords: "tuple[tuple[str, Expression], ...]"
    line: int


@dataclass(frozen=True, slots=True)
class Typed:
    """`annotate(List[int], [])` or `unchecked_cast(Tensor, x)`: the value, said to be of a type.

    The third form is "declared", `x : Optional[Tensor] = y`, which also says what x may be given later.
    """

    type: Type
    value: "Expression"
    line: int
    form: str = "annotate"  # or "unchecked_cast" or "declared"


@dataclass(frozen=True, slots=True)
class Uninitialized:
    """`uninitialized(Tensor)`: a variable that is set before it is read."""

    type: Type
    line: int


Expression = (
    Name
    | Literal
    | ConstantTensor
    | DeviceLiteral
    | Reference
    | Attribute
    | Item
    | Sequence
    | Mapping
    | Operator
    | Call
    | Method
    | Typed
    | Uninitialized
)


# Statements


@dataclass(frozen=True, slots=True)
class Assign:
    """`a, b, = f(x)`; one target for `a = f(x)`, and no target for a call whose result is dropped."""

    targets: tuple[str, ...]
    unpacks: bool  # whether the value is a sequence that is taken apart
    value: Expression
    line: int


@dataclass(frozen=True, slots=True)
class SetAttribute:
    """`self.counter = x`."""

    value: Expression
    name: str
    new: Expression
    line: int


@dataclass(frozen=True, slots=True)
class If:
    condition: Expression
    then: "tuple[Statement, ...]"
    otherwise: "tuple[Statement, ...]"
    line: int


@dataclass(frozen=True, slots=True)
class For:
    """`for i in range(n):`, with n trips."""

    target: str
    trips: Expression
    body: "tuple[Statement, ...]"
    line: int


@dataclass(frozen=True, slots=True)
class While:
    condition: Expression
    body: "tuple[Statement, ...]"
    line: int


@dataclass(frozen=True, slots=True)
class NoGrad:
    """`with torch.no_grad():`; a variable holds the object that is entered, and nothing reads it."""

    guard: str
    body: "tuple[Statement, ...]"
    line: int


@dataclass(frozen=True, slots=True)
class Return:
    value: Expression
    line: int


Statement = Assign | SetAttribute | If | For | While | NoGrad | Return


# Definitions

Constant = Scalar | ConstantTensor | DeviceLiteral | tuple["Constant", ...]  # lists are tuples here


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    type: Type
    default: Constant = None
    has_default: bool = False


@dataclass(frozen=True, slots=True)
class Function:
    """A function or a method; a method's first parameter is the object, mostly called `self`."""

    name: str
    parameters: tuple[Parameter, ...]
    returns: Type
    body: tuple[Statement, ...]
    member: str
    line: int


@dataclass(frozen=True, slots=True)
class Class:
    """A class; `kind` is its base, "Module" for a network's part or "NamedTuple" for an output.

    torch's own `no_grad`, which has no base, is of the kind "no_grad", without its methods.
    """

    name: str
    kind: str
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    attributes: dict[str, Type]  # in the order of their declaration
    constants: dict[str, Constant]  # declared Final
    methods: dict[str, Function]
    member: str
    line: int
    constant_types: dict[str, Type] = field(default_factory=dict)  # as they are declared


@dataclass(frozen=True, slots=True)
class Program:
    """All code of an archive; the keys are qualified names that begin with `__torch__.`."""

    classes: dict[str, Class] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
