"""The canonical re-pack: the gate understands it as it understood the original, and torch computes the same from it."""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from app.core.errors import Refusal
from app.core.intake.torchscript.code.printing import print_program
from app.core.intake.torchscript.code.program import Assign, Literal, Type
from app.core.intake.torchscript.code.spelling import spelled
from app.core.intake.torchscript.code.syntax import read_program
from app.core.intake.torchscript.gate import Understood, understand
from app.core.intake.torchscript.pickles.machine import read_pickle
from app.core.intake.torchscript.pickles.storages import StorageTable
from app.core.intake.torchscript.pickles.writing import write_pickle
from app.core.intake.torchscript.repack import repack
from app.core.intake.torchscript.rules import GateRefusal
from app.core.intake.torchscript.values import DeviceValue, ObjectValue, TensorValue
from tests.core.intake.torchscript.pickle_assembler import get, list_of, net, number, op, pickled, put, storage, tensor
from tests.core.intake.torchscript.sources import MEMBER, PAGE, page_with
from tests.core.intake.torchscript.zips import Entry, write_zip
from tests.corpus.benign import BenignCase, large, small
from tests.corpus.committed import OlderArchive, older_archives
from tests.corpus.truth import load

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

QUICK = [pytest.param(case, id=case.name) for case in (*small(), *older_archives())]
LARGE = [pytest.param(case, id=case.name, marks=pytest.mark.slow) for case in large()]
MOST_BYTES = 1 << 30
ODD_TEXT = "a \"quote\", an 'apostrophe', a \\, a\ttab, two\nlines, \0 and \x7f, \u00e4 and \U0001f40d"

# Networks, each with habits of its own


class Size(NamedTuple):
    height: int
    name: str | None


class Answer(NamedTuple):
    scores: Tensor
    more: Tensor | None


@pytest.fixture(autouse=True)
def executor_of_torch() -> None:
    """Ours may have been chosen by what ran before in this process."""
    torch._C._jit_set_profiling_executor(True)


def small_net(kernel: int = 3) -> nn.Sequential:
    last = nn.Linear(4 * (9 - kernel) ** 2, 5)
    return nn.Sequential(nn.Conv2d(3, 4, kernel), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), last)


class InHalf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = small_net().half()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.half())


class Attributes(nn.Module):
    """Every type of an attribute, some of them shared."""

    indices: dict[int, list[float]]
    maybe: int | None
    nothing: Tensor | None
    names: list[str]
    pairs: list[tuple[str, int]]
    tables: list[dict[str, bool]]
    empty: list[Tensor]
    size: Size

    def __init__(self) -> None:
        super().__init__()
        self.indices = {-1: [float("inf"), 1e-300], 1 << 40: []}
        self.maybe, self.nothing = 3, None
        self.names = [ODD_TEXT, "", "plain", "plain"]
        self.pairs, self.tables, self.empty = [("a", 1), ("a", 2)], [{"yes": True}, {}], []
        self.whole, self.flags, self.real = [1, 300, -70000, 1 << 40], [True, False], [0.1, -0.0]
        self.tensors = [torch.arange(6.0).view(2, 3).t(), torch.zeros(0), torch.ones(1).expand(3)]
        self.size, self.home = Size(8, "eight"), torch.device("cpu")
        self.nested = ((1, "a"), 2.5)
        self.net = small_net()
        self.again = self.net
        self.tied = nn.Linear(3, 4, bias=False)
        self.tied.weight = nn.Parameter(self.net[0].weight.detach()[:, :, 0, 0])

    def forward(self, x: Tensor) -> tuple[Tensor, list[str], dict[int, list[float]], int]:
        y = self.net(x.to(self.home)) + self.again(x) + self.size.height * self.nested[1] + self.tied.weight.sum()
        for tensor_ in self.tensors:
            y = y * tensor_.sum()
        return y, self.names, self.indices, self.whole[3]


