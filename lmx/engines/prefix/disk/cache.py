"""The disk tier as an engine uses it: find, read, offer.

Nothing here raises for what the file system does: a file that is gone, torn, changed or foreign is
a miss, a disk that is full is a record not written. `find`, `read` and `offer` belong to the
engine's thread; one thread of its own writes.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lmx.engines.prefix.disk.agreement import common_tokens, read_identity
from lmx.engines.prefix.disk.digests import (
    PrefixDigests,
    namespace_digest,
    salt_digest,
    token_bytes,
)
from lmx.engines.prefix.disk.entries import Entry, Place
from lmx.engines.prefix.disk.files import Files
from lmx.engines.prefix.disk.format import Damaged, Identity, decode_record
from lmx.engines.prefix.disk.index import Index
from lmx.engines.prefix.disk.reach import Reach
from lmx.engines.prefix.disk.records import (
    DiskSettings,
    DiskStatistics,
    Namespace,
    Record,
    StoredRecord,
)
from lmx.engines.prefix.disk.store import Pending, Shared, Store
from lmx.engines.prefix.disk.troubles import Troubles
from lmx.engines.prefix.disk.writer import Writer


class Handle(msgspec.Struct, frozen=True, eq=False):
    """A record that a lookup found: the state of the tokens `start` to `end`.

    Args:
        start: The first token whose state it holds.
        end: One past the last.
        used_end: One past the last that is the prompt's, too. Less than `end` only for the last
            record of a lookup with `can_cut`.
        has_snapshot: It holds what is valid at `end` alone, too.
        size_bytes: Of its file.
        entry: Its place in the index.
        identity: What its header has to say.
        found_ns: When; all records of one lookup count as used at the same moment.
    """

    start: int
    end: int
    used_end: int
    has_snapshot: bool
    size_bytes: int
    entry: Entry
    identity: Identity
    found_ns: int


class DiskCache:
    """One namespace's view of the shared directory. Made by `open`, ended by `close`.

    Args:
        directory: Its files are in subdirectories of this.
        namespace: The digest of the namespace.
        shared: The index, and the file system.
        store: Where records go.
        settings: How it behaves.
    """

    def __init__(
        self,
        *,
        directory: str,
        namespace: str,
        shared: Shared,
        store: Store,
        settings: DiskSettings,
    ) -> None:
        self._directory = directory
        self._namespace = namespace
        self._shared = shared
        self._store = store
        self._files = shared.files
        self._troubles = shared.troubles
        self._settings = settings
        self._counts = _Counts()
        self._writer = Writer(store, shared.troubles, settings=settings)

    @classmethod
    def open(
        cls,
        root: Path,
        namespace: Namespace,
        *,
        settings: DiskSettings,
        files: Files | None = None,
    ) -> "DiskCache":
        """Index what is there and start the writer, which is held at first.

        Args:
            root: `cache/prefix` below ``LMX_HOME``; every worker's, made if missing.
            namespace: Whose state it is.
            settings: How it behaves.
            files: The file system.
        """
        digest = namespace_digest(namespace)
        directory = f"{root}/{digest}"
        troubles = Troubles()
        shared = Shared(Index(directory), threading.Lock(), files or Files(), troubles)
        store = Store(str(root), directory, settings=settings, shared=shared)
        try:
            store.open()
        except OSError as error:
            troubles.note("The prefix cache on disk cannot be written", error)
            try:
                store.survey()
            except OSError as unreadable:
                troubles.note("The prefix cache on disk cannot be read", unreadable)
        return cls(
            directory=directory,
            namespace=digest,
            shared=shared,
            store=store,
            settings=settings,
        )

    def find(
        self,
        token_ids: Sequence[int],
        salt: bytes,
        *,
        needs_snapshot: bool = False,
        can_cut: bool = False,
    ) -> list[Handle]:
        """The records that cover the longest prefix of a prompt without a gap, in order.

        Args:
            token_ids: The prompt, or as much of it as may come from the cache.
            salt: Whose prompt it is.
            needs_snapshot: The prefix must end where a snapshot was taken.
            can_cut: The state of a record's first tokens can be used without the others', so
                that its last record may agree with the prompt for a part only. Reads up to eight
                headers. Has no meaning with `needs_snapshot`.
        """
        salted = salt_digest(salt)
        with self._shared.lock:
            index = self._shared.index
            # Four bytes a token take longer than the lookup if nothing was ever stored.
            if not index.has_continuations(PrefixDigests(self._namespace, salted, b"").at(0)):
                self._counts.missed += 1
                return []
        digests = PrefixDigests(self._namespace, salted, token_bytes(token_ids))
        with self._shared.lock:
            reach = index.reach(digests, needs_snapshot=needs_snapshot)
        now_ns = self._settings.clock_ns()
        chain = [self._handle(entry, digests, now_ns) for entry in reach.longest()]
        if can_cut and not needs_snapshot:
            chain = self._find_cut(digests, reach, now_ns) or chain
        if chain:
            self._counts.hit += 1
        else:
            self._counts.missed += 1
        return chain

    def read(self, handle: Handle) -> StoredRecord | None:
        """The record, or `None` if it is not there whole; a damaged file is removed."""
        entry = handle.entry
        try:
            data = self._files.read(entry.path, entry.size_bytes)
            record = decode_record(data, handle.identity)
        except OSError as error:
            self._give_up(entry, error)
            return None
        except Damaged:
            self._discard(entry)
            return None
        self._counts.read += 1
        with self._shared.lock:
            self._shared.index.touch(entry, handle.found_ns)
        self._writer.note_use(entry, handle.found_ns)
        return record

    def contains(
        self,
        token_ids: Sequence[int],
        salt: bytes,
        *,
        start: int,
        needs_snapshot: bool = False,
    ) -> bool:
        """Whether the record of the tokens `start` to `len(token_ids)` is on disk or on its way."""
        digests = PrefixDigests(self._namespace, salt_digest(salt), token_bytes(token_ids))
        place = _place(digests, start, has_snapshot=needs_snapshot)
        return self._has(place) or self._writer.has(place)

    def offer(self, record: Record) -> bool:
        """Write a record when the engine is idle. Offer what it continues first.

        The arrays are not copied and must not change any more.

        Returns:
            It is on disk or on its way. If not, it was dropped.

        Raises:
            ValueError: `start` is not before the record's end.
        """
        if not 0 <= record.start < record.end:
            raise ValueError(f"a record from {record.start} to {record.end} holds no token")
        if not self._writer.is_taking(record.size_bytes):
            return False
        salted = salt_digest(record.salt)
        digests = PrefixDigests(self._namespace, salted, token_bytes(record.token_ids))
        place = _place(digests, record.start, has_snapshot=bool(record.snapshot))
        if self._has(place):
            return True
        identity = self._identity(digests, place.start, place.end)
        return self._writer.offer(Pending(record, identity, place))

    def allow(self) -> None:
        """The engine is idle: write."""
        self._writer.allow()

    def hold(self) -> None:
        """The engine has work: write nothing but what is being written."""
        self._writer.hold()

    def flush(self, deadline_s: float) -> bool:
        """Write everything now, idle or not; the calling thread waits.

        Returns:
            It is all on disk.
        """
        return self._writer.flush(deadline_s)

    def close(self, deadline_s: float) -> None:
        """Write what `deadline_s` allows and end the thread. Nothing may be called after it."""
        self._writer.close(deadline_s)

    def statistics(self) -> DiskStatistics:
        """A reading."""
        written, dropped, queued_bytes = self._writer.reading()
        failed, problem = self._troubles.reading()
        with self._shared.lock:
            index = self._shared.index
            return DiskStatistics(
                entry_count=index.own_count,
                entry_bytes=index.own_bytes,
                total_bytes=index.total_bytes,
                hit_count=self._counts.hit,
                miss_count=self._counts.missed,
                read_count=self._counts.read,
                damaged_count=self._counts.damaged,
                written_count=written,
                evicted_count=self._store.evicted_count,
                dropped_count=dropped,
                failed_count=failed,
                queued_bytes=queued_bytes,
                problem=problem,
            )

    def _has(self, place: Place) -> bool:
        with self._shared.lock:
            return self._shared.index.get(f"{self._directory}/{place.shard}", place) is not None

    def _find_cut(self, digests: PrefixDigests, reach: Reach, now_ns: int) -> list[Handle]:
        """The chain whose last record is of use in part and reaches beyond every whole one."""
        positions = reach.positions
        furthest = max(positions)
        best: Handle | None = None
        if furthest == digests.length_tokens:
            return []
        with self._shared.lock:
            candidates = self._shared.index.parting(digests, positions, furthest)
        for entry in candidates:
            identity = self._read_identity(entry, digests)
            if identity is None:
                continue
            prompt = digests.segment(entry.start, digests.length_tokens)
            used_end = entry.start + common_tokens(identity.ids, prompt)
            if used_end > furthest:
                furthest = used_end
                best = _handle(entry, identity, used_end, found_ns=now_ns)
        if best is None:
            return []
        chain = [self._handle(entry, digests, now_ns) for entry in reach.to(best.start)]
        return [*chain, best]

    def _read_identity(self, entry: Entry, digests: PrefixDigests) -> Identity | None:
        try:
            return read_identity(self._files, entry, digests)
        except OSError as error:
            self._give_up(entry, error)
        except Damaged:
            self._discard(entry)
        return None

    def _handle(self, entry: Entry, digests: PrefixDigests, now_ns: int) -> Handle:
        identity = self._identity(digests, entry.start, entry.end)
        return _handle(entry, identity, entry.end, found_ns=now_ns)

    def _identity(self, digests: PrefixDigests, start: int, end: int) -> Identity:
        return Identity(
            namespace=self._namespace,
            salt=digests.salt,
            start_digest=digests.at(start),
            end_digest=digests.at(end),
            start=start,
            end=end,
            ids=digests.segment(start, end),
        )

    def _give_up(self, entry: Entry, error: OSError) -> None:
        """It cannot be read. That it is gone is no failure: others evict, too."""
        if isinstance(error, FileNotFoundError):
            with self._shared.lock:
                self._shared.index.remove(entry)
            return
        self._troubles.note("A file of the prefix cache could not be read", error)
        with self._shared.lock:
            self._shared.index.hide(entry)

    def _discard(self, entry: Entry) -> None:
        self._counts.damaged += 1
        try:
            self._files.remove(entry.path)
        except OSError as error:
            self._troubles.note("A damaged file of the prefix cache could not be removed", error)
            with self._shared.lock:
                self._shared.index.hide(entry)
            return
        with self._shared.lock:
            self._shared.index.remove(entry)


class _Counts:
    """Engine thread only."""

    def __init__(self) -> None:
        self.hit = 0
        self.missed = 0
        self.read = 0
        self.damaged = 0


def _handle(entry: Entry, identity: Identity, used_end: int, *, found_ns: int) -> Handle:
    return Handle(
        start=entry.start,
        end=entry.end,
        used_end=used_end,
        has_snapshot=entry.has_snapshot,
        size_bytes=entry.size_bytes,
        entry=entry,
        identity=identity,
        found_ns=found_ns,
    )


def _place(digests: PrefixDigests, start: int, *, has_snapshot: bool) -> Place:
    end = digests.length_tokens
    return Place(digests.at(start), digests.at(end), start, end, has_snapshot)
