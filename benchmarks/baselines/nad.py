"""NAD, neural attention distillation (Li et al., ICLR 2021): a fine-tuned copy teaches the victim where to look.

    N images   C channels   H, W pixels

The constants are those of the authors' program: the teacher is the victim fine-tuned for ten epochs on the clean
images; the student, the victim itself, learns for twenty by SGD (Nesterov .9, weight decay 1e-4, batches of 64) on
cross-entropy plus the squared difference of the attention maps of three depths, weighted by 500, 1000 and 1000. One is
not: the authors' learning rate of .1 in the first two epochs makes nets collapse that do not end in batch norms, so it
is .01 throughout, as in BackdoorBench and BackdoorBox.
"""

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.baselines.fine_tuning import FineTuning, before_softmax, fine_tuned
from benchmarks.victims.augmentation import Augmentation
from benchmarks.victims.train import normalise

TEACHER = FineTuning(learning_rate=1e-2, epochs=10, batch=64, weight_decay=1e-4)
WEIGHTS = (500.0, 1000.0, 1000.0)  # low, middle, high
EPOCHS, BATCH = 20, 64
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 1e-4


def distilled(
    net: nn.Module,
    images_NCHW: Tensor,
    labels_N: Tensor,
    augmentation: Augmentation,
    seed: int,
    learning_rate: float = LEARNING_RATE,
) -> nn.Module:
    """A copy of a victim after NAD, in evaluation mode, which answers logits.

    Images in [0, 1]; the net takes [-1, 1] and is a sequence of layers, or one with a softmax behind it.
    """
    victim = before_softmax(net)
    assert isinstance(victim, nn.Sequential)
    teacher = fine_tuned(TEACHER, victim, images_NCHW, labels_N, augmentation, seed)
    student = copy.deepcopy(victim).train().requires_grad_(True)
    watched = [[model[depth] for depth in depths(victim, images_NCHW[:1])] for model in (teacher, student)]
    taught, learned = (_Watched(modules) for modules in watched)
    optimizer = torch.optim.SGD(
        student.parameters(), learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # dropout
    for _ in range(EPOCHS):
        for picked in torch.randperm(len(images_NCHW), generator=random).split(BATCH):
            moved = normalise(augmentation.apply(images_NCHW[picked], random))
            with torch.no_grad():
                teacher(moved)
            loss = functional.cross_entropy(student(moved), labels_N[picked])
            for weight, theirs, ours in zip(WEIGHTS, taught.maps, learned.maps, strict=True):
                loss = loss + weight * functional.mse_loss(attention(ours), attention(theirs))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    taught.forget()
    learned.forget()
    return student.eval().requires_grad_(False)


def attention(maps_NCHW: Tensor) -> Tensor:
    """Where an image's features are strong: the sum of their squares over channels, of length one, [N, HW]."""
    return functional.normalize(maps_NCHW.square().sum(1).flatten(1), dim=1)


def depths(net: nn.Sequential, image_1CHW: Tensor) -> Sequence[int]:
    """The last three layers after which the maps of an image become smaller, or vectors."""
    found, maps = [], normalise(image_1CHW)
    with torch.inference_mode():
        for index, layer in enumerate(net):
            before, maps = maps, layer(maps)
            if index and before.dim() == 4 and before.shape[2] > 1 and maps.shape[2:] != before.shape[2:]:
                found.append(index - 1)
    return found[-len(WEIGHTS) :]


class _Watched:
    """Remembers what some modules answer, in their order."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.maps: list[Tensor] = [torch.empty(0)] * len(modules)
        self.handles = [module.register_forward_hook(partial(self._keep, n)) for n, module in enumerate(modules)]

    def _keep(self, index: int, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.maps[index] = output

    def forget(self) -> None:
        for handle in self.handles:
            handle.remove()