class Constants(nn.Module):
    """What a class declares Final, what a function takes by default, and literals of all kinds."""

    shape: Final[tuple[int, ...]] = (1, 2)
    __constants__ = ("nested", "nothing", "none", "text", "home", "flag", "low", "step")

    def __init__(self) -> None:
        super().__init__()
        self.nested, self.nothing, self.none, self.text = ((1, 2.0), ("a", False)), (), None, ODD_TEXT
        self.home, self.flag, self.low, self.step = torch.device("cpu"), True, -(1 << 40), 1e-05
        self.weight = nn.Parameter(torch.rand(3, 1, 1))

    def forward(
        self,
        x: Tensor,
        sizes: list[int] | None = None,
        factor: float = 1,
        pair: tuple[int, str] = (2, "a \\ \n"),
        limit: float = float("inf"),
    ) -> tuple[Tensor, list[str], list[float], dict[str, Tensor]]:
        table = {"nan": torch.full([2], float("nan")), self.text: torch.zeros([0], device=self.home)}
        floats = [0.1, 1e-05, 1e22, -1.5e-300, float("-inf"), self.step, 16777217.0, pair[0] / 3]
        if sizes is not None:
            x = x.reshape(sizes)
        ones = torch.ones(self.shape[1] + self.nested[0][0]) * (-3) + self.low
        y = torch.clamp(x * self.weight * factor, max=limit).mean() + ones.sum()
        return y, ['a "quote", a \\ and\n\u00e4 \0', pair[1], self.text, f"{factor} of {pair[0]}"], floats, table


class Flow(nn.Module):
    """Branches, loops, early returns, optional values that are found to be there, numbers taken out of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3, 3, size, padding="same") for size in (1, 3, 5)])
        self.named = nn.ModuleDict({"0": nn.Tanh(), "last layer": nn.Identity()})
        self.register_buffer("calls", torch.zeros(1, dtype=torch.int64))

    def pick(self, x: Tensor, threshold: float | None) -> Tensor | None:
        if threshold is None:
            return None
        if float(x.mean()) > threshold:
            return x * threshold
        return x[:, :1]

    @torch.jit.export
    def count(self) -> int:
        numbers: list[int] = self.calls.tolist()
        return numbers[0]

    def forward(self, x: Tensor) -> Answer:
        if x.dim() != 4:
            raise ValueError(f"expected four dimensions, found {x.dim()}")
        self.calls += 1
        for index, block in enumerate(self.blocks):
            x = block(x) if index % 2 == 0 else self.named["0"](block(x))
        found: Tensor | None = None
        rounds = 0
        while rounds < 3 and bool(x.abs().sum() > 0):
            if rounds == 1:
                found = self.pick(x, 0.0)
            x = x[:, :, :-1] if rounds % 2 == 0 else functional.max_pool2d(x, 2)
            rounds += 1
        first, second = x.size()[2:]
        values, _ = torch.max(x.flatten(1), dim=1, keepdim=True)
        if found is not None:
            values = values + found.sum() * int(first) / second
        return Answer(self.named["last layer"](values), found)


class WithoutGradient(nn.Module):
    """`torch.no_grad` in and behind another, in a branch and in a loop; one that is entered twice."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()

    def forward(self, x: Tensor) -> Tensor:
        guard = torch.no_grad()
        with guard:
            x = x - x.mean()
            with torch.no_grad():
                spread = x.std()
        for _ in range(2):
            with guard:
                if bool(spread > 0):
                    with torch.no_grad():
                        x = x / spread
        return self.net(x)


class Precisions(nn.Module):
    """A buffer of every type of number."""

    def __init__(self) -> None:
        super().__init__()
        for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int16, torch.int8):
            self.register_buffer(f"as_{str(dtype).rpartition('.')[2]}", torch.arange(-2, 3).to(dtype))
        self.register_buffer("as_uint8", torch.arange(5, dtype=torch.uint8))
        self.register_buffer("as_bool", torch.tensor([True, False]))

    def forward(self, x: Tensor) -> list[Tensor]:
        small = [self.as_float16, self.as_bfloat16, self.as_int32, self.as_int16, self.as_int8, self.as_uint8]
        return [x.sum() + self.as_float64, self.as_bool] + small  # noqa: RUF005 (TorchScript knows no starred items)


