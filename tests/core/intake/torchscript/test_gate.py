"""The gate as a whole: honest archives are understood, and those whose parts do not fit together are refused."""

import hashlib
import json
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from app.core.errors import Refusal
from app.core.intake.torchscript.code.grad_mode import NO_GRAD, NO_GRAD_TEXT
from app.core.intake.torchscript.gate import Understood, understand
from app.core.intake.torchscript.inventory import tensor_places
from app.core.intake.torchscript.rules import GateRefusal
from app.core.intake.torchscript.values import TensorValue
from tests.core.intake.torchscript.pickle_assembler import (
    an_object,
    call,
    dict_of,
    get,
    list_of,
    net,
    number,
    op,
    pickled,
    put,
    storage,
    tensor,
    text,
    tuple_of,
)
from tests.core.intake.torchscript.zips import Entry, write_zip

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

MOST_BYTES = 1 << 30

# What people export


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


def traced(module: nn.Module) -> torch.jit.ScriptModule:
    example = torch.rand(2, 3, 8, 8, dtype=next(module.parameters()).dtype)
    return torch.jit.trace(module, example)


class Pair(nn.Module):
    """Two names for one network, a list, a device and a constant."""

    scales: list[float]

    def __init__(self) -> None:
        super().__init__()
        self.scales, self.home = [0.5, 2.0], torch.device("cuda:0")
        self.first = small_net()
        self.second = self.first

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        moved = torch.zeros(1, device=torch.device("cuda:1"))
        return {"a": self.first(x) * self.scales[0] + moved, "b": self.second(x.to(self.home)) * self.scales[1]}


FORMS: dict[str, Callable[[], torch.jit.ScriptModule]] = {
    "scripted": lambda: torch.jit.script(small_net()),
    "traced": lambda: traced(small_net()),
    "scripted in half": lambda: torch.jit.script(small_net().half()),
    "traced in double": lambda: traced(small_net().double()),
    "of many attributes": lambda: torch.jit.script(Pair()),
}


def saved(module: torch.jit.ScriptModule, folder: Path) -> Path:
    path = folder / "net.pt"
    module.save(str(path))
    return path


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_an_exported_module_is_understood(form: Callable[[], torch.jit.ScriptModule], tmp_path: Path) -> None:
    module = form()
    path = saved(module, tmp_path)
    understood = understand(path, MOST_BYTES)
    assert understood.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (understood.size, understood.root) == (path.stat().st_size, "net")
    places = list(tensor_places(understood.module, understood.constants, understood.program))
    for role, expected in (("parameter", module.named_parameters()), ("buffer", module.named_buffers())):
        shapes = {name: (tuple(value.shape), f"torch.{dtype_of(value)}") for name, value in expected}
        found = {place.path: (place.tensor.shape, f"torch.{place.tensor.storage.dtype}") for place in places}
        assert shapes.items() <= found.items()
        assert {place.path for place in places if place.role == role} >= shapes.keys()


