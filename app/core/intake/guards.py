"""What every reader of untrusted bytes shares: limits, and an allowance that runs out.

Declared sizes are a stranger's claim, so nothing here trusts them: an allowance is spent on bytes that were really
unpacked, or on memory that is about to be taken. This module does not know any file format.
"""

from dataclasses import dataclass

from app.core.errors import Refusal

MEGABYTE = 1 << 20
GIGABYTE = 1 << 30
LARGEST_LABEL = 999_999  # a table of class names has an entry for each label up to the largest one


@dataclass(frozen=True)
class BundleLimits:
    """How much of a clean bundle is read before it is refused."""

    file_bytes: int = GIGABYTE
    images: int = 100_000
    pixels_per_image: int = 100_000_000
    unpacked_bytes: int = 4 * GIGABYTE  # what all members together may unpack to
    decoded_bytes: int = 4 * GIGABYTE  # what all pictures together may take in memory, one byte per channel


DEFAULT_LIMITS = BundleLimits()


class Allowance:
    """A number of bytes to spend; raises its refusal when they are used up."""

    def __init__(self, total: int, refusal: Refusal) -> None:
        self.left = total
        self.refusal = refusal

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise self.refusal


def readable_size(size: int) -> str:
    """Bytes as a person says them: `1.5 GB`."""
    for unit, name in ((GIGABYTE, "GB"), (MEGABYTE, "MB"), (1 << 10, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def bundle_too_large(detail: str) -> Refusal:
    return Refusal(
        "bundle_too_large",
        detail,
        "About 50 images a class are enough: take a sample, or store the images at the size the model sees.",
    )
