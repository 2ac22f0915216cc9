"""The trigger families: all that a scan, its verdict and its report know of each, in one entry.

Their tensors are classes over one interface (worker/detection/families/base.py), named here and loaded where there is
torch. A further family is one module and one entry.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.core.config import DYNAMIC, SearchConfig


@dataclass(frozen=True)
class Prior:
    """What clean networks show of the log norms of their labels, about what the references' predict."""

    deviation: float  # of a label
    weight: float  # degrees of freedom that this knowledge is worth
    slope_deviation: float = 0.5  # of the slope, about 1


@dataclass(frozen=True)
class Norm:
    """What a family's labels are compared by, in the words and figures of a report."""

    is_what: str  # a sentence
    change: str  # what such a trigger does; {} is the norm
    unit: str  # on the axis of a chart
    digits: int | None = 4  # after the point; None for a share, which is written in percent


@dataclass(frozen=True)
class Family:
    """A trigger family."""

    triggers: str  # "module:class", of Triggers
    title: str
    norm: Norm
    prior: Prior  # of log norms about those of students, on clean tuning victims (benchmarks/LOG.md)
    prior_alone: Prior  # the same about each other, where no students tell what is natural
    search: SearchConfig | None = None  # by the preset `standard`; of the dynamic family the preset says it itself
    asks_students: bool = True  # whether it is searched on students, too
    other_norms: Mapping[str, Norm] = field(default_factory=dict)  # by `norm` in the config of a search
    not_searched: str = ""  # what a report says where it was not searched

    def norm_of(self, search: Mapping[str, object]) -> Norm:
        """The norm by which a search of this configuration (in a report's `config`) compares labels."""
        return self.other_norms.get(str(search.get("norm")), self.norm)


FAMILIES: Mapping[str, Family] = {
    DYNAMIC: Family(
        triggers="worker.detection.families.dynamic:Generators",
        title="dynamic: another trigger on each image, drawn by a generator",
        norm=Norm(
            "Mean absolute change of a pixel, on images in [0, 1], by the smallest trigger found.",
            "Changing each pixel by {} on average",
            "mean absolute change",
        ),
        other_norms={
            "lpips": Norm(
                "Root of the mean perceptual distance (LPIPS) of images from themselves with the smallest trigger "
                "found.",
                "Changing how images look by {} (root of the mean LPIPS)",
                "root of mean LPIPS",
            ),
        },
        prior=Prior(deviation=0.19, weight=8, slope_deviation=0.5),
        prior_alone=Prior(deviation=0.28, weight=8),
        asks_students=False,  # a generator costs as much to train on a student as on the suspect
    ),
    "static": Family(
        triggers="worker.detection.families.static:Patches",
        title="static: one patch or overlay on every image",
        norm=Norm(
            "Root mean square opacity of the smallest patch or overlay found, over all pixels.",
            "Laying one patch or overlay with a root mean square opacity of {} on each image",
            "root mean square of the mask",
            digits=None,
        ),
        search=SearchConfig(steps=100, learning_rate=0.5, betas=(0.5, 0.9), lambda_attack=0.02, success_level=0.95),
        prior=Prior(deviation=0.13, weight=8, slope_deviation=0.35),
        prior_alone=Prior(deviation=0.22, weight=8),
        not_searched="Static patches were looked for only as far as a trigger generator finds them: a small patch at a "
        "fixed place can stay invisible to it.",
    ),
    "warp": Family(
        triggers="worker.detection.families.warp:Warps",
        title="warp: every image bent in the same smooth way",
        norm=Norm(
            "Root mean square displacement of the pixels, in pixels, by the smallest warp found.",
            "Bending each image by {} of a pixel",
            "pixels moved",
            digits=2,
        ),
        search=SearchConfig(steps=100, success_level=0.95),
        prior=Prior(deviation=0.22, weight=8, slope_deviation=0.5),
        prior_alone=Prior(deviation=0.25, weight=8),
    ),
}
