"""The victims' architectures."""

from torch import nn


def conv_net(channels: int = 1, num_classes: int = 10, width: float = 1.0) -> nn.Sequential:
    """WaNet's MNIST network: three strided conv blocks and two linear layers, for 28x28 or 32x32 images.

    `width` multiplies every layer; 1.0 is the published size.
    """
    narrow, wide, hidden = int(32 * width), int(64 * width), int(512 * width)
    return nn.Sequential(
        nn.Conv2d(channels, narrow, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(narrow),
        nn.ReLU(),
        nn.Conv2d(narrow, wide, 3, stride=2, padding=1),
        nn.BatchNorm2d(wide),
        nn.ReLU(),
        nn.Conv2d(wide, wide, 3, stride=2, padding=1),
        nn.Flatten(),
        nn.Linear(wide * 16, hidden),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(hidden, num_classes),
    )
