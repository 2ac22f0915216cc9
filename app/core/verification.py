"""Whether repaired weights are those that a statement is about, and whose statement it is.

The statement comes from a stranger: it is read within a size, by its form alone, and what it says counts only where the
outcome is `verified`. Files are known by their SHA-256; beside the statement only the two names that repaired weights
have are looked for, whatever it names.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints, ValidationError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signature

from app.core.errors import Refusal
from app.core.jobs import STATEMENT, WEIGHTS, sha256_of
from app.core.statement import PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE

STATEMENT_BYTES = 2**22

Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**64)]


class Outcome(StrEnum):
    """What came of it. docs/repair.md explains each."""

    VERIFIED = "verified"
    SIGNER_UNKNOWN = "signer_unknown"  # the digests agree; nothing was signed, or no key was given
    NOT_THIS_KEY = "not_this_key"
    NOT_STATED = "not_stated"


class _Digest(BaseModel):
    sha256: Sha256


class _Resource(BaseModel):
    name: str
    digest: _Digest


class Stated(BaseModel):
    """What a statement says of how the weights came about, beside the figures of the repair."""

    suspect: _Resource
    data: _Resource
    preset: str
    seed: Count
    engine: str
    labels: list[Count]


class _Statement(BaseModel):
    type: str = Field(alias="_type")
    subject: Annotated[list[_Resource], Field(min_length=1)]
    predicate_type: str = Field(alias="predicateType")
    predicate: Stated


class _Signature(BaseModel):
    sig: str
    keyid: str = ""  # a hint that a signer need not give


class _Envelope(BaseModel):
    payload: str
    payloadType: str
    signatures: list[_Signature]


@dataclass(frozen=True)
class CheckedFile:
    """One file that was compared."""

    path: str
    sha256: str
    agrees: bool


@dataclass(frozen=True)
class Verification:
    """What was compared, and what the statement says; a stranger's words unless verified."""

    outcome: Outcome
    is_signed: bool
    files: tuple[CheckedFile, ...]
    not_here: tuple[str, ...]  # stated, but not there to be compared
    stated: Stated


def verify(file: Path, key: Key | None, statement: Path | None = None) -> Verification:
    """Compare repaired weights with their statement, or a statement with the weights that lie beside it.

    Raises Refusal for what cannot be read, or is no such statement.
    """
    is_statement = file.name.endswith(".intoto.jsonl")
    given = None if is_statement else _sha256(file)
    place = statement or (file if is_statement else file.with_name(STATEMENT))
    envelope, read = _read(place)
    digests = {subject.name: subject.digest.sha256 for subject in read.subject}
    files = [] if given is None else [CheckedFile(str(file), given, given in digests.values())]
    beside = {name: place.with_name(name) for name in WEIGHTS if name in digests}
    there = {name: path for name, path in beside.items() if path.is_file()}
    for name, path in there.items():
        if is_statement or not path.samefile(file):
            files.append(CheckedFile(str(path), sha256 := _sha256(path), sha256 == digests[name]))
    if not files:
        raise Refusal("weights_not_found", f"No repaired weights lie beside {place}.", "Put them in the same folder.")
    seen = {found.sha256 for found in files}
    not_here = tuple(name for name in beside if name not in there and digests[name] not in seen)
    outcome = _outcome(envelope, key, files)
    return Verification(outcome, bool(envelope.signatures), tuple(files), not_here, read.predicate)


def _outcome(envelope: Envelope, key: Key | None, files: list[CheckedFile]) -> Outcome:
    if not all(found.agrees for found in files):
        return Outcome.NOT_STATED
    if key is None or not envelope.signatures:
        return Outcome.SIGNER_UNKNOWN
    signed = any(_is_by(signature, key, envelope) for signature in envelope.signatures.values())
    return Outcome.VERIFIED if signed else Outcome.NOT_THIS_KEY


def _is_by(signature: Signature, key: Key, envelope: Envelope) -> bool:
    """Whether the key made a signature, whatever it says of its maker."""
    try:
        key.verify_signature(Signature(key.keyid, signature.signature), envelope.pae())
    except UnverifiedSignatureError:
        return False
    return True


def _read(path: Path) -> tuple[Envelope, _Statement]:
    try:
        with path.open("rb") as file:
            line = file.read(STATEMENT_BYTES + 1)
    except OSError as error:
        advice = f"It comes with the weights as {STATEMENT}; --statement says where else it lies."
        raise Refusal("statement_not_found", f"There is no statement at {path}: {error.strerror}.", advice) from error
    if len(line) > STATEMENT_BYTES:
        raise _no_statement(path, f"it has more than {STATEMENT_BYTES:,} bytes")
    try:
        envelope = Envelope.from_dict(_Envelope.model_validate_json(line).model_dump())
        read = _Statement.model_validate_json(envelope.payload)
    except ValidationError as error:
        raise _no_statement(path, error.errors()[0]["msg"]) from error
    except ValueError as error:  # no base64, or two signatures by one key
        raise _no_statement(path, str(error)) from error
    if (envelope.payload_type, read.type, read.predicate_type) != (PAYLOAD_TYPE, STATEMENT_TYPE, PREDICATE_TYPE):
        raise _no_statement(path, "it is about something else")
    return envelope, read


def _no_statement(path: Path, why: str) -> Refusal:
    return Refusal(
        "no_statement",
        f"{path} is no statement about repaired weights: {why}.",
        "Fetch it again from where the weights come from.",
    )


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise Refusal("weights_not_found", f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
