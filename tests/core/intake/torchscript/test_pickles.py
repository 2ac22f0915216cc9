"""The pickle machine: what torch writes is read as torch reads it, and everything else is refused by a named rule."""

import io
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from app.core.intake.torchscript.pickles.machine import read_pickle
from app.core.intake.torchscript.pickles.storages import StorageTable
from app.core.intake.torchscript.rules import GateRefusal
from app.core.intake.torchscript.values import DeviceValue, ObjectValue, TensorValue, Value
from tests.core.intake.torchscript.pickle_assembler import (
    an_object,
    call,
    dict_of,
    get,
    list_of,
    name,
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

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

WIDE = {"shape": (1 << 10, 1 << 10), "strides": (0, 0)}
WIDE_VIEWS = [tensor(storage() + put(0), **WIDE), *[tensor(get(0), **WIDE)] * 1_000]
RECORDS = {"data/0": 24, "data/1": 8, "constants/0": 400}


def read(data: bytes) -> Value:
    return read_pickle(data, "data.pkl", StorageTable("data", RECORDS))


def rule_of(data: bytes) -> str:
    with pytest.raises(GateRefusal) as caught:
        read(data)
    problem = caught.value.problem
    assert problem.member == "data.pkl"
    assert "Traceback" not in problem.detail
    assert problem.rule is not None
    return problem.rule


# What torch writes


class Parts(nn.Module):
    """One attribute of each kind that torch pickles in a way of its own."""

    lengths: list[int]
    rates: list[float]
    flags: list[bool]
    words: list[str]
    tables: dict[str, Tensor]
    grids: dict[int, list[int]]
    nothing: Tensor | None
    pair: tuple[int, str]

    def __init__(self) -> None:
        super().__init__()
        self.lengths, self.rates, self.flags, self.words = [1, 70_000], [1.5], [True], ["ä"]
        self.tables, self.grids = {"a": torch.ones(3), "b": torch.zeros(0)}, {3: [4]}
        self.nothing, self.pair, self.home = None, (3, "hi"), torch.device("cuda:1")
        self.large, self.negative, self.infinite = 1 << 40, -5, float("inf")
        self.conv = nn.Conv2d(3, 2, 3)
        self.register_buffer("part", self.conv.weight.detach()[1:, :, 1])
        self.register_buffer("wide", torch.ones(1).expand(4, 5))
        self.register_buffer("fp16", torch.ones(2).half())

    def forward(self, x: Tensor) -> Tensor:
        sums = self.lengths[0] + self.rates[0] + self.grids[3][0] + self.pair[0] + self.large + self.negative
        counts = len(self.flags) + len(self.words) + len(self.tables) + self.infinite
        return self.conv(x.to(self.home)) + sums + counts


def archive_of(module: torch.jit.ScriptModule) -> zipfile.ZipFile:
    written = io.BytesIO()
    torch.jit.save(module, written)
    return zipfile.ZipFile(written)


def read_archive(archive: zipfile.ZipFile, folder: str) -> Value:
    """What a pickle of the archive holds: `data` or `constants`."""
    below = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    table = StorageTable(folder, {path: info.file_size for path, info in below.items()})
    return read_pickle(archive.read(below[f"{folder}.pkl"]), f"{folder}.pkl", table)


def tensors_in(module: ObjectValue, prefix: str = "") -> dict[str, TensorValue]:
    found: dict[str, TensorValue] = {}
    for attribute, value in module.attributes.items():
        if isinstance(value, TensorValue):
            found[prefix + attribute] = value
        elif isinstance(value, ObjectValue):
            found |= tensors_in(value, f"{prefix}{attribute}.")
    return found


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


@pytest.mark.parametrize(
    "module",
    [
        torch.jit.script(small_net()),
        torch.jit.trace(small_net(), torch.rand(1, 3, 8, 8)),
        torch.jit.script(small_net().half()),
        torch.jit.script(small_net().double()),
        torch.jit.script(small_net().to(torch.bfloat16)),
        torch.jit.script(Parts()),
    ],
    ids=["scripted", "traced", "half", "double", "bfloat16", "of many attributes"],
)
def test_the_tensors_are_those_of_the_state_dict(module: torch.jit.ScriptModule) -> None:
    root = read_archive(archive_of(module), "data")
    assert isinstance(root, ObjectValue)
    expected = module.state_dict()
    found = tensors_in(root)
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].shape == tuple(value.shape)
        assert found[key].strides == value.stride()
        assert found[key].offset == value.storage_offset()
        assert found[key].storage.dtype == str(value.dtype).removeprefix("torch.")
        assert found[key].storage.device == "cpu"


