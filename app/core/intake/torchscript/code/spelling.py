"""The words of printed code: types, numbers, texts, and which names can stand without quotes.

Each is spelled so that the lexicon lets it pass, and that torch and Python read the same from it. What the words are
put together to is not known here.
"""

import keyword
import math
from collections.abc import Iterable, Sequence

from app.core.intake.torchscript.code.program import Scalar, Type


def spelled_type(type_: Type) -> str:
    """`Optional[List[int]]`, and `Tuple[()]` for the type of the empty tuple."""
    if not type_.arguments:
        return "Tuple[()]" if type_.name == "Tuple" else type_.name
    return f"{type_.name}[{listed(map(spelled_type, type_.arguments))}]"


def spelled(value: Scalar) -> str:
    """A number, a text, True, False or None; Python's own words for floats have every digit that matters."""
    match value:
        case str():
            return spelled_text(value)
        case float() if math.isnan(value):
            return "nan"
    return repr(value)


def spelled_text(text: str) -> str:
    """In double quotes, as torch reads it: a byte that is not printable ASCII as its number in octal."""
    return '"' + "".join(map(_character, text.encode())) + '"'


def spelled_tuple(parts: Sequence[str]) -> str:
    return f"({parts[0]},)" if len(parts) == 1 else f"({listed(parts)})"


def listed(parts: Iterable[str]) -> str:
    return ", ".join(parts)


def is_plain(name: str) -> bool:
    """Whether a name can stand behind a dot; others are texts (`nn.Sequential` calls its parts "0", "1", ...)."""
    return name.isascii() and name.isidentifier() and not keyword.iskeyword(name)


def _character(byte: int) -> str:
    if byte in b'\\"':
        return f"\\{byte:c}"
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"
