"""Files with logs that clients may list and read: those of sessions, of updates, and our own.

Only what a listing names can be read, so no name leads anywhere else. Everything here blocks.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from msgspec import Struct

from lmx.errors import LogNotFound

LogKind = Literal["sessions", "updates"]
FOLDERS: Mapping[LogKind, str] = {"sessions": "session-logs", "updates": "update-logs"}
CHUNK_BYTES = 256 * 1024


class LogFileRow(Struct, frozen=True, kw_only=True):
    """One file.

    Attributes:
        filename: Its name.
        size_bytes: Its size.
        written_at: When it was written last, in epoch seconds.
    """

    filename: str
    size_bytes: int
    written_at: float


class LogFolders:
    """The files there are.

    Args:
        home: ``LMX_HOME``.
        own_file: The daemon's log, if it has one; it and its backups count as logs of sessions.
    """

    def __init__(self, home: Path, own_file: Path | None) -> None:
        self._home = home
        self._own_file = own_file

    def rows(self, kind: LogKind) -> list[LogFileRow]:
        """The files of a kind, the newest first; none where they cannot be listed."""
        found = [_row(name, path) for name, path in self._files(kind).items()]
        rows = [row for row in found if row is not None]
        return sorted(rows, key=lambda row: (-row.written_at, row.filename))

    def find(self, kind: LogKind, filename: str) -> Path:
        """Where a listed file is.

        Raises:
            LogNotFound: None of that name is listed.
        """
        path = self._files(kind).get(filename)
        if path is None:
            raise LogNotFound(f"There is no log {filename[:200]!r}")
        return path

    def _files(self, kind: LogKind) -> dict[str, Path]:
        files = {path.name: path for path in _own_files(self._home / FOLDERS[kind])}
        own = self._own_file
        if kind == "sessions" and own is not None:
            backups = (own.with_name(f"{own.name}.{number}") for number in range(1, 1001))
            for path in (own, *backups):
                if not path.is_file():
                    break
                files.setdefault(path.name, path)
        return files


def _own_files(folder: Path) -> list[Path]:
    """Files that are in a folder, and not merely linked from it."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry) for entry in entries if entry.is_file(follow_symlinks=False)]
    except OSError:
        return []


def _row(name: str, path: Path) -> LogFileRow | None:
    try:
        stat = path.stat()
    except OSError:
        return None  # gone this moment
    return LogFileRow(filename=name, size_bytes=stat.st_size, written_at=stat.st_mtime)
