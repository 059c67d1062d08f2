"""A record of when this process computed, to prove that two workers never do so at once.

Off unless ``LMX_LEASE_LOG`` names a file. All workers of a machine append to the same one; their
lines can be compared because the monotonic clock is the system's, not the process's.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

VARIABLE = "LMX_LEASE_LOG"


class IntervalLog:
    """Appends a line per interval: process id, start, end, what was done.

    Args:
        path: The file, or `None` to write nothing.
    """

    def __init__(self, path: str | None) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._file = None if path is None else os.open(path, flags, 0o644)
        self._pid = os.getpid()

    @contextmanager
    def interval(self, kind: Literal["load", "step"]) -> Iterator[None]:
        """Record how long the block runs, whichever way it ends."""
        if self._file is None:
            yield
            return
        start_s = time.monotonic()
        try:
            yield
        finally:
            line = f"{self._pid} {start_s:.6f} {time.monotonic():.6f} {kind}\n"
            os.write(self._file, line.encode())  # one write, so that lines stay whole
