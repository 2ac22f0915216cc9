"""Which of many labels are searched in full: the lowest by the first pass, and some that are drawn by chance.

A planted target is far easier to reach than others, so it is among the lowest even of a coarse look. Those that are
drawn by chance, the controls, say how far labels scatter by nature; the lowest were chosen for being low, and say
nothing of that. All of them are searched in every family. NumPy only.
"""

from collections.abc import Sequence

import numpy as np

from app.core.config import ScanConfig
from app.core.findings import FirstPass, Selection


def select_labels(num_labels: int, found: Sequence[FirstPass], config: ScanConfig, model_sha256: str) -> Selection:
    """The labels to be searched in full, of those that the first pass came to.

    One without a score, because its search diverged or did not fit into memory, is searched in full as well. Which
    labels are drawn depends on the model too: its maker could not know them before it was made.
    """
    assert config.first_pass is not None, "there was a first pass"
    scores: dict[str, list[float | None]] = {family: [None] * num_labels for family in config.searches}
    for block in found:
        for family, of_family in scores.items():
            for label, score in zip(block.labels, block.scores[family], strict=True):
                of_family[label] = score
    looked_at = sorted(label for block in found for label in block.labels)
    random = np.random.default_rng([config.seed, int(model_sha256, 16)])
    drawn = random.permutation(looked_at)[: config.first_pass.controls].tolist()
    chosen = set(drawn)
    for of_family in scores.values():
        known = [(score, label) for label in looked_at if (score := of_family[label]) is not None]
        chosen |= {label for _, label in sorted(known)[: config.first_pass.lowest]}
        chosen |= {label for label in looked_at if of_family[label] is None}
    return Selection(
        labels=tuple(sorted(chosen)),
        controls=tuple(sorted(drawn)),
        left_out=tuple(sorted(set(range(num_labels)) - set(looked_at))),
        scores={family: tuple(of_family) for family, of_family in scores.items()},
    )
