"""Every finding about a network's structure in people's words: `python -m app.core.report.structure_rules`.

Raised if, means, what to do: docs/structure.md has all of it. How a finding is made is not known here.
"""

from collections.abc import Mapping
from pathlib import Path

from app.core.intake.torchscript.structure import rules
from app.core.intake.torchscript.structure.rules import StructureRule
from app.core.report.gate_rules import Words

STRUCTURE_RULES: Mapping[StructureRule, Words] = {
    rules.BRANCH: Words(
        "Which side of an `if`, or how many turns of a loop, depends on the values of the pixels, and the scores do on "
        "that.",
        "The gradient follows the side that was taken and knows nothing of the other: a backdoor in it stays unseen. "
        "A side that only raises an exception is an assertion, and raises nothing here.",
    ),
    rules.GATE: Words(
        "A comparison or another step (`where` on a condition, `sign`, `round`, `floor`, `argmax`, a cast to whole "
        "numbers) of numbers that depend on the pixels reaches the scores.",
        "The result jumps where the pixels pass a threshold, and stays the same everywhere else, so its gradient is "
        "zero. A gate that waits for a patch in a corner looks like this; so does quantisation.",
    ),
    rules.DETACHED: Words(
        "`detach`, `item` or the like stands on a way from the pixels to the scores.",
        "What was computed before it has no gradient, so no search for triggers can follow it.",
    ),
    rules.NO_GRAD: Words(
        "`with torch.no_grad():` stands on a way from the pixels to the scores.",
        "Most often a part that was not to be trained. A scan leaves it out and follows the gradient all the same; "
        "where the code also asks whether gradients are taken it cannot, and the finding blocks the verdict.",
    ),
    rules.GRAD_MODE: Words(
        "The scores depend on whether gradients are taken.",
        "A scan takes gradients, deployed networks do not: the code can tell them apart. torch's own attention does "
        "so to choose a faster operator; that is recognised by the weights, which are the same on both sides.",
    ),
    rules.BATCH_SIZE: Words(
        "The scores depend on how many images there are at once.",
        "A scan looks at many images, a deployed network often at one: the code can tell them apart.",
    ),
    rules.SURROUNDINGS: Words(
        "The scores depend on the device, the type of numbers or how they lie in memory.",
        "A scan may run on another device and with more precise numbers than the deployed network.",
    ),
    rules.MEMORY: Words(
        "The code changes an attribute or a tensor of the network, and later scores depend on it.",
        "Such a network can wait: for a number of calls, or for an image that was shown to it before.",
    ),
    rules.RANDOM: Words(
        "Random numbers reach the scores in evaluation mode.",
        "What a scan measures is then partly chance. Dropout that was left in training mode is not meant: a scan "
        "switches it off, and says so.",
    ),
    rules.ENDLESS: Words(
        "Loops turn more than a million times, or no bound was found.",
        "They keep whoever runs the network busy. Loops that are bounded by the size of the image are a note at most.",
    ),
    rules.NOT_FOLLOWED: Words(
        "The code could not be followed from the image to the scores.",
        "What is too entangled for this is no ordinary classifier; anything may be hidden in it.",
    ),
    rules.TRAINING: Words(
        "In training mode the network does something else, beyond what batch norm, dropout and their like do.",
        "A scan looks at evaluation mode alone. Outputs that only training needs are common and harmless. Where the "
        "network was saved in training mode it would run so unless somebody switches it: then it blocks the verdict.",
    ),
    rules.ALLOCATION: Words(
        "A tensor of more than a gigabyte is made, whatever the image is.",
        "It may exhaust the memory of whoever runs the network.",
    ),
    rules.PRINT: Words("The code prints.", "A scan drops what it prints; in use it may fill a log."),
    rules.UNUSED: Words(
        "A tensor of more than a megabyte is never read.",
        "It may be left over from training, or carry something that is not for this network.",
    ),
}

_INTRODUCTION = """# The structure of a network

When the [gate](gate.md) has understood an archive, its code is followed from the image to the scores: with the objects
of the archive, in evaluation mode, without running it and without torch. What is constant is computed; of all else it
is known what it depends on. `triggerlens inspect MODEL` and every scan name what a search for triggers could not see
through, with member, line and the line's text.

A finding that **blocks** makes a scan `inconclusive`, for the [reason](reasons.md) that is named, and `inspect` exits
with 1; nothing is searched then, as no result would mean anything. A **note** changes neither.

What this cannot see: steps made of smooth arithmetic (a `relu` or a `clamp` after a very large factor), which are
weights like any others, and which the search itself has to find; code that decides by the height and width of the
image or by its number of dimensions (`x.dim()`), which a scan chooses as the network wants them; and what mixes the
images of a batch.
"""


def structure_page() -> str:
    """A section per rule, whose anchor is the rule's id."""
    parts = [_INTRODUCTION]
    for rule, words in STRUCTURE_RULES.items():
        kind = f"blocks: `{rule.reason.value}`" if rule.blocks else "note"
        parts.append(
            f"## `{rule.id}`\n\n- **Raised if:** {words.broken_if} ({kind})\n- **Means:** {words.because}\n"
            f"- **What to do:** {rule.advice}\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    (Path(__file__).parents[3] / "docs" / "structure.md").write_text(structure_page(), encoding="utf-8")
