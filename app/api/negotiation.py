"""Which of several forms an Accept header asks for (RFC 9110, 12.5.1)."""

from collections.abc import Sequence


def preferred(accept: str, offered: Sequence[str]) -> str | None:
    """The media type with the highest quality, the first one among equals; None where none is acceptable."""
    wanted = [_parsed(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    best = max(offered, key=lambda media_type: _quality(media_type, wanted))  # max keeps the first among equals
    return best if _quality(best, wanted) > 0 else None


def _quality(media_type: str, wanted: Sequence[tuple[str, float]]) -> float:
    """The quality that the most specific entry gives to a media type."""
    for pattern in (media_type, f"{media_type.split('/')[0]}/*", "*/*"):
        for name, quality in wanted:
            if name == pattern:
                return quality
    return 0.0


def _parsed(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return name, min(max(float(parameter[2:]), 0.0), 1.0)
            except ValueError:
                return name, 0.0
    return name, 1.0
