"""The words and signs of printed code, checked before Python's parser sees the text.

torch prints a small part of what Python allows: ASCII only, no comments, no semicolons, strings in double quotes with
few escapes, hardly any signs. Whatever else a text holds is refused here, and so is a text that is large, or nested so
deeply that a parser might stumble. What the words mean is not known.
"""

import re

from app.core.intake.torchscript.code.rules import HOOK, LIMIT, LOAD_TIME, RESERVED_NAME, SYNTAX
from app.core.intake.torchscript.rules import Rule
from app.core.text import printable

MOST_CHARACTERS = 4 << 20
MOST_TOKENS = 150_000  # in one member; a network of torchvision has 100,000 in all its members together
MOST_BRACKETS = 40  # inside one another; torch breaks an expression up after a few
MOST_LEVELS = 60  # of indentation
LONGEST_NAME = 256

_INDENT = 2
_TOKEN = re.compile(
    r'(?P<string>(?<![\w"])"(?:[ !#-\[\]-~]|\\(?:[abfnrtv\\\'"]|[0-3][0-7]{2}))*+")'
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*+)"
    r"|(?P<number>(?:0|[1-9][0-9]*+)(?:\.[0-9]*+)?(?:e[+-]?[0-9]++)?j?(?![\w.]))"
    r"|(?P<opening>[(\[{])|(?P<closing>[)\]}])"
    r"|(?P<sign>->|[:=.,+-])"
    r"|(?P<space>\n *+| ++)",
    re.ASCII,
)
# What torch prints between two underscores on each side: where each may stand is checked when it is read.
_METHODS = "len contains getitem is isnot not and or xor lshift rshift iand ior ixor"
_CLASSES = "parameters buffers annotations init new call enter exit init_subclass"
_PRINTED = {f"__{word}__" for word in ("torch", *_METHODS.split(), *_CLASSES.split())}
_DANGEROUS = {
    "__setstate__": (LOAD_TIME, "runs while the file is loaded"),
    "__getstate__": (LOAD_TIME, "belongs to code that runs while the file is loaded"),
    "__forward_hooks__": (HOOK, "runs beside the network and can change what it answers"),
    "__forward_pre_hooks__": (HOOK, "runs beside the network and can change what it is given"),
}


def check_lexicon(text: str) -> int:
    """How many words, signs and lines a text has; raises GateRefusal, with the line, for what torch does not print."""
    if len(text) > MOST_CHARACTERS:
        raise LIMIT.refusal(f"The code has {len(text):,} characters, more than {MOST_CHARACTERS:,}.")
    position = open_brackets = count = 0
    for token in _TOKEN.finditer(text):
        if token.start() != position:
            break
        position = token.end()
        count += token[0][0] != " "
        match token.lastgroup:
            case "name" if problem := _problem_of_name(token[0]):
                rule, detail = problem
                raise rule.refusal(detail, line=_line(text, token.start()))
            case "opening" if open_brackets == MOST_BRACKETS:
                raise LIMIT.refusal("Brackets are nested too deeply.", line=_line(text, position))
            case "opening":
                open_brackets += 1
            case "closing":
                open_brackets -= 1
            case "space" if len(token[0]) > _INDENT * MOST_LEVELS:
                raise LIMIT.refusal("Statements are nested too deeply.", line=_line(text, position))
        if count > MOST_TOKENS:
            raise LIMIT.refusal(f"The code has more than {MOST_TOKENS:,} words, signs and lines.")
    if position < len(text):
        shown = printable(text[position : position + 20].split("\n")[0])
        raise SYNTAX.refusal(f"torch prints nothing like `{shown}`.", line=_line(text, position))
    return count


def is_dunder(name: str) -> bool:
    """Whether Python, or torch, may give the name a meaning of its own."""
    return name.startswith("__") and name.endswith("__")


def _problem_of_name(name: str) -> tuple[Rule, str] | None:
    if len(name) > LONGEST_NAME:
        return LIMIT, f"The name `{printable(name)}` has {len(name):,} characters."
    if name == "elif":  # torch prints `else:` and an `if` below it, whose depth can be seen
        return SYNTAX, "torch prints no `elif`."
    if not is_dunder(name) or name in _PRINTED:
        return None
    rule, harm = _DANGEROUS.get(name, (RESERVED_NAME, "has a meaning to Python, and none that torch prints"))
    return rule, f"`{name}` {harm}."


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
