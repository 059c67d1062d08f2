"""The daemon's last log lines, kept in memory for those who cannot read its standard error.

Bounded twice: by the number of lines and by the length of what one line says. It knows nothing of
how lines are formatted; whoever configures logging puts `LogTail.append` among the processors.
"""

import time
from collections import deque
from collections.abc import MutableMapping
from typing import Any, Protocol

import msgspec
import structlog

# The most that can be asked for; with `TEXT_LIMIT` it bounds what the lines take.
KEPT_LINES = 1000
# Tracebacks and the last words of a worker fit; a value beyond it is cut.
TEXT_LIMIT = 4000


class NamedLogger(Protocol):
    """What is known of the logger that a line comes from."""

    name: str


class LogTail:
    """A ring of log lines, each of them JSON-ready.

    Lines may come from any thread: appending to a full `deque` and copying it are one step each.

    Args:
        kept_lines: How many lines are kept.
    """

    def __init__(self, kept_lines: int = KEPT_LINES) -> None:
        self._lines: deque[dict[str, Any]] = deque(maxlen=kept_lines)

    def append(
        self, logger: NamedLogger, method: str, fields: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Keep a line and pass it on unchanged; a structlog processor."""
        said = structlog.processors.format_exc_info(logger, method, dict(fields))
        said.pop("timestamp", None)
        line = {
            "ts": round(time.time(), 3),
            "level": said.pop("level", method),
            "event": said.pop("event", ""),
            "logger": logger.name,
            **said,
        }
        self._lines.append({key: _plain(value) for key, value in line.items()})
        return fields

    def last(self, count: int) -> list[dict[str, Any]]:
        """The last lines, oldest first.

        Args:
            count: How many, at most.
        """
        return list(self._lines)[-count:]


def _plain(value: Any) -> Any:
    """A value that JSON can hold, and no longer than is readable."""
    if isinstance(value, str):
        return _cut(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    built = msgspec.to_builtins(value, str_keys=True, enc_hook=str)
    return built if len(msgspec.json.encode(built)) <= TEXT_LIMIT else _cut(str(built))


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]}…"
