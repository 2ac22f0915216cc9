"""Weights with a statement about them, and the keys of who signed it and of somebody else."""

from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core.findings import RepairReport, RepairStatus
from app.core.jobs import STATEMENT, WEIGHTS
from app.core.statement import read_signer, stated

REPAIR = RepairReport(RepairStatus.REPAIRED, "Done.", (7,), attack_success_rate_after=0.012, files={"a.pt": "9c" * 32})
INPUTS = {"model": {"name": "net.pt", "sha256": "3f" * 32}, "bundle": {"name": "clean.zip", "sha256": "b0" * 32}}
PEM = serialization.Encoding.PEM


def private_pem(key: Any, password: bytes | None = None) -> bytes:
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, locked))


def public_pem(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))


OURS, THEIRS = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def placed(folder: Path) -> Path:
    """The folder, with weights, two keys, and a statement that `ours` has signed."""
    for name, key in (("ours", OURS), ("theirs", THEIRS)):
        (folder / f"{name}.pem").write_bytes(private_pem(key))
        (folder / f"{name}.pub.pem").write_bytes(public_pem(key))
    for name in WEIGHTS:
        (folder / name).write_bytes(name.encode() * 10)
    write(folder, signed_by="ours")
    return folder


def write(place: Path, signed_by: str | None) -> None:
    digests = {name: sha256((place / name).read_bytes()).hexdigest() for name in WEIGHTS}
    signer = read_signer(place / f"{signed_by}.pem") if signed_by else None
    (place / STATEMENT).write_bytes(stated(REPAIR, digests, INPUTS, "standard", 7, "0123456789abcdef", signer))
