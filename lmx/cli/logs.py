"""How log lines look: readable on a terminal, one JSON object per line otherwise.

Lines never hold prompts, answers or keys; whoever logs a request logs its counts.
"""

import logging
import sys

import structlog


def configure_logging(level: str) -> None:
    """Set the format and the least severe level written, once per process."""
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    if sys.stderr.isatty():
        tail: list[structlog.typing.Processor] = [structlog.dev.ConsoleRenderer()]
    else:
        tail = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *tail],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
