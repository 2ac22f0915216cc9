"""The static gate: an archive is understood as a whole, or refused. Nothing of it is executed, torch is not imported.

The zip is walked, the code is parsed and its operators are looked up, the pickles are read by a machine of ours, and
objects are held against their classes. What comes out is plain data, from which the network can be built without
loading the file. Whether the network does what it should is not known here.
"""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.core.intake.members import unreadable
from app.core.intake.torchscript.agreement import check_agreement
from app.core.intake.torchscript.archive.layout import Member
from app.core.intake.torchscript.archive.source import Source
from app.core.intake.torchscript.archive.walk import Walked, walk
from app.core.intake.torchscript.code.operators import check_operators
from app.core.intake.torchscript.code.program import ConstantTensor, Program
from app.core.intake.torchscript.code.syntax import read_program
from app.core.intake.torchscript.inventory import (
    baked_devices,
    code_nodes,
    shared_storages,
    tensor_facts,
    tensor_places,
)
from app.core.intake.torchscript.pickles.machine import read_pickle
from app.core.intake.torchscript.pickles.opcodes import MOST_BYTES as MOST_PICKLE_BYTES
from app.core.intake.torchscript.pickles.storages import StorageTable
from app.core.intake.torchscript.rules import DO_NOT_LOAD, EXPORT_AGAIN, FETCH_AGAIN, Rule
from app.core.intake.torchscript.values import ObjectValue, TensorValue, Value
from app.core.text import printable

ROOT = Rule("pickle-root", "malformed_archive", EXPORT_AGAIN)
CONSTANTS = Rule("pickle-constants", "malformed_archive", DO_NOT_LOAD)
VERSION = Rule("archive-version", "malformed_archive", EXPORT_AGAIN)
ENCODING = Rule("code-encoding", "malformed_archive", FETCH_AGAIN)

_VERSIONS = range(1, 11)  # of the format: torch 2.14 writes the lowest one that knows all operators in use
_VERSION_BYTES = 16
_CODE_BYTES = 2 << 20  # of one member; the largest of torchvision has 29 kB


@dataclass(frozen=True)
class Understood:
    """An archive of which every part is known; the numbers themselves are still in the file."""

    path: Path
    sha256: str
    size: int
    root: str  # the folder in the zip that holds everything
    format_version: int
    members: Mapping[str, Member]  # by name below the root
    extra_files: tuple[str, ...]  # members that people put beside the model, and that nobody reads
    module: ObjectValue
    constants: tuple[Value, ...]
    program: Program
    operators: Mapping[str, int]  # how often the code uses each

    def manifest(self) -> dict[str, object]:
        """What is in the archive, as plain data for a report."""
        places = list(tensor_places(self.module, self.constants, self.program))
        return {
            "sha256": self.sha256,
            "size": self.size,
            "root": printable(self.root),
            "format_version": self.format_version,
            "written_with": self._hints(),
            "members": len(self.members),
            "records_bytes": sum(member.size for name, member in self.members.items() if _is_record(name)),
            "code": [name for name in self.members if _is_code(name)],
            "classes": {name: class_.kind for name, class_ in self.program.classes.items()},
            "functions": list(self.program.functions),
            "operators": dict(sorted(self.operators.items())),
            **tensor_facts(places),
            "shared_storages": shared_storages(places),
            "devices": baked_devices(places, self.module, self.program),
            "extra_files": [printable(name) for name in self.extra_files],
        }

    def _hints(self) -> dict[str, bool]:
        """What the members tell of the torch that wrote the archive, and of the way the model was exported."""
        return {
            "byte_order": "byteorder" in self.members,
            "serialization_id": ".data/serialization_id" in self.members,
            "traced_inputs": "traced_inputs.pkl" in self.members,  # torch.jit.trace
        }


def understand(path: Path, most_bytes: int) -> Understood:
    """All that a TorchScript archive holds; raises GateRefusal with rule, member, line and advice."""
    with walk(path, most_bytes) as walked, ThreadPoolExecutor(1) as beside:
        sha256 = beside.submit(_sha256, walked.source)
        program = read_program(_sources(walked))
        operators = check_operators(program)
        return Understood(
            path=path,
            size=walked.source.size,
            root=walked.root,
            format_version=_format_version(walked),
            members=walked.members,
            extra_files=walked.extra_files,
            module=_module(walked, program),
            constants=_constants(walked, program),
            program=program,
            operators=operators,
            sha256=sha256.result(),
        )


@contextmanager
def reopened(understood: Understood) -> Iterator[Walked]:
    """The file once more, members where they were; one that is no longer what was understood is refused when read."""
    try:
        file = understood.path.open("rb", buffering=0)
    except OSError as error:
        raise unreadable("model", error) from error
    with file:
        yield Walked(understood.root, understood.members, Source(file.fileno()))


def _sha256(source: Source) -> str:
    digest = hashlib.sha256()
    for piece in source.pieces(0, source.size):
        digest.update(piece)
    return digest.hexdigest()


def _format_version(walked: Walked) -> int:
    member = "version" if "version" in walked.members else ".data/version"
    stated = walked.read(member, _VERSION_BYTES).strip()
    if not stated.isdigit() or int(stated) not in _VERSIONS:
        raise VERSION.refusal(f"The version of the format is not one of {_VERSIONS[0]} to {_VERSIONS[-1]}.", member)
    return int(stated)


def _sources(walked: Walked) -> Iterator[tuple[str, str]]:
    for member in walked.members:
        if _is_code(member):
            try:
                text = walked.read(member, _CODE_BYTES).decode("ascii")
            except UnicodeDecodeError:
                raise ENCODING.refusal("The code is not in ASCII, as torch prints it.", member) from None
            yield member, text


def _module(walked: Walked, program: Program) -> ObjectValue:
    module = _unpickled(walked, "data", program)
    if not isinstance(module, ObjectValue):
        raise ROOT.refusal("The archive does not hold a module, but something else.", "data.pkl")
    return module


def _constants(walked: Walked, program: Program) -> tuple[Value, ...]:
    """The values of constants.pkl, among which are all that the code refers to."""
    constants = _unpickled(walked, "constants", program)
    if not isinstance(constants, tuple) or not all(isinstance(value, TensorValue | str) for value in constants):
        raise CONSTANTS.refusal("The constants are not a tuple of tensors and texts.", "constants.pkl")
    for member, node in code_nodes(program):
        if isinstance(node, ConstantTensor) and node.index >= len(constants):
            raise CONSTANTS.refusal(
                f"The code refers to the constant {node.index}, which is missing.", member, node.line
            )
    return constants


def _unpickled(walked: Walked, folder: str, program: Program) -> Value:
    member = f"{folder}.pkl"
    sizes = {name: found.size for name, found in walked.members.items()}
    value = read_pickle(walked.read(member, MOST_PICKLE_BYTES), member, StorageTable(folder, sizes))
    check_agreement(value, program, member)
    return value


def _is_code(member: str) -> bool:
    return member.startswith("code/") and member.endswith(".py")


def _is_record(member: str) -> bool:
    return member.startswith(("data/", "constants/"))
