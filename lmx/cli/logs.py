"""How log lines look: readable on a terminal, one JSON object per line otherwise.

Lines never hold prompts, answers or keys; whoever logs a request logs its counts. Tracebacks come
without the values of variables, for these may be any of the three.
"""

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from lmx.daemon.log_tail import LogTail

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class LogLevel:
    """The least severe level written, which may change while loggers are in use.

    Args:
        level: One of the names of `LEVELS`.
    """

    def __init__(self, level: str) -> None:
        self.set(level)

    def set(self, level: str) -> None:
        """Change it for every logger."""
        self._least = LEVELS[level]

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Drop a line that is less severe, as a processor of structlog."""
        if LEVELS[method] < self._least:
            raise structlog.DropEvent
        return event


class NamedPrintLogger(structlog.PrintLogger):
    """Prints lines, and knows who it was made for.

    Args:
        name: As ``structlog.get_logger(name)`` gave it; empty without one.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__(sys.stderr)
        self.name = name


def configure_logging(level: str, log_tail: LogTail) -> LogLevel:
    """Set the format and the least severe level written, once per process.

    Args:
        level: By its name.
        log_tail: Keeps the last lines, too.

    Returns:
        The level, to be changed later.
    """
    log_level = LogLevel(level)
    shared: list[Processor] = [
        log_level,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        log_tail.append,
    ]
    if sys.stderr.isatty():
        plain = structlog.dev.plain_traceback
        tail: list[Processor] = [structlog.dev.ConsoleRenderer(exception_formatter=plain)]
    else:
        tail = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *tail],
        # Loggers are cached with this class, so it lets everything through to `LogLevel`.
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=NamedPrintLogger,
        cache_logger_on_first_use=True,
    )
    return log_level
