"""The disk below the tree: what was computed is written when the engine rests, and read when asked.

It knows tokens, payloads as an engine packs them, and how long things took; no device and no file.
Engine thread only. Reading is worth it only if computing takes longer, and it is done in pieces, so
that running streams do not wait for a long prompt's files.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from lmx.engines.prefix.disk.cache import DiskCache, Handle
from lmx.engines.prefix.disk.records import Array, Record, StoredRecord
from lmx.engines.prefix.store import LEAST_TOKENS, PrefixStore
from lmx.engines.prefix.tree import Segment, Snapshot, TokenIds

S = TypeVar("S", bound=Segment)
P = TypeVar("P", bound=Snapshot)

# Of a disk that nothing was read from yet; what is measured takes its place.
SECONDS_PER_BYTE = 1e-9
# How much the latest measurement counts.
LATEST_SHARE = 0.3
# Passes that computing is priced by: the cheapest token of the latest ones. What a pass costs
# besides its tokens, or waited for, makes them dearer and never cheaper.
PRICED_PASSES = 8
# What one piece of resting may take: a command that comes meanwhile waits so long.
REST_S = 0.02


class Packer(Protocol[S, P]):
    """An engine's payloads as bytes and back."""

    def pack(self, segment: S) -> Mapping[str, Array]:
        """A segment's arrays, not copied where that can be helped."""

    def pack_state(self, state: P) -> Mapping[str, Array]:
        """A snapshot's arrays; at least one."""

    def unpack(self, arrays: Mapping[str, Array]) -> S:
        """The segment.

        Raises:
            LookupError, ValueError: The arrays are not such ones.
        """

    def unpack_state(self, arrays: Mapping[str, Array], tokens: int) -> P:
        """The snapshot that is valid after so many tokens.

        Raises:
            LookupError, ValueError: The arrays are not such ones.
        """

    def join(self, segments: list[S]) -> S:
        """Consecutive segments as one."""


