"""One member of `code/`, read into a program: the Python subset that torch prints, and nothing else.

The text passes the lexicon first, so that Python's parser meets no surprise; then node after node of its tree is read
into ours. Names of other members are taken as they stand: references.py looks them up when all code is read.
"""

import ast
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from app.core.intake.torchscript.code.definitions import read_class, read_function
from app.core.intake.torchscript.code.lexicon import check_lexicon
from app.core.intake.torchscript.code.literals import unexpected
from app.core.intake.torchscript.code.program import Program
from app.core.intake.torchscript.code.references import merge
from app.core.intake.torchscript.code.rules import LIMIT, SYNTAX
from app.core.intake.torchscript.rules import GateRefusal
from app.core.text import printable

MOST_TOKENS_IN_ALL = 250_000  # a network of torchvision has up to 90,000

# Python 3.11's parser counts the depth of its trees for all threads together (python/cpython#106905). Whoever makes it
# parse in another thread, as torch.jit.script does, holds this lock too.
ONE_PARSER_AT_A_TIME = threading.Lock()
_MEMBER = re.compile(r"code/(__torch__(?:/[A-Za-z_][A-Za-z0-9_]*)*)\.py")


def read_program(sources: Iterable[tuple[str, str]]) -> Program:
    """The members and texts of an archive's code as one program, in which every name refers to something."""
    known, words = [], 0
    for member, text in sources:
        with _naming(member):
            words += check_lexicon(text)
            if words > MOST_TOKENS_IN_ALL:
                raise LIMIT.refusal(f"All code together has more than {MOST_TOKENS_IN_ALL:,} words, signs and lines.")
        known.append((member, text))
    return merge(_read_member(member, text) for member, text in known)


def parse_source(text: str, member: str) -> Program:
    """What a member such as `code/__torch__/torchvision/models/resnet.py` defines; raises GateRefusal."""
    with _naming(member):
        check_lexicon(text)
    return _read_member(member, text)


@contextmanager
def _naming(member: str) -> Iterator[None]:
    """Refusals from inside say in which member they arose."""
    try:
        yield
    except GateRefusal as refusal:
        raise refusal.rule.refusal(refusal.problem.detail, member, refusal.problem.line) from None
    except RecursionError:
        raise LIMIT.refusal("The code is nested too deeply.", member) from None


def _read_member(member: str, text: str) -> Program:
    with _naming(member):
        return _read_definitions(_parse(text), _prefix(member), member)


def _prefix(member: str) -> str:
    """What the names of a member's definitions begin with: `__torch__.torchvision.models.resnet.`"""
    found = _MEMBER.fullmatch(member)
    if not found:
        raise SYNTAX.refusal("The member's name does not say where its code belongs.")
    return found[1].replace("/", ".") + "."


def _parse(text: str) -> ast.Module:
    try:
        with ONE_PARSER_AT_A_TIME:
            return ast.parse(text)
    except SyntaxError as error:
        raise SYNTAX.refusal(f"Python cannot read the code: {printable(error.msg)}.", line=error.lineno) from None
    except (MemoryError, RecursionError):
        raise LIMIT.refusal("The code is nested too deeply.") from None
    except ValueError as error:
        raise SYNTAX.refusal(f"Python cannot read the code: {printable(str(error))}.") from None


def _read_definitions(tree: ast.Module, prefix: str, member: str) -> Program:
    program = Program()
    for node in tree.body:
        match node:
            case ast.ClassDef(name):
                program.classes[f"{prefix}{name}"] = read_class(node, prefix, member)
            case ast.FunctionDef(name):
                program.functions[f"{prefix}{name}"] = read_function(node, prefix, member)
            case _:
                raise unexpected(node, "a class or a function")
    if len(program.classes.keys() | program.functions.keys()) < len(tree.body):
        raise SYNTAX.refusal("Two definitions have one name.")
    return program
