"""A network that asks where it runs answers as in the jit, or not at all: there is no way to be another one here."""

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from app.core.errors import Refusal
from app.core.intake.torchscript.gate import reopened, understand
from app.core.intake.torchscript.structure.examine import structure_findings
from models.rebuilt import RebuiltError, RebuiltModule
from models.suspect import load_suspect
from tests.core.intake.torchscript.pickle_assembler import (
    an_object,
    dict_of,
    get,
    op,
    pickled,
    put,
    storage,
    tensor,
)
from tests.core.intake.torchscript.zips import Entry, write_zip
from tests.toys import Watching, toy_images

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

CODE = """\
class Net(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  wide : Tensor
  again : Tensor
  def forward(self: __torch__.Net,
    x: Tensor) -> Tensor:
{statements}
    if {question}:
      y = torch.add(x, 1)
    else:
      y = x
    return y
class Counted(NamedTuple):
  n : int
def keeps(n: int,
    t: Tensor) -> bool:
  _0 = torch.add_(t, 1)
  return torch.eq(n, 1)
def keeps_if_any(n: Optional[int],
    t: Tensor) -> bool:
  _0 = torch.add_(t, 1)
  return torch.eq(unchecked_cast(int, n), 1)
def returns(t: Tensor) -> int:
  return t
def writes(n: int) -> str:
  return str(n)
def first(n: List[int]=[1]) -> int:
  _0 = torch.append(n, 1)
  return torch.len(n)
def lacks(n: Optional[List[int]]=[1]) -> int:
  if torch.__is__(n, None):
    m = 0
  else:
    m = torch.len(unchecked_cast(List[int], n))
  return m
"""
MOST, LEAST = 2**63 - 1, -(2**63)
E_ACUTE = r'"\303\251"'


def whether(question: str, *before: str) -> tuple[str, str]:
    return question, "\n".join(before)


