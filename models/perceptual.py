"""How different two images look: LPIPS (Zhang et al., CVPR 2018), the third term of the inversion's loss.

Both images go through a fixed convolutional net. At a few depths the features are scaled to unit length at every
position, and the squared differences, weighted per channel, are averaged over positions and summed over depths.

Three nets can serve. AlexNet and SqueezeNet 1.1 are the genuine ones: their weights are torchvision's, their channel
weights come inside the `lpips` package. The packaged net is small, ships with TriggerLens and was distilled from the
two (`weights/README.md`). Loading never touches the network, draws no random numbers and imports neither `lpips` nor
torchvision: the three nets are spelled out below, and of `lpips` only a file is read.

    N images   C channels   H, W pixels, or positions in a feature map
"""

import hashlib
import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from app.core.errors import Refusal

PACKAGED = Path(__file__).parent / "weights" / "perceptual.safetensors"
NORM_EPSILON = 1e-8  # inside the square root, so that a feature vector of zeros has a gradient (lpips adds it outside)

Name = Literal["alexnet", "squeezenet1_1", "packaged"]


@dataclass(frozen=True)
class Backbone:
    """The weights that a scan would use, and where they were found."""

    name: Name
    path: Path
    source: Literal["configured", "torch hub cache", "packaged"]


class PerceptualDistance(nn.Module):
    """LPIPS over one frozen net; images are [0, 1], grey or RGB, of any size, and receive gradients.

    Images with a side below `smallest_side` are enlarged (bilinear) until the net can see them. `sha256` is that of the
    backbone's file, `heads_sha256` that of the file of channel weights where it is another one.
    """

    shift_C11: Tensor
    scale_C11: Tensor

    def __init__(self, name: Name, weights: Mapping[str, Tensor], sha256: str, heads_sha256: str | None = None) -> None:
        """`weights` holds `features.*`, numbered as torchvision does, and one nonnegative `heads.<depth>` per depth."""
        super().__init__()
        blueprint = BLUEPRINTS[name]
        self.name, self.sha256, self.heads_sha256 = name, sha256, heads_sha256
        self.smallest_side, self.depths = blueprint.smallest_side, blueprint.depths
        with torch.device("meta"):  # weights are assigned, not initialised: no random number is drawn
            self.backbone = blueprint.build()
        own = {key.removeprefix("features."): value for key, value in weights.items() if key.startswith("features.")}
        self.backbone.load_state_dict(own, assign=True)
        heads = [weights[f"heads.{depth}"].flatten() for depth in range(len(self.depths))]
        assert all(bool((head_C >= 0).all()) for head_C in heads), "a negative channel weight would reward a difference"
        self.heads = nn.ParameterList(nn.Parameter(head_C) for head_C in heads)
        # lpips' scaling layer, with its [-1, 1] taken back to [0, 1]; close to the ImageNet mean and deviation
        self.register_buffer("shift_C11", (torch.tensor([-0.030, -0.088, -0.188]).reshape(3, 1, 1) + 1) / 2)
        self.register_buffer("scale_C11", torch.tensor([0.458, 0.448, 0.450]).reshape(3, 1, 1) / 2)
        self.requires_grad_(False).eval()

    def features(self, images_NCHW: Tensor) -> list[Tensor]:
        """Feature maps of unit length over channels, one per depth; a grey image counts as three equal channels."""
        maps_NCHW, collected = self._prepare(images_NCHW), []
        for index, layer in enumerate(self.backbone):
            maps_NCHW = layer(maps_NCHW)
            if index + 1 in self.depths:
                length_N1HW = (maps_NCHW.square().sum(1, keepdim=True) + NORM_EPSILON).sqrt()
                collected.append(maps_NCHW / length_N1HW)
        return collected

    def distance(self, features_a: list[Tensor], features_b: list[Tensor]) -> Tensor:
        """The distance of each image pair, shape [N], from `features` of the two sides."""
        squares_NC = [(a - b).square().mean((2, 3)) for a, b in zip(features_a, features_b, strict=True)]
        return torch.stack([s_NC @ head_C for s_NC, head_C in zip(squares_NC, self.heads, strict=True)]).sum(0)

    def forward(self, images_a_NCHW: Tensor, images_b_NCHW: Tensor) -> Tensor:
        return self.distance(self.features(images_a_NCHW), self.features(images_b_NCHW))

    def train(self, mode: bool = True) -> "PerceptualDistance":
        """A measure has no training mode: whoever trains around it may call this on everything."""
        return super().train(False)

    def _prepare(self, images_NCHW: Tensor) -> Tensor:
        height, width = images_NCHW.shape[-2:]
        if min(height, width) < self.smallest_side:
            factor = self.smallest_side / min(height, width)
            size = (max(round(height * factor), self.smallest_side), max(round(width * factor), self.smallest_side))
            images_NCHW = functional.interpolate(images_NCHW, size=size, mode="bilinear", align_corners=False)
        return (images_NCHW - self.shift_C11) / self.scale_C11  # broadcasts grey to three channels


