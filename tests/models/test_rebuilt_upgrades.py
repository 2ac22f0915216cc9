"""An archive of an older format computes what torch.jit computes of it, which knows what operators meant then."""

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from app.core.intake.torchscript.code.operators import allowlist
from models.rebuilt.upgrades import CHANGED, NEWEST_FORMAT
from tests.core.intake.torchscript.zips import Entry, write_zip
from tests.models.rebuilt_nets import rebuilt

INPUT = torch.rand(3, 4, generator=torch.Generator().manual_seed(4))
PRINTED, WITHOUT_STEPS = "torch.linspace(0, 1, 7)", "torch.linspace(0, 1, None)"


class Divides(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        whole = (x * 20).to(torch.int64) - 9
        rounded = whole.clone()
        rounded.div_(4, rounding_mode="floor")
        answers = [whole / 3, whole / 2.0, whole / torch.tensor(3), whole / torch.tensor(3.0), whole / (whole + 100)]
        answers += [torch.div(whole, 3, rounding_mode="floor"), torch.div(whole, 3, rounding_mode=None)]
        answers += [x / 3, x / whole, (whole > 0) / 2, rounded, x.div_(2), whole / (x.size(0) / 2)]
        return answers


class DividesInPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 20).to(torch.int64).sub_(9).div_(4)


class Fills(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        answers = [torch.full([2], 3), torch.full([2], True), torch.full([2], x.size(0)), torch.full([2], 0.5)]
        answers += [torch.full([2], 3, dtype=torch.int64), torch.full([2], 3, dtype=None), torch.full_like(x, 3)]
        return answers


class Steps(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [torch.linspace(0, 1, 7), torch.linspace(0.0, x.size(0), 3), nn.functional.gelu(x)]


def saved_as(net: nn.Module, version: int, path: Path, printed: str = "", instead: str = "") -> Path:
    """The archive of a net with another version, and perhaps with other code, in it."""
    torch.jit.script(net).save(str(path))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if not name.endswith(".debug_pkl")}
    for name, content in members.items():
        if name.endswith("/version"):
            members[name] = f"{version}\n".encode()
        if name.endswith(".py"):
            assert printed.encode() in content
            members[name] = content.replace(printed.encode(), instead.encode())
    path.write_bytes(write_zip([Entry(name, content) for name, content in members.items()]))
    return path


def answers(path: Path) -> tuple[Any, Any]:
    return rebuilt(path)(INPUT.clone()), torch.jit.load(path)(INPUT.clone())


@pytest.mark.parametrize("version", range(3, NEWEST_FORMAT + 1))
@pytest.mark.parametrize("net", [Divides, Fills, Steps])
def test_an_old_archive_computes_what_it_computed(tmp_path: Path, net: type[nn.Module], version: int) -> None:
    ours, theirs = answers(saved_as(net(), version, tmp_path / "net.pt"))
    for our, their in zip(ours, theirs, strict=True):
        assert our.dtype == their.dtype
        torch.testing.assert_close(our, their)


def test_whole_numbers_could_be_divided_in_place(tmp_path: Path) -> None:
    old = saved_as(DividesInPlace(), 3, tmp_path / "old.pt")
    ours, theirs = answers(old)
    assert torch.equal(ours, theirs) and ours.dtype == torch.int64
    with pytest.raises(RuntimeError, match="can't be cast"):
        rebuilt(saved_as(DividesInPlace(), 4, tmp_path / "new.pt"))(INPUT)


def test_a_number_of_steps_may_be_missing_in_an_old_archive(tmp_path: Path) -> None:
    ours, theirs = answers(saved_as(Steps(), 7, tmp_path / "net.pt", PRINTED, WITHOUT_STEPS))
    assert len(ours[0]) == 100
    torch.testing.assert_close(ours, theirs)


def test_the_same_code_divides_otherwise_in_an_old_archive(tmp_path: Path) -> None:
    old = rebuilt(saved_as(Divides(), 3, tmp_path / "old.pt"))(INPUT.clone())
    new = rebuilt(saved_as(Divides(), 4, tmp_path / "new.pt"))(INPUT.clone())
    assert old[0].dtype == torch.int64 and new[0].dtype == torch.float32


def test_every_operator_that_torch_upgrades_is_known() -> None:
    upgraded = {name.partition(".")[0]: entry for name, entry in torch._C._get_operator_version_map().items()}
    since = {name: max(one.bumped_at_version for one in entries) for name, entries in upgraded.items()}
    allowed = {name: version for name, version in since.items() if name in allowlist()}
    assert allowed == {name: version for name, (version, _) in CHANGED.items()} | {"aten::gelu": 10}
    assert torch._C._get_max_operator_version() == NEWEST_FORMAT
