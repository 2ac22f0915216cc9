"""The archives in `older/`: saved by an older torch (benchmarks/older_torch.py) and committed."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.older_torch import images
from tests.corpus.truth import Truth, load, truth_of

FOLDER = Path(__file__).parent / "older"


@dataclass(frozen=True)
class OlderArchive:
    """One archive, with the interface of a BenignCase."""

    torch_version: str
    stem: str
    sha256: str
    jit_agrees = True

    @property
    def name(self) -> str:
        return f"{self.torch_version}-{self.stem}"

    @property
    def tolerance(self) -> float:
        return 1e-4 if self.example().dtype is torch.float32 else 1e-2

    def path(self) -> Path:
        return FOLDER / self.torch_version / f"{self.stem}.pt"

    def example(self) -> Tensor:
        return images().half() if "half" in self.stem else images()

    def truth(self) -> Truth:
        """The scores as the older torch computed them, in float32; the gradient as this one's jit does."""
        scores = json.loads((FOLDER / self.torch_version / "truth.json").read_text())["archives"][self.stem]["scores"]
        return Truth(torch.tensor(scores), self.truth_of_jit().gradient)

    def truth_of_jit(self) -> Truth:
        return truth_of(load(self.path()).eval(), self.example())


def older_archives() -> list[OlderArchive]:
    return [
        OlderArchive(document.parent.name, stem, facts["sha256"])
        for document in sorted(FOLDER.glob("*/truth.json"))
        for stem, facts in json.loads(document.read_text())["archives"].items()
    ]
