"""The page about the gate, docs/gate.md, from the words about its rules: `python -m app.core.report.gate_page`."""

from pathlib import Path

from app.core.report.gate_rules import ARCHIVE, CODE, OPERATORS, PICKLES, ZIP

_INTRODUCTION = """# The gate

A TorchScript file is a program, and `torch.jit.load` runs parts of it. So none is loaded before it is understood. The
gate reads the zip, the pickles and the code by itself, without torch, and refuses what it does not understand as a
whole: there is no list of bad things to slip past. `triggerlens inspect MODEL` shows what a file holds, or the rule
that it breaks with the member and the line; every scan begins with the same gate.

| exit code of `inspect` | meaning |
|---|---|
| 0 | all of it is understood. Whether the weights hold a backdoor is not known: `triggerlens scan` looks there |
| 1 | understood, but its code does what a scan could not see through: [findings](structure.md) that block a verdict |
| 2 | wrong usage |
| 3 | `unsupported_operator`: something that may be harmless, but that is not on the allowlist |
| 4 | refused: no TorchScript, or malformed, or made to reach beyond the network's numbers |

`--json` prints the manifest with the findings, or the problem of a refusal; `--sarif` prints a SARIF 2.1.0 log for code
scanning. The id of a rule does not change. Each has the [problem](problems.md) that a scan fails with.
"""

_SECTIONS = {
    "The zip": ZIP,
    "Pickles": PICKLES,
    "Code": CODE,
    "Operators": OPERATORS,
    "The archive as a whole": ARCHIVE,
}


def gate_page() -> str:
    """A section per rule, whose anchor is the rule's id."""
    parts = [_INTRODUCTION]
    for title, rules in _SECTIONS.items():
        parts.append(f"## {title}\n")
        for rule, words in rules.items():
            told = f"**{words.broken_if}** {words.because}\n\n{rule.advice} (`{rule.code}`)\n"
            parts.append(f"### `{rule.id}`\n\n{told}")
    return "\n".join(parts)


if __name__ == "__main__":
    (Path(__file__).parents[3] / "docs" / "gate.md").write_text(gate_page(), encoding="utf-8")
