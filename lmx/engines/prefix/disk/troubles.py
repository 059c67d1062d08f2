"""What went wrong with the file system: counted, and said in one sentence, but never raised.

A cache that fails must cost a request nothing but the time it would have saved.
"""

import threading


class Troubles:
    """Failures of one process. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failed_count = 0
        self._problem: str | None = None

    def note(self, doing: str, error: OSError) -> None:
        """One call failed.

        Args:
            doing: What it was for, as the beginning of a sentence.
            error: What the system said.
        """
        with self._lock:
            self._failed_count += 1
            self._problem = f"{doing}: {error.strerror or error}"

    def reading(self) -> tuple[int, str | None]:
        """How many so far, and the last one."""
        with self._lock:
            return self._failed_count, self._problem