def test_the_weights_of_a_frozen_module_are_its_constants() -> None:
    frozen = torch.jit.freeze(torch.jit.script(small_net()))
    archive = archive_of(frozen)
    constants = read_archive(archive, "constants")
    assert isinstance(constants, tuple)
    weights = [value for value in constants if isinstance(value, TensorValue)]
    assert (4, 3, 3, 3) in [weight.shape for weight in weights]
    assert all(weight.storage.record.startswith("constants/") for weight in weights)
    assert read_archive(archive, "data") is not None


def test_attributes_of_every_kind_keep_their_values() -> None:
    root = read_archive(archive_of(torch.jit.script(Parts())), "data")
    assert isinstance(root, ObjectValue)
    kept = root.attributes
    assert (kept["lengths"], kept["rates"], kept["flags"], kept["words"]) == ([1, 70_000], [1.5], [True], ["ä"])
    assert (kept["grids"], kept["nothing"], kept["pair"]) == ({3: [4]}, None, (3, "hi"))
    assert (kept["large"], kept["negative"], kept["infinite"]) == (1 << 40, -5, float("inf"))
    assert kept["home"] == DeviceValue("cuda:1")
    tables = kept["tables"]
    assert isinstance(tables, dict)
    assert [view.shape for view in tables.values() if isinstance(view, TensorValue)] == [(3,), (0,)]


def test_a_shared_storage_stays_shared() -> None:
    found = tensors_in(read_archive(archive_of(torch.jit.script(Parts())), "data"))  # type: ignore[arg-type]
    assert found["part"].storage is found["conv.weight"].storage
    assert found["part"] is not found["conv.weight"]
    assert found["wide"].strides == (0, 0)


def test_a_shared_module_stays_shared() -> None:
    shared = an_object("__torch__.Leaf", dict_of({"weight": tensor()})) + put(0)
    root = read(net(first=shared, second=get(0)))
    assert isinstance(root, ObjectValue)
    assert root.attributes["first"] is root.attributes["second"]


# What is refused

SYSTEM = name("os", "system")
SHELL = text("echo owned")
NET = name("__torch__", "Net")
FLOAT = op("BINFLOAT", struct.pack(">d", 0.5))
DOUBLED = b"".join(list_of(get(level), get(level)) + put(level + 1) for level in range(150))

