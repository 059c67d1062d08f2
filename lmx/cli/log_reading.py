"""``lmx logs``: the daemon's last lines, or those of its files while it is down.

The daemon keeps its last lines in memory and shows them whole each time it is asked, so following
it means finding where the lines that were shown end in the lines that came.
"""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from lmx.cli.client import Client
from lmx.cli.exits import CommandFailed, Exit
from lmx.cli.service.launchd import AGENT_LOGS, SYSTEM_LOGS
from lmx.cli.service.saying import read_files
from lmx.cli.session import Session
from lmx.cli.words import printable
from lmx.config import Settings, load_settings

MOST_LINES = 1000
POLL_S = 1.0
# A file of this length has its last lines within its last part.
TAIL_BYTES = 4 << 20
# What services write to, in one of three places.
SERVICE_LOGS = (
    "opta-lmx.log",
    "opta-lmx.stdout.log",
    "opta-lmx.stderr.log",
    "opta-lmx-service.log",
)
COLOURS = {"warning": "yellow", "error": "red", "critical": "bold red", "debug": "dim"}
# Fields that stand at the beginning of a line and not among the others.
LEADING = frozenset({"ts", "timestamp", "level", "event", "logger"})

Line = Mapping[str, Any]


def read_logs(session: Session, *, count: int, is_followed: bool) -> None:
    """Print the last lines, and with `is_followed` those that come.

    Raises:
        CommandFailed: Neither a daemon nor a file has any.
    """
    client = session.client
    try:
        lines = _ask(client, count)
    except CommandFailed as failure:
        if failure.status is not Exit.UNREACHABLE:
            raise
        file = find_log(load_settings())
        if file is None:
            message = f"{failure.message}; and there is no log file"
            raise CommandFailed(message, failure.status, failure.code) from failure
        session.say(f"{failure.message}; this is {file}")
        for text in read_files([file], count, follow=is_followed, tail_bytes=TAIL_BYTES):
            show(session, _parse(text))
        return
    for line in lines:
        show(session, line)
    while is_followed:
        time.sleep(POLL_S)
        lines = _follow(session, client, lines)


def new_lines(before: Sequence[Line], after: Sequence[Line]) -> Sequence[Line]:
    """What has come since, where both are the last lines of one log.

    The longest end of `before` that `after` has in it shows where to go on; lines may be alike.
    """
    for start in range(len(before)):
        kept = before[start:]
        for place in range(len(after) - len(kept) + 1):
            if after[place : place + len(kept)] == kept:
                return after[place + len(kept) :]
    return after


def find_log(settings: Settings) -> Path | None:
    """The file that settings name, or else the one that a service on this machine wrote last."""
    named = settings.logging.path
    if named is not None:
        return named if named.is_file() else None
    folders = {Path(tempfile.gettempdir()), Path(AGENT_LOGS), Path(SYSTEM_LOGS)}
    places = [folder / name for folder in folders for name in SERVICE_LOGS]
    found = [path for path in places if path.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def show(session: Session, line: Line) -> None:
    """Print one line: as it is, or as people read it."""
    if session.as_json:
        session.line(line)
        return
    level = str(line.get("level", "info"))
    fields = " ".join(f"{key}={value}" for key, value in line.items() if key not in LEADING)
    stamp = line.get("ts")
    clock = str(line.get("timestamp", ""))
    if isinstance(stamp, int | float):
        clock = time.strftime("%H:%M:%S", time.localtime(stamp))
    text = f"{clock} {level:<8} {line.get('event', '')} {fields}".rstrip()
    session.out.print(Text(printable(text), style=COLOURS.get(level, "")), soft_wrap=True)


def _ask(client: Client, count: int) -> list[Line]:
    lines: list[Line] = client.get("/admin/logs/tail", lines=count)["lines"]
    return lines


def _follow(session: Session, client: Client, before: list[Line]) -> list[Line]:
    """One more look; a daemon that is away for a moment is waited for."""
    try:
        after = _ask(client, MOST_LINES)
    except CommandFailed as failure:
        if failure.status is not Exit.UNREACHABLE:
            raise
        return before
    for line in new_lines(before[-20:], after):
        show(session, line)
    return after


def _parse(text: str) -> Line:
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    return line if isinstance(line, dict) else {"event": text}
