"""The statement beside repaired weights, `repaired.intoto.jsonl`: what they were made of and what the repair did.

An in-toto statement about both files, in a DSSE envelope on one line of JSON. A key signs it (Ed25519); without one it
says the same and anybody could have written it. docs/repair.md explains every part. Knows files and keys, no jobs.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from app.core.errors import Refusal
from app.core.findings import RepairReport
from app.core.text import printable

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:triggerlens:repair:1"

SAID_APART = ("labels", "files", "suspect_sha256", "data_sha256", "seed")  # of the card

MAKE_A_KEY = "Make one: openssl genpkey -algorithm ed25519 -out signing.pem"
TAKE_THE_PUBLIC = "Take the public half of it: openssl pkey -in signing.pem -pubout -out signing.pub.pem"


def stated(
    repair: RepairReport, weights: Mapping[str, str], inputs: Mapping[str, Mapping[str, Any]], preset: str, seed: int,
    engine: str, signer: CryptoSigner | None,
) -> bytes:  # fmt: skip
    """The line of a statement: about weights by name and SHA-256, made from the inputs `model` and `bundle`."""
    figures = {name: value for name, value in asdict(repair).items() if name not in SAID_APART}
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in sorted(weights.items())],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "suspect": _resource(inputs["model"]),
            "data": _resource(inputs["bundle"]),
            "preset": preset,
            "seed": seed,
            "engine": engine,
            "labels": repair.labels,
            "repair": figures,
        },
    }
    envelope = Envelope(json.dumps(statement, sort_keys=True, allow_nan=False).encode(), PAYLOAD_TYPE, {})
    if signer is not None:
        envelope.sign(signer)
    return json.dumps(envelope.to_dict()).encode() + b"\n"


def _resource(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": printable(facts["name"]), "digest": {"sha256": facts["sha256"]}}


def read_signer(path: Path) -> CryptoSigner:
    """The private key that signs; raises Refusal for what is none."""
    code, what = "signing_key_unusable", f"The signing key {path} cannot be used"
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise Refusal(code, f"{what}: {error.strerror}.", MAKE_A_KEY) from error
    except TypeError as error:
        raise Refusal(code, f"{what}: it has a password.", "Keep it without one, readable to nobody else.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Refusal(code, f"{what}: it is no private key in PEM.", MAKE_A_KEY) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise Refusal(code, f"{what}: it is no Ed25519 key.", MAKE_A_KEY)
    return CryptoSigner(key)


def read_public_key(path: Path) -> SSlibKey:
    """The public key that a signature is checked with; raises Refusal for what is none."""
    code, what = "public_key_unusable", f"The public key {path} cannot be used"
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise Refusal(code, f"{what}: {error.strerror}.", "Ask whoever signed for the public key.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Refusal(code, f"{what}: it is no public key in PEM.", TAKE_THE_PUBLIC) from error
    if not isinstance(key, Ed25519PublicKey):
        raise Refusal(code, f"{what}: it is no Ed25519 key.", "Ask whoever signed for the right one.")
    return SSlibKey.from_crypto(key)