HOSTILE = {  # by the rule that refuses them
    "pickle-global": {
        "os.system": pickled(SYSTEM, tuple_of(SHELL), op("REDUCE")),
        "what Python pickles by name": pickle.dumps(time.sleep, protocol=2),
        "builtins.eval": pickled(call("builtins", "eval", SHELL)),
        "a function of torch": pickled(call("torch", "load", SHELL)),
        "a name with a dot": pickled(call("torch.jit._pickle", "build_intlist.__globals__")),
        "a class of C++": pickled(an_object("__torch__.torch.classes.x.Y", dict_of({}))),
    },
    "pickle-opcode": {
        "STACK_GLOBAL": pickled(text("os"), text("system"), op("STACK_GLOBAL")),
        "INST": pickled(op("MARK"), SHELL, op("INST", b"os\nsystem\n")),
        "OBJ": pickled(op("MARK"), NET, SHELL, op("OBJ")),
        "EXT1": pickled(op("EXT1", b"\1")),
        "NEWOBJ_EX": pickled(NET, tuple_of(), dict_of({}), op("NEWOBJ_EX")),
        "PERSID": pickled(op("PERSID", b"0\n")),
        "FRAME": pickled(op("FRAME", bytes(8)), op("NONE")),
        "a second protocol": pickled(op("PROTO", b"\2"), op("NONE")),
    },
    "pickle-enum": {
        "a call of a class": pickled(NET, number(1), op("REDUCE")),
    },
    "pickle-call": {
        "a call of a storage": pickled(storage(), tuple_of(SHELL), op("REDUCE")),
        "a call of a text": pickled(text("os.system"), tuple_of(SHELL), op("REDUCE")),
        "a call without a tuple": pickled(name("torch", "device"), text("cpu"), op("REDUCE")),
        "a call that does not fit": pickled(call("torch.jit._pickle", "build_intlist", number(1))),
        "an OrderedDict of items": pickled(call("collections", "OrderedDict", list_of())),
        "a type tag that is code": pickled(
            call("torch.jit._pickle", "restore_type_tag", list_of(), text("__import__('os')"))
        ),
        "NEWOBJ of a function": pickled(name("torch", "device"), op("EMPTY_TUPLE"), op("NEWOBJ")),
        "NEWOBJ with arguments": pickled(NET, tuple_of(number(1)), op("NEWOBJ")),
    },
    "pickle-build": {
        "BUILD on a list": pickled(list_of(), dict_of({"x": number(1)}), op("BUILD")),
        "BUILD on a class": pickled(NET, dict_of({"__setstate__": SHELL}), op("BUILD")),
        "BUILD on a tensor": pickled(tensor(), dict_of({"data": number(1)}), op("BUILD")),
        "BUILD twice": pickled(an_object("__torch__.Net", dict_of({})), dict_of({"x": number(1)}), op("BUILD")),
        "BUILD with a tuple": pickled(an_object("__torch__.Net", tuple_of(SHELL))),
        "attributes that are numbers": pickled(
            an_object("__torch__.Net", op("EMPTY_DICT") + number(1) + number(2) + op("SETITEM"))
        ),
    },
    "pickle-container": {
        "SETITEM on a list": pickled(list_of(number(1)), number(0), number(2), op("SETITEM")),
        "SETITEMS on a tensor": pickled(tensor(), op("MARK"), number(0), number(2), op("SETITEMS")),
        "a key without a value": pickled(op("EMPTY_DICT"), op("MARK"), SHELL, op("SETITEMS")),
        "a list as a key": pickled(op("EMPTY_DICT"), list_of(), SHELL, op("SETITEM")),
        "one key twice": pickled(op("EMPTY_DICT"), op("MARK"), (SHELL + SHELL) * 2, op("SETITEMS")),
        "APPEND on a dict": pickled(op("EMPTY_DICT"), SHELL, op("APPEND")),
        "APPENDS on an object": pickled(an_object("__torch__.Net", dict_of({})), op("MARK"), SHELL, op("APPENDS")),
    },
    "pickle-storage": {
        "a storage without a record": net(weight=tensor(storage("9"))),
        "a record that is too short": net(weight=tensor(storage(items=7))),
        "a vast storage": net(weight=tensor(storage(items=1 << 62))),
        "a storage of negative size": net(weight=tensor(storage(items=-1))),
        "a storage outside its folder": net(weight=tensor(storage("../constants/0"))),
        "a storage of two types": net(
            a=tensor(), b=tensor(storage(kind="DoubleStorage", items=3), shape=(), strides=())
        ),
        "a storage that is described again": net(a=tensor(), b=tensor()),
        "a storage of two sizes": net(a=tensor(), b=tensor(storage(items=5), shape=(), strides=())),
        "a forged persistent id": pickled(
            tuple_of(text("module"), NET, text("0"), text("cpu"), number(6)), op("BINPERSID")
        ),
        "a persistent id of a path": pickled(text("/etc/passwd"), op("BINPERSID")),
        "a persistent id of a class": pickled(
            tuple_of(text("storage"), NET, text("0"), text("cpu"), number(6)), op("BINPERSID")
        ),
    },
    "pickle-tensor": {
        "sizes whose product overflows": net(weight=tensor(shape=(1 << 33, 1 << 33), strides=(0, 0))),
        "a view beyond its storage": net(weight=tensor(shape=(2, 4), strides=(3, 1))),
        "an offset beyond its storage": net(weight=tensor(offset=1)),
        "a negative offset": net(weight=tensor(offset=-1)),
        "a negative stride": net(weight=tensor(strides=(-3, 1))),
        "a negative size": net(weight=tensor(shape=(-2, -3))),
        "more strides than sizes": net(weight=tensor(strides=(3, 1, 1))),
        "a stride that overflows": net(weight=tensor(shape=(1, 1), strides=(1 << 62, 1 << 62))),
        "a thousand dimensions": net(weight=tensor(shape=(1,) * 1_000, strides=(0,) * 1_000)),
        "a view of vast logical size": net(weight=tensor(shape=(1 << 15, 1 << 15), strides=(0, 0))),
        "a thousand wide views": net(weights=tuple_of(*WIDE_VIEWS)),
    },
    "pickle-unsupported-tensor": {
        "a quantised tensor": pickled(call("torch._utils", "_rebuild_qtensor")),
        "a sparse tensor": pickled(call("torch._utils", "_rebuild_sparse_tensor")),
        "a complex tensor": net(weight=tensor(storage(kind="ComplexFloatStorage"))),
        "a tensor without numbers": net(weight=tensor(storage(device="meta"))),
    },
    "pickle-device": {
        "a device that is a path": pickled(call("torch", "device", text("cuda:/dev/mem"))),
    },
    "pickle-bomb": {
        "a memo bomb": pickled(tuple_of(list_of(number(1)), put(0), DOUBLED)),
        "ten thousand levels": pickled(op("EMPTY_LIST") * 10_000, op("APPEND") * 9_999),
        "ten thousand tuples": pickled(op("EMPTY_TUPLE"), op("TUPLE1") * 10_000),
        "a million instructions": pickled(op("EMPTY_LIST"), (op("NONE") + op("APPEND")) * 500_000),
        "eight million bytes": pickled(text("x" * 8_000_000)),
        "one dict in many objects": pickled(
            dict_of({f"a{k}": op("NONE") for k in range(20_000)}),
            put(0),
            NET,
            put(1),
            op("MARK"),
            (get(1) + op("EMPTY_TUPLE") + op("NEWOBJ") + get(0) + op("BUILD")) * 20_000,
            op("TUPLE"),
        ),
    },
    "pickle-cycle": {
        "a list that holds itself": pickled(op("EMPTY_LIST"), put(0), get(0), op("APPEND")),
        "a dict around an object around it": pickled(
            list_of(), put(0), an_object("__torch__.Net", dict_of({"x": get(0)})), op("APPEND")
        ),
    },
    "pickle-ingredient": {
        "a class as a value": pickled(list_of(NET)),
        "a function as a value": net(hook=name("torch", "device")),
        "a storage as a value": net(weight=storage()),
        "an object without attributes": net(x=NET + op("EMPTY_TUPLE") + op("NEWOBJ")),
    },
    "pickle-stack": {
        "two values": pickled(op("NONE"), op("NONE")),
        "no value": pickled(),
        "a mark left over": pickled(op("NONE"), op("MARK")),
        "a tuple without a mark": pickled(op("NONE"), op("TUPLE")),
        "a value below a mark": pickled(op("EMPTY_LIST"), op("MARK"), number(1), op("APPEND")),
        "a note never made": pickled(get(7)),
        "a note out of order": pickled(op("NONE"), put(1 << 31)),
        "a note made anew": pickled(op("NONE"), put(0), put(0)),
    },
    "pickle-damaged": {
        "trailing bytes": pickled(op("NONE")) + b".",
        "no end": pickled(op("NONE"))[:-1],
        "a cut text": pickled(op("BINUNICODE", struct.pack("<I", 1 << 31) + b"abc")),
        "a name without end": pickled(op("GLOBAL", b"o" * 5_000)),
        "bytes that are no text": pickled(op("BINUNICODE", b"\2\0\0\0\xff\xfe")),
        "a lone surrogate": pickled(op("BINUNICODE", b"\3\0\0\0\xed\xa0\x80")),
        "an integer of 255 bytes": pickled(op("LONG1", b"\xff" + bytes(255))),
        "an unknown byte": pickled(b"\xff"),
        "protocol 4": pickle.dumps([], protocol=4),
        "nothing": b"",
    },
}


