"""Who signs the statement beside repaired weights. Without a key nothing is imported that can sign."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner


def signer_at(path: Path | None) -> "CryptoSigner | None":
    """The key in this file; None for no file. Raises Refusal for a key that cannot be used."""
    if path is None:
        return None
    from app.core.statement import read_signer  # the libraries that sign take half a second to import

    return read_signer(path)
