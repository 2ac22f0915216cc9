"""An open file from a stranger, read by position, in pieces whose size we choose; and how its members are refused.

What the file holds is not known here.
"""

import os
from collections.abc import Iterator

from app.core.intake.guards import MEGABYTE
from app.core.intake.members import unreadable
from app.core.intake.torchscript.rules import FETCH_AGAIN, GateRefusal, Rule
from app.core.text import printable

TRUNCATED = Rule("zip-truncated", "malformed_archive", FETCH_AGAIN)
_PIECE_BYTES = MEGABYTE


class Source:
    """The open file, read by position in pieces whose size we choose."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Exactly so many bytes; for what is known to be small."""
        try:
            content = os.pread(self.descriptor, size, offset)
        except OSError as error:
            raise unreadable("model", error) from error
        if len(content) < size:
            raise _cut_short()
        return content

    def pieces(self, offset: int, size: int) -> Iterator[memoryview]:
        """The same bytes in pieces; each is overwritten by the next."""
        buffer = memoryview(bytearray(min(size, _PIECE_BYTES)))
        while size > 0:
            try:
                count = os.preadv(self.descriptor, [buffer[:size]], offset)
            except OSError as error:
                raise unreadable("model", error) from error
            if count == 0:
                raise _cut_short()
            yield buffer[:count]
            offset, size = offset + count, size - count


def _cut_short() -> GateRefusal:
    return TRUNCATED.refusal("The file ends in the middle of what it announces.")


def member_refusal(rule: Rule, name: str, what: str) -> GateRefusal:
    """The refusal of one member, of which `what` says what is wrong."""
    return rule.refusal(f"The member `{printable(name)}` {what}", name)
