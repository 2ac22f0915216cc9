"""What `triggerlens inspect` reports of an archive that was understood: its manifest, findings, and tree of modules.

Plain data, ready for JSON. Names that a stranger chose are made printable. What is suspicious in the structure is found
elsewhere (app/core/intake/torchscript/structure); of the weights nothing is known here.
"""

from typing import Any

from app.core.intake.torchscript.code.program import Function, Program, Type
from app.core.intake.torchscript.gate import Understood
from app.core.intake.torchscript.structure.examine import structure_findings
from app.core.intake.torchscript.values import ObjectValue, TensorValue
from app.core.text import printable

# name, class, parameters (their number, with those of all parts), shared (with a part before it), parts
Part = dict[str, Any]


def structure_document(understood: Understood) -> dict[str, Any]:
    """The manifest, and what the code does that a scan could not see through: the part of a report about structure."""
    return {**understood.manifest(), "findings": [found.to_json() for found in structure_findings(understood)]}


def inspection_document(understood: Understood, name: str) -> dict[str, Any]:
    """The manifest with the file's name, the way it was exported, what `forward` takes, and the tree of modules."""
    manifest = structure_document(understood)
    root = understood.program.classes[understood.module.type_name]
    return {
        "name": printable(name),
        **manifest,
        "exported": _exported(manifest),
        "forward": _signature(root.methods.get("forward")),
        "modules": _part("", understood.module, understood.program, set()),
    }


def _exported(manifest: dict[str, Any]) -> list[str]:
    """How the model seems to have been made, judging by what is in the file; freezing hides what was before."""
    words = ["traced" if manifest["written_with"]["traced_inputs"] else "scripted"]
    if manifest["constants"]["tensors"] and not manifest["parameters"]["tensors"]:
        words = ["frozen"]
    if "float16" in {**manifest["parameters"]["bytes"], **manifest["constants"]["bytes"]}:
        words.append("half precision")
    return words


def _signature(forward: Function | None) -> dict[str, Any] | None:
    if forward is None:
        return None
    inputs = [{"name": one.name, "type": type_words(one.type)} for one in forward.parameters[1:]]
    return {"inputs": inputs, "returns": type_words(forward.returns)}


def type_words(stated: Type) -> str:
    """A type as it is written: `Optional[Tensor]`; of a class, its own name."""
    within = f"[{', '.join(map(type_words, stated.arguments))}]" if stated.arguments else ""
    return printable(stated.name.rpartition(".")[2] + within)


def _part(name: str, module: ObjectValue, program: Program, seen: set[int]) -> Part:
    """A module with its parts; what is shared counts where it is met first."""
    declared = program.classes[module.type_name]
    is_known = id(module) in seen
    seen.add(id(module))
    own = [value for key in declared.parameters if isinstance(value := module.attributes[key], TensorValue)]
    new = {id(tensor): tensor.items for tensor in own if id(tensor) not in seen}
    seen.update(new)
    inner = [] if is_known else [(key, one) for key, one in module.attributes.items() if isinstance(one, ObjectValue)]
    parts = [_part(key, one, program, seen) for key, one in inner]
    return {
        "name": printable(name),
        "class": printable(declared.name.rpartition(".")[2]),
        "parameters": sum(new.values()) + sum(part["parameters"] for part in parts),
        "shared": is_known or len(new) < len(own),
        "parts": parts,
    }