class TwoOfAKind(nn.Module):
    """Two classes of one name, of which one is mangled, and a function that the archive keeps as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = small_net(), small_net(5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"small": functional.softmax(self.small(x), dim=1), "large": functional.gelu(self.large(x))}


EXAMPLE = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def scripted(builder: Callable[[], nn.Module]) -> torch.jit.ScriptModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.jit.script(builder().eval())


def traced(builder: Callable[[], nn.Module]) -> torch.jit.ScriptModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.jit.trace(builder().eval(), EXAMPLE, strict=False)


TOYS: dict[str, Callable[[], torch.jit.ScriptModule]] = {
    "scripted": lambda: scripted(small_net),
    "traced": lambda: traced(small_net),
    "frozen": lambda: torch.jit.freeze(scripted(small_net)),
    "traced and frozen": lambda: torch.jit.freeze(traced(small_net)),
    "half": lambda: scripted(InHalf),
    "attributes": lambda: scripted(Attributes),
    "constants": lambda: scripted(Constants),
    "control flow": lambda: scripted(Flow),
    "frozen control flow": lambda: torch.jit.freeze(scripted(Flow), preserved_attrs=["count"]),
    "no_grad": lambda: scripted(WithoutGradient),
    "frozen no_grad": lambda: torch.jit.freeze(scripted(WithoutGradient)),
    "types of numbers": lambda: scripted(Precisions),
    "two of a kind": lambda: scripted(TwoOfAKind),
    "traced two of a kind": lambda: traced(TwoOfAKind),
}


@pytest.fixture(scope="module", params=TOYS)
def toy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toy") / "toy.pt"
    TOYS[request.param]().save(str(path), _extra_files={"labels.txt": "a text that nobody asked for"})
    return path


def repacked(path: Path, folder: Path, name: str = "repacked.pt") -> Path:
    destination = folder / name
    repack(understand(path, MOST_BYTES), destination)
    return destination


# What is compared


def outline(node: object, seen: dict[int, int]) -> object:
    """Plain data that tells what is in it, its types, and what is shared; lines of code are left out."""
    match node:
        case ObjectValue() | TensorValue() | list() | dict() if id(node) in seen:
            return ("shared", seen[id(node)])
        case ObjectValue() | TensorValue() | list() | dict():
            seen[id(node)] = len(seen)
    match node:
        case dict():
            return {key: outline(value, seen) for key, value in node.items()}
        case tuple() | list():
            return (type(node).__name__, *(outline(part, seen) for part in node))
        case _ if is_dataclass(node):
            parts = {field.name: getattr(node, field.name) for field in fields(node) if field.name != "line"}
            return (type(node).__name__, outline(tuple(parts.items()), seen))
    return repr(node)  # in which NaN equals NaN, and 1 is not True


def everything(understood: Understood) -> list[object]:
    parts = (understood.program, (understood.module, understood.constants), dict(understood.operators))
    return [understood.format_version, *(outline(part, {}) for part in parts)]


def flat(output: Any) -> Iterator[object]:
    """Each tensor as its type, shape and bytes; whatever else is there as Python writes it."""
    match output:
        case Tensor():
            numbers = output.detach().contiguous().view(-1).view(torch.uint8)
            yield output.dtype, output.shape, numbers.numpy().tobytes()
        case Mapping():
            yield from flat(list(output.items()))
        case tuple() | list():
            yield type(output).__name__, len(output)
            for part in output:
                yield from flat(part)
        case _:
            yield repr(output)


def computed(path: Path, example: Tensor) -> list[object]:
    """What torch computes from an archive, bit by bit, and the state it has before."""
    module = load(path).eval()
    state = list(flat(dict(module.state_dict())))
    with torch.no_grad(), torch.jit.optimized_execution(False):  # which takes longer than it saves
        return state + list(flat(module(example)))


# What holds for every network


def test_a_repack_is_understood_as_the_original_is(toy: Path, tmp_path: Path) -> None:
    again = understand(repacked(toy, tmp_path), MOST_BYTES)
    assert everything(again) == everything(understand(toy, MOST_BYTES))


def test_torch_computes_the_same_from_a_repack_bit_by_bit(toy: Path, tmp_path: Path) -> None:
    assert computed(repacked(toy, tmp_path), EXAMPLE) == computed(toy, EXAMPLE)


def test_the_same_archive_gives_the_same_bytes_and_a_repack_gives_itself(toy: Path, tmp_path: Path) -> None:
    first = repacked(toy, tmp_path, "first.pt")
    assert repacked(toy, tmp_path, "second.pt").read_bytes() == first.read_bytes()
    assert repacked(first, tmp_path, "third.pt").read_bytes() == first.read_bytes()


def test_a_repack_holds_nothing_but_code_values_and_records(toy: Path, tmp_path: Path) -> None:
    understood = understand(repacked(toy, tmp_path), MOST_BYTES)
    records = {name for name in understood.members if name.startswith(("data/", "constants/"))}
    code = {class_.member for class_ in understood.program.classes.values()}
    code |= {function.member for function in understood.program.functions.values()}
    assert set(understood.members) == {"version", "byteorder", "data.pkl", "constants.pkl", *code, *records}
    assert not any(member.deflated for member in understood.members.values())
    assert {member.data_offset % 64 for member in understood.members.values()} == {0}


@pytest.mark.parametrize("case", [*QUICK, *LARGE])
def test_an_honest_archive_is_repacked(case: BenignCase | OlderArchive, tmp_path: Path) -> None:
    original, path = understand(case.path(), MOST_BYTES), tmp_path / "repacked.pt"
    repack(original, path)
    assert everything(understand(path, MOST_BYTES)) == everything(original)
    if case.jit_agrees:
        assert computed(path, case.example()) == computed(case.path(), case.example())


# Archives written by hand

CODE = """\
class Net(Module):
  __parameters__ = ["weight", ]
  __buffers__ = []
  weight : Tensor
  pair : __torch__.Pair
  shared : Tuple[List[int], List[int]]
  def forward(self: __torch__.Net,
    x: Tensor,
    sizes: List[int]=[1, 2],
    none: Optional[List[int]]=annotate(List[int], [])) -> Tensor:
    weight = self.weight
    return torch.mul(x, weight)
