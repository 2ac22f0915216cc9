"""What the card of a repair does not show, in sentences: whoever takes the weights should know what was not tried."""

from app.core.findings import RepairReport

ANOTHER_TRIGGER = (
    "What the trigger that somebody planted does to these weights: only triggers that the scan inverted were tried."
)
NOT_SEARCHED = (
    "Triggers of labels that were not unlearned, and of kinds that were not searched for: they are as before."
)
RETUNING = (  # until tests of re-activation are part of a repair, and of its card
    "Whether training on a few poisoned images brings the backdoor back: that was not tried. Train these weights "
    "further on images that you trust only."
)
NOT_SEARCHED_AFRESH = "What a fresh search would find in the repaired model: none was done, or it was not finished."
ELSEWHERE = "How the model does on images from elsewhere than the bundle."


def not_shown(repair: RepairReport) -> tuple[str, ...]:
    """The sentences for a repair that was judged; none for one that was not."""
    if not repair.judged_images:
        return ()
    sentences = [ANOTHER_TRIGGER, NOT_SEARCHED, RETUNING]
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
    return (*sentences, ELSEWHERE)
