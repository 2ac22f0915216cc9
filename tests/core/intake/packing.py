"""Bundles as people pack them, for the tests of what reads them."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)
COLOUR = np.stack([GREY, GREY + 64, GREY + 128], axis=2)


def picture(pixels: np.ndarray = COLOUR, form: str = "PNG", **options: object) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, form, **options)
    return target.getvalue()


def zipped(path: Path, members: dict[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def arrays(path: Path, **members: np.ndarray) -> Path:
    with path.open("wb") as target:
        np.savez_compressed(target, **members)
    return path


def tarred(path: Path, members: Mapping[str, bytes | str], mode: str = "w:gz", form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, mode, format=form) as archive:  # type: ignore[call-overload]  # a mode is any text here
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def marked(value: int) -> bytes:
    """A bright picture that can be told from others by its first value."""
    pixels = np.full((4, 4), 255, np.uint8)
    pixels[0, 0] = value
    return picture(pixels)