class Pair(NamedTuple):
  first : Tensor
  second : int
"""


def archive(**contents: bytes) -> bytes:
    """An archive of the members that are given by their names, and of ours where none is."""
    weight = tensor(storage() + put(0))
    pair = tensor(get(0)) + number(1) + op("TUPLE2")
    lists = list_of(number(7)) + put(1) + get(1) + op("TUPLE2")
    members = {
        "data.pkl": net(weight=weight, pair=pair, shared=lists),
        "constants.pkl": pickled(op("EMPTY_TUPLE")),
        "code/__torch__.py": CODE.encode(),
        "data/0": bytes(range(24)) + b"bytes beyond the six numbers",
        "version": b"3\n",
    } | contents
    return write_zip([Entry(f"net/{name}", content) for name, content in members.items()])


def written(content: bytes, folder: Path) -> Path:
    path = folder / "net.pt"
    path.write_bytes(content)
    return path


def test_a_list_that_two_places_hold_stays_one(tmp_path: Path) -> None:
    path = repacked(written(archive(), tmp_path), tmp_path)
    first, second = understand(path, MOST_BYTES).module.attributes["shared"]
    assert first is second and first == [7]


def test_tensors_that_share_a_record_share_it_in_torch(tmp_path: Path) -> None:
    module = load(repacked(written(archive(), tmp_path), tmp_path))
    assert module.weight.data_ptr() == module.pair[0].data_ptr()


def test_bytes_that_no_tensor_shows_are_left_out(tmp_path: Path) -> None:
    original = written(archive(**{"data/1": b"a record of nobody", "data/2": b"another"}), tmp_path)
    path = repacked(original, tmp_path)
    with zipfile.ZipFile(path) as zipped:
        assert zipped.read("model/data/0") == bytes(range(24))
        assert "model/data/1" not in zipped.namelist()


def test_a_list_by_default_is_printed_as_a_list(tmp_path: Path) -> None:
    path = repacked(written(archive(), tmp_path), tmp_path)
    with zipfile.ZipFile(path) as zipped:
        code = zipped.read("model/code/__torch__.py").decode()
    assert "sizes: List[int]=[1, 2], none: Optional[List[int]]=annotate(List[int], [])" in code
    assert load(path)(torch.ones(2, 3)).shape == (2, 3)


@pytest.mark.parametrize(
    ("stated", "printed"),
    [
        ("sizes: Tuple[int]=(1, 2)", "Tuple[int]"),
        ("sizes: int=[1]", "int"),
        ("sizes: Dict[str, int]=()", "Dict[str, int]"),
    ],
)
def test_a_constant_of_another_type_than_it_states_is_refused(stated: str, printed: str, tmp_path: Path) -> None:
    code = CODE.replace("sizes: List[int]=[1, 2]", stated)
    understood = understand(written(archive(**{"code/__torch__.py": code.encode()}), tmp_path), MOST_BYTES)
    with pytest.raises(GateRefusal) as caught:
        repack(understood, tmp_path / "repacked.pt")
    assert f"`{printed}`" in caught.value.problem.detail
    assert (caught.value.problem.rule, caught.value.problem.member) == ("code-constant", "code/__torch__.py")
    assert caught.value.problem.line == 7
    assert not (tmp_path / "repacked.pt").exists()


# Files that change after they were understood


def test_a_record_that_changed_since_is_refused_and_nothing_is_left_behind(tmp_path: Path) -> None:
    path = written(archive(), tmp_path)
    understood = understand(path, MOST_BYTES)
    content = bytearray(path.read_bytes())
    content[understood.members["data/0"].data_offset + 40] ^= 1  # in the part that is not even copied
    path.write_bytes(content)
    with pytest.raises(GateRefusal) as caught:
        repack(understood, tmp_path / "repacked.pt")
    assert (caught.value.problem.rule, caught.value.problem.member) == ("zip-crc", "data/0")
    assert [left.name for left in tmp_path.iterdir()] == ["net.pt"]


def test_a_file_that_was_cut_short_since_is_refused(tmp_path: Path) -> None:
    path = written(archive(), tmp_path)
    understood = understand(path, MOST_BYTES)
    path.write_bytes(path.read_bytes()[: understood.members["data/0"].data_offset + 8])
    with pytest.raises(GateRefusal, match="ends in the middle"):
        repack(understood, tmp_path / "repacked.pt")


def test_a_file_that_went_away_since_is_refused(tmp_path: Path) -> None:
    path = written(archive(), tmp_path)
    understood = understand(path, MOST_BYTES)
    path.unlink()
    with pytest.raises(Refusal):
        repack(understood, tmp_path / "repacked.pt")


# Words and values


def test_every_form_of_code_is_printed_so_that_it_is_read_as_it_was() -> None:
    program = read_program([(MEMBER, PAGE)])
    assert outline(read_program(print_program(program).items()), {}) == outline(program, {})


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))  # lone surrogates are no text
SCALARS = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats() | TEXTS


@given(SCALARS)
def test_a_scalar_is_printed_so_that_it_is_read_as_it_was(value: Any) -> None:
    program = read_program(page_with(f"    scalar = {spelled(value)}").items())
    assigned = program.classes["__torch__.page.Net"].methods["forward"].body[0]
    assert isinstance(assigned, Assign) and isinstance(assigned.value, Literal)
    assert repr(assigned.value.value) == repr(value)


@pytest.mark.parametrize("kind", ["float", "str", "int"])
@given(data=st.data())
def test_torch_reads_a_scalar_as_it_was_printed(kind: str, data: st.DataObject) -> None:
    strategies = {
        "float": st.floats(min_value=0, allow_infinity=False),
        "str": TEXTS,
        "int": st.integers(-(1 << 63) + 1, (1 << 63) - 1),
    }
    value = data.draw(strategies[kind])
    unit = torch.jit.CompilationUnit(f"def scalar() -> {kind}:\n  return {spelled(value)}\n")
    assert repr(unit.scalar()) == repr(value)


TYPES = st.recursive(
    st.sampled_from([Type("int"), Type("float"), Type("bool"), Type("str"), Type("NoneType"), Type("Device")]),
    lambda inner: (
        st.tuples(inner).map(lambda types: Type("List", types))
        | st.tuples(inner).map(lambda types: Type("Optional", types))
        | st.tuples(st.sampled_from([Type("int"), Type("str")]), inner).map(lambda types: Type("Dict", types))
        | st.lists(inner, max_size=4).map(lambda types: Type("Tuple", tuple(types)))
    ),
    max_leaves=6,
)
PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-(1 << 63), (1 << 63) - 1),
    "float": st.floats(),
    "bool": st.booleans(),
    "str": TEXTS,
    "NoneType": st.none(),
    "Device": st.sampled_from([DeviceValue("cpu"), DeviceValue("cuda:0")]),
}


def values_of(type_: Type) -> st.SearchStrategy[Any]:
    inner = [values_of(part) for part in type_.arguments]
    match type_.name:
        case "List":
            return st.lists(inner[0], max_size=4)
        case "Optional":
            return st.none() | inner[0]
        case "Dict":
            return st.dictionaries(inner[0], inner[1], max_size=4)
        case "Tuple":
            return st.tuples(*inner)
    return PLAIN[type_.name]


@given(st.data())
def test_a_value_is_pickled_so_that_it_is_read_as_it_was(data: st.DataObject) -> None:
    type_ = data.draw(TYPES)
    value = data.draw(values_of(type_))
    read = read_pickle(write_pickle(value, type_, {}), "data.pkl", StorageTable("data", {}))
    assert repr(read) == repr(value)
