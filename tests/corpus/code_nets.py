"""Small nets of our own, each with one habit of its code: blocks, control flow, operators; nobody trained them.

N image batch   C channels   H, W pixels   K labels
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.corpus.nets import LABELS, WithFeatures, plain


class PreActivationBlock(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(x))
        shortcut = self.shortcut(y)
        return self.conv2(functional.relu(self.bn2(self.conv1(y)))) + shortcut


class PreActivationNet(nn.Module):
    """The residual net of backdoor papers, narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.layers = nn.Sequential(*(PreActivationBlock(*sizes) for sizes in ((16, 16, 1), (16, 24, 2), (24, 32, 2))))
        self.linear = nn.Linear(32 * 4, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(self.layers(self.conv1(x)), 4)
        return self.linear(x.view(x.size(0), -1))


class PaddedShortcut(nn.Module):
    """The shortcut without weights of the CIFAR residual nets: every other pixel, and channels of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.conv = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.head = nn.Linear(32, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8), "constant", 0.0)
        return self.head(functional.relu(self.norm(self.conv(x)) + shortcut).mean([2, 3]))


class Branches(nn.Module):
    """Decides by shapes and by its own attributes, loops, leaves early, and refuses images of a wrong size."""

    scale: float | None

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))
        self.named = nn.ModuleDict({"0": nn.Conv2d(3, 16, 3, stride=2), "last layer": nn.Linear(16, LABELS)})
        self.scale = 0.5
        self.repeats = 2
        self.classes = ["cat", "dog", 'a name with "quotes", an umlaut \u00e4 and a \\']
        self.sizes = {"height": 32, "width": 32}

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"expected a batch of images, found {x.dim()} dimensions")
        assert x.shape[2] == self.sizes["height"] and x.shape[3] == 32, "expected 32 x 32 pixels"
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        x = self.named["0"](x)
        for index, block in enumerate(self.blocks):
            x = torch.relu(block(x)) if index % 2 == 0 else torch.tanh(block(x)) + x
        for _ in range(self.repeats):
            x = x * 1.5 + 0.1
        while x.size(2) > 4:
            x = functional.max_pool2d(x, 2)
        x = x.flatten(2).mean(-1)
        scale = self.scale
        if scale is not None:
            x = x * scale
        if self.training:
            return functional.dropout(self.named["last layer"](x), 0.1)
        return self.named["last layer"](x)


class ExportsMethod(WithFeatures):
    """Has a second entry point beside forward."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x))

    @torch.jit.export
    def embed(self, x: Tensor) -> Tensor:
        return self.features(x)


# Operators


class Activations(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 3, 1), nn.PReLU(3), nn.ELU(), nn.LeakyReLU(0.1), nn.GELU(), nn.SELU(), nn.Softplus(),
            nn.Mish(), nn.SiLU(), nn.Hardswish(), nn.Hardtanh(), nn.CELU(), nn.Softsign(), nn.ReLU6(), nn.Hardsigmoid(),
            nn.GELU(approximate="tanh"), nn.LogSigmoid(), nn.Tanh(), nn.Sigmoid(),
        )  # fmt: skip
        self.scores = plain()

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.layers(4 * x - 2))


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2),
            nn.GroupNorm(4, 16),
            nn.Conv2d(16, 16, 3, bias=False),
            nn.InstanceNorm2d(16, affine=True),
            nn.ReLU(),
            nn.LocalResponseNorm(3),
            nn.BatchNorm2d(16, affine=False),
            nn.Conv2d(16, 16, 3),
            nn.BatchNorm2d(16, track_running_stats=False),  # always the statistics of its batch
            nn.ReLU(),
        )
        self.norm = nn.LayerNorm(16)
        self.hidden = nn.Linear(16, 16)
        self.flat_norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.layers(x).permute(0, 2, 3, 1)).mean((1, 2))
        return self.head(self.flat_norm(self.hidden(functional.normalize(x, dim=1))))


class Pools(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 16, 3, dilation=2, groups=1, padding="same"))
        self.down = nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2, count_include_pad=False))
        self.up = nn.Sequential(nn.ConvTranspose2d(16, 16, 2, stride=2), nn.PixelShuffle(2), nn.Upsample(None, 2))
        self.head = nn.Linear(8, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.down(self.stem(x)))
        high, low = functional.adaptive_max_pool2d(x, 1), functional.adaptive_avg_pool2d(x, (1, 1))
        return self.head(torch.cat([high, low], 1).squeeze(-1).squeeze(-1))


class Attends(nn.Module):
    """Attention as people write it themselves, squeeze and excitation, and standardised convolution weights."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.excite = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1))
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.place = nn.Parameter(0.1 * torch.randn(1, 65, 16))
        self.qkv = nn.Linear(16, 48)
        self.gain = nn.Parameter(torch.full((16,), 0.5))
        self.torchs = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.patches.weight
        variance, mean = torch.var_mean(weight, (1, 2, 3), keepdim=True)
        weight = (weight - mean) * torch.rsqrt(variance + 1e-5)
        x = functional.conv2d(x, weight, self.patches.bias, stride=4)
        x = (x * self.excite(x).sigmoid()).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.place
        batch, count, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, count, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (torch.einsum("bhqd,bhkd->bhqk", q, k) * 0.35).softmax(dim=-1) @ v
        fused = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.gain * (mixed + fused).transpose(1, 2).reshape(batch, count, width)
        x = x + self.torchs(x, x, x, need_weights=False)[0]
        return self.head(x[:, 0])
