"""A TorchScript archive as an ordinary nn.Module, rebuilt from what the gate understood; torch.jit never sees the file.

    tensors.py     references to records       -> tensors, their shared memory kept
    constants.py   tensors inside the code     -> weights that can be trained, and the device everything is on
    modes.py       what tracing baked in       -> evaluation mode, and the device the module is on
    operators.py   names of operators          -> functions of torch, or Python's own for numbers, lists and strings
    upgrades.py    operators of older formats  -> what they meant then
    overloads.py   arguments of operators      -> read as the jit reads them
    plain.py       numbers, texts and lists    -> what the jit, not Python, makes of them
    devices.py     devices that the code names -> where a tensor goes, and nothing else
    writing.py     code of the archive         -> Python's syntax tree, every name prefixed
    functions.py   functions of the archive    -> Python functions, in a namespace of their own
    module.py      classes of the archive      -> classes of modules
    building.py    objects of the archive      -> one RebuiltModule
    records.py     weights that have changed   -> records, for the archive to be repaired

The result runs at eager speed, takes gradients in its input and in its weights, moves between devices, and can be
handed to torch.compile. It knows no files: records come from a function that reads them.
"""

from models.rebuilt.building import rebuild
from models.rebuilt.errors import RebuiltError
from models.rebuilt.module import RebuiltModule

__all__ = ["RebuiltError", "RebuiltModule", "rebuild"]
