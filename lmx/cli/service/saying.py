"""What a service said: the last lines of its log files or of the journal, and what comes next."""

import os
import shlex
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from lmx.cli.exits import CommandFailed

LOOK_S = 0.3


def read_files(
    files: Sequence[Path], count: int, *, follow: bool, tail_bytes: int | None = None
) -> Iterator[str]:
    """Lines of files: the last of each, then, if wanted, what is added, through rotations.

    Args:
        files: In order; those that are not there are left out until they are.
        count: How many of each.
        follow: Go on for ever.
        tail_bytes: Length of a file's end in which its last lines are looked for; `None` for all.

    Raises:
        CommandFailed: None is there, or one cannot be read.
    """
    tails = [_Tail(path, tail_bytes) for path in files]
    if not follow and not any(path.exists() for path in files):
        raise CommandFailed(f"there is no log yet: {', '.join(map(str, files))}")
    try:
        for tail in tails:
            yield from deque(tail.read(), maxlen=count)
        while follow:
            for tail in tails:
                yield from tail.read()
            time.sleep(LOOK_S)
    except OSError as error:
        raise CommandFailed(f"{error.filename} cannot be read: {error.strerror}") from error
    finally:
        for tail in tails:
            tail.close()


def read_journal(command: str) -> Iterator[str]:
    """Lines that a program prints.

    Raises:
        CommandFailed: It is not there, or fails.
    """
    try:
        process = subprocess.Popen(  # noqa: S603  # journalctl with arguments of ours
            shlex.split(command), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise CommandFailed("journalctl is not on PATH", code="no-service-manager") from error
    with process:
        if process.stdout is not None:
            for line in process.stdout:
                yield line.decode("utf-8", "replace").rstrip("\n")
    if process.returncode:
        raise CommandFailed(f"`{command}` ended with status {process.returncode}")


class _Tail:
    """A file that grows and may be replaced."""

    def __init__(self, path: Path, tail_bytes: int | None) -> None:
        self._path = path
        self._tail_bytes = tail_bytes  # of the first file; later ones are read whole
        self._file: TextIO | None = None
        self._part = ""

    def read(self) -> Iterator[str]:
        """The whole lines that are new."""
        while (file := self._open()) is not None:
            while piece := file.readline():
                self._part += piece
                if piece.endswith("\n"):
                    yield self._part.rstrip("\n")
                    self._part = ""
            if not self._is_replaced():
                return
            self.close()

    def close(self) -> None:
        """Close it, if it is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> TextIO | None:
        if self._file is None and self._path.exists():
            self._file = self._path.open(encoding="utf-8", errors="replace")
            if self._tail_bytes is not None:
                size = os.fstat(self._file.fileno()).st_size
                self._file.seek(max(0, size - self._tail_bytes))
                self._tail_bytes = None
        return self._file

    def _is_replaced(self) -> bool:
        """Whether another file stands there now, or this one was emptied."""
        if self._file is None:
            return False
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False  # between two of a rotation
        mine = os.fstat(self._file.fileno())
        return not os.path.samestat(mine, there) or self._file.tell() > there.st_size
