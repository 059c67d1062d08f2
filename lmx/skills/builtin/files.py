"""``read_file``: a text file below one of the configured folders, a piece at a time.

The containment lets the process read these folders only. The check here says so in words, and
holds where nothing else contains the process.
"""

import itertools
import os
import stat
from pathlib import Path
from typing import Any

MAX_LINES = 2000
MAX_CHARACTERS = 100_000
SNIFFED_BYTES = 8192


def read_file(
    path: str, offset: int = 0, limit: int = MAX_LINES, *, folders: list[str]
) -> dict[str, Any]:
    """Lines of a text file.

    Args:
        path: Absolute, or relative to one of the folders.
        offset: Lines to leave out at the beginning.
        limit: Most lines to read.
        folders: What may be read, and below.

    Returns:
        ``next_offset`` is where to go on, or `None` at the end.

    Raises:
        ValueError: It is not there, may not be read or is no text.
    """
    if not folders:
        raise ValueError("no folder may be read; the setting skills.read_folders names some")
    real = _locate(path, [Path(os.path.realpath(folder)) for folder in folders])
    with os.fdopen(_open(real, path), "rb") as file:
        if b"\0" in file.read(SNIFFED_BYTES):
            raise ValueError(f"{path}: is no text")
        file.seek(0)
        return {"path": str(real), "offset": offset, **_read(file, offset, limit)}


def _open(real: Path, shown: str) -> int:
    """The descriptor of a regular file; nothing else is waited for or followed."""
    try:
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ValueError(f"{shown}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{shown}: is no file")
    return descriptor


def _locate(path: str, folders: list[Path]) -> Path:
    """The real path of a file that may be read."""
    if "\0" in path:
        raise ValueError("the path holds a NUL")
    reals = [Path(os.path.realpath(folder / path)) for folder in folders]
    allowed = [real for real in reals if any(real.is_relative_to(folder) for folder in folders)]
    if not allowed:
        raise ValueError(f"{path}: is outside the folders that may be read")
    return next((real for real in allowed if os.path.lexists(real)), allowed[0])


def _read(file: Any, offset: int, limit: int) -> dict[str, Any]:
    """A piece of an open file. A line longer than all that may be told comes in parts."""
    lines: list[str] = []
    room = MAX_CHARACTERS
    rest = iter(lambda: file.readline(MAX_CHARACTERS), b"")
    last = min(limit, MAX_LINES)
    for raw in itertools.islice(rest, offset, None):
        line = raw.decode(errors="replace")
        if len(lines) == last or len(line) > room:
            return {"text": "".join(lines), "lines": len(lines), "next_offset": offset + len(lines)}
        lines.append(line)
        room -= len(line)
    return {"text": "".join(lines), "lines": len(lines), "next_offset": None}
