"""The names in a TorchScript archive: one folder that holds everything, and below it what torch writes.

Names are an allowlist. Those that could mean two things, or lead anywhere, are told apart only to be refused with a
better sentence: torch looks a member up whatever its case, so names that differ in nothing else are one name here; and
letters have one spelling, the composed one. What the members hold is not known.
"""

import re
import unicodedata
from collections.abc import Collection, Sequence

from app.core.intake.torchscript.archive.source import member_refusal
from app.core.intake.torchscript.rules import DO_NOT_LOAD, EXPORT_AGAIN, LONGEST_MEMBER, Rule
from app.core.text import printable

NAME = Rule("zip-name", "malformed_archive", DO_NOT_LOAD)
FOLDER = Rule("zip-folder", "malformed_archive", EXPORT_AGAIN)
ROOT = Rule("zip-root", "malformed_archive", EXPORT_AGAIN)
DUPLICATE = Rule("zip-duplicate", "malformed_archive", DO_NOT_LOAD)
UNKNOWN = Rule("zip-unknown-member", "malformed_archive", EXPORT_AGAIN)
MISSING = Rule("zip-missing-member", "malformed_archive", EXPORT_AGAIN)

_NUMBER = r"(0|[1-9][0-9]{0,8})"
_IDENTIFIER = r"[^\W\d]\w*"
_CODE = re.compile(rf"code/({_IDENTIFIER}/)*{_IDENTIFIER}\.py(\.debug_pkl)?")
_EXTRA = re.compile(r"extra/.+")  # whatever people gave to `torch.jit.save(..., _extra_files=...)`
_KNOWN = re.compile(
    rf"(data|constants|traced_inputs)(\.pkl|/{_NUMBER})"
    r"|version|\.data/version|\.format_version|byteorder|\.storage_alignment|\.data/serialization_id"
    rf"|{_CODE.pattern}|{_EXTRA.pattern}"
)
_MISLEADING = re.compile(r"[\x00-\x1f\x7f-\x9f\\]|^/|^[A-Za-z]:|(^|/)\.{0,2}(/|$)")


def names_below_root(names: Sequence[str]) -> tuple[str, list[str]]:
    """The folder that holds everything, and every name below it, in the same order."""
    for name in names:
        _refuse_unsafe(name)
    roots = {name.partition("/")[0] for name in names}
    if len(roots) != 1 or not all("/" in name for name in names):
        raise ROOT.refusal("The members do not lie in one common folder.")
    root = roots.pop()
    below = [name.removeprefix(f"{root}/") for name in names]
    _refuse_duplicates(below)
    for name in below:
        if not _KNOWN.fullmatch(name):
            raise member_refusal(UNKNOWN, name, "is none that torch writes for TorchScript.")
    _refuse_incomplete(below)
    return root, below


def is_code(name: str) -> bool:
    """Whether a member holds code, or says where code came from; the only members that may be deflated."""
    return _CODE.fullmatch(name) is not None


def is_extra(name: str) -> bool:
    """Whether a member is a file that people put beside the model, of which torch knows nothing."""
    return _EXTRA.fullmatch(name) is not None


def _refuse_unsafe(name: str) -> None:
    if name.endswith("/"):
        raise member_refusal(FOLDER, name, "is a folder; torch writes files only.")
    if len(name) > LONGEST_MEMBER:
        raise member_refusal(NAME, name, f"has a name of {len(name):,} characters.")
    if _MISLEADING.search(name):
        raise member_refusal(NAME, name, "has a name that leads out of the archive, or means two things.")


def _refuse_duplicates(names: Collection[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if not unicodedata.is_normalized("NFC", name):
            raise member_refusal(NAME, name, "has a name with letters that are taken apart, or put together strangely.")
        alike = unicodedata.normalize("NFC", name.casefold())
        if alike in seen:
            raise member_refusal(DUPLICATE, name, f"has the same name as `{printable(seen[alike])}`.")
        seen[alike] = name


def _refuse_incomplete(names: Collection[str]) -> None:
    missing = [name for name in ("data.pkl", "constants.pkl") if name not in names]
    if not any(map(is_code, names)):
        missing.append("code/")
    if "version" not in names and ".data/version" not in names:
        missing.append("version")
    if missing:
        raise MISSING.refusal(f"The archive has no `{'`, `'.join(missing)}`.")
    if "version" in names and ".data/version" in names:
        raise DUPLICATE.refusal("The archive states its version twice, as `version` and as `.data/version`.")