class DiskTier(Generic[S, P]):
    """One model's store, and what of it is on disk.

    Args:
        store: What is in memory.
        cache: What is on disk.
        packer: Between them.
        clock: Seconds.
    """

    def __init__(
        self,
        store: PrefixStore[S, P],
        cache: DiskCache,
        packer: Packer[S, P],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._store = store
        self._cache = cache
        self._packer = packer
        self._clock = clock
        self._seconds_per_byte = SECONDS_PER_BYTE
        self._seconds_per_token: deque[float] = deque(maxlen=PRICED_PASSES)

    @property
    def problem(self) -> str | None:
        """Why files cannot be used, as a sentence; `None` if nothing has failed."""
        return self._cache.statistics().problem

    def note_computed(self, tokens: int, seconds: float) -> None:
        """So many tokens of a prompt took so long."""
        self._seconds_per_token.append(seconds / tokens)

    def look_up(self, ids: TokenIds, salt: str, *, beyond: int = 0) -> "Recall[S, P] | None":
        """What is on disk of a prompt beyond what is in memory, if reading it pays.

        Args:
            ids: The prompt.
            salt: Whose it is.
            beyond: Tokens that need not be read, wherever they are.
        """
        has_marks = self._store.needs_snapshots
        # The last token is computed in any case: a snapshot behind it would be of no use.
        wanted = ids[:-1] if has_marks else ids
        handles = self._cache.find(
            wanted, salt.encode(), needs_snapshot=has_marks, can_cut=not has_marks
        )
        have = max(beyond, self._store.usable_tokens(ids, salt))
        missing = [handle for handle in handles if handle.used_end > have]
        gain = min(missing[-1].used_end, len(ids) - 1) - have if missing else 0
        if gain < LEAST_TOKENS:
            return None
        read_s = sum(handle.size_bytes for handle in missing) * self._seconds_per_byte
        compute_s = min((gain * token_s for token_s in self._seconds_per_token), default=read_s)
        return None if read_s > compute_s else Recall(self, ids, salt, handles=missing)

    def read(self, handle: Handle) -> tuple[S, P | None] | None:
        """One record's payloads; `None` if it is not there whole, or holds others than it should.

        How long it takes, the engine's own copies included, is what reading is priced by.
        """
        began_s = self._clock()
        record = self._cache.read(handle)
        found = None if record is None else self._unpack(record)
        if found is not None and handle.size_bytes:
            measured = (self._clock() - began_s) / handle.size_bytes
            self._seconds_per_byte = blend(self._seconds_per_byte, measured)
        return found

    def put(
        self,
        ids: TokenIds,
        salt: str,
        *,
        segments: list[tuple[int, S]],
        state: P | None,
        is_whole: bool,
    ) -> bool:
        """Put into memory what was read.

        Args:
            ids: The tokens up to its end.
            salt: Whose.
            segments: With where each begins, up to that end.
            state: What is valid there.
            is_whole: A record ends there, too, so that what continues it finds it on disk.

        Returns:
            It is there now.
        """
        wanted = self._store.wanted(ids, salt)
        if wanted is None:
            return True
        parts = []
        end = len(ids)
        for start, segment in reversed(segments):
            if wanted.start < end:
                keep = segment
                if start < wanted.start:
                    _, keep = segment.split(wanted.start - start)
                parts.append(keep)
            end = start
        if wanted.start < end:
            return False  # what these records continue is not in memory any more
        parts.reverse()
        joined = None if not parts else parts[0] if len(parts) == 1 else self._packer.join(parts)
        return self._store.keep(ids, salt, segment=joined, snapshot=state, is_stored=is_whole)

    def rest(self) -> bool:
        """Offer some of what is not on disk yet; returns whether there is more to do soon."""
        self._cache.allow()
        until_s = self._clock() + REST_S
        while (fresh := self._store.next_fresh()) is not None:
            record = Record(
                fresh.ids,
                fresh.start,
                fresh.salt.encode(),
                self._packer.pack(fresh.segment),
                {} if fresh.snapshot is None else self._packer.pack_state(fresh.snapshot),
            )
            if not self._cache.offer(record):
                return self._cache.statistics().queued_bytes > 0
            self._store.settle(fresh)
            if self._clock() >= until_s:
                return True
        return False

    def wake(self) -> None:
        """There is work: nothing is written now."""
        self._cache.hold()

    def close(self, deadline_s: float) -> None:
        """Write what there is time for. Nothing may be called after it."""
        until_s = self._clock() + deadline_s
        while self.rest() and (left_s := until_s - self._clock()) > 0:
            self._cache.flush(min(0.1, left_s))
        self._cache.close(max(0.0, until_s - self._clock()))

    def _unpack(self, record: StoredRecord) -> tuple[S, P | None] | None:
        try:
            segment = self._packer.unpack(record.arrays)
            if not record.snapshot:
                return segment, None
            return segment, self._packer.unpack_state(record.snapshot, record.end)
        except (LookupError, ValueError):
            return None


class Recall(Generic[S, P]):
    """A prompt's beginning on its way from disk to memory.

    Args:
        tier: Where from.
        ids: The prompt.
        salt: Whose it is.
        handles: What to read, in order.
    """

    def __init__(
        self, tier: DiskTier[S, P], ids: TokenIds, salt: str, *, handles: list[Handle]
    ) -> None:
        self._tier = tier
        self._ids = ids
        self._salt = salt
        self._handles = handles
        self._segments: list[tuple[int, S]] = []  # read, but not in memory yet
        self._needs_snapshot = handles[-1].has_snapshot

    def read(self, until_s: float, clock: Callable[[], float] = time.perf_counter) -> bool:
        """Read on, one record at least.

        Args:
            until_s: When to stop, on this clock.
            clock: Seconds.

        Returns:
            Whether it is over.
        """
        while self._handles:
            if not self._read_one(self._handles.pop(0)):
                self._handles.clear()
            elif clock() >= until_s:
                break
        return not self._handles

    def _read_one(self, handle: Handle) -> bool:
        found = self._tier.read(handle)
        if found is None:
            return False
        segment, state = found
        is_whole = handle.used_end == handle.end
        if not is_whole:
            segment, _ = segment.split(handle.used_end - handle.start)
            state = None
        self._segments.append((handle.start, segment))
        if self._needs_snapshot and state is None:
            return True  # it goes into memory together with the next snapshot
        segments, self._segments = self._segments, []
        ids = self._ids[: handle.used_end]
        return self._tier.put(ids, self._salt, segments=segments, state=state, is_whole=is_whole)


def blend(known: float, measured: float) -> float:
    """A measurement among those before it."""
    return known + LATEST_SHARE * (measured - known)
