"""Make the archives of tests/corpus/older with the torch that runs this: `python older_torch.py --out FOLDER`.

TorchScript's printed code, its pickles and its zip layout changed over the years, and users hand in files of all of
them. So this file is run once under each torch, in an environment of its own that needs nothing but torch:

    python -m venv /tmp/old && /tmp/old/bin/pip install 'torch==1.13.1' 'numpy<2'
    /tmp/old/bin/python benchmarks/older_torch.py --out tests/corpus/older

It was run so with torch 1.13.1, 2.4.1 and 2.13.0+cpu under Python 3.11. Beside the archives lies `truth.json`: the
scores that each must give to the images of `images()`, computed by the net itself in float32, in evaluation mode.
"""

import argparse
import hashlib
import json
import math
from pathlib import Path
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional

SHAPE = (2, 3, 16, 16)
LABELS = 5
WIDTH = 8


def images() -> Tensor:
    """Images in [0, 1] that look random and are the same in every torch: a multiplicative hash of the position."""
    hashed = torch.tensor([position * 2654435761 % 2**32 for position in range(1, math.prod(SHAPE) + 1)])
    return hashed.double().div(2**32).float().reshape(SHAPE)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 3, stride=2, padding=1)
        self.norm1 = nn.BatchNorm2d(WIDTH)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(WIDTH)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(WIDTH * 16, LABELS)

    def features(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm1(self.conv1(x)))
        return torch.flatten(self.dropout(functional.relu(self.norm2(self.conv2(x)))), 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Scores(NamedTuple):
    logits: Tensor
    features: Optional[Tensor]  # noqa: UP045 - torch 1.13 cannot script `Tensor | None`


class ReturnsTuple(Plain):
    def forward(self, x: Tensor) -> Scores:
        found = self.features(x)
        return Scores(functional.log_softmax(self.head(found), dim=1), found)


class ReturnsDict(Plain):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.features(x)
        return {"probabilities": functional.softmax(self.head(found), dim=1), "features": found}


class Block(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1, stride=stride), nn.BatchNorm2d(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm(self.conv(x)) + self.shortcut(x), inplace=True)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.layers = nn.Sequential(Block(1), Block(2))
        self.head = nn.Linear(WIDTH * 4, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(self.layers(self.stem(x)), 4)
        return self.head(x.view(x.size(0), -1))


class Branches(nn.Module):
    """Control flow, attributes of several types, and a loop over modules."""

    scale: Optional[float]  # noqa: UP045

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3, WIDTH, 3), nn.Conv2d(WIDTH, WIDTH, 3, groups=2)])
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.head = nn.Linear(WIDTH, LABELS)
        self.scale = 0.5
        self.classes = ["cat", "dog"]

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"expected a batch of images, found {x.dim()} dimensions")
        assert x.shape[2] == 16, "expected 16 pixels"
        x = x - self.mean
        for index, block in enumerate(self.blocks):
            x = torch.tanh(block(x)) if index % 2 == 0 else functional.gelu(block(x))
        while x.size(3) > 4:
            x = functional.max_pool2d(x, 2)
        x = functional.interpolate(x, size=[6, 6], mode="bilinear", align_corners=False).mean([2, 3])
        scale = self.scale
        if scale is not None:
            x = x * scale
        return self.head(x)


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.head = nn.Linear(WIDTH, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.norm(torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(x[:, 0])


def settled(net: nn.Module) -> nn.Module:
    """The net in evaluation mode, with statistics that are not the initial ones and scores that tell images apart."""
    for module in net.eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.num_batches_tracked.fill_(100)
    answers = []
    handle = net.head.register_forward_hook(lambda module, inputs, output: answers.append(output))
    with torch.no_grad():
        net(images())
        deviation = answers[0].std(0).mean()
        net.head.bias.sub_(answers[0].mean(0)).div_(deviation)
        net.head.weight.div_(deviation)
    handle.remove()
    return net


def scripted(net: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.script(net)


def traced(net: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.trace(net, torch.rand(3, *SHAPE[1:]), strict=False)


def frozen(net: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.freeze(torch.jit.script(net))


def half(net: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.script(net.half())


def left_training(net: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.script(net.train())


CASES = {
    "plain-scripted": (Plain, scripted),
    "plain-traced": (Plain, traced),
    "plain-frozen": (Plain, frozen),
    "plain_half-scripted": (Plain, half),
    "plain_training-scripted": (Plain, left_training),
    "tuple-scripted": (ReturnsTuple, scripted),
    "dict-traced": (ReturnsDict, traced),
    "residual-traced": (Residual, traced),
    "branches-scripted": (Branches, scripted),
    "attends-scripted": (Attends, scripted),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    folder = parser.parse_args().out / torch.__version__.split("+")[0]
    folder.mkdir(parents=True, exist_ok=True)
    truth = {}
    for name, (build, export) in CASES.items():
        torch.manual_seed(0)
        net = settled(build())
        path = folder / f"{name}.pt"
        export(net).save(str(path))
        with torch.no_grad():
            output = net.float().eval()(images())
        scores = (
            output
            if isinstance(output, Tensor)
            else next(iter(output.values() if isinstance(output, dict) else output))
        )
        truth[name] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "scores": scores.tolist()}
    document = {"torch": torch.__version__, "input_shape": SHAPE, "archives": truth}
    (folder / "truth.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