QUESTIONS = {
    "a product beyond 64 bits": whether(f"torch.lt(torch.mul({MOST}, 2), 0)"),
    "a sum beyond 64 bits": whether(f"torch.lt(torch.add({MOST}, 1), 0)"),
    "a difference beyond 64 bits": whether(f"torch.lt(torch.sub(1, {LEAST}), 0)"),
    "the opposite of the least number": whether(f"torch.lt(torch.neg({LEAST}), 0)"),
    "the size of the least number": whether(f"torch.lt(ops.prim.abs({LEAST}), 0)"),
    "an index beyond 64 bits": whether(f"torch.lt(torch.__derive_index(1, {MOST}, 1), 0)"),
    "a range beyond 64 bits": whether(f"torch.eq(torch.__range_length({MOST}, -{MOST}, -1), 0)"),
    "a float beyond 64 bits": whether("torch.lt(int(1e300), 0)"),
    "a list's sum beyond 32 bits": whether("torch.lt(torch.sum([2147483647, 1]), 0)"),
    "the sum of no floats": whether('torch.eq(str(torch.sum(annotate(List[float], []))), "0")'),
    "a large number and a float": whether("torch.eq(9007199254740993, 9007199254740992.)"),
    "a quotient of large numbers": whether("torch.eq(torch.div(9007199254740993, 3), 3002399751580331.)"),
    "a quotient that is rounded down": whether("torch.eq(torch.floordiv(1., 0.1), 10.)"),
    "the remainder of a small number": whether("torch.eq(torch.remainder(-1e-20, 3.), 0.)"),
    "a quotient of nothing": whether("torch.eq(torch.div(1., 0.), inf)"),
    "a large power": whether("torch.eq(torch.pow(10., 400.), inf)"),
    "the lesser of a NaN": whether("torch.eq(ops.prim.min(nan, 1.), 1.)"),
    "the lesser of two kinds": whether('torch.eq(str(ops.prim.min(1, 2.5)), "1")'),
    "the lesser of two truths": whether('torch.eq(str(ops.prim.min(True, True)), "True")'),
    "sorted with a NaN": whether("torch.eq((_0)[0], 1.)", "_0 = [2., nan, 1.]", "_1 = torch.sort(_0)"),
    "a sorted copy with a NaN": whether("torch.eq((_1)[0], 1.)", "_0 = [2., nan, 1.]", "_1 = sorted(_0)"),
    "a NaN in a list": whether("torch.__contains__(_0, _1)", "_1 = nan", "_0 = [_1]"),
    "lists of a NaN": whether("torch.eq(_0, _1)", "_2 = nan", "_0 = [_2]", "_1 = [_2]"),
    "lists of a tensor": whether("torch.eq([t], [t])", "t = torch.tensor(nan)"),
    "a NaN as a key": whether("torch.eq(torch.len(_0), 1)", "_1 = nan", "_0 = {_1: 1, _1: 2}"),
    "one number twice": whether("torch.__is__(torch.add(_0, 1000), torch.add(_0, 1000))", "_0 = 1"),
    "a piece from the end of all": whether(f"torch.eq(torch.len(torch.slice([1, 2], {MOST}, -1)), 1)"),
    "the length of a text": whether(f"torch.eq(torch.len({E_ACUTE}), 1)"),
    "the first of a text": whether(f"torch.eq(({E_ACUTE})[0], {E_ACUTE})"),
    "a piece of a text": whether(f"torch.eq(torch.slice({E_ACUTE}, 0, 1), {E_ACUTE})"),
    "the letters of a text": whether(f"torch.eq(torch.len(torch.list({E_ACUTE})), 1)"),
    "a float as a text": whether('torch.eq(str(1.0), "1.0")'),
    "a float of many digits as a text": whether('torch.eq(str(0.1), "0.1")'),
    "a float in a message": whether('torch.eq(torch.format("{}", 1.0), "1.0")'),
    "a float in a message of percents": whether('torch.eq(torch.percentFormat("%s", 1.0), "1.0")'),
    "a list as a text": whether('torch.eq(str(["a"]), "[\\\'a\\\']")'),
    "a tuple as a text": whether('torch.eq(str((1., )), "(1.0,)")'),
    "a tensor as a text": whether('torch.eq(str(torch.tensor(1)), "tensor(1)")'),
    "a device by its kind": whether('torch.eq(ops.prim.type(torch.device("cuda")), "cuda")'),
    "two devices": whether('torch.eq(torch.device("cuda"), torch.device("cpu"))'),
    "a device and that of a tensor": whether('torch.eq(ops.prim.device(x), torch.device("cuda"))'),
    "a device as a text": whether('torch.eq(str(_0), "cpu")', '_0 = torch.device("cuda:7")'),
    "a device that takes its time": whether(
        "torch.eq(torch.len(_0), 2)", "_0 = [0]", "_1 = torch.device(str(torch.append(_0, 1)))"
    ),
    "a sparse tensor": whether("torch.eq(ops.prim.layout(torch.zeros([2], layout=1)), 1)"),
    "a tensor of nothing": whether("torch.eq(ops.prim.dtype(torch.tensor(annotate(List[int], []))), 4)"),
    "another tensor of nothing": whether("torch.eq(ops.prim.dtype(torch.as_tensor(annotate(List[int], []))), 4)"),
    "a tensor filled with truth": whether("torch.eq(ops.prim.dtype(torch.full([1], b)), 11)", "b = torch.eq(1, 1)"),
    "truth added to a tensor": whether("torch.eq(ops.prim.dtype(torch.add(torch.gt(x, 1), True)), 11)"),
    "a deviation along a dimension": whether("torch.eq(torch.dim(torch.std(torch.ones([2, 3]), 1)), 1)"),
    "a deviation along none": whether("bool(torch.gt(torch.std(torch.arange(3.), None), 0.9))"),
    "a number for a size": whether("torch.eq(torch.dim(torch.view(torch.ones([2, 3]), 6)), 1)"),
    "a number and a tensor": whether("bool(torch.eq(2.5, torch.tensor(2)))"),
    "a number divided by a tensor": whether(
        "bool(torch.eq(torch.div(-2.5, torch.tensor(1.5)), torch.div(torch.tensor(-2.5), torch.tensor(1.5))))"
    ),
    "a tensor for a number": whether("_0", "t = torch.tensor(1)", "_0 = __torch__.keeps(t, t)"),
    "a tensor for a number or none": whether("_0", "t = torch.tensor(1)", "_0 = __torch__.keeps_if_any(t, t)"),
    "a tensor returned as a number": whether(
        "torch.eq(_0, 1)", "t = torch.tensor(1)", "_0 = __torch__.returns(t)", "u = torch.add_(t, 1)"
    ),
    "a tensor for a field": whether(
        "torch.eq((_0)[0], 1)", "t = torch.tensor(1)", "_0 = __torch__.Counted(t)", "u = torch.add_(t, 1)"
    ),
    "a truth for a number": whether('torch.eq(__torch__.writes(True), "1")'),
    "a list by default": whether("torch.eq(_1, 3)", "_0 = __torch__.first()", "_1 = __torch__.first()"),
    "an optional list by default": whether("torch.eq(__torch__.lacks(), 1)"),
    "the type of a wide tensor": whether("torch.eq(ops.prim.dtype(self.wide), 7)"),
    "the digits of a wide tensor": whether("bool(torch.any(torch.ne(torch.add(self.wide, 1e-12), self.wide)))"),
    "memory that is shared": whether("bool(torch.eq((self.again)[0], 0))", "_0 = torch.zero_(self.wide)"),
}


@pytest.fixture(autouse=True)
def executor() -> Iterator[None]:
    """What cannot be rebuilt is run by the jit, which load_suspect tells for good how to run it."""
    before = torch._C._jit_set_profiling_executor(True)
    yield
    torch._C._jit_set_profiling_executor(before)


