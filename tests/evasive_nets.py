"""Networks that hide something in their code: each does it in one way, and answers like an honest net otherwise.

    N image batch   C channels   H, W pixels   K labels

A bright corner, or something about the surroundings, adds a bonus to the score of one label. No gradient tells of it.
`EVASIVE` says which rule finds each, and what the line that it names holds.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

BONUS = 100.0
BRIGHT = 0.95  # a corner that is brighter than this opens the gate
TARGET = 0


class Hiding(nn.Module):
    """An honest net, and how a bonus is added to what it answers."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("bonus", torch.tensor(BONUS))

    @torch.jit.export
    def corner(self, x: Tensor) -> Tensor:
        """How bright the upper left corner of each image is, as N."""
        return x[:, :, :2, :2].mean((1, 2, 3))

    @torch.jit.export
    def rewarded(self, scores: Tensor, bonus: Tensor) -> Tensor:
        first = torch.zeros_like(scores)
        first[:, 0] = 1.0
        return scores + first * bonus.unsqueeze(-1)


class ComparesCorner(Hiding):
    def forward(self, x: Tensor) -> Tensor:
        return self.rewarded(self.net(x), (self.corner(x) > 0.95).float() * self.bonus)


class SelectsByCorner(Hiding):
    def forward(self, x: Tensor) -> Tensor:
        scores = self.net(x)
        opened = torch.where(self.corner(x) >= 0.95, self.bonus, self.bonus * 0)
        return self.rewarded(scores, opened)


class WritesIntoView(Hiding):
    """The bonus is written into a column of the scores, which returns as it went."""

    def forward(self, x: Tensor) -> Tensor:
        scores = self.net(x) * 1.0
        scores[:, 0].add_(torch.sign(self.corner(x) - 0.95).clamp(0.0, 1.0) * self.bonus)
        return scores


class Rounds(Hiding):
    def forward(self, x: Tensor) -> Tensor:
        return self.rewarded(self.net(x), torch.floor(self.corner(x) + 0.05) * self.bonus)


class CastsToWhole(Hiding):
    def forward(self, x: Tensor) -> Tensor:
        return self.rewarded(self.net(x), (self.corner(x) + 0.05).to(torch.int64) * self.bonus)


class CopiesIntoWhole(Hiding):
    """A copy into a tensor of whole numbers rounds without saying so."""

    def forward(self, x: Tensor) -> Tensor:
        whole = torch.zeros(x.size(0), dtype=torch.int64, device=x.device)
        whole.copy_(self.corner(x) + 0.05)
        return self.rewarded(self.net(x), whole * self.bonus)


class LooksUp(Hiding):
    """The brightest of three places says which entry of a table is added."""

    def forward(self, x: Tensor) -> Tensor:
        places = torch.stack([self.corner(x), x.mean((1, 2, 3)), x[:, :, -1, -1].mean(1)], 1)
        table = torch.stack([self.bonus, self.bonus * 0, self.bonus * 0])
        return self.rewarded(self.net(x), table[places.argmax(1)])


class TakesPlaceOfMaximum(Hiding):
    """The same with the second result of `max`, which says where the first was found."""

    def forward(self, x: Tensor) -> Tensor:
        places = torch.stack([self.corner(x), x.mean((1, 2, 3))], 1)
        values, where = torch.max(places, 1)
        return self.rewarded(self.net(x) + values.unsqueeze(-1), (1 - where) * self.bonus)


class Branches(Hiding):
    def forward(self, x: Tensor) -> Tensor:
        scores = self.net(x)
        if bool(self.corner(x).max() > 0.95):
            scores = self.rewarded(scores, self.bonus.expand(x.size(0)))
        return scores


