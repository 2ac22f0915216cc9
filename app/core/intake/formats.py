"""Files that people take for a TorchScript archive, told by their first bytes or by the members they hold.

Recognising them is a courtesy: the advice is better than "not a zip". A file that is not recognised is refused all the
same, so nothing here is a safety check.
"""

import pickletools
import re
from collections.abc import Collection

from app.core.errors import Refusal
from app.core.text import printable

_SAVE = "`torch.jit.script(model.eval()).save('model.pt')`"
_REBUILD = f"Build the network in Python, load these weights, then {_SAVE}; see docs/export.md."
_LOAD = f"Load it where running its code does no harm, then {_SAVE}; see docs/export.md."
_UNPACK = "Unpack it first, and scan the model inside."
# What torch's converter puts in a network's place; `FloatFunctional` alone is in networks of floating point, too.
_QUANTISED = re.compile(
    r"code/__torch__/torch/(classes/quantized\.py|(ao/)?nn/(intrinsic/)?quantized/(?!modules/functional_modules))"
)
_CONTAINERS = ("", "builtins", "__builtin__", "argparse", "collections", "torch", "torch._utils", "torch.storage")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm")

# offset, bytes found there, what it is, advice
_MAGIC = (
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras)", "Keras models cannot be scanned; see docs/export.md."),
    (4, b"TFL3", "a TensorFlow Lite model", "TensorFlow models cannot be scanned; see docs/export.md."),
    (4, b"PTMF", "a TorchScript file for mobile devices", f"Go back to the PyTorch model it was made from: {_SAVE}."),
    (4, b"ET1", "an ExecuTorch program", f"Go back to the PyTorch model it was made from: {_SAVE}."),
    (0, b"GGUF", "a GGUF file", "TriggerLens scans image classifiers saved as TorchScript."),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"\x1f\x8b", "a gzip file", _UNPACK),
    (0, b"\xfd7zXZ\0", "an xz file", _UNPACK),
    (0, b"BZh", "a bzip2 file", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", _UNPACK),
    (0, b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a rar archive", _UNPACK),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the model", "Fetch the model itself: `git lfs pull`."),
    (0, b"\x93NUMPY", "a NumPy array", _REBUILD),
)


def explain_head(head: bytes) -> Refusal:
    """The refusal for a file that does not begin like a zip, from its first bytes (512 are enough)."""
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return Refusal(
            "model_is_pickle",
            "The file is a plain pickle, as `torch.save` wrote it before PyTorch 1.6; reading one can run any code.",
            _LOAD,
        )
    for offset, magic, what, advice in _MAGIC:
        if head[offset:].startswith(magic):
            return _foreign(what, advice)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27:
        return _foreign("a safetensors file: weights without the network", _REBUILD)
    if re.match(rb"\x08[\x01-\x1f][\x12\x1a\x22\x2a\x32\x3a\x42]", head):
        return _foreign("an ONNX model", "ONNX models cannot be scanned as they are; see docs/export.md.")
    if re.match(rb"\s*(<!doctype|<html|<\?xml)", head, re.IGNORECASE):
        return _foreign("a web page", "The download went wrong: open the address in a browser and look.")
    return _foreign("no zip archive", f"Save the model with {_SAVE}; see docs/export.md.")


def explain_kind(paths: Collection[str]) -> Refusal | None:
    """The refusal for TorchScript of a kind that cannot be scanned, from the paths below its root; None for others."""
    if "bytecode.pkl" in paths:
        return Refusal(
            "model_is_mobile",
            "The file is TorchScript for mobile devices (.ptl): it holds the network a second time, as bytecode.",
            f"Go back to the PyTorch model it was made from: {_SAVE}.",
        )
    if "code/__torch__/torch/classes/xnnpack.py" in paths:
        return Refusal(
            "model_is_mobile",
            "The model was optimised for mobile devices: its weights are packed for a library that computes there.",
            f"Go back to the PyTorch model it was made from: {_SAVE}, without `optimize_for_mobile`.",
        )
    if any(_QUANTISED.match(path) for path in paths):
        return Refusal(
            "model_is_quantised",
            "The model is quantised: it computes with whole numbers, through which no gradient reaches the image.",
            f"Scan the network in floating point that it was made from: {_SAVE}, before it is converted.",
        )
    if {f"code/__torch__/torch/{part}.py" for part in ("nn/parallel/data_parallel", "classes/profiler")} <= set(paths):
        return Refusal(
            "model_is_data_parallel",
            "The model is a trace of `torch.nn.DataParallel`, which is no part of the network.",
            "Export what is inside it: `torch.jit.trace(model.module.eval(), example).save('model.pt')`.",
        )
    return None


def explain_members(paths: Collection[str], data_pickle: bytes) -> Refusal:
    """The refusal for a zip without TorchScript code, from the paths below its root and the head of its data.pkl."""
    names = {path.rsplit("/", 1)[-1] for path in paths}
    if {"serialized_exported_program.json", "archive_format"} & names:
        return Refusal(
            "model_is_export",
            "The file is a `torch.export` archive (.pt2), not TorchScript.",
            f"Go back to the model it was exported from: {_SAVE}; see docs/export.md.",
        )
    if "extern_modules" in names:
        return _foreign("a torch.package archive, which carries Python code", f"Load it where you trust it; {_SAVE}.")
    if "model.json" in paths and any(path.startswith("code/") for path in paths):
        return Refusal(
            "model_is_old",
            "The file is TorchScript as PyTorch 1.0 to 1.3 wrote it.",
            "Where running its code does no harm, have a newer PyTorch write it again: "
            "`torch.jit.load('old.pt').save('model.pt')`.",
        )
    if "data.pkl" in paths:
        return _explain_torch_save(_pickled_class(data_pickle))
    if {"model.weights.h5", "saved_model.pb"} & names:
        return _foreign("a Keras or TensorFlow model", "Such models cannot be scanned; see docs/export.md.")
    if any(name.lower().endswith((*_PICTURES, ".npy")) for name in names):
        return _foreign("a bundle of images or arrays", "Were the model and the bundle swapped?")
    return _foreign("a zip archive, but no TorchScript", f"Save the model with {_SAVE}; see docs/export.md.")


def _foreign(what: str, advice: str) -> Refusal:
    return Refusal("model_not_torchscript", f"The file is {what}.", advice)


def _explain_torch_save(class_name: str) -> Refusal:
    if not class_name:
        return Refusal(
            "model_is_state_dict",
            "The file was written by `torch.save` and holds weights without the network, such as a state dict.",
            _REBUILD,
        )
    return Refusal(
        "model_is_pickle",
        f"The file was written by `torch.save`: expected TorchScript, found a pickled `{printable(class_name)}`.",
        _LOAD,
    )


def _pickled_class(data: bytes) -> str:
    """The outermost class a pickle would build, "" for plain containers; read from its opcodes, never unpickled."""
    try:
        built = (argument for opcode, argument, _ in pickletools.genops(data) if opcode.name == "GLOBAL")
        outermost = str(next(built, ""))
    except ValueError:  # cut short, or no pickle; weights are what people usually have
        return ""
    module, _, name = outermost.partition(" ")
    return "" if module in _CONTAINERS else f"{module}.{name}"