def dtype_of(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def test_the_weights_of_a_frozen_module_are_understood_as_constants(tmp_path: Path) -> None:
    understood = understand(saved(torch.jit.freeze(torch.jit.script(small_net())), tmp_path), MOST_BYTES)
    shapes = [value.shape for value in understood.constants if isinstance(value, TensorValue)]
    assert {(4, 3, 3, 3), (5, 144)} <= set(shapes)
    facts = understood.manifest()
    assert facts["parameters"] == {"tensors": 0, "items": 0, "bytes": {}}


def test_the_manifest_tells_what_is_in_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.jit.script(Pair()).save(str(path), _extra_files={"labels.txt": "cat\ndog"})
    facts = json.loads(json.dumps(understand(path, MOST_BYTES).manifest()))
    written = [name.removeprefix("net/") for name in zipfile.ZipFile(path).namelist()]
    assert facts["code"] == [name for name in written if name.endswith(".py")]
    assert {name.rpartition(".")[2]: kind for name, kind in facts["classes"].items()}["Conv2d"] == "Module"
    assert facts["operators"]["aten::zeros"] == 1
    assert facts["parameters"] == {"tensors": 6, "items": 845, "bytes": {"float32": 3380}}
    assert facts["buffers"] == {"tensors": 3, "items": 9, "bytes": {"float32": 32, "int64": 8}}
    assert facts["devices"] == {"tensors": ["cpu"], "attributes": ["cuda:0"], "code": ["cuda:1"]}
    assert ["first.0.weight", "second.0.weight"] in facts["shared_storages"].values()
    assert facts["extra_files"] == ["extra/labels.txt"]
    assert facts["written_with"]["traced_inputs"] is False


def test_a_traced_module_can_be_told_by_its_inputs(tmp_path: Path) -> None:
    facts = understand(saved(traced(small_net()), tmp_path), MOST_BYTES).manifest()
    assert facts["written_with"] == {"byte_order": True, "serialization_id": True, "traced_inputs": True}


# Archives written by hand

CODE = """\
class Net(Module):
  __parameters__ = ["weight", ]
  __buffers__ = []
  weight : Tensor
  size : int
  name : Optional[str]
  table : Dict[str, List[int]]
  pair : Tuple[float, bool]
  answer : __torch__.Answer
  leaf : __torch__.Leaf
  def forward(self: __torch__.Net,
    x: Tensor) -> Tensor:
    weight = self.weight
    _0 = torch.mul(weight, CONSTANTS.c0)
    return torch.mul(x, _0)
class Leaf(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
class Answer(NamedTuple):
  scores : Tensor
  label : int
"""
LEAF = an_object("__torch__.Leaf", dict_of({"training": op("NEWFALSE")}))
HALF = op("BINFLOAT", b"\x3f\xe0" + bytes(6))
OTHER_TENSOR = tensor(storage("2"))
ATTRIBUTES = {
    "weight": tensor(),
    "size": number(3),
    "name": op("NONE"),
    "table": dict_of({"a": list_of(number(1))}),
    "pair": tuple_of(HALF, op("NEWTRUE")),
    "answer": tuple_of(tensor(storage("1")), number(1)),
    "leaf": LEAF,
}
CONSTANTS = pickled(tuple_of(tensor()))


def archive(**contents: bytes) -> bytes:
    """An archive of the members that are given by their names, and of ours where none is."""
    members = {
        "data.pkl": net(**ATTRIBUTES),
        "constants.pkl": CONSTANTS,
        "code/__torch__.py": CODE.encode(),
        "data/0": bytes(24),
        "data/1": bytes(24),
        "data/2": bytes(24),
        "constants/0": bytes(24),
        "version": b"3\n",
    }
    members |= contents
    return write_zip([Entry(f"net/{name}", content) for name, content in members.items()])


def understood_of(content: bytes, folder: Path) -> Understood:
    path = folder / "net.pt"
    path.write_bytes(content)
    return understand(path, MOST_BYTES)


def having(**attributes: bytes) -> bytes:
    return archive(**{"data.pkl": net(**(ATTRIBUTES | attributes))})


def test_an_archive_written_by_hand_is_understood(tmp_path: Path) -> None:
    understood = understood_of(archive(), tmp_path)
    assert understood.module.attributes["pair"] == (0.5, True)
    assert understood.operators == {"aten::mul": 2}
    assert understood.format_version == 3


def test_long_names_of_many_places_are_listed_soon(tmp_path: Path) -> None:
    name, depth, count = "n" * 250, 60, 100_000
    kinds = [f"__torch__.C{level}" for level in range(1, depth)] + ["List[Tensor]"]
    code = "".join(
        f"class {'Net' if level == 0 else f'C{level}'}(Module):\n"
        f"  __parameters__ = []\n  __buffers__ = []\n  {name} : {kind}\n"
        for level, kind in enumerate(kinds)
    )
    value = list_of(tensor() + put(0), get(0) * count)
    for kind in reversed(kinds[:-1]):
        value = an_object(kind, dict_of({name: value}))
    contents = {"code/__torch__.py": code.encode(), "data.pkl": net(**{name: value})}
    understood = understood_of(archive(**contents, **{"constants.pkl": pickled(op("EMPTY_TUPLE"))}), tmp_path)
    started = time.process_time()
    shared = understood.manifest()["shared_storages"]
    assert time.process_time() - started < 4  # it took 20 seconds, and 40 MB
    assert isinstance(shared, dict)
    (places,) = shared.values()
    assert len(places) == 21 and places[-1] == "and 99,981 more" and all(len(place) <= 200 for place in places)


def test_a_text_may_stand_where_the_class_allows_it(tmp_path: Path) -> None:
    assert understood_of(having(name=text("ä")), tmp_path).module.attributes["name"] == "ä"


MISFITS = {  # by the rule and the member that the refusal names
    ("pickle-attributes", "data.pkl"): {
        "a number for a tensor": having(weight=number(7)),
        "a tensor for a number": having(size=OTHER_TENSOR),
        "a bool for a number": having(size=op("NEWTRUE")),
        "a number for a text": having(name=number(1)),
        "a text in a list of numbers": having(table=dict_of({"a": list_of(text("b"))})),
        "a number as a text's key": having(table=op("EMPTY_DICT") + number(1) + list_of() + op("SETITEM")),
        "a tuple that is too long": having(pair=tuple_of(HALF, op("NEWTRUE"), HALF)),
        "a named tuple that is too short": having(answer=tuple_of(OTHER_TENSOR)),
        "a module for a tensor": having(weight=LEAF),
        "a module of another class": having(leaf=OTHER_TENSOR),
        "a parameter that is a number": archive(
            **{"code/__torch__.py": CODE.replace('["weight", ]', '["weight", "size", ]').encode()}
        ),
        "an attribute too many": having(hook=number(1)),
        "an attribute too few": archive(**{"data.pkl": net(weight=tensor())}),
        "a misfit in a module within": having(leaf=an_object("__torch__.Leaf", dict_of({"training": number(1)}))),
    },
    ("pickle-class", "data.pkl"): {
        "a class that is not there": archive(**{"data.pkl": pickled(an_object("__torch__.Other", dict_of({})))}),
        "a named tuple as an object": archive(**{"data.pkl": pickled(an_object("__torch__.Answer", dict_of({})))}),
        "a no_grad as an object": archive(**{
            "code/__torch__/torch/autograd/grad_mode.py": NO_GRAD_TEXT.encode(),
            "data.pkl": pickled(an_object(NO_GRAD, dict_of({"prev": op("NEWFALSE")}))),
        }),
    },
    ("pickle-root", "data.pkl"): {
        "a state dict": archive(**{"data.pkl": pickled(dict_of({"weight": tensor()}))}),
    },
    ("pickle-constants", "constants.pkl"): {
        "constants in a list": archive(**{"constants.pkl": pickled(list_of(tensor()))}),
        "a module as a constant": archive(**{"constants.pkl": pickled(tuple_of(LEAF))}),
    },
    ("pickle-constants", "code/__torch__.py"): {
        "a constant that is missing": archive(**{"constants.pkl": pickled(op("EMPTY_TUPLE"))}),
    },
    ("pickle-storage", "constants.pkl"): {
        "a constant from the other folder": archive(**{"constants.pkl": pickled(tuple_of(tensor(storage("1"))))}),
    },
    ("archive-version", "version"): {
        "a version to come": archive(version=b"99\n"),
        "a version that is a word": archive(version=b"three"),
    },
    ("code-encoding", "code/__torch__.py"): {
        "code that is not ASCII": archive(**{"code/__torch__.py": CODE.replace("leaf", "léaf").encode()}),
    },
    ("pickle-global", "data.pkl"): {
        "a call": archive(**{"data.pkl": pickled(call("os", "system", text("echo owned")))}),
    },
    ("zip-member-size", "data.pkl"): {
        "a vast pickle": archive(**{"data.pkl": pickled(text("x" * 5_000_000))}),
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "member", "what"), [(*where, what) for where, examples in MISFITS.items() for what in examples]
)
def test_an_archive_whose_parts_do_not_fit_is_refused(rule: str, member: str, what: str, tmp_path: Path) -> None:
    started = time.process_time()
    with pytest.raises(GateRefusal) as caught:
        understood_of(MISFITS[rule, member][what], tmp_path)
    assert time.process_time() - started < 2
    assert (caught.value.problem.rule, caught.value.problem.member) == (rule, member)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal):
        understand(tmp_path / "net.pt", MOST_BYTES)


BENIGN = net(**ATTRIBUTES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated")


mutations = st.tuples(st.integers(0, len(BENIGN)), st.integers(0, 3), st.binary(max_size=3))


@given(st.lists(mutations, min_size=1, max_size=3))
def test_an_archive_with_a_mutated_pickle_is_described_or_refused(
    folder: Path, changes: list[tuple[int, int, bytes]]
) -> None:
    data = BENIGN
    for at, dropped, put_in in changes:
        data = data[:at] + put_in + data[at + dropped :]
    with suppress(GateRefusal):
        json.dumps(understood_of(archive(**{"data.pkl": data}), folder).manifest())
