"""What a value depends on, as the bits of one number, so that the union of two is `|`.

The low bits are sources: pixels, sizes, the mode of gradients. Where the code makes something suspicious of a source,
a mark takes its place: one bit for each rule and line, which then travels with all that is computed from it. The marks
that arrive in the scores are the findings.
"""

from app.core.intake.torchscript.structure.rules import Finding, StructureRule

PIXELS = 1  # the values of the image
SHAPE = 2  # its height, width or channels
BATCH = 4  # how many images there are
GRADIENTS = 8  # whether gradients are taken
PLACE = 16  # the device, the type of numbers, how numbers lie in memory
SOURCES = 31
_FIRST_MARK = 8
_MOST_MARKS = 400  # of one archive; what is found later shares the last mark of its rule


class Marks:
    """All marks of one archive, each with its finding."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._bits: dict[tuple[StructureRule, str, int], int] = {}
        self._of_rule: dict[StructureRule, int] = {}
        self._last: dict[StructureRule, int] = {}

    def bit(self, rule: StructureRule, member: str, line: int, detail: str, blocks: bool | None = None) -> int:
        """The mark of a rule at a line, always the same."""
        known = self._bits.get((rule, member, line))
        if known is None:
            if len(self.findings) >= _MOST_MARKS and rule in self._last:
                return self._last[rule]
            known = 1 << (_FIRST_MARK + len(self.findings))
            is_blocking = rule.blocks if blocks is None else blocks
            self.findings.append(Finding(rule, detail, member, line, blocks=is_blocking))
            self._bits[rule, member, line] = self._last[rule] = known
            self._of_rule[rule] = self._of_rule.get(rule, 0) | known
        return known

    def of(self, *rules: StructureRule) -> int:
        """All marks of these rules."""
        bits = 0
        for rule in rules:
            bits |= self._of_rule.get(rule, 0)
        return bits

    def in_taint(self, taint: int) -> list[Finding]:
        return [finding for place, finding in enumerate(self.findings) if taint >> (_FIRST_MARK + place) & 1]
