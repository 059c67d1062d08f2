"""How log lines look: readable on a terminal, one JSON object per line otherwise.

Lines never hold prompts, answers or keys; whoever logs a request logs its counts.
"""

import logging
import sys

import structlog

from lmx.daemon.log_tail import LogTail


class NamedPrintLogger(structlog.PrintLogger):
    """Prints lines, and knows who it was made for.

    Args:
        name: As ``structlog.get_logger(name)`` gave it; empty without one.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__(sys.stderr)
        self.name = name


def configure_logging(level: str, log_tail: LogTail) -> None:
    """Set the format and the least severe level written, once per process.

    Args:
        level: By its name.
        log_tail: Keeps the last lines, too.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        log_tail.append,
    ]
    if sys.stderr.isatty():
        tail: list[structlog.typing.Processor] = [structlog.dev.ConsoleRenderer()]
    else:
        tail = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *tail],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=NamedPrintLogger,
        cache_logger_on_first_use=True,
    )
