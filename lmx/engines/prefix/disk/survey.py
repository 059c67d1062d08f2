"""Keeps the index equal to the directories, at the price of what has changed.

Adding, renaming or removing a file changes its directory's time, so a directory with the time it
had is not listed again. What other processes did, and what somebody removed by hand, is seen so.
"""

import threading
from collections.abc import Callable

from lmx.engines.prefix.disk.entries import TEMPORARY_PREFIX
from lmx.engines.prefix.disk.files import Files
from lmx.engines.prefix.disk.index import Index

LOCK_NAME = ".lock"
# A directory that changed this shortly before it was listed may change again under the same time:
# ext4 counts in ticks of its kernel, of at most 10 ms, and FAT in steps of two seconds.
_SETTLED_NS = 100_000_000
_SETTLED_COARSE_NS = 3_000_000_000
_SECOND_NS = 1_000_000_000


class Survey:
    """The directories, as last seen.

    Args:
        root: Everything below it counts.
        index: What to keep equal to it.
        index_lock: Held for every change of the index.
        files: The file system.
        clock_ns: The wall clock.
    """

    def __init__(
        self,
        root: str,
        index: Index,
        *,
        index_lock: threading.Lock,
        files: Files,
        clock_ns: Callable[[], int],
    ) -> None:
        self._root = root
        self._index = index
        self._index_lock = index_lock
        self._files = files
        self._clock_ns = clock_ns
        self._seen_ns: dict[str, int | None] = {}  # by path; `None`: not settled
        self._below: dict[str, list[str]] = {}  # by path: paths of its subdirectories

    def refresh(self, *, is_locked: bool) -> None:
        """Look at every directory.

        Args:
            is_locked: This process holds the lock, so no other is writing, and what looks half
                written was left by one that died: it is removed.

        Raises:
            OSError: A directory cannot be read.
        """
        waiting = [self._root]
        there: set[str] = set()
        while waiting:
            directory = waiting.pop()
            if self._look(directory, is_locked=is_locked):
                there.add(directory)
                waiting += self._below[directory]
        with self._index_lock:
            for gone in self._index.directories() - there:
                self._index.forget(gone)
        for gone in self._seen_ns.keys() - there:
            del self._seen_ns[gone], self._below[gone]

    def _look(self, directory: str, *, is_locked: bool) -> bool:
        """Returns whether it is there."""
        now_ns = self._clock_ns()
        try:
            modified_ns = self._files.modified_ns(directory)
            if self._seen_ns.get(directory) == modified_ns:
                return True
            listing = self._files.list_directory(directory)
        except FileNotFoundError:
            return False
        unfinished = [name for name in listing.files if name.startswith(TEMPORARY_PREFIX)]
        for name in unfinished if is_locked else ():
            self._files.remove(f"{directory}/{name}")
            del listing.files[name]
        if directory == self._root:
            listing.files.pop(LOCK_NAME, None)
        with self._index_lock:
            self._index.replace(directory, listing.files)
        self._below[directory] = [f"{directory}/{name}" for name in listing.subdirectories]
        is_settled = modified_ns < now_ns - _window_ns(modified_ns)
        is_final = is_settled and (is_locked or not unfinished)
        self._seen_ns[directory] = modified_ns if is_final else None
        return True


def _window_ns(modified_ns: int) -> int:
    is_coarse = modified_ns % _SECOND_NS == 0
    return _SETTLED_COARSE_NS if is_coarse else _SETTLED_NS
