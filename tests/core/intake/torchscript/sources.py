"""Printed code to read: what torch prints for a module, and a page of code that holds every form it has."""

import io
import zipfile
from collections import Counter

import torch

from app.core.intake.torchscript.code.operators import check_operators
from app.core.intake.torchscript.code.program import Program
from app.core.intake.torchscript.code.syntax import read_program

MEMBER = "code/__torch__/page.py"

# Line 20 is the first of forward's body, so a test that puts a line there knows where it stands.
PAGE = r"""class Net(Module):
  __parameters__ = ["weight", ]
  __buffers__ = ["0", ]
  weight : Tensor
  __annotations__ = []
  __annotations__["0"] = Tensor
  training : bool
  _is_full_backward_hook : Optional[bool]
  counter : int
  part : __torch__.page.Part
  device : Final[Device] = torch.device("cpu")
  scale : Final[Tuple[float, Tuple[int, str]]] = (-inf, (-9223372036854775808, "a\"\'\\\n\000\303\251"))
  name : Final[str] = CONSTANTS.c0
  def forward(self: __torch__.page.Net,
    x: Tensor,
    sizes: List[int]=[1, 2],
    flag: bool=False,
    more: Optional[List[int]]=None,
    eps: float=1.0000000000000001e-05) -> __torch__.page.Answer:
    weight = self.weight
    zero = getattr(self, "0")
    part = self.part
    _0 = __torch__.page.double
    _1 = uninitialized(Tensor)
    _2 = annotate(List[int], [])
    y = _0((part).forward(x, ), 2, )
    height, width, = torch.size(torch.conv2d(y, weight, None, [1, 1]))
    values, indices = torch.max(x, 1)
    counter = self.counter
    self.counter = torch.add(counter, 1)
    if torch.__isnot__(more, None):
      more0 = unchecked_cast(List[int], more)
      y0, z = torch.reshape(y, more0), False
    else:
      ops.prim.RaiseException("AssertionError: ", "builtins.ValueError")
      y0, z = _1, True
    y1 = y0
    for i in range(torch.len(sizes)):
      size = sizes[i]
      y1 = torch.add_(y1, torch.mul(size, -1))
    _3, y2 = torch.gt(width, (sizes)[0]), y1
    while _3:
      y3 = torch.to(y2, dtype=ops.prim.dtype(x), device=torch.device("cuda:0"))
      _3, y2 = bool(torch.all(y3)), y3
    last : Optional[Tensor] = torch.add(y2, CONSTANTS.c1, alpha=1)
    listed = annotate(List[float], y2.tolist())
    print("done", {"a": [x, zero], }, sorted(sizes), (x,), ())
    return __torch__.page.Answer(y2, last)
class Part(Module):
  __parameters__ = []
  __buffers__ = []
  def forward(self: __torch__.page.Part,
    x: Tensor) -> Tensor:
    return torch.relu(x)
  def __len__(self: __torch__.page.Part) -> int:
    return 3
class Answer(NamedTuple):
  scores : Tensor
  more : Optional[Tensor]
def double(x: Tensor,
    factor: number) -> Tensor:
  if torch.lt(factor, nan):
    pass
  else:
    torch.warn("small")
  return torch.mul(x, int(factor))
"""


def sources_of(module: torch.jit.ScriptModule) -> dict[str, str]:
    """The members of `code/` that torch writes for a module."""
    written = io.BytesIO()
    torch.jit.save(module, written)
    with zipfile.ZipFile(written) as archive:
        names = [name for name in archive.namelist() if name.endswith(".py")]
        return {name.partition("/")[2]: archive.read(name).decode() for name in names}


def understood(sources: dict[str, str]) -> tuple[Program, Counter[str]]:
    """The program of an archive's code, and how often it uses each operator."""
    program = read_program(sources.items())
    return program, check_operators(program)


def page_with(line: str) -> dict[str, str]:
    """The page with one more line in front of forward's body, which is then line 20."""
    lines = PAGE.split("\n")
    return {MEMBER: "\n".join([*lines[:19], line, *lines[19:]])}