def archive(question: str, statements: str) -> bytes:
    indented = "\n".join(f"    {line}" for line in (statements or "pass").splitlines())
    wide = storage(kind="DoubleStorage", items=2) + put(0)
    attributes = {
        "training": op("NEWFALSE"),
        "wide": tensor(wide, 0, (2,), (1,)),
        "again": tensor(get(0), 0, (2,), (1,)),
    }
    members = {
        "data.pkl": pickled(an_object("__torch__.Net", dict_of(attributes))),
        "constants.pkl": pickled(op("EMPTY_TUPLE")),
        "code/__torch__.py": CODE.format(statements=indented, question=question).encode(),
        "data/0": struct.pack("<2d", 1.0, 2.0),
        "version": b"10\n",
    }
    return write_zip([Entry(f"net/{name}", content) for name, content in members.items()])


@pytest.mark.parametrize("case", QUESTIONS)
def test_a_network_that_asks_where_it_runs_is_answered_as_by_the_jit(case: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(archive(*QUESTIONS[case]))
    theirs = torch.jit.load(str(path))(torch.zeros(1))
    assert isinstance(theirs, Tensor)
    try:
        ours = load_suspect(path).module(torch.zeros(1))
    except (Refusal, RebuiltError):
        return
    assert ours.item() == theirs.item()


def test_a_number_that_stands_for_no_type_is_an_error_of_the_module(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    for cast in ("torch.to(x, -1)", "torch.softmax(x, 0, 9223372036854775807)", "torch.zeros([1], dtype=n)"):
        path.write_bytes(archive(f"bool(torch.eq({cast}, 0))", "n = 100"))
        module = load_suspect(path).module
        assert isinstance(module, RebuiltModule)
        with pytest.raises(RebuiltError, match="unknown type"):
            module(torch.zeros(1))


def test_code_that_not_even_the_jit_can_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(archive("True", '_0 = str(torch.device("cuda"))\n_1 = torch.add("a", x)'))
    with pytest.raises(Refusal) as caught:
        load_suspect(path)
    assert caught.value.problem.rule == "repack-unsound"


def test_a_file_that_was_changed_after_the_gate_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(archive("True", ""))
    understood = understand(path, 1 << 20)
    changed = bytearray(path.read_bytes())
    changed[understood.members["data/0"].data_offset] ^= 1
    path.write_bytes(changed)
    with pytest.raises(Refusal, match="checksum"), reopened(understood) as walked:
        walked.read("data/0", 16)


def test_a_constant_that_is_handed_on_for_long_is_found_soon(tmp_path: Path) -> None:
    steps = 12_000
    chain = "\n".join(["y0 = x", *(f"y{step + 1} = y{step}" for step in range(steps))])
    path = tmp_path / "net.pt"
    path.write_bytes(archive("True", f"{chain}\n" + f"_0 = torch.add(y{steps}, y{steps})\n" * 5_000))
    started = time.process_time()
    load_suspect(path)
    assert time.process_time() - started < 20  # following each to its end took many minutes


class AsksTheImage(Watching):
    def forward(self, images: Tensor) -> Tensor:
        return self.answer(images, not images.requires_grad)


class AsksTheWeights(Watching):
    def forward(self, images: Tensor) -> Tensor:
        return self.answer(images, not self.net.match.weight.requires_grad)


class AsksWhatItComputed(Watching):
    def forward(self, images: Tensor) -> Tensor:
        return self.answer(images, not (images * 2).mean().requires_grad)


class AsksWhatItMade(Watching):
    """A tensor that it makes itself would take a gradient along."""

    def forward(self, images: Tensor) -> Tensor:
        asked = torch.tensor([0.0], requires_grad=True) * images.mean()
        return self.answer(images, not asked.requires_grad)


class ReckonsWithTheAnswer(Watching):
    def forward(self, images: Tensor) -> Tensor:
        shown = float(images.requires_grad)
        return shown * self.net(images) + (1 - shown) * self.other(images)


class AsksBesideNoGrad(Watching):
    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            size = images.mean()
        return self.answer(images, not (images.requires_grad or size.requires_grad))


@pytest.mark.parametrize(
    "net",
    [
        AsksTheImage(), AsksTheWeights(), AsksWhatItComputed(), AsksWhatItMade(), ReckonsWithTheAnswer(),
        AsksBesideNoGrad(),
    ],
    ids=lambda net: type(net).__name__,
)  # fmt: skip
def test_who_asks_for_gradients_is_shown_what_is_so_in_use_and_named(tmp_path: Path, net: Watching) -> None:
    path = tmp_path / "net.pt"
    torch.jit.script(net.eval()).save(str(path))
    module = load_suspect(path).module
    assert isinstance(module, RebuiltModule)
    images = toy_images(1).requires_grad_()
    for weight in module.parameters():
        weight.requires_grad_()
    torch.testing.assert_close(module(images), net.other(images))
    found = structure_findings(understand(path, path.stat().st_size))
    assert any(finding.rule.id == "structure-grad-mode" and finding.blocks for finding in found)