@pytest.mark.parametrize(("rule", "what"), [(rule, what) for rule, examples in HOSTILE.items() for what in examples])
def test_a_hostile_pickle_is_refused_by_its_rule_and_soon(rule: str, what: str) -> None:
    started = time.process_time()
    assert rule_of(HOSTILE[rule][what]) == rule
    assert time.process_time() - started < 2


def test_a_refusal_is_a_sentence_with_a_place_and_advice() -> None:
    with pytest.raises(GateRefusal) as caught:
        read(HOSTILE["pickle-global"]["os.system"])
    problem = caught.value.problem
    assert (problem.code, problem.rule, problem.member) == ("unsafe_pickle", "pickle-global", "data.pkl")
    assert problem.detail == "The pickle names `os.system`, which no archive of TorchScript needs (at byte 2)."
    assert "torch.jit.load" in problem.advice


def test_a_damaged_pickle_is_not_called_dangerous() -> None:
    with pytest.raises(GateRefusal) as caught:
        read(HOSTILE["pickle-damaged"]["no end"])
    assert caught.value.problem.code == "malformed_archive"


# Laws

BENIGN = net(
    weight=tensor() + put(0),
    tied=get(0),
    sizes=call("torch.jit._pickle", "build_intlist", list_of(number(1), number(1 << 40))),
    names=call("torch.jit._pickle", "restore_type_tag", dict_of({"a": text("b")}), text("Dict[str, str]")),
    device=call("torch", "device", text("cuda:0")),
    rate=FLOAT,
    child=an_object("__torch__.child.Leaf", dict_of({"bias": tensor(storage("1", "LongStorage", 1), 0, (), ())})),
)

