"""The canonical re-pack: a fresh archive of nothing but what the gate understood, the only one torch.jit may load.

Code is printed from the tree, pickles are written from the values, records are copied as far as their tensors' storages
reach. Names, comments, padding, debug records, traced inputs and extra files of the original have no way in. The same
archive gives the same bytes. torch is not imported, and whether it loads the result is not known here.
"""

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from app.core.intake.torchscript.archive.walk import Walked
from app.core.intake.torchscript.code.printing import print_program
from app.core.intake.torchscript.code.program import Type
from app.core.intake.torchscript.gate import Understood, reopened
from app.core.intake.torchscript.inventory import tensor_places
from app.core.intake.torchscript.pickles.writing import write_pickle
from app.core.intake.torchscript.values import ITEM_BYTES, Storage
from app.core.jobs import write_whole

_ROOT = "model"
_ALIGNMENT = 64  # of each member's first byte, so that records can be mapped into memory
_LOCAL_HEADER_BYTES = 30
_FIELD_HEADER_BYTES = 4
_NEEDS_64_BITS = 45  # the version of the zip format that every member states to need, however large the archive


def repack(understood: Understood, destination: Path) -> None:
    """Writes the archive anew; raises GateRefusal if the file is no longer the one that was understood.

    The destination appears whole or not at all.
    """
    contents = dict(_contents(understood))
    with reopened(understood) as walked:
        write_whole(destination, lambda temporary: _write(contents, _storages(understood), walked, temporary))


def _contents(understood: Understood) -> Iterator[tuple[str, bytes]]:
    """All members but the records."""
    classes = understood.program.classes
    yield "version", f"{understood.format_version}\n".encode()
    yield "byteorder", b"little"
    for member, text in print_program(understood.program).items():
        yield member, text.encode("ascii")
    yield "data.pkl", write_pickle(understood.module, Type(understood.module.type_name), classes)
    kinds = tuple(Type("str" if isinstance(constant, str) else "Tensor") for constant in understood.constants)
    yield "constants.pkl", write_pickle(understood.constants, Type("Tuple", kinds), classes)


def _storages(understood: Understood) -> list[Storage]:
    """Each storage that a tensor shows, once, in the order of the pickles."""
    places = tensor_places(understood.module, understood.constants, understood.program)
    return list({place.tensor.storage.record: place.tensor.storage for place in places}.values())


def _write(contents: dict[str, bytes], storages: list[Storage], walked: Walked, path: Path) -> None:
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            _add(archive, file, name, len(content), [content])
        for storage in storages:
            size = storage.items * ITEM_BYTES[storage.dtype]
            _add(archive, file, storage.record, size, _first_bytes(walked.chunks(storage.record), size))


def _add(archive: zipfile.ZipFile, file: BinaryIO, name: str, size: int, chunks: Iterable[bytes | memoryview]) -> None:
    """Stores a member as torch does: padded in its local header, where the directory has no padding."""
    member = zipfile.ZipInfo(f"{_ROOT}/{name}")
    member.file_size = size
    member.create_version = member.extract_version = _NEEDS_64_BITS
    header_end = file.tell() + _LOCAL_HEADER_BYTES + len(member.filename) + _FIELD_HEADER_BYTES
    padding = -header_end % _ALIGNMENT
    member.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    with archive.open(member, "w") as written:
        for chunk in chunks:
            written.write(chunk)
    member.extra = b""


def _first_bytes(chunks: Iterable[memoryview], size: int) -> Iterator[memoryview]:
    """The beginning of a record; all of it is read, so that its checksum is compared."""
    for chunk in chunks:
        yield chunk[:size]
        size = max(0, size - len(chunk))
