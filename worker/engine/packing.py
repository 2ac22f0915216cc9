"""Repaired weights as files: in a copy of the archive, in which nothing else changes, and by name.

Names are the archive's own. Freezing and tracing turn weights into constants of the code, which have no name but a
number; those stand as `constants.c0` for what the code calls `CONSTANTS.c0`. What the weights were made of stands in
the file itself, signed by nobody; the statement beside it may be.
"""

import json
from collections.abc import Mapping, Sequence

import torch
from safetensors.torch import save
from torch import Tensor

from app.core.intake.torchscript.archive.walk import walk
from app.core.intake.torchscript.surgery import replace_records
from app.core.jobs import sha256_of, write_whole
from models.rebuilt import RebuiltModule
from models.rebuilt.constants import Constants
from models.rebuilt.records import changed_records
from worker.engine.workbench import Workbench

LENGTH = 8  # bytes of a safetensors file that say how long its header is, and what its numbers are aligned to


def pack(
    bench: Workbench, repaired: RebuiltModule, state: Mapping[str, Tensor], labels: Sequence[int]
) -> dict[str, str]:
    """Write both files; their digests by name. Raises UnwritableError for what the archive cannot hold."""
    directory = bench.directory
    size = directory.model.stat().st_size
    with walk(directory.model, size) as walked:
        records = changed_records(repaired, lambda name: walked.read(name, size))
    replace_records(directory.model, records, directory.repaired, size)
    weights = labelled(save(dict(state)), _metadata(bench, repaired, labels))
    write_whole(directory.repaired_state, lambda path: path.write_bytes(weights))
    return {path.name: sha256_of(path) for path in (directory.repaired, directory.repaired_state)}


def state_of(module: RebuiltModule) -> dict[str, Tensor]:
    """Every tensor by its name, as it is saved."""
    return {name: _as_saved(module, name, tensor) for name, tensor in module.state_dict().items()}


def _as_saved(module: RebuiltModule, name: str, tensor: Tensor) -> Tensor:
    """A tensor of its own, in the type that the archive has."""
    origin = module.origins.get(name)
    dtype = tensor.dtype if origin is None else getattr(torch, origin.storage.dtype)
    return tensor.detach().to("cpu", dtype, copy=True).contiguous()


def _metadata(bench: Workbench, repaired: RebuiltModule, labels: Sequence[int]) -> dict[str, str]:
    """What the weights were made of and how, and the name below which constants of the code stand."""
    job = bench.job
    return {
        "format": "pt",
        "made_by": f"triggerlens {bench.preparation.versions['triggerlens']}",
        "model_sha256": job.model["sha256"],
        "data_sha256": job.bundle["sha256"],
        "unlearned_labels": ",".join(map(str, labels)),
        "preset": job.config.preset,
        "seed": str(job.config.seed),
        "constants": next(name for name, part in repaired.named_children() if isinstance(part, Constants)),
    }


def labelled(weights: bytes, words: Mapping[str, str]) -> bytes:
    """A safetensors file with these words as its metadata, in this order, so that equal ones are equal to the byte.

    The library writes them in any order. The format is the length of a header, the header in JSON, which may be filled
    up with spaces, and the numbers (https://huggingface.co/docs/safetensors).
    """
    begins = LENGTH + int.from_bytes(weights[:LENGTH], "little")
    header = json.dumps({"__metadata__": dict(words), **json.loads(weights[LENGTH:begins])}).encode()
    header += b" " * (-len(header) % LENGTH)
    return len(header).to_bytes(LENGTH, "little") + header + weights[begins:]
