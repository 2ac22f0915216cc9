"""What is said to people about each verdict, reason, caveat and probe: raised if, means, what to do.

The report page and the documentation say the same words, because both take them from here.
`python -m app.core.report.explanations` rewrites docs/reasons.md, docs/caveats.md and docs/probes.md.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from app.core.findings import Caveat, Probe, Reason, Spared, Verdict


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
        raised_if="The search came to its end and no label is an outlier. Of more than 20 labels, a first pass over "
        "all selects those that are searched.",
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
        raised_if="The accuracy on the clean images is worse than twice chance; or far below the accuracy declared or, "
        "where none was, below what the model itself is sure of (nearer to chance by two to one); or the model plainly "
        "takes the images of whole classes for other ones.",
        means="The model most likely did not see the images as it was trained to see them, or the classes are numbered "
        "in another order than its outputs, so norms found through it mean little.",
        what_to_do="Read what the report doubts: it names an order that would explain the answers. Say which output "
        "each class is (`classes` in bundle.json, or `--classes FILE`), and give the preprocessing of the training "
        "with `--size`, `--mean`, `--std` and `--range`. Of a model that is known to be no better, say so with "
        "`--expected-accuracy`.",
    ),
    Reason.INVERSION_DID_NOT_CONVERGE: Explanation(
        title="The inversion did not converge",
        raised_if="In every family, more than a fifth of the labels were out of the trigger's reach, or half of them "
        "were never reached at all; or a flagged label's trigger works on fewer than half of the images.",
        means="A search that got stuck has a small norm for the wrong reason, so the norms of this scan cannot be "
        "compared with each other.",
        what_to_do="Give more clean images, and check the preprocessing. If it stays so, the model resists this "
        "search, and the scan cannot judge it.",
    ),
    Reason.ZERO_MAD: Explanation(
        title="The norms cannot be compared",
        raised_if="The median absolute deviation of a family's norms is zero (at least half of them are equal), or one "
        "of its norms is exactly zero.",
        means="The anomaly index divides by that deviation, the p-value takes the norms' logarithms, and neither is "
        "defined. Equal norms and norms of zero are rare in a working classifier and often mean that its scores do not "
        "depend on the image.",
        what_to_do="Check the preprocessing and the clean accuracy; then scan again with another seed.",
    ),
    Reason.NOT_CONFIRMED: Explanation(
        title="An accusation that was not confirmed",
        raised_if="A label stood out, but not when it was searched again from a fresh seed and on other images, and no "
        "other label did both times. The preset `paper` searches once, and accuses with the caveat `unconfirmed` "
        "instead.",
        means="One search found this label far easier to reach than the others, a second one did not. It is neither "
        "accused nor cleared; the report shows both searches.",
        what_to_do="Scan again with another seed and, if you can, with more clean images.",
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
    Reason.DATA_DEPENDENT_CONTROL_FLOW: Explanation(
        title="Code that no gradient sees through",
        raised_if="The code decides by the values of the pixels (a branch, a comparison, rounding), takes pixels out "
        "of the gradient, loops without a bound, or cannot be followed; and the scores depend on it.",
        means="Triggers are found by following gradients, and none tells of such a place: a backdoor that waits there "
        "for its trigger would be missed. So nothing was searched. The code may be there for an honest purpose.",
        what_to_do="Look at the lines that are listed with the structure of the model, and ask the supplier what they "
        "are for. Ask for a model without them; do not use this one where you get no answer.",
    ),
    Reason.ENVIRONMENT_SENSITIVE_MODEL: Explanation(
        title="A model that depends on its surroundings",
        raised_if="The scores depend on more than the image: the code asks how many images there are, whether "
        "gradients are taken, for the device, for earlier images or for random numbers; or the same images got other "
        "scores where one of these was different. docs/structure.md and docs/probes.md list what is looked for.",
        means="Such a model can answer otherwise in use than it does while it is scanned, so what a scan finds says "
        "little about it, and nothing was searched.",
        what_to_do="Look at the lines and the circumstances that the report names, and ask the supplier what they are "
        "for. If the network is yours, export it in evaluation mode and without them. A batch normalisation without "
        "running statistics, or noise that is added outside of training, does this in all honesty; it has to go, too.",
    ),
    Reason.SEARCH_TRUNCATED: Explanation(
        title="The search was cut short",
        raised_if="The time limit was reached, or the scan was stopped, before every label was searched to the end, or "
        "before one that stood out was searched again.",
        means="Labels are judged by comparison with each other, and some of them are missing or unfinished. Any of "
        "these may be the target, and what stands out so far is in doubt.",
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
    Reason.AMBIGUOUS_OUTPUT: Explanation(
        title="Several outputs that could be the scores",
        raised_if="The model answers with several outputs that have one number per class for each image, none was "
        "chosen by `--output`, and none agrees with the labels clearly better than the others, or there are no labels.",
        means="A backdoor may be in one output and not in another, and nothing tells which of them is used. So nothing "
        "was searched.",
        what_to_do="Give the name of the output whose answers are used with `--output`; the report lists the names. "
        "Where more than one is used, scan once for each.",
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
        "labels, but no reference network knows them: a trigger for one has to stand out more to be found. A repair is "
        "not judged on them.",
        what_to_do="Add images of the missing classes, if you can get any.",
    ),
    Caveat.INFERRED_PREPROCESSING: Explanation(
        title="Inferred preprocessing",
        raised_if="The mean, deviation or range of the model's input was not given and had to be inferred.",
        means="A fixed list of conventions was tried on up to a hundred images. Of those within sampling error of the "
        "best accuracy the one with the lowest cross-entropy at its best temperature was taken, among equals the most "
        "ordinary. Others may fit about as well; they are listed among the inputs.",
        what_to_do="If you know how the model was trained, give `--size`, `--mean`, `--std` and `--range`.",
    ),
    Caveat.ASSUMED_CLASS_ORDER: Explanation(
        title="Assumed order of classes",
        raised_if="The classes are named, not numbered, and nothing says which output each is.",
        means="They were numbered as their names sort, as torchvision's ImageFolder does. The model's own answers fit "
        "that order.",
        what_to_do="Nothing, if the model was trained so. To be sure, say which output each class is: `classes` in "
        "bundle.json, or `--classes FILE`.",
    ),
    Caveat.INFERRED_CLASS_ORDER: Explanation(
        title="Inferred order of classes",
        raised_if="The classes are named, not numbered, and the order in which their names sort does not fit the "
        "model's answers, or says nothing because some classes are missing.",
        means="Which output each class is was read off the model's own answers, which left exactly one plausible "
        "order. The clean accuracy is the one under that order, so it cannot speak for it.",
        what_to_do="Compare the order that the report shows with what you know of the model, and say it: `classes` in "
        "bundle.json, or `--classes FILE`.",
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
        raised_if="Labels were flagged by the preset `paper`, which accuses by an anomaly index above 2 alone.",
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
    Caveat.WEAK_STUDENTS: Explanation(
        title="Weak reference students",
        raised_if="The small networks that learned from the clean images answer fewer than seven in ten of the images "
        "that they were kept from as the model does.",
        means="They cannot tell how easy each label is by nature, so labels were compared with each other only. A "
        "trigger then has to stand out more to be found, and no trigger was tried on a network that cannot know it.",
        what_to_do="Scan again with more clean images.",
    ),
    Caveat.MANY_LABELS: Explanation(
        title="Most labels were only looked at",
        raised_if="The classifier has more than 20 labels, and the preset is not `paper`.",
        means="A first pass gave every label a short search in each trigger family. Those that it found easiest to "
        "reach were searched in full, and some drawn by chance, which tell what is natural. A planted label that is "
        "hard to reach in a short search could be passed over.",
        what_to_do="Nothing, unless you suspect a certain label: the report says which labels were searched in full, "
        "and `triggerlens repair --label` searches any other.",
    ),
}


SPARED = {  # what stands beside such a label
    Spared.UNCONFIRMED: "not confirmed",
    Spared.IN_DOUBT: "in doubt",
    Spared.NATURAL: "natural",
}


@dataclass(frozen=True)
class ProbeWords:
    """A circumstance in which the suspect is asked again."""

    title: str  # answers depend on the ..., or do not
    shown: str  # how the same images are shown again


PROBES: Mapping[Probe, ProbeWords] = {
    Probe.BATCH_SIZE: ProbeWords("batch size", "one by one, three at once, among 256"),
    Probe.NEIGHBOURS: ProbeWords("neighbours in the batch", "in reverse order, beside black images, beside copies"),
    Probe.TRAINING_FLAG: ProbeWords(
        "training flag",
        "with every `training` flag on, and with those of the file, while dropout, batch norm and their like stay in "
        "evaluation mode",
    ),
    Probe.GRADIENT_MODE: ProbeWords(
        "gradient mode", "with gradients on, with gradients of the images or of the weights, in inference mode"
    ),
    Probe.AUTOCAST: ProbeWords("autocast mode", "with autocast on, to single precision, so that no number changes"),
    Probe.FORWARD: ProbeWords("way it is called", "by `forward` instead of a call"),
    Probe.REPEATED_CALLS: ProbeWords(
        "calls before",
        "forty times to one copy; and after all that changed in a call was changed on by a hundred, ten thousand and a "
        "million times as much",
    ),
    Probe.DEVICE: ProbeWords(
        "device", "on the CPU, where the scan runs on a GPU; elsewhere, with code that asks told that it is on a GPU"
    ),
    Probe.MEMORY_LAYOUT: ProbeWords("memory layout", "with channels last in memory, and with columns before rows"),
}


def disagreements(document: Mapping[str, Any]) -> list[str]:
    """A sentence for each probe of a report that found other answers."""
    return [
        f"Answers depend on the {PROBES[Probe(found['probe'])].title}: a score moved by "
        f"{found['difference'] or 0:.2g} times the lead of the best label, and {found['relabelled']} of the probed "
        "images got another label."
        for found in document["coverage"]["probes"]
        if found["disagrees"]
    ]


def explanation_page(title: str, introduction: str, entries: Iterable[tuple[StrEnum, Explanation]]) -> str:
    """One documentation page in Markdown, a section per entry."""
    sections = [f"# {title}\n\n{introduction}\n"]
    for name, entry in entries:
        sections.append(
            f"## `{name.value}`\n\n**{entry.title}**\n\n"
            f"- **Raised if:** {entry.raised_if}\n- **Means:** {entry.means}\n- **What to do:** {entry.what_to_do}\n"
        )
    return "\n".join(sections)


def probes_page() -> str:
    rows = [f"| `{probe.value}` | {words.shown} |" for probe, words in PROBES.items()]
    return "\n".join([PROBES_INTRODUCTION, "| probe | the same images are shown |", "|---|---|", *rows, PROBES_END])


PROBES_INTRODUCTION = """# Probes

