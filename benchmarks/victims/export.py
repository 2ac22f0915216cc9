"""Victims as the TorchScript files that a user would hand in, and clean images as the bundle beside them."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

Form = Literal["scripted", "traced", "frozen"]
FORMS: tuple[Form, ...] = ("scripted", "traced", "frozen")


def save_torchscript(net: nn.Module, example_NCHW: torch.Tensor, form: Form, path: Path) -> None:
    """The net in evaluation mode, scripted, traced or scripted and frozen."""
    net = net.eval()
    if form == "traced":
        module = torch.jit.trace(net, example_NCHW)
    else:
        module = torch.jit.script(net)
        if form == "frozen":
            module = torch.jit.freeze(module)
    path.parent.mkdir(parents=True, exist_ok=True)
    module.save(str(path))


def save_bundle(images_NHWC: np.ndarray, labels_N: np.ndarray | None, path: Path) -> None:
    """A clean bundle as .npz, with labels or without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = {} if labels_N is None else {"labels": labels_N}
    np.savez_compressed(path, images=images_NHWC, **labels)


def clean_sample(images_NHWC: np.ndarray, labels_N: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` images drawn without replacement."""
    picked = np.random.default_rng(seed).permutation(len(images_NHWC))[:count]
    return images_NHWC[picked], labels_N[picked]
