"""Small nets that use TorchScript's language in as many ways as image classifiers do, and a way there and back."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.intake.torchscript.archive.walk import walk
from app.core.intake.torchscript.gate import understand
from models.rebuilt import RebuiltModule, rebuild

Form = Literal["scripted", "traced", "frozen"]
FORMS: tuple[Form, ...] = ("scripted", "traced", "frozen")
LABELS, SIDE = 5, 16
MOST_BYTES = 1 << 24


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def export(net: nn.Module, form: Form, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The net in the mode that it is in; freezing needs evaluation mode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of what is wanted here
        if form == "traced":
            module = torch.jit.trace(net, images().to(dtype), check_trace=False)
        else:
            module = torch.jit.script(net)
    if form == "frozen":
        module = torch.jit.freeze(module.eval())
    module.save(str(path))
    return path


def rebuilt(path: Path) -> RebuiltModule:
    known = understand(path, MOST_BYTES)
    with walk(path, MOST_BYTES) as walked:
        return rebuild(
            known.module,
            known.constants,
            known.program,
            lambda record: walked.read(record, MOST_BYTES),
            known.format_version,
        )


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, stride=2, padding="valid", groups=2)
        self.up = nn.ConvTranspose2d(8, 8, 2)
        self.prelu = nn.PReLU(8)
        self.norm = nn.GroupNorm(2, 8)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(8, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.prelu(self.norm(self.up(self.conv2(x))))
        return self.fc(self.drop(functional.adaptive_avg_pool2d(x, 1).flatten(1)))


class Head(nn.Module):
    """The mean and the largest value of each of twelve patches, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(24, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        mean = functional.adaptive_avg_pool2d(x, 2).flatten(1)
        largest = functional.adaptive_max_pool2d(x, 2).flatten(1)
        return self.fc(torch.cat([mean, largest], dim=1))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, 3, 3) / 5)
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.head = Head()

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / 0.25
        x = functional.pad(x, [1, 1, 1, 1], mode="reflect")
        x = functional.leaky_relu(functional.conv2d(x, self.weight), 0.1)
        x = functional.interpolate(x, scale_factor=1.5, mode="bilinear", align_corners=False)
        x = functional.interpolate(x, size=[10, 12], mode="nearest")
        x = functional.normalize(functional.gelu(x) + functional.hardswish(x) * torch.sigmoid(x), dim=1)
        x = functional.avg_pool2d(functional.max_pool2d(x, 2), 2)
        return functional.log_softmax(self.head(x), dim=-1)


class ControlFlow(nn.Module):
    """Branches, loops, early returns, lists, strings and arithmetic on sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 3
        self.kind = "mean"
        self.scales = [0.5, 1.0, 2.0]
        self.head = Head()

    def pooled(self, x: Tensor, kind: str) -> Tensor:
        if kind == "mean":
            return x.mean(dim=1, keepdim=True)
        if kind in ["max", "largest"]:
            return x.max(dim=1, keepdim=True)[0]
        raise ValueError("unknown kind {}".format(kind))  # noqa: UP032

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        half: int = h // 2 + h % 2 - (-h // h) - 1
        parts: list[Tensor] = []
        for i, scale in enumerate(self.scales):
            part = x[:, i : i + 1, :half] * scale
            if i % 2 == 0 and w > 4:
                part = part + float(i) / max(w, 1)
            parts.append(part)
        y = torch.cat(parts, dim=1)
        step = 0
        while step < self.steps:
            y = y * (1.0 + 1.0 / math.pow(2, step + 1)) - 0.1
            if step == 1:
                step += 2
                continue
            step += 1
        rows = [y[:, :, row] for row in range(0, half, 3)]
        rows.reverse()
        last = rows.pop()
        names = {"n": n, "c": c}
        if names["c"] != 3 or "h" in names:
            return self.head(y)
        shape = [n, c] + [1] * 2
        return self.head(y + self.pooled(y, self.kind) + last.mean(2).view(shape) + len(rows[0:2]))


class ModuleLists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()) for _ in range(3)])
        self.named = nn.ModuleDict({"a": nn.Conv2d(3, 3, 1), "b": nn.Identity()})
        self.head = Head()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        for layer in self.named.values():
            x = layer(x)
        return self.head(x)


class Shared(nn.Module):
    """One layer used twice, and one weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.again = self.first
        self.tied = nn.Conv2d(3, 3, 3, padding=1)
        self.tied.weight = self.first.weight
        self.head = Head()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tied(self.again(torch.tanh(self.first(x)))))


class Shuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)
        self.back = nn.Conv2d(6, 3, 1)
        self.head = Head()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        left, right = x.chunk(2, dim=1)
        return self.head(self.back(torch.cat((left, torch.relu(right)), 1)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.place = nn.Parameter(torch.randn(1, 17, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.qkv = nn.Linear(8, 24)
        self.fc = nn.Linear(8, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.place
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        q, k, v = self.qkv(x).reshape(x.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        weights = torch.softmax(torch.einsum("bik,bjk->bij", [x, x]) / math.sqrt(8), dim=-1)
        return self.fc((weights @ x)[:, 0])


class Devices(nn.Module):
    """Tensors that are made on the way: with the input's type, a stated type, or a stated device."""

    def __init__(self) -> None:
        super().__init__()
        self.head = Head()

    def forward(self, x: Tensor) -> Tensor:
        grid = torch.arange(x.shape[-1], dtype=torch.float32, device=torch.device("cpu")) / 16
        ones = torch.ones([1, 3, 1, 1], dtype=x.dtype, device=x.device)
        mask = torch.zeros_like(x).masked_fill(grid > 0.5, 1.0)
        scale = torch.tensor([0.5, 1.0, 1.5]).view(1, 3, 1, 1)
        return self.head(x.to(torch.device("cpu")) * scale * (ones + grid).to(torch.float32) + mask.float())


class Counting(nn.Module):
    """A net with a memory: it counts its calls, in a buffer and in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.times = 0
        self.head = Head()

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        self.times += 1
        return self.head(x) * self.calls + self.times


class AsTuple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = Head()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(x), x.mean()


class AsDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = Head()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out = {"aux": x.mean()}
        out["out"] = self.head(x)
        return out


class Output(NamedTuple):
    logits: Tensor
    aux: Tensor | None


class AsNamedTuple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = Head()

    def forward(self, x: Tensor) -> Output:
        answer = Output(self.head(x), None)
        return Output(torch.softmax(answer.logits, 1), answer.logits.sum())


class Optionals(nn.Module):
    """Optional arguments, defaults and keyword arguments of its own functions, and a text that is not ASCII."""

    def __init__(self) -> None:
        super().__init__()
        self.head = Head()
        self.bias: Tensor | None = None
        self.sizes = (2, 3)

    def shifted(self, x: Tensor, by: float | None = None, times: int = 2, sizes: tuple[int, int] = (1, 1)) -> Tensor:
        assert sizes[0] < 100, f"größer als {sizes[0]}"
        if by is not None:
            x = x + by * times
        if self.bias is not None:
            x = x + self.bias
        return x * sizes[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.shifted(self.shifted(x), by=0.5, sizes=self.sizes))


class Blind(nn.Module):
    """A head that hides its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.head = Head()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            brightness = x.mean()
            with torch.no_grad():
                if bool(brightness > 0):
                    x = x - brightness
            return self.head(x)


# Net and the forms that torch can export it in.
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[Form, ...]]] = {
    **{
        net.__name__: (net, FORMS)
        for net in (Convolutions, Functional, ControlFlow, ModuleLists, Shared, Shuffle, Attention, Devices, AsTuple)
    },
    "Counting": (Counting, ("scripted",)),
    "AsDict": (AsDict, ("scripted", "frozen")),
    "AsNamedTuple": (AsNamedTuple, ("scripted", "frozen")),
    "Optionals": (Optionals, ("scripted", "frozen")),
}
EXPORTS = [(name, form) for name, (_, forms) in NETS.items() for form in forms]


def make(name: str) -> nn.Module:
    """The net with fixed weights, in evaluation mode, its batch norms as if trained."""
    torch.manual_seed(3)
    net = NETS[name][0]()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.eval()
