"""Every rule of the gate in people's words: what breaks it, and why a file that breaks it is refused.

What to do is said by the rules themselves; docs/gate.md has all of it (gate_page.py). How a rule is applied is not
known here, and neither is how bad it is to break it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from app.core.intake.torchscript import agreement, gate
from app.core.intake.torchscript.archive import directory, end, layout, names, source, walk
from app.core.intake.torchscript.code import rules
from app.core.intake.torchscript.pickles import globals as pickle_globals
from app.core.intake.torchscript.pickles import machine, nesting, opcodes, storages
from app.core.intake.torchscript.rules import EXPORT_AGAIN, Rule


@dataclass(frozen=True)
class Words:
    """What is said of a rule, in whole sentences."""

    broken_if: str
    because: str


ZIP = {
    source.TRUNCATED: Words(
        "The file ends before what it announces, or has no end record.",
        "Most often a download or an upload stopped early. Nothing that is left of it can be relied on.",
    ),
    end.END: Words(
        "The end records do not lie where they say.",
        "Another archive was put before this one or after it, and each program chooses its own.",
    ),
    end.TRAILING: Words("Bytes follow the end of the archive.", "Another file can be hidden there."),
    end.COMMENT: Words(
        "The archive or a member has a comment.", "torch writes none; one can hide a second end record."
    ),
    end.MULTI_DISK: Words(
        "The archive says that it is spread over several disks.", "torch writes one file, and no part may be missing."
    ),
    end.ZIP64: Words(
        "The 64-bit records are missing, damaged, not needed, or disagree with the plain ones.",
        "A program that reads the ones sees another archive than a program that reads the others.",
    ),
    end.TOO_MANY: Words(
        "The archive has more members than the largest networks need.",
        "They keep a reader busy, which is all they are for.",
    ),
    directory.DIRECTORY: Words(
        "An entry of the directory is damaged, or their number is not the stated one.",
        "What some programs find in such a directory, others do not.",
    ),
    directory.EXTRA: Words(
        "A member has extra fields other than torch's padding and 64-bit sizes, or damaged ones.",
        "Such a field can give a member another name or another size, which only some programs see.",
    ),
    directory.ENCODING: Words(
        "The name of a member is not ASCII, or UTF-8 that is marked as such.",
        "Programs would read different names from it.",
    ),
    directory.ENCRYPTED: Words("A member is encrypted.", "What cannot be read cannot be understood."),
    directory.FLAGS: Words(
        "A member has a flag that torch does not set.", "It may ask for a way of reading that is not followed here."
    ),
    directory.METHOD: Words(
        "A member is packed by another method than deflate.", "torch knows no other; some of them need much memory."
    ),
    directory.FILE_MODE: Words(
        "A member is a link, a folder or a device, or has special rights.",
        "Unpacked, it could reach files outside the archive.",
    ),
    names.NAME: Words(
        "The name of a member leads out of the archive, or can be understood in two ways.",
        "Unpacked, it could overwrite a file anywhere (`..`, `/`, `C:`), or pass for another member.",
    ),
    names.FOLDER: Words("The archive has an entry for a folder.", "torch writes files only."),
    names.ROOT: Words(
        "The members do not lie in one common folder.", "torch takes the folder of the first member for that of all."
    ),
    names.DUPLICATE: Words(
        "Two members have the same name, perhaps but for case.", "Which of the two is read depends on the program."
    ),
    names.UNKNOWN: Words(
        "The archive has a member that torch does not write for TorchScript.",
        "Libraries, bytecode and second models ride along in this way. Files that people add with `_extra_files` are "
        "known, and nobody reads them.",
    ),
    names.MISSING: Words(
        "A member that every TorchScript archive has is missing.",
        "Without it this is something else, or a part of something.",
    ),
    layout.PREFIX: Words(
        "Something stands before the first member.", "The file is a zip to one program and something else to another."
    ),
    layout.OVERLAP: Words(
        "The bytes of a member reach into another member, or into the directory.",
        "Two programs can find different contents in the same bytes, and few bytes can pass for thousands of members.",
    ),
    layout.GAP: Words(
        "Bytes lie between members and belong to none.",
        "A program that reads the file from its beginning finds what is hidden there.",
    ),
    layout.HEADER: Words(
        "A member's own header differs from its entry in the directory.",
        "Some programs believe the one, some the other.",
    ),
    layout.PADDING: Words(
        "The padding in a member's header is not what torch fills it with.", "Bytes can be hidden in it."
    ),
    layout.DESCRIPTOR: Words(
        "What is said after a member of its size and checksum differs from the directory.",
        "Programs that read from the beginning believe the former.",
    ),
    walk.TOO_LARGE: Words("The file is larger than the limit.", "A scan needs memory for all of it."),
    walk.NOT_A_FILE: Words("This is a folder, a device or a pipe.", "Only a file has the same bytes when read again."),
    walk.NOT_STORED: Words(
        "A tensor or a pickle is packed.",
        "torch stores all but code as it is, and maps it into memory; packed, it could be a bomb.",
    ),
    walk.CODE_SIZE: Words(
        "The code is many times larger than that of the largest networks.",
        "A small file may unpack to any size, and take up the memory of whoever reads it.",
    ),
    walk.MEMBER_SIZE: Words(
        "A pickle, the version or the byte order is larger than it can be.", "It was made to use up memory."
    ),
    walk.SIZE: Words(
        "A member that is stored as it is states two different sizes.", "Programs would read more of it, or less."
    ),
    walk.INFLATE: Words(
        "Packed code does not unpack to exactly what its sizes state.",
        "Sizes that are stated too small are how bombs pass a check.",
    ),
    walk.CRC: Words("A member does not have its checksum.", "It was damaged, or changed after it was written."),
    walk.BYTE_ORDER: Words(
        "The numbers were written on a big-endian machine.", "Read on this one, they would be other numbers."
    ),
}

PICKLES = {
    opcodes.DAMAGED: Words("The pickle breaks off, or is not of the protocol that torch writes.", "It is damaged."),
    opcodes.OPCODE: Words(
        "The pickle uses an instruction that TorchScript does not need.",
        "Imports, extensions and calls by name are how pickles run code.",
    ),
    opcodes.BOMB: Words(
        "The pickle has too many instructions or values, or is nested too deeply.",
        "A few bytes can stand for more values than there is memory.",
    ),
    machine.STACK: Words("The instructions of the pickle do not fit together.", "It is damaged, or made by hand."),
    machine.CONTAINER: Words(
        "The pickle puts items where they cannot go.",
        "Items set in what is no dict have corrupted the memory of torch's own reader.",
    ),
    machine.BUILD: Words(
        "The pickle gives attributes to something else than a fresh object of the archive.",
        "It could change an object that was understood before, or run code that takes the attributes.",
    ),
    machine.ENUM: Words("The pickle holds an enum.", "Enumerations are not followed here."),
    pickle_globals.GLOBAL: Words(
        "The pickle names a function or a class of Python that no archive needs.",
        "Loading it with `pickle` would import and run that, `os.system` for example.",
    ),
    pickle_globals.CALL: Words(
        "The pickle calls something that it may not, or with arguments that do not fit.",
        "A call is how a pickle runs code.",
    ),
    nesting.CYCLE: Words("A value of the pickle holds itself.", "Whoever follows it comes to no end."),
    nesting.INGREDIENT: Words(
        "The pickle leaves a function, a class or an unfinished object where a value belongs.",
        "Code could call it later.",
    ),
    storages.STORAGE: Words(
        "A tensor's record is missing, too short, or described in two ways.",
        "Loading it would read memory that is not the model's.",
    ),
    storages.TENSOR: Words(
        "A tensor reaches beyond its record, or is far larger than what the archive holds.",
        "Loading it would read or overwrite memory that is not the model's, or use up all of it.",
    ),
    storages.UNSUPPORTED: Words(
        "The archive holds a quantised, sparse or complex tensor, or one without numbers.",
        "A scan follows gradients, which such tensors do not have; nothing is said against the model.",
    ),
    storages.DEVICE: Words("A tensor lies on a device of no known form.", "It cannot be put anywhere else."),
    agreement.CLASS: Words(
        "The pickle holds an object of a class that the code does not have.", "What it would do is not known."
    ),
    agreement.ATTRIBUTES: Words(
        "An object does not have exactly the attributes, of exactly the types, that its class declares.",
        "torch would take a number for a tensor, and its memory with it.",
    ),
    gate.ROOT: Words("The archive holds something else than a module.", "Only a module has a network to scan."),
    gate.CONSTANTS: Words(
        "The constants are no tensors and texts, or the code refers to one that is missing.",
        "Reading it would reach beyond them.",
    ),
}

CODE = {
    rules.LIMIT: Words(
        "The code is too long, too deep, or calls itself too often.",
        "A short text can stand for more calls than a machine will ever finish.",
    ),
    rules.SYNTAX: Words(
        "The code has a form that torch does not print.",
        "Only what torch prints is understood; the rest of Python could be anything.",
    ),
    rules.RESERVED_NAME: Words(
        "The code uses a name such as `__class__`, which has a meaning to Python.",
        "Such names lead out of the network into the interpreter.",
    ),
    rules.LOAD_TIME: Words(
        "A class has `__setstate__` or `__getstate__`.",
        "`__setstate__` runs while the file is loaded, before anybody could look at it.",
    ),
    rules.HOOK: Words(
        "A module has forward hooks.",
        "They run when the module is called and are left out when its `forward` is: two behaviours in one file.",
    ),
    rules.CUSTOM_CLASS: Words(
        "The code uses a class of a C++ library.", "What it does is not in this file, and can be anything."
    ),
    rules.REFERENCE: Words(
        "The code uses a name that means nothing here, or a call that does not fit.",
        "Every name has to be a variable, a part of the module, or one of the archive's own functions.",
    ),
    rules.RECURSION: Words("A function calls itself, perhaps through others.", "TorchScript knows no recursion."),
    rules.UNSUPPORTED: Words(
        "The code uses something of TorchScript that is not followed here.",
        "It may be harmless (enumerations, interfaces, complex numbers, `with` of anything but `torch.no_grad()`), "
        "but it would be left unexamined.",
    ),
    gate.ENCODING: Words("The code is not ASCII.", "torch prints nothing else; letters that look alike deceive."),
}

OPERATORS = {
    rules.FORBIDDEN_OPERATOR: Words(
        "The code uses an operator that reaches beyond the network's numbers.",
        "It can reach files (`aten::save`, `aten::from_file`, `image::write_file`), other threads and machines "
        "(`fork`, `rpc`), or state that others share (`aten::manual_seed`, `aten::set_grad_enabled`). Every operator "
        "that is not torch's own might.",
    ),
    rules.UNKNOWN_OPERATOR: Words(
        "The code uses an operator of torch that is not on the allowlist.",
        "It may be harmless; what nobody has looked at does not pass.",
    ),
}

ARCHIVE = {
    gate.VERSION: Words(
        "The version of the format is not one that is known.",
        "A newer format may mean something else by the same code.",
    ),
    # What follows is found after the gate, when the network is built or printed afresh; the gate does not know it.
    Rule("code-constant", "unsafe_code", EXPORT_AGAIN): Words(
        "A constant or a default is not of the type that it states.", "It would be read as something that it is not."
    ),
    Rule("rebuild-inconsistent", "malformed_archive", EXPORT_AGAIN): Words(
        "The network cannot be rebuilt from the code and the tensors.", "Its parts do not fit together."
    ),
    Rule("rebuild-operator", "unsupported_operator", EXPORT_AGAIN): Words(
        "The code uses an operator that is harmless, but that the rebuilt network does not have.",
        "It could be loaded only by torch's own reader, which runs what it reads.",
    ),
    Rule("repack-unsound", "malformed_archive", EXPORT_AGAIN): Words(
        "torch's own reader takes offence at the archive that was written afresh of what the gate understood.",
        "So the original holds something that torch would not have written.",
    ),
}

RULES: Mapping[Rule, Words] = ZIP | PICKLES | CODE | OPERATORS | ARCHIVE