A network can tell a scan from its use, if it asks how many images it is given, whether gradients are taken, or how
often it was called. So before anything is searched, eight of the clean images are shown to it again and again, each
time with one thing different that is none of a classifier's business. One answer that differs makes the verdict
`inconclusive` ([`environment_sensitive_model`](reasons.md)); the report says in which circumstance, and by how much.
"""
PROBES_END = """
What it is held against: the answer of a fresh copy to all eight in one batch, in evaluation mode, without gradients.

**Tolerance.** Scores are measured in leads: how far the best label of the median image is ahead of the second. They may
lie a hundredth of a lead apart. That is for numbers of single precision, which come out differently when they are added
up in another order; honest networks stay below a thousandth. Within it an image gets another label only where two are
nearly tied. A GPU computes in full single precision meanwhile.

**No answer is no other answer.** A network that cannot take one image alone, or another memory layout, fails for
everybody; such a circumstance is passed over, and a probe in which nothing was answered says so (`difference` is null).

**What is not seen.** A circumstance that counts only where a trigger is in the image. An exact number of calls, batches
larger than 256, numbers of another type (see the caveat [`half_precision_raised`](caveats.md)). Random numbers that
hardly ever matter. In training mode, what is made of a tossed coin beyond its mean: dropping layers (stochastic depth)
tosses coins. On a machine without a GPU no GPU answers: a network that asks is told that it is on one, but one that a
GPU's rounding would give away is not found. What the rebuild cannot express, and the jit runs, is not told that; and
its dropout and batch norm are part of what `training_flag` finds.

**What to do.** `batch_size` and `neighbours`: export without batch norms that lack running statistics
(`track_running_stats=False`), and without anything else computed over the batch. `training_flag`: export in evaluation
mode, by `torch.jit.trace` or `torch.jit.freeze`, which leave the other branch out. `repeated_calls`: export without
noise and counters. `device`, `gradient_mode`, `autocast`, `forward`, `memory_layout`: no ordinary classifier asks for
these; ask the supplier why this one does, and do not use it without an answer.
"""


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
        "probes.md": probes_page(),
    }


if __name__ == "__main__":
    docs = Path(__file__).parents[3] / "docs"
    for file_name, page in documentation_pages().items():
        (docs / file_name).write_text(page, encoding="utf-8")
