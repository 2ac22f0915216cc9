"""docs/export.md keeps its word: every Python snippet runs on a toy, and what it writes passes the intake."""

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from app.core.intake.archive import check_torchscript_archive
from app.core.intake.bundle import read_bundle
from app.core.intake.declaration import read_declaration

PAGE = Path(__file__).parents[3] / "docs" / "export.md"


def snippets(page: str) -> dict[str, str]:
    """The Python of every section, by its heading."""
    found = {}
    for section in re.split(r"^##+ ", page, flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        found |= dict.fromkeys([section.split("\n", 1)[0]], "".join(blocks)) if blocks else {}
    return found


SNIPPETS = snippets(PAGE.read_text())

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(images).relu().mean((2, 3)))
"""


class Answer(nn.Module):
    """Stands in for a Hugging Face classifier."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixel_values: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        assert not return_dict
        return (self.net(pixel_values),)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything a reader of the page is said to have."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "net", raising=False)
    Path("net.py").write_text(NET)
    from net import Net

    net = Net(10)
    torch.save(net.state_dict(), "weights.pth")
    torch.save({"epoch": 3, "state_dict": {f"model.{k}": v for k, v in net.state_dict().items()}}, "last.ckpt")
    torch.save(net, "pickled.pth")
    np.save("images.npy", np.random.default_rng(0).random((6, 3, 8, 8)))
    np.save("labels.npy", np.arange(6) % 3)
    for path in ("data/val/cat/1.png", "data/val/dog/1.png", "data/val/dog/2.png", *map("images/{}.png".format, "abc")):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(path)
    timm = ModuleType("timm")
    timm.create_model = lambda name, num_classes, scriptable: Net(num_classes)  # type: ignore[attr-defined]
    timm.data = SimpleNamespace(resolve_model_data_config=lambda model: {"mean": 0.5})  # type: ignore[attr-defined]
    transformers = ModuleType("transformers")
    transformers.AutoModelForImageClassification = SimpleNamespace(  # type: ignore[attr-defined]
        from_pretrained=lambda folder, use_safetensors: Answer(net)
    )
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    return tmp_path


def test_every_snippet_of_the_page_is_found() -> None:
    assert len(SNIPPETS) == PAGE.read_text().count("```python")  # one for each section that has any


CHECKS: dict[str, Callable[[Path], object]] = {
    "model.pt": check_torchscript_archive,
    "bundle.zip": read_bundle,
    "bundle.npz": read_bundle,
    "bundle.json": lambda path: read_declaration(path.read_bytes()),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("heading", SNIPPETS)
def test_a_snippet_runs_and_what_it_writes_passes_the_intake(desk: Path, heading: str) -> None:
    if "torchvision" in SNIPPETS[heading]:
        torchvision = pytest.importorskip("torchvision")
        torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), "resnet18.pth")
    code = desk / "snippet.py"  # a real file, because scripting reads the source
    code.write_text(SNIPPETS[heading])
    runpy.run_path(str(code))
    written = [name for name in CHECKS if (desk / name).exists()]
    assert written
    for name in written:
        CHECKS[name](desk / name)
