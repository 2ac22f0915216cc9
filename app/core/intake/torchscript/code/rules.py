"""What the code of an archive is refused for.

Two kinds are kept apart: what reaches beyond the network's numbers is refused for good, and what is harmless but not
followed here is refused with the advice to export the model in another way.
"""

from app.core.intake.torchscript.rules import DO_NOT_LOAD, EXPORT_AGAIN, Rule

_TRACE = "Export the model with torch.jit.trace, which leaves only tensors and operators; see docs/export.md."
_REMOVE = "Remove it from the model and export again; do not load this file with torch.jit.load before that."

LIMIT = Rule("code-limit", "unsafe_code", DO_NOT_LOAD)
SYNTAX = Rule("code-syntax", "unsafe_code", EXPORT_AGAIN)
RESERVED_NAME = Rule("code-reserved-name", "unsafe_code", DO_NOT_LOAD)
LOAD_TIME = Rule("code-load-time", "unsafe_code", _REMOVE)
HOOK = Rule("code-hook", "unsafe_code", _REMOVE)
CUSTOM_CLASS = Rule("code-custom-class", "unsafe_code", DO_NOT_LOAD)
REFERENCE = Rule("code-reference", "unsafe_code", EXPORT_AGAIN)
RECURSION = Rule("code-recursion", "unsafe_code", DO_NOT_LOAD)
FORBIDDEN_OPERATOR = Rule("code-forbidden-operator", "unsafe_code", DO_NOT_LOAD)
UNSUPPORTED = Rule("code-unsupported", "unsupported_operator", _TRACE)
UNKNOWN_OPERATOR = Rule(
    "operator-unknown",
    "unsupported_operator",
    "Export the model without it, or ask for it to be looked at: it may be harmless, but nobody here has checked.",
)