def load_perceptual(path: Path | None = None) -> PerceptualDistance:
    """The perceptual distance of a scan: the configured weights, else torch's hub cache, else the packaged net.

    A configured path may be `PACKAGED` itself, for who wants the same numbers whatever the hub cache holds.
    """
    backbone = find_backbone(path)
    sha256 = hashlib.sha256(backbone.path.read_bytes()).hexdigest()
    weights = _read(backbone.path)
    if backbone.name == "packaged":
        return PerceptualDistance(backbone.name, weights, sha256)
    heads, heads_sha256 = _published_heads(backbone.name)
    return PerceptualDistance(backbone.name, weights | heads, sha256, heads_sha256)


def find_backbone(path: Path | None = None) -> Backbone:
    """Which net `load_perceptual` would use; raises Refusal if the configured file is none that we know."""
    if path is not None:
        return Backbone(_recognise(path), path, "configured")
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    for pattern in ("alexnet-owt-*.pth", "squeezenet1_1-*.pth"):
        for cached in sorted(cache.glob(pattern)):
            return Backbone(_recognise(cached), cached, "torch hub cache")
    return Backbone("packaged", PACKAGED, "packaged")


def fetch_backbone(url: str = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth") -> Path:
    """Download torchvision's AlexNet (233 MB) into torch's hub cache, where every later scan finds it.

    The only function here that uses the network, and only on request. The eight digits in the name are the start of the
    file's sha256, and are checked.
    """
    name = url.rsplit("/", 1)[-1]
    target = Path(torch.hub.get_dir()) / "checkpoints" / name
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = name.removesuffix(".pth").rsplit("-", 1)[-1]
        torch.hub.download_url_to_file(url, str(target), hash_prefix=digest, progress=False)
    except (OSError, urllib.error.URLError, RuntimeError) as failure:  # RuntimeError: the hash did not match
        advice = f"Fetch it on another machine and put it at {target}, or scan with the packaged backbone."
        raise Refusal(
            "download_failed", f"{url} could not be downloaded: {failure}.", advice, retryable=True
        ) from failure
    return target


@dataclass(frozen=True)
class Blueprint:
    build: Callable[[], nn.Sequential]
    depths: tuple[int, ...]  # features are read after this many layers
    smallest_side: int  # pixels


class Fire(nn.Module):
    """SqueezeNet's block: few 1x1 filters, then 1x1 and 3x3 filters side by side."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        few_NCHW = self.squeeze(maps_NCHW).relu()
        return torch.cat([self.expand1x1(few_NCHW), self.expand3x3(few_NCHW)], 1).relu()


def _alexnet() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )


def _squeezenet() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(Fire(64, 16, 64), Fire(128, 16, 64), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(Fire(128, 32, 128), Fire(256, 32, 128), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
    )


def _packaged() -> nn.Sequential:
    """Strided early, narrow and without norms: a few million multiplications for a 32x32 image."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 5, stride=2, padding=2), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.ReLU()),
    )


# AlexNet's last features vanish below 31 pixels. SqueezeNet's do not, but both should see an image at the same size.
BLUEPRINTS: dict[Name, Blueprint] = {
    "alexnet": Blueprint(_alexnet, (2, 5, 8, 10, 12), smallest_side=32),
    "squeezenet1_1": Blueprint(_squeezenet, (2, 5, 8, 10, 11, 12, 13), smallest_side=32),
    "packaged": Blueprint(_packaged, (2, 4, 6, 8), smallest_side=28),
}


def _recognise(path: Path) -> Name:
    """Whose weights a file holds, told by the names and shapes in it."""
    shapes = {key: value.shape for key, value in _read(path).items() if key.startswith("features.")}
    for name, blueprint in BLUEPRINTS.items():
        with torch.device("meta"):
            expected = blueprint.build().state_dict()
        if shapes == {f"features.{key}": value.shape for key, value in expected.items()}:
            return name
    detail = f"{path.name} holds neither AlexNet's nor SqueezeNet 1.1's features."
    raise Refusal("perceptual_weights_unknown", detail, "Give a state dict of torchvision's alexnet or squeezenet1_1.")


def _read(path: Path) -> dict[str, Tensor]:
    """The features, and heads if there are any, of a state dict; the last layers of a classifier are left out."""
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        return {key: value for key, value in state.items() if key.startswith(("features.", "heads."))}
    except Exception as failure:  # the readers fail in a dozen ways; each means that this is no state dict
        detail = f"{path.name} could not be read as a state dict ({type(failure).__name__})."
        advice = "Replace or remove it: without it, the packaged net serves."
        raise Refusal("perceptual_weights_unreadable", detail, advice) from failure


def _published_heads(name: Name) -> tuple[dict[str, Tensor], str]:
    """The channel weights (v0.1) that come inside the `lpips` package, and their file's sha256."""
    package = find_spec("lpips")
    assert package is not None, "lpips is a dependency of TriggerLens"
    assert package.origin is not None
    short = {"alexnet": "alex", "squeezenet1_1": "squeeze"}[name]
    path = Path(package.origin).parent / "weights" / "v0.1" / f"{short}.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    heads = {f"heads.{index}": value for index, value in enumerate(state[key] for key in sorted(state))}
    return heads, hashlib.sha256(path.read_bytes()).hexdigest()
