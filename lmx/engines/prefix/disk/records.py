"""What goes into the disk tier, what comes out, and what it says of itself.

Plain values. A record holds the state of the tokens `start` to `end` of one prompt, and names
the whole prompt up to `end`: state of a token depends on everything before it.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

Buffer = bytes | bytearray | memoryview


class Array(msgspec.Struct, frozen=True, eq=False):
    """One named array as bytes.

    Args:
        dtype: As the engine calls it; given back as it came.
        shape: Elements per axis; given back as it came, not held against the bytes.
        data: C-contiguous.
    """

    dtype: str
    shape: tuple[int, ...]
    data: Buffer


class Record(msgspec.Struct, frozen=True, eq=False):
    """The state of the tokens `start` to `end` of a prompt.

    Args:
        token_ids: The prompt from its first token to `end`, all of it; each from 0 to 2**32 - 1.
        start: The first token whose state `arrays` hold.
        salt: Whose prompt it is; records of one salt are never found under another.
        arrays: By name; the state of the tokens `start` to `len(token_ids)`.
        snapshot: By name; what holds at `len(token_ids)` and nowhere else. Empty: there is none.
    """

    token_ids: Sequence[int]
    start: int
    salt: bytes
    arrays: Mapping[str, Array]
    snapshot: Mapping[str, Array] = {}

    @property
    def end(self) -> int:
        """One past the last token whose state is in it."""
        return len(self.token_ids)

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays."""
        every = [*self.arrays.values(), *self.snapshot.values()]
        return sum(memoryview(array.data).nbytes for array in every)


class StoredRecord(msgspec.Struct, frozen=True, eq=False):
    """What a file held, every bit of it checked.

    The arrays are views of one buffer that nobody else has.
    """

    start: int
    end: int
    arrays: Mapping[str, Array]
    snapshot: Mapping[str, Array]


class Namespace(msgspec.Struct, frozen=True):
    """Whose state can be used by whom: equal in every field, or it is foreign.

    Args:
        model: A fingerprint of the weights and of what else the state depends on.
        dtype: Of the state.
        library: What computes it and lays it out, with its version.
    """

    model: str
    dtype: str
    library: str


class DiskSettings(msgspec.Struct, frozen=True):
    """How the disk tier behaves.

    Args:
        cap_bytes: What all files of all models may take up together.
        queue_bytes: Arrays that may wait in memory to be written.
        pause_s: How long nothing is written after the file system failed.
        lock_wait_s: How long another process may be writing before that counts as a failure.
        survey_s: How often an idle engine looks for what others wrote, such as the worker that
            it takes over from.
        clock_ns: The wall clock; orders hits across processes and restarts.
    """

    cap_bytes: int
    queue_bytes: int = 256_000_000
    pause_s: float = 30.0
    lock_wait_s: float = 30.0
    survey_s: float = 30.0
    clock_ns: Callable[[], int] = time.time_ns


class DiskStatistics(msgspec.Struct, frozen=True):
    """A reading of the disk tier.

    Args:
        entry_count: Files of this namespace.
        entry_bytes: What they hold.
        total_bytes: Files of all namespaces: what the cap is for.
        hit_count: Lookups that found a prefix.
        miss_count: Lookups that found none.
        read_count: Records read and found whole.
        damaged_count: Files that were not what their name says; they are gone.
        written_count: Records written.
        evicted_count: Files removed to make room.
        dropped_count: Records not written: the queue or the cap had no room, or writing failed.
        failed_count: Calls to the file system that failed.
        queued_bytes: Arrays that wait to be written; they are held in memory.
        problem: The last failure, as a sentence, or `None`.
    """

    entry_count: int
    entry_bytes: int
    total_bytes: int
    hit_count: int
    miss_count: int
    read_count: int
    damaged_count: int
    written_count: int
    evicted_count: int
    dropped_count: int
    failed_count: int
    queued_bytes: int
    problem: str | None
