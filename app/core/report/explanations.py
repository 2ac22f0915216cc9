"""What is said to people about each verdict, reason and caveat: raised if, means, what to do.

The report page and the documentation say the same words, because both take them from here.
`python -m app.core.report.explanations` rewrites docs/reasons.md and docs/caveats.md.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from app.core.findings import Caveat, Reason, Verdict


@dataclass(frozen=True)
class Explanation:
    """One entry, in plain sentences; words between backticks are typed as they stand."""

    title: str
    raised_if: str
    means: str
    what_to_do: str


VERDICTS = {
    Verdict.NO_BACKDOOR_FOUND: Explanation(
        title="No backdoor found",
        raised_if="Every label was searched to the end and none is an outlier.",
        means="No label is suspiciously easy to reach with the kinds of trigger that were searched. This is not a "
        "proof that the model is clean: no scan can rule out every backdoor.",
        what_to_do="Read what was not looked at before you rely on the model, and compare its sha256 with the file "
        "you deploy. Where much depends on it, scan again with more clean images and another seed.",
    ),
    Verdict.BACKDOORED: Explanation(
        title="Signs of a backdoor",
        raised_if="At least one label is an outlier: far easier to reach from images of other classes than the rest.",
        means="A far smaller change than the other labels need turns images of other classes into the flagged label. "
        "A planted trigger leaves this mark; now and then a clean model shows it too.",
        what_to_do="Do not use this model where somebody else can influence its images. Look at the trigger below, "
        "ask where the model came from, and prefer to train again from a source you trust.",
    ),
    Verdict.INCONCLUSIVE: Explanation(
        title="No verdict",
        raised_if="Something stood in the way of a decision; each reason is named.",
        means="The scan could not tell whether this model has a backdoor. Do not read that as a good sign.",
        what_to_do="Remove the reasons named below and scan again. Until then, treat the model as not scanned.",
    ),
}

REASONS = {
    Reason.TOO_FEW_LABELS: Explanation(
        title="Too few labels",
        raised_if="The classifier has four labels or fewer.",
        means="The median absolute deviation of so few norms has no power to tell an outlier from chance. Norms and "
        "pictures are still shown.",
        what_to_do="Compare the norms and the pictures yourself: a trigger that is small and looks alike on every "
        "image is suspicious.",
    ),
    Reason.IMPLAUSIBLE_ACCURACY: Explanation(
        title="Implausible accuracy",
        raised_if="The accuracy on the clean images is worse than twice chance, or far below the accuracy declared.",
        means="The model most likely did not see the images as it was trained to see them, so norms found through "
        "it mean little. Wrong preprocessing is the first suspect, wrong class indices the second.",
        what_to_do="Give the preprocessing of the training with `--size`, `--mean`, `--std` and `--range`, and check "
        "that folders or labels name the right class indices.",
    ),
    Reason.INVERSION_DID_NOT_CONVERGE: Explanation(
        title="The inversion did not converge",
        raised_if="For most labels, the inverted trigger never reached a useful attack success rate.",
        means="A search that got stuck has a small norm for the wrong reason, so the norms of this scan cannot be "
        "compared with each other.",
        what_to_do="Give more clean images, and check the preprocessing. If it stays so, the model resists this "
        "search, and the scan cannot judge it.",
    ),
    Reason.ZERO_MAD: Explanation(
        title="The norms are all alike",
        raised_if="The median absolute deviation of the norms is zero: at least half of the norms are equal.",
        means="The anomaly index divides by that deviation and is undefined. Equal norms are rare in a working "
        "classifier and often mean that its scores do not depend on the image.",
        what_to_do="Check the preprocessing and the clean accuracy; then scan again with another seed.",
    ),
    Reason.NO_INPUT_GRADIENT: Explanation(
        title="No gradient reaches the image",
        raised_if="The gradient of the scores with respect to the image is missing, zero everywhere or not finite.",
        means="Triggers are found by following this gradient. Rounding, quantised layers or detached operations "
        "inside the model hide it, by accident or on purpose.",
        what_to_do="Ask for the model in floating point, exported without rounding or quantisation. If the supplier "
        "cannot explain why the gradient is missing, do not use the model.",
    ),
    Reason.UNSUPPORTED_OPERATOR: Explanation(
        title="An operator that is not known",
        raised_if="The model's code uses an operator of torch that is not on the scanner's allowlist.",
        means="Only models of which every operator is understood are loaded, so this one was not. The operator may be "
        "harmless and rare; it is not known here.",
        what_to_do="Export the model without it, or ask the supplier what it is for. Please report an operator that "
        "an ordinary image classifier needs.",
    ),
    Reason.SEARCH_TRUNCATED: Explanation(
        title="The search was cut short",
        raised_if="The time limit was reached, or the scan was stopped, before every label was searched to the end.",
        means="Labels are judged by comparison with each other, and some of them are missing or unfinished. Any of "
        "these may be the target.",
        what_to_do="Scan again with a larger `--time-limit`, or on a faster machine.",
    ),
    Reason.OUT_OF_MEMORY: Explanation(
        title="Out of memory",
        raised_if="The search of at least one label did not fit into the memory of the device, even by itself.",
        means="Labels are judged by comparison with each other, and some of them could not be searched. Any of these "
        "may be the target.",
        what_to_do="Scan again on a device with more memory, or with nothing else running on this one.",
    ),
    Reason.NO_LABELS_AND_NO_INPUT_SPEC: Explanation(
        title="Neither labels nor preprocessing",
        raised_if="The clean images carry no labels, and no preprocessing was given.",
        means="Preprocessing is inferred from the accuracy on labelled images; without labels nothing tells a right "
        "convention from a wrong one.",
        what_to_do="Sort the images into one folder per class or add `labels.csv`, or give the preprocessing with "
        "`--size`, `--mean`, `--std` and `--range`.",
    ),
}

CAVEATS = {
    Caveat.FEW_CLEAN_IMAGES: Explanation(
        title="Few clean images",
        raised_if="There are fewer than about ten clean images per label.",
        means="Norms and attack success rates come from a small sample and vary from one sample to the next.",
        what_to_do="Scan again with more images, ten or more of every class.",
    ),
    Caveat.UNLABELLED_IMAGES: Explanation(
        title="Unlabelled images",
        raised_if="The clean images carry no labels.",
        means="The model's own predictions stand in for the true labels. Clean accuracy is unknown, and wrong "
        "predictions blur which images count for which label.",
        what_to_do="Sort the images into one folder per class, or add `labels.csv`.",
    ),
    Caveat.MISSING_CLASSES: Explanation(
        title="Missing classes",
        raised_if="The clean images hold no image of at least one class.",
        means="No trigger was tried on images of these classes. The classes themselves were still searched as target "
        "labels.",
        what_to_do="Add images of the missing classes, if you can get any.",
    ),
    Caveat.INFERRED_PREPROCESSING: Explanation(
        title="Inferred preprocessing",
        raised_if="The size, mean, deviation or range of the model's input was not given and had to be inferred.",
        means="A fixed list of conventions was tried, and the one that fits the clean images best was taken. Others "
        "may fit about as well; they are listed among the inputs.",
        what_to_do="If you know how the model was trained, give `--size`, `--mean`, `--std` and `--range`.",
    ),
    Caveat.PACKAGED_PERCEPTUAL_BACKBONE: Explanation(
        title="Packaged perceptual backbone",
        raised_if="No ImageNet backbone for LPIPS (AlexNet or SqueezeNet) was found on this machine.",
        means="The perceptual distance came from the small backbone that is shipped with TriggerLens. Norms are not "
        "exactly those that the paper's distance would lead to.",
        what_to_do="Run `triggerlens weights fetch` once to get the genuine backbone, then scan again.",
    ),
    Caveat.UNSANDBOXED: Explanation(
        title="No sandbox",
        raised_if="The model was run without a sandbox.",
        means="A TorchScript file is a program, and this one ran with the rights of the user who started the scan. "
        "A hostile one could have read, changed or sent away what that user can.",
        what_to_do="Scan files from strangers in a container or on a machine that holds nothing of value.",
    ),
    Caveat.UNCONFIRMED: Explanation(
        title="Not confirmed",
        raised_if="The preset `paper` was used, which accuses by an anomaly index above 2 alone.",
        means="Flagged labels are not confirmed by a second search. The rule raises a false alarm on about one in "
        "three clean models with ten labels, and on more of them where there are more labels.",
        what_to_do="Take an index not far above 2 as a hint, not as proof: scan again with another seed and other "
        "clean images, and see whether the same label stands out.",
    ),
    Caveat.TRAIN_MODE_NORMALISED: Explanation(
        title="Switched to evaluation mode",
        raised_if="A dropout or a batch normalisation was saved, or traced, in training mode.",
        means="It was active as saved. The scan switched the model to evaluation mode "
        "first, so its figures are for that mode.",
        what_to_do="Call `eval()` before you save or use the model.",
    ),
    Caveat.HALF_PRECISION_RAISED: Explanation(
        title="Computed in single precision",
        raised_if="The file holds weights in half precision (float16 or bfloat16).",
        means="The scan computed in single precision, in which gradients are steadier. Scores differ by rounding; but "
        "code that asks for the type of its numbers, or lets them overflow, could behave otherwise when it is used.",
        what_to_do="Use the model in single precision.",
    ),
}


@dataclass(frozen=True)
class FamilyWords:
    """A trigger family in a report."""

    title: str
    norm: str  # what its norm is
    change: str  # what such a trigger does; {} is the norm


FAMILIES: Mapping[str, FamilyWords] = {
    "dynamic": FamilyWords(
        "dynamic: another trigger on each image, drawn by a generator",
        "Mean absolute change of a pixel, on images in [0, 1], by the smallest trigger found.",
        "Changing each pixel by {} on average",
    ),
    "static": FamilyWords(
        "static: one patch or overlay on every image",
        "Share of the image that the smallest patch or overlay found covers.",
        "Covering {} of each image with one patch or overlay",
    ),
    "warp": FamilyWords(
        "warp: every image bent in the same smooth way",
        "Root mean square displacement of the pixels, in pixels, by the smallest warp found.",
        "Bending each image by {} of a pixel",
    ),
}


def explanation_page(title: str, introduction: str, entries: Iterable[tuple[StrEnum, Explanation]]) -> str:
    """One documentation page in Markdown, a section per entry."""
    sections = [f"# {title}\n\n{introduction}\n"]
    for name, entry in entries:
        sections.append(
            f"## `{name.value}`\n\n**{entry.title}**\n\n"
            f"- **Raised if:** {entry.raised_if}\n- **Means:** {entry.means}\n- **What to do:** {entry.what_to_do}\n"
        )
    return "\n".join(sections)


def documentation_pages() -> dict[str, str]:
    """File name below docs/ -> text."""
    return {
        "reasons.md": explanation_page(
            "Reasons",
            "Why a scan could not be decided. Each of them makes the verdict `inconclusive`.",
            REASONS.items(),
        ),
        "caveats.md": explanation_page(
            "Caveats",
            "What a reader of a verdict should know. A caveat annotates a verdict and blocks none.",
            CAVEATS.items(),
        ),
    }


if __name__ == "__main__":
    docs = Path(__file__).parents[3] / "docs"
    for file_name, page in documentation_pages().items():
        (docs / file_name).write_text(page, encoding="utf-8")
