"""Small nets of our own, each with one habit of what comes in, goes out or is shared; nobody trained them.

    N image batch   C channels   H, W pixels   K labels

What torchvision's architectures already do is not repeated here; code_nets.py has habits of the code in between.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

LABELS = 10


def features(channels: int = 3, width: int = 16) -> nn.Sequential:
    """Two strided convolutions with batch norm and an average: images to `width` numbers."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def plain(channels: int = 3, width: int = 16) -> nn.Sequential:
    return nn.Sequential(*features(channels, width), nn.Linear(width, LABELS))


class WithFeatures(nn.Module):
    """What every net below is made of."""

    def __init__(self, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.features = features(channels, width)
        self.head = nn.Linear(width, LABELS)


# Outputs


class Scores(NamedTuple):
    logits: Tensor
    features: Tensor


class ReturnsTuple(WithFeatures):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.features(x)
        return self.head(found), found


class ReturnsNamedTuple(WithFeatures):
    def forward(self, x: Tensor) -> Scores:
        found = self.features(x)
        return Scores(self.head(found), found)


class ReturnsList(WithFeatures):
    def forward(self, x: Tensor) -> list[Tensor]:
        found = self.features(x)
        return [self.head(found), found]


class ReturnsDict(WithFeatures):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.features(x)
        return {"logits": self.head(found), "features": found}


class DigitNet(nn.Module):
    """The net of PyTorch's own MNIST example, narrower: dropout, and log-probabilities at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, 1)
        self.conv2 = nn.Conv2d(8, 16, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(16 * 12 * 12, 32)
        self.fc2 = nn.Linear(32, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv1(x))
        x = functional.relu(self.conv2(x))
        x = functional.max_pool2d(x, 2)
        x = torch.flatten(self.dropout1(x), 1)
        x = self.dropout2(functional.relu(self.fc1(x)))
        return functional.log_softmax(self.fc2(x), dim=1)


# Sizes, devices and number types


class DynamicBatch(WithFeatures):
    """Asks the tensor for its batch size, which a trace keeps as a question."""

    def forward(self, x: Tensor) -> Tensor:
        found = self.features(x)
        return self.head(found.view(found.size(0), -1))


class BakedBatch(WithFeatures):
    """Asks Python for the batch size, which a trace keeps as the number it saw."""

    def forward(self, x: Tensor) -> Tensor:
        found = self.features(x)
        return self.head(found.view(len(found), -1))


class DeviceLiterals(WithFeatures):
    """Makes tensors on a device by its name, as code written for one machine does."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.to("cpu")
        border = torch.zeros([x.size(0), x.size(1), 2, x.size(3)], device="cpu")
        x = torch.cat([border, x], dim=2)
        ramp = torch.arange(x.size(3), dtype=torch.float32, device=torch.device("cpu")) / x.size(3)
        return self.head(self.features(x * ramp))


class DeviceAttribute(WithFeatures):
    """Remembers the device that it was made for."""

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cpu")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x.to(self.device) + torch.ones(1, device=self.device)))


class HalfInside(WithFeatures):
    """Takes and returns float32, computes most of it in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.features.half()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x.half()).float())


class Normalises(WithFeatures):
    """Keeps the mean and the deviation of its training images as buffers."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x.sub(self.mean).div_(self.deviation)))


class Resizes(WithFeatures):
    def forward(self, x: Tensor) -> Tensor:
        x = functional.interpolate(x, size=(24, 24), mode="bilinear", align_corners=False)
        x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.head(self.features(functional.pad(x, [1, 1, 1, 1], mode="reflect")))


# Sharing


class Tied(nn.Module):
    """One block that is used three times, one weight that two layers hold."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.again = self.block
        self.mix = nn.Linear(16, 16)
        self.unmix = nn.Linear(16, 16)
        self.unmix.weight = self.mix.weight
        self.head = nn.Linear(16, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.block(self.block(self.stem(x)))).mean((2, 3))
        return self.head(self.unmix(functional.relu(self.mix(x))))


def on_one_storage(net: nn.Module) -> nn.Module:
    """The same net with all its parameters as views of one flat tensor, as optimisers like to have them."""
    parameters = list(net.parameters())
    flat = torch.cat([parameter.detach().flatten() for parameter in parameters])
    start = 0
    for parameter in parameters:
        parameter.data = flat[start : start + parameter.numel()].view(parameter.shape)
        start += parameter.numel()
    return net
