"""Where a repaired archive may differ from the original: in its records and checksums, found with Python's zipfile."""

import io
import struct
import zipfile
from collections.abc import Collection, Iterator

import numpy as np


def differs_elsewhere(before: bytes, after: bytes, names: Collection[str]) -> bool:
    """Whether any byte differs that is neither one of these members' nor one of their checksums'."""
    assert len(before) == len(after)
    differs = np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)
    for begin, end in replaceable(before, names):
        differs[begin:end] = False
    return bool(differs.any())


def replaceable(archive: bytes, names: Collection[str]) -> Iterator[tuple[int, int]]:
    """Begin and end of these members' bytes, and of each place where the file states one of their checksums."""
    with zipfile.ZipFile(io.BytesIO(archive)) as reference:
        entry = reference.start_dir
        for info in reference.infolist():
            if info.filename.partition("/")[2] in names:
                yield from _places(archive, entry, info)
            entry += 46 + sum(struct.unpack_from("<3H", archive, entry + 28))


def _places(archive: bytes, entry: int, info: zipfile.ZipInfo) -> Iterator[tuple[int, int]]:
    header = info.header_offset
    begin = header + 30 + sum(struct.unpack_from("<2H", archive, header + 26))
    end = begin + info.compress_size
    yield begin, end
    stated = [entry + 16, header + 14]
    if info.flag_bits & 8:
        stated.append(end + 4 if archive[end : end + 4] == b"PK\7\x08" else end)
    for place in stated:
        if archive[place : place + 4] == struct.pack("<L", info.CRC):
            yield place, place + 4
