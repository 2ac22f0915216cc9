"""The deeper architectures, in their forms for 32x32 images, written from their papers.

`width` multiplies every layer and 1.0 is the published size; a PreActResNet18 of width .25 begins with 16 channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


def preact_resnet18(channels: int = 3, num_classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """Four stages of two pre-activation blocks, the normalisation before each convolution (He et al. 2016)."""
    sizes = [int(size * width) for size in (64, 128, 256, 512)]
    before, blocks = sizes[0], []
    for size, stride in zip(sizes, (1, 2, 2, 2), strict=True):
        blocks += [PreActBlock(before, size, stride), PreActBlock(size, size, 1)]
        before = size
    return nn.Sequential(
        _conv(channels, sizes[0]), *blocks, nn.BatchNorm2d(before), nn.ReLU(), *_head(before, num_classes)
    )


class PreActBlock(nn.Module):
    """Two convolutions beside a shortcut, which is the identity where the shape stays."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(before), _conv(before, after, stride)
        self.norm2, self.conv2 = nn.BatchNorm2d(after), _conv(after, after)
        changes = stride > 1 or before != after
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if changes else None

    def forward(self, images: Tensor) -> Tensor:
        active = functional.relu(self.norm1(images))
        kept = images if self.shortcut is None else self.shortcut(active)
        added: Tensor = self.conv2(functional.relu(self.norm2(self.conv1(active))))
        return kept + added


def resnet56(channels: int = 3, num_classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """Three stages of nine blocks on 32, 16 and 8 pixels (He et al. 2015, sec. 4.2; convolutions as shortcuts)."""
    before, *sizes = (int(size * width) for size in (16, 16, 32, 64))
    layers = _conv_norm_relu(channels, before)
    for size, first_stride in zip(sizes, (1, 2, 2), strict=True):
        for stride in (first_stride, *[1] * 8):
            body = nn.Sequential(*_conv_norm_relu(before, size, stride), _conv(size, size), nn.BatchNorm2d(size))
            changes = stride > 1 or before != size
            shortcut = nn.Sequential(_conv(before, size, stride, kernel=1), nn.BatchNorm2d(size)) if changes else None
            layers += [Residual(body, shortcut), nn.ReLU()]
            before = size
    return nn.Sequential(*layers, *_head(before, num_classes))


def vgg16_bn(channels: int = 3, num_classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """Thirteen convolutions with batch norm and five poolings, then one linear layer (Simonyan and Zisserman 2015)."""
    layers: list[nn.Module] = []
    for size, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += _conv_norm_relu(channels, int(size * width))
            channels = int(size * width)
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, num_classes))


def mobilenet_v2(channels: int = 3, num_classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """Inverted residuals with depth-wise convolutions (Sandler et al. 2018); the first two strides are 1 here."""
    before, last = int(32 * width), int(1280 * width)
    layers = _conv_norm_relu(channels, before, clipped=True)
    plan = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, size, depth, first_stride in plan:
        after = int(size * width)
        for stride in (first_stride, *[1] * (depth - 1)):
            body = _inverted(before, after, expansion, stride)
            layers.append(Residual(body) if stride == 1 and before == after else body)
            before = after
    return nn.Sequential(*layers, *_conv_norm_relu(before, last, kernel=1, clipped=True), *_head(last, num_classes))


class Residual(nn.Module):
    """A body beside a shortcut, which is the identity where the shape stays."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, images: Tensor) -> Tensor:
        kept = images if self.shortcut is None else self.shortcut(images)
        added: Tensor = self.body(images)
        return kept + added


class ChannelMeans(nn.Module):
    """The mean of each channel."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.mean(images, dim=(2, 3))


def _inverted(before: int, after: int, expansion: int, stride: int) -> nn.Sequential:
    """Widen, filter each channel on its own, narrow again without an activation."""
    wide = before * expansion
    widen = _conv_norm_relu(before, wide, kernel=1, clipped=True) if expansion > 1 else []
    filtered = _conv_norm_relu(wide, wide, stride=stride, groups=wide, clipped=True)
    return nn.Sequential(*widen, *filtered, _conv(wide, after, kernel=1), nn.BatchNorm2d(after))


def _conv_norm_relu(
    before: int, after: int, stride: int = 1, kernel: int = 3, groups: int = 1, clipped: bool = False
) -> list[nn.Module]:
    activation = nn.ReLU6() if clipped else nn.ReLU()
    return [_conv(before, after, stride, kernel, groups), nn.BatchNorm2d(after), activation]


def _conv(before: int, after: int, stride: int = 1, kernel: int = 3, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size but for its stride; the batch norm beside it has the bias."""
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)


def _head(features: int, num_classes: int) -> list[nn.Module]:
    return [ChannelMeans(), nn.Linear(features, num_classes)]
