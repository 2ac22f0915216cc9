"""What goes wrong: while a module is rebuilt (the archive is refused), and while it runs (a RebuiltError)."""

from app.core.intake.torchscript.rules import EXPORT_AGAIN, Rule

INCONSISTENT = Rule("rebuild-inconsistent", "malformed_archive", EXPORT_AGAIN)
UNKNOWN_OPERATOR = Rule("rebuild-operator", "unsupported_operator", EXPORT_AGAIN)


class RebuiltError(RuntimeError):
    """The rebuilt module cannot take its input, or its own code raised; a RuntimeError as torch's own are."""
