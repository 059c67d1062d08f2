"""What the route that shows the daemon's last log lines takes and answers."""

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from lmx.schema.json_body import parse_query

DEFAULT_LINES = 200
MAX_LINES = 1000


class LogTailQuery(Struct, kw_only=True):
    """How many lines to show, at most."""

    lines: Annotated[int, Meta(ge=1, le=MAX_LINES)] = DEFAULT_LINES


class LogTailReply(Struct, frozen=True, kw_only=True):
    """Lines, oldest first.

    Attributes:
        lines: Each has `ts`, `level`, `event` and `logger`, and what else it says under names of
            its own.
    """

    lines: list[dict[str, Any]]


class LogFile(Struct, frozen=True, kw_only=True):
    """A file with logs.

    Attributes:
        filename: What it is asked for by.
        size_bytes: Its size.
        created_at: When it was written last, as ISO 8601 has it.
    """

    filename: str
    size_bytes: int
    created_at: str


def parse_log_tail_query(values: Mapping[str, str]) -> LogTailQuery:
    """Read a query string; keys that are not known here have no effect.

    Raises:
        InvalidRequest: A value is no number or out of range; `param` names it.
    """
    return parse_query(values, LogTailQuery)