Mutation = Callable[[bytes], bytes]
places = st.integers(0, len(BENIGN))
mutations = st.one_of(
    st.builds(lambda at, new: lambda data: data[:at] + new + data[at + len(new) :], places, st.binary(max_size=4)),
    st.builds(lambda at, new: lambda data: data[:at] + new + data[at:], places, st.binary(max_size=4)),
    st.builds(lambda at, size: lambda data: data[:at] + data[at + size :], places, st.integers(1, 20)),
    st.builds(lambda at, size, to: lambda data: data[:to] + data[at : at + size] + data[to:], places, places, places),
)


@settings(max_examples=500)
@given(st.lists(mutations, min_size=1, max_size=4))
def test_a_mutated_pickle_is_read_or_refused_but_never_fails(changes: list[Mutation]) -> None:
    data = BENIGN
    for change in changes:
        data = change(data)
    with suppress(GateRefusal):
        read(data)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), max_size=3),
    st.integers(0, 8),
    st.integers(0, 6),
)
def test_a_view_is_accepted_exactly_when_it_stays_in_its_storage(
    axes: list[tuple[int, int]], offset: int, items: int
) -> None:
    shape, strides = tuple(size for size, _ in axes), tuple(stride for _, stride in axes)
    view = net(weight=tensor(storage(items=items), offset, shape, strides))
    try:
        torch.ones(items).as_strided(shape, strides, offset)
        stays = offset <= items  # torch lets an empty view begin anywhere
    except RuntimeError:
        stays = False
    if stays:
        read(view)
    else:
        assert rule_of(view) == "pickle-tensor"


scalars = st.none() | st.booleans() | st.integers(-(1 << 31), (1 << 31) - 1) | st.floats(allow_nan=False) | st.text()
plain_values = st.recursive(
    scalars,
    lambda parts: st.lists(parts) | st.lists(parts).map(tuple) | st.dictionaries(st.text(), parts),
    max_leaves=20,
)


@given(plain_values)
def test_plain_values_are_read_as_python_wrote_them(value: Value) -> None:
    assert read(pickle.dumps(value, protocol=2)) == value
