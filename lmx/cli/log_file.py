"""A log file that is written by a thread of its own: rotated, and never worth a daemon.

Whoever logs only puts a line into a queue, so a slow disk delays nobody. A file that cannot be
written is told of once on the standby stream, which gets the lines until the file works again. A
file that somebody else has moved away is opened anew, so other programs may rotate it, too.
"""

import io
import os
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

# Lines that may wait for the disk; those beyond it are dropped and counted.
QUEUE_LINES = 20_000
BATCH_LINES = 1000
# Between two looks at whether the file is still there, or works again.
LOOK_S = 1.0
CLOSE_LIMIT_S = 3.0
# After a rotation that failed.
ROTATION_PAUSE_S = 300.0


class LogFile:
    """Lines into a file.

    Args:
        path: The file; its folder is made if it is not there.
        max_bytes: Size at which it is put away as ``NAME.1`` and a new one begun; 0 for never.
        backups: How many of those are kept.
        standby: Gets what the file cannot take.
    """

    def __init__(self, path: Path, *, max_bytes: int, backups: int, standby: TextIO) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._standby = standby
        self._lines: queue.Queue[str | None] = queue.Queue(QUEUE_LINES)
        self._file: io.FileIO | None = None
        self._looked_s = -LOOK_S
        self._rotate_after_s = 0.0
        self._is_broken = False
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="log file", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Take a line without its end. Never waits and never fails."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what waits, but do not wait for a disk that hangs."""
        try:
            self._lines.put(None, timeout=CLOSE_LIMIT_S)
        except queue.Full:
            return
        self._thread.join(CLOSE_LIMIT_S)

    def _run(self) -> None:
        while True:
            lines = self._next_lines()
            is_last = None in lines
            self._write([line for line in lines if line is not None])
            if is_last:
                break
        if self._file is not None:
            self._file.close()

    def _next_lines(self) -> list[str | None]:
        lines = [self._lines.get()]
        while len(lines) < BATCH_LINES and lines[-1] is not None:
            try:
                lines.append(self._lines.get_nowait())
            except queue.Empty:
                break
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            lines.insert(-1, f"{dropped} log lines were dropped because the disk is slow")
        return lines

    def _write(self, lines: Sequence[str]) -> None:
        """Into the file, or else into the standby stream."""
        done = 0
        try:
            file = self._open()
            for line in lines:
                data = f"{line}\n".encode("utf-8", "replace")
                file = self._rotate(file, len(data))
                _write_whole(file, data)
                done += 1
        except OSError as error:
            self._tell_broken(error)
            self._stand_in(lines[done:])
        else:
            if lines and self._is_broken:
                self._is_broken = False
                self._stand_in([f"lmx: {self._path} is written again"])

    def _open(self) -> io.FileIO:
        """The file at the path, looked for once in a while.

        Raises:
            OSError: There cannot be one; it is tried again after a while.
        """
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            if self._file is not None and not _is_at(self._file, self._path):
                self._close_file()
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = _open_for_appending(self._path)
        if self._file is None:
            raise OSError(f"{self._path} could not be opened a moment ago")
        return self._file

    def _rotate(self, file: io.FileIO, coming_bytes: int) -> io.FileIO:
        """The file to write to; a folder that allows no renames lets it grow."""
        size = os.fstat(file.fileno()).st_size
        is_full = self._max_bytes and size and size + coming_bytes > self._max_bytes
        if not is_full or time.monotonic() < self._rotate_after_s:
            return file
        try:
            fresh = self._put_away()
        except OSError as error:
            self._rotate_after_s = time.monotonic() + ROTATION_PAUSE_S
            reason = error.strerror or error
            self._stand_in([f"lmx: {self._path} cannot be rotated ({reason}); it grows"])
            return file
        self._close_file()
        self._file = fresh
        return fresh

    def _put_away(self) -> io.FileIO:
        names = [self._path, *(Path(f"{self._path}.{n}") for n in range(1, self._backups + 1))]
        if len(names) == 1:
            self._path.unlink()
        for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
            if newer.exists():
                newer.replace(older)
        return _open_for_appending(self._path)

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _tell_broken(self, error: OSError) -> None:
        self._close_file()  # it may work once it is opened again
        if not self._is_broken:
            self._is_broken = True
            reason = error.strerror or error
            self._stand_in([f"lmx: {self._path} cannot be written ({reason}); lines come here"])

    def _stand_in(self, lines: Sequence[str]) -> None:
        try:
            for line in lines:
                self._standby.write(f"{line}\n")
            self._standby.flush()
        except (OSError, ValueError):
            return  # closed, or full as well: there is nowhere left to say it


def _open_for_appending(path: Path) -> io.FileIO:
    """Open a file, and end a line that a full disk has cut."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
    file = io.FileIO(os.open(path, flags, 0o640), "rb+")
    size = os.fstat(file.fileno()).st_size
    if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
        _write_whole(file, b"\n")
    return file


def _write_whole(file: io.FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _is_at(file: io.FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
