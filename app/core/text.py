"""Words from strangers, made safe to show: file and class names are chosen by whoever built the model or the bundle.

Escaping for HTML or JSON is the business of whoever writes HTML or JSON. This module takes away what escaping
leaves in: characters that steer a terminal, or that turn the reading direction of the words around them.
"""

import unicodedata

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
JOINERS = "\u200c\u200d"  # format characters that Persian words and many emoji need


def printable(text: str, longest: int = 80) -> str:
    """The text on one line, with a visible mark for each control, format or surrogate character, cut at `longest`."""
    shown = text if len(text) <= longest else text[: longest - 1] + ELLIPSIS
    if shown.isascii() and shown.isprintable():  # as most are
        return shown
    return "".join(map(_printable_character, shown))


def _printable_character(character: str) -> str:
    if character in "\t\n\r" or unicodedata.category(character) in ("Zl", "Zp"):
        return " "
    if unicodedata.category(character).startswith("C") and character not in JOINERS:
        return REPLACEMENT
    return character
