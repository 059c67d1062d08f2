"""Puts records on disk without ever holding more than the cap, whoever else writes there.

Room is made before the first byte is written, under the lock between processes, with sizes the
directories have just confirmed. It decides neither when to write nor what; `writer.py` does.
Writer thread only, except that `Shared` may be read by others under its lock.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from lmx.engines.prefix.disk.entries import Entry, Place
from lmx.engines.prefix.disk.files import Files
from lmx.engines.prefix.disk.format import Identity, count_bytes, encode_record
from lmx.engines.prefix.disk.index import Index
from lmx.engines.prefix.disk.records import Buffer, DiskSettings, Record
from lmx.engines.prefix.disk.survey import LOCK_NAME, Survey
from lmx.engines.prefix.disk.troubles import Troubles

# A model is being loaded meanwhile.
_OPEN_WAIT_S = 1.0


class Shared(msgspec.Struct, gc=False, eq=False):
    """What both threads use.

    Args:
        index: Every file. `lock` is held for every use of it.
        lock: Held shortly, and never while a file is read or written.
        files: The file system.
        troubles: Where its failures are noted.
    """

    index: Index
    lock: threading.Lock
    files: Files
    troubles: Troubles


class Pending(msgspec.Struct, frozen=True, eq=False):
    """A record on its way to disk."""

    record: Record
    identity: Identity
    place: Place

    @property
    def size_bytes(self) -> int:
        """What it holds in memory."""
        return self.record.size_bytes


class Store:
    """The files of all namespaces under one cap.

    Args:
        root: The directory all processes share.
        namespace_directory: Where this process writes, below `root`.
        settings: The cap, and how long another process may hold the lock.
        shared: The index this keeps, and the file system.

    Attributes:
        evicted_count: Files removed to make room.
    """

    def __init__(
        self,
        root: str,
        namespace_directory: str,
        *,
        settings: DiskSettings,
        shared: Shared,
    ) -> None:
        self._lock_path = f"{root}/{LOCK_NAME}"
        self._namespace_directory = namespace_directory
        self._settings = settings
        self._shared = shared
        self._files = shared.files
        self._survey = Survey(
            root,
            shared.index,
            index_lock=shared.lock,
            files=shared.files,
            clock_ns=settings.clock_ns,
        )
        self.evicted_count = 0

    def open(self) -> None:
        """Build the index; what a process that died left half written is removed.

        If another process is at a long write, that is left to the next write of this one.

        Raises:
            OSError: The directory cannot be made, read or locked.
        """
        self._files.make_directory(self._namespace_directory)
        wait_s = min(_OPEN_WAIT_S, self._settings.lock_wait_s)
        try:
            with self._files.lock(self._lock_path, wait_s):
                self._survey.refresh(is_locked=True)
                self._make_room(0)
        except TimeoutError:
            self.survey()

    def survey(self) -> None:
        """See what others wrote and removed, without keeping them from it.

        Raises:
            OSError: The directory cannot be read.
        """
        self._survey.refresh(is_locked=False)

    def write(self, pending: Pending) -> bool:
        """Put a record on disk.

        Returns:
            It is there. If not, there was no room under the cap.

        Raises:
            OSError: The file system failed; nothing of the record is left behind.
        """
        directory = f"{self._namespace_directory}/{pending.place.shard}"
        record = pending.record
        buffers = encode_record(pending.identity, record.arrays, record.snapshot)
        self._files.make_directory(self._namespace_directory)
        with self._files.lock(self._lock_path, self._settings.lock_wait_s):
            self._survey.refresh(is_locked=True)
            with self._shared.lock:
                is_there = self._shared.index.get(directory, pending.place) is not None
                ancestors = self._shared.index.ancestors(pending.place)
            if is_there:
                return True
            now_ns = self._settings.clock_ns()
            size_bytes = count_bytes(buffers)
            if not self._fits(size_bytes, ancestors):
                return False
            self._keep(ancestors, now_ns)
            if not self._make_room(size_bytes):
                return False
            self._write(directory, pending.place, buffers, now_ns=now_ns)
        return True

    def touch(self, used: dict[Entry, int]) -> None:
        """Keep the time of hits, for the next process and for the others.

        Raises:
            OSError: The file system failed; a file that is gone is no failure.
        """
        for entry, used_ns in used.items():
            with suppress(FileNotFoundError):
                self._files.touch(entry.path, used_ns)

    def _write(
        self, directory: str, place: Place, buffers: Sequence[Buffer], *, now_ns: int
    ) -> None:
        self._files.make_directory(directory)
        self._files.write(f"{directory}/{place.name}", buffers, now_ns)
        entry = Entry(
            directory,
            place.name,
            count_bytes(buffers),
            now_ns,
            place.start_digest,
            place.end_digest,
            place.start,
            place.end,
            place.has_snapshot,
        )
        with self._shared.lock:
            self._shared.index.add(entry)
            bare = msgspec.structs.replace(place, has_snapshot=False)
            poorer = self._shared.index.get(directory, bare) if place.has_snapshot else None
        if poorer is not None and poorer is not entry:
            self._remove(poorer)

    def _fits(self, size_bytes: int, ancestors: Sequence[Entry]) -> bool:
        """It does, even if nothing but what it continues remains."""
        needed = size_bytes + sum(entry.size_bytes for entry in ancestors)
        return needed <= self._settings.cap_bytes

    def _keep(self, ancestors: Sequence[Entry], now_ns: int) -> None:
        """What a record continues leaves after it, or the record could not be used."""
        with self._shared.lock:
            for entry in ancestors:
                self._shared.index.touch(entry, now_ns)
        self.touch(dict.fromkeys(reversed(ancestors), now_ns))

    def _make_room(self, size_bytes: int) -> bool:
        """Evict until so many bytes fit. Locked."""
        index = self._shared.index
        if index.total_bytes + size_bytes <= self._settings.cap_bytes:
            return True
        with self._shared.lock:
            leaving = index.leaving()
        while True:
            with self._shared.lock:
                if index.total_bytes + size_bytes <= self._settings.cap_bytes:
                    leaving.close()
                    return True
                entry = next(leaving, None)
            if entry is None:
                return False
            self._evict(entry)

    def _evict(self, entry: Entry) -> None:
        """Unless another process has used it since; then it gets its new turn."""
        try:
            modified_ns = self._files.modified_ns(entry.path)
            if modified_ns > entry.used_ns:
                with self._shared.lock:
                    self._shared.index.touch(entry, modified_ns)
                return
            self._remove(entry)
        except FileNotFoundError:
            with self._shared.lock:
                self._shared.index.remove(entry)
        except OSError:
            return  # it stays, counts, and is passed over
        else:
            self.evicted_count += 1

    def _remove(self, entry: Entry) -> None:
        self._files.remove(entry.path)
        with self._shared.lock:
            self._shared.index.remove(entry)
            is_empty = not self._shared.index.has_files(entry.directory)
        if is_empty:
            # Of this process or of a version long gone; made again when needed.
            with suppress(OSError):
                self._files.remove_directory(entry.directory)
                self._files.remove_directory(str(Path(entry.directory).parent))
