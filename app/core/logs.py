"""Logs: one event a line, by a constant name; JSON for machines, plain lines on a terminal. No bodies, no secrets."""

import sys

import structlog


def configure_logs() -> None:
    """Send every structured log of this process to stderr."""
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if sys.stderr.isatty():
        processors.append(structlog.dev.ConsoleRenderer())
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # Whatever stderr is when something is said: it may be another one by then, or closed.
    structlog.configure(processors=processors, logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
