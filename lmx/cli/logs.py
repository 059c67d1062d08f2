"""How log lines look and where they go: text on a terminal, JSON otherwise, a file if one is set.

Lines hold no prompts and no answers unless settings ask for them (`lmx.daemon.transcripts`), and
never keys; whoever logs a request logs its counts. What is a key here is blotted out of every line
all the same, for a library or a program may quote one. Tracebacks come without the values of
variables.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from lmx.cli.log_file import LogFile
from lmx.config import LoggingSettings
from lmx.daemon.log_tail import LogTail

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
BLOT = "[key]"
# Shorter ones are part of ordinary words, and keys only in tests.
SHORTEST_KEY = 6


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


class Blotter:
    """Blots keys out of lines, wherever they stand in them.

    Attributes:
        keys: Gives the keys, each time a line is written.
    """

    def __init__(self) -> None:
        self.keys: Callable[[], Iterable[str]] = tuple

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """The line without keys, as a processor of structlog."""
        keys = [key for key in self.keys() if len(key) >= SHORTEST_KEY]
        return {name: _blot(value, keys) for name, value in event.items()} if keys else event


class LogControl:
    """What can be changed about the log while the daemon runs.

    Attributes:
        level: The least severe level.
        blotter: Knows what must not be written.
    """

    def __init__(self, level: str) -> None:
        self.level = LogLevel(level)
        self.blotter = Blotter()


class NamedPrintLogger(structlog.PrintLogger):
    """Knows who it was made for; `_Outputs` prints before it could.

    Args:
        name: As ``structlog.get_logger(name)`` gave it; empty without one.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__(sys.stderr)
        self.name = name


@contextmanager
def open_log(settings: LoggingSettings, log_tail: LogTail) -> Iterator[LogControl]:
    """Set up the log of this process; what waits to be written is written at the end.

    Args:
        settings: What, where and how.
        log_tail: Keeps the last lines, too.
    """
    control = LogControl(settings.level)
    file = None if settings.path is None else _open_file(settings.path, settings)
    is_terminal = sys.stderr.isatty()
    outputs: list[tuple[Processor, Callable[[str], None]]] = []
    if file is None or is_terminal:
        is_text = settings.format == "text" or (settings.format == "auto" and is_terminal)
        outputs.append((_renderer(is_text=is_text, has_colors=is_terminal), _print))
    if file is not None:
        outputs.append((_renderer(is_text=settings.format == "text"), file.write))
    structlog.configure(
        processors=[
            control.level,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            control.blotter,
            log_tail.append,
            _Outputs(outputs),
        ],
        # Loggers are cached with this class, so it lets everything through to `LogLevel`.
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=NamedPrintLogger,
        cache_logger_on_first_use=True,
    )
    try:
        yield control
    finally:
        if file is not None:
            file.close()


class _Outputs:
    """The last processor: a line in each form, each to its place."""

    def __init__(self, outputs: list[tuple[Processor, Callable[[str], None]]]) -> None:
        self._outputs = outputs

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        for render, write in self._outputs:
            write(str(render(logger, method, dict(event))))
        raise structlog.DropEvent


def _print(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _renderer(*, is_text: bool, has_colors: bool = False) -> Processor:
    if not is_text:
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=has_colors)


def _open_file(path: Path, settings: LoggingSettings) -> LogFile:
    return LogFile(
        path.absolute(),
        max_bytes=int(settings.max_mb * 1e6),
        backups=settings.backups,
        standby=sys.stderr,
    )


def _blot(value: Any, keys: list[str]) -> Any:
    match value:
        case str():
            for key in keys:
                value = value.replace(key, BLOT)
            return value
        case dict():
            return {_blot(name, keys): _blot(inner, keys) for name, inner in value.items()}
        case list() | tuple():
            return [_blot(inner, keys) for inner in value]
        case _:
            return value