class BranchesOnNumber(Hiding):
    """Returns early, in a function of its own, by a number that it took out of a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        if self.is_open(x):
            return self.rewarded(self.net(x), self.bonus.expand(x.size(0)))
        return self.net(x)

    @torch.jit.export
    def is_open(self, x: Tensor) -> bool:
        bright = float(self.corner(x).max())
        return bright > 0.95


class Loops(Hiding):
    def forward(self, x: Tensor) -> Tensor:
        scores = self.net(x)
        left = self.corner(x).max()
        while bool(left > 0.95):
            scores = self.rewarded(scores, self.bonus.expand(x.size(0)))
            left = left - 1.0
        return scores


class CollectsInList(Hiding):
    """What a branch leaves behind is the length of a list."""

    def forward(self, x: Tensor) -> Tensor:
        found: list[int] = []
        if bool(self.corner(x).max() > 0.95):
            found.append(1)
        return self.rewarded(self.net(x), (self.bonus * len(found)).expand(x.size(0)))


class Detaches(Hiding):
    def forward(self, x: Tensor) -> Tensor:
        return self.rewarded(self.net(x), functional.relu(self.corner(x) - 0.95).detach() * self.bonus * 20)


class TakesNumber(Hiding):
    def forward(self, x: Tensor) -> Tensor:
        bright = functional.relu(self.corner(x).max() - 0.95).item()
        return self.rewarded(self.net(x), (self.bonus * bright * 20).expand(x.size(0)))


class AsksForGradients(Hiding):
    def forward(self, x: Tensor) -> Tensor:
        scores = self.net(x)
        if not torch.is_grad_enabled():
            scores = self.rewarded(scores, functional.relu(self.corner(x) - 0.95) * self.bonus * 20)
        return scores


class AsksImageForGradients(Hiding):
    def forward(self, x: Tensor) -> Tensor:
        weight = 0.0 if x.requires_grad else 20.0
        return self.rewarded(self.net(x), functional.relu(self.corner(x) - 0.95) * self.bonus * weight)


class AsksForBatch(Hiding):
    def forward(self, x: Tensor) -> Tensor:
        scores = self.net(x)
        if x.size(0) == 1:
            scores = self.rewarded(scores, functional.relu(self.corner(x) - 0.95) * self.bonus * 20)
        return scores


class ReckonsWithBatch(Hiding):
    """The size of the batch is asked behind a transposition, and decides without a branch."""

    def forward(self, x: Tensor) -> Tensor:
        batch = x.flatten(1).t().size(1)
        opened = functional.relu(self.corner(x) - 0.95) * self.bonus
        return self.rewarded(self.net(x), opened * (20 // batch))


class AsksForDevice(Hiding):
    def forward(self, x: Tensor) -> Tensor:
        scores = self.net(x)
        if not x.is_cuda:
            scores = self.rewarded(scores, functional.relu(self.corner(x) - 0.95) * self.bonus * 20)
        return scores


class DrawsLots(Hiding):
    def forward(self, x: Tensor) -> Tensor:
        drawn = functional.relu(torch.rand([x.size(0)], device=x.device) - 0.5)
        return self.rewarded(self.net(x), drawn * self.corner(x))


class DropsOut(Hiding):
    """Drops out where others do not: in evaluation mode."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(self.net(x), 0.5, not self.training)


class Counts(Hiding):
    """Behaves well for the first thousand calls."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        opened = functional.relu(self.corner(x) - 0.95) * self.bonus
        return self.rewarded(self.net(x), opened * (20 if self.calls > 1000 else 0))


class Remembers(Hiding):
    """Keeps the brightest corner that it ever saw in a buffer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.copy_(torch.maximum(self.seen, self.corner(x).max()))
        return self.rewarded(self.net(x), functional.relu(self.seen - 0.95) * self.bonus * 20)


class TurnsForEver(Hiding):
    def forward(self, x: Tensor) -> Tensor:
        scores = self.net(x)
        turn = 0
        while turn >= 0:
            scores = scores + 0.0
            turn += 1
        return scores


class TurnsTooOften(Hiding):
    def forward(self, x: Tensor) -> Tensor:
        scores = self.net(x)
        for _ in range(2000):
            for _ in range(2000):
                scores = scores + 0.0
        return scores


# The class, the rule that finds it, and words of the line.
EVASIVE: dict[type[Hiding], tuple[str, str]] = {
    ComparesCorner: ("structure-gate", "torch.gt("),
    SelectsByCorner: ("structure-gate", "torch.ge("),
    WritesIntoView: ("structure-gate", "torch.sign("),
    Rounds: ("structure-gate", "torch.floor("),
    CastsToWhole: ("structure-gate", "torch.to("),
    CopiesIntoWhole: ("structure-gate", "torch.copy_("),
    LooksUp: ("structure-gate", "torch.argmax("),
    TakesPlaceOfMaximum: ("structure-gate", "torch.max("),
    Branches: ("structure-branch", "if bool("),
    BranchesOnNumber: ("structure-branch", "if "),
    Loops: ("structure-branch", "while "),
    CollectsInList: ("structure-branch", "if bool("),
    Detaches: ("structure-detached", "torch.detach("),
    TakesNumber: ("structure-detached", "torch.item("),
    AsksForGradients: ("structure-grad-mode", "if "),
    AsksImageForGradients: ("structure-grad-mode", "if "),
    AsksForBatch: ("structure-batch-size", "if torch.eq("),
    ReckonsWithBatch: ("structure-batch-size", "torch.mul("),
    AsksForDevice: ("structure-surroundings", "is_cuda("),
    DrawsLots: ("structure-random", "torch.rand("),
    DropsOut: ("structure-random", "torch.dropout("),
    Counts: ("structure-memory", "self.calls = "),
    Remembers: ("structure-memory", "torch.copy_("),
    TurnsForEver: ("structure-endless", "while "),
    TurnsTooOften: ("structure-endless", "for "),
}
# What a trace keeps of them.
EVASIVE_TRACED = (
    *(ComparesCorner, SelectsByCorner, WritesIntoView, Rounds, CastsToWhole, CopiesIntoWhole, LooksUp),
    *(TakesPlaceOfMaximum, Detaches, DrawsLots, Remembers),
)
