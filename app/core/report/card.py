"""What is said to people about a repair: how soon its triggers come back, and what its card does not show."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.core.findings import ComesBack, Likeness, OtherOutput, RepairReport, Shift

BESIDE_A_REFERENCE = {
    ComesBack.HARDLY: "It hardly comes back: from a few poisoned images these weights learn the inverted trigger about "
    "as a network does that never had it.",
    ComesBack.PARTLY: "It partly comes back: from a few poisoned images these weights learn the inverted trigger "
    "sooner than a network that never had it. Train them further on images that you trust only.",
    ComesBack.QUICKLY: "It quickly comes back: a few poisoned images teach these weights the inverted trigger again. "
    "The repair hides it more than it removes it. Train them further on images that you trust only, or repair with "
    "more clean images.",
}
ALONE = BESIDE_A_REFERENCE | {
    ComesBack.HARDLY: "It hardly comes back: a few poisoned images do not teach these weights the inverted trigger "
    "again.",
    ComesBack.PARTLY: "It partly comes back: a few poisoned images teach these weights some of the inverted trigger "
    "again. Train them further on images that you trust only.",
}

ANOTHER_TRIGGER = (
    "What the trigger that somebody planted does to these weights: only triggers that the scan inverted were tried."
)
NOT_SEARCHED = (
    "Triggers of labels that were not unlearned, and of kinds that were not searched for: they are as before."
)
RETUNING = (
    "Whether training on a few poisoned images brings the backdoor back: that was not tried. Train these weights "
    "further on images that you trust only."
)
RETUNED_OTHERWISE = (
    "Whether more poisoned images, longer training or the trigger that somebody planted bring the backdoor back: a few "
    "images with the inverted trigger were tried, for some epochs."
)
UNTRIED = "Whether the other triggers come back: {} of {} were tried."
NO_REFERENCE = "Whether a network that never had the backdoor would learn it as soon: there was none to try beside."
NOT_SEARCHED_AFRESH = "What a fresh search would find in the repaired model: none was done, or it was not finished."
OTHER_OUTPUTS = (
    "What the repair did to the other outputs ({}): they are there as before, but may use weights that were changed, "
    "and only the output that was scanned was judged."
)
MOST_NAMED = 8
UNLIKE = (
    "How accurate these weights are on images like those of the training: the bundle's are somewhat different from "
    "those."
)
MAY_BE_UNLIKE = "Whether the bundle's images are like those of the training: no batch norm remembers them."
ELSEWHERE = "How the model does on images from elsewhere than the bundle."


def coming_back(repair: Mapping[str, Any]) -> str:
    """The sentence for the trigger that comes back soonest, of a repair that tried: it compares where it can."""
    soonest = next(found for found in repair["reactivations"] if found["comes_back"] == repair["comes_back"])
    sentences = ALONE if soonest["retuned_reference"] is None else BESIDE_A_REFERENCE
    return sentences[ComesBack(repair["comes_back"])]


def not_shown(
    repair: RepairReport, other_outputs: Sequence[OtherOutput] = (), shift: Shift | None = None
) -> tuple[str, ...]:
    """The sentences for a repair that was judged; none for one that was not."""
    if not repair.judged_images:
        return ()
    sentences = [ANOTHER_TRIGGER, NOT_SEARCHED, *_not_retuned(repair)]
    if repair.reinversion_p_value is None:
        sentences.append(NOT_SEARCHED_AFRESH)
    if repair.classes:
        fewest = min(found.images for found in repair.classes)
        sentences.append(
            f"Small losses of accuracy: {repair.judged_images} images judge the whole, and {fewest} the class that has "
            "fewest; the bounds say how much can be lost unseen."
        )
    if repair.unjudged_labels:
        count = len(repair.unjudged_labels)
        sentences.append(f"The accuracy on {count} class{'es' if count > 1 else ''} of which the bundle has no image.")
    if others := [f"`{other.name}`" for other in other_outputs if not other.same_as_chosen]:
        sentences.append(OTHER_OUTPUTS.format(_listed(others)))
    if shift is not None and shift.likeness is not Likeness.AS_TRAINED:
        sentences.append(UNLIKE if shift.likeness is Likeness.SOMEWHAT_DIFFERENT else MAY_BE_UNLIKE)
    return (*sentences, ELSEWHERE)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _not_retuned(repair: RepairReport) -> list[str]:
    """What the tests of re-activation leave open."""
    tried, triggers = len(repair.reactivations), len(repair.triggers)
    if not tried:
        return [RETUNING]
    sentences = [RETUNED_OTHERWISE]
    if tried < triggers:
        sentences.append(UNTRIED.format(tried, triggers))
    if any(found.retuned_reference is None for found in repair.reactivations):
        sentences.append(NO_REFERENCE)
    return sentences
