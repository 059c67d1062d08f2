"""The thread that writes behind: a bounded queue, and only while the engine is idle.

A step of the engine shares its cores and its memory bus with the digests and copies of a write,
so nothing is written between `hold` and `allow`; a write under way ends first. What the queue has
no room for is refused at once, which leaves the records before it, and so their chain, whole.
After a failure the queue is given up, and for a while nothing is taken: a full disk stays full.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from lmx.engines.prefix.disk.entries import Entry, Place
from lmx.engines.prefix.disk.records import DiskSettings
from lmx.engines.prefix.disk.store import Pending, Store
from lmx.engines.prefix.disk.troubles import Troubles

# How long a hit is known to this process alone.
_TOUCH_DELAY_S = 5.0


class Writer:
    """Writes what it is offered. Any thread may call it.

    Args:
        store: Where to. The writer's thread is the only one to use it.
        troubles: Where failures are noted.
        settings: The queue's bound, and how long things wait.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        store: Store,
        troubles: Troubles,
        *,
        settings: DiskSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._troubles = troubles
        self._settings = settings
        self._clock = clock
        self._changed = threading.Condition()  # guards everything below
        self._queue: deque[Pending] = deque()  # the first is being written
        self._used: dict[Entry, int] = {}  # hits the file system does not know of
        self._schedule = _Schedule(survey_at_s=clock() + settings.survey_s)
        self._counts = _Counts()
        self._thread = threading.Thread(target=self._run, name="prefix-disk", daemon=True)
        self._thread.start()

    def is_taking(self, size_bytes: int) -> bool:
        """Whether a record of this size would be taken now; counts it as dropped if not."""
        with self._changed:
            if self._has_room(size_bytes):
                return True
            self._counts.dropped += 1
            return False

    def offer(self, pending: Pending) -> bool:
        """Write it when there is time for it.

        Returns:
            It waits for that, or did already. If not, it is dropped.
        """
        with self._changed:
            if any(waiting.place == pending.place for waiting in self._queue):
                return True
            if not self._has_room(pending.size_bytes):
                self._counts.dropped += 1
                return False
            self._queue.append(pending)
            self._counts.queued_bytes += pending.size_bytes
            self._changed.notify_all()
            return True

    def has(self, place: Place) -> bool:
        """Whether such a record waits to be written."""
        with self._changed:
            return any(_serves(pending.place, place) for pending in self._queue)

    def note_use(self, entry: Entry, used_ns: int) -> None:
        """A record was of use; the file is told later."""
        with self._changed:
            if not self._used:
                self._schedule.touch_at_s = self._clock() + _TOUCH_DELAY_S
                self._changed.notify_all()
            self._used[entry] = used_ns

    def allow(self) -> None:
        """The engine is idle."""
        with self._changed:
            self._schedule.is_allowed = True
            self._changed.notify_all()

    def hold(self) -> None:
        """The engine has work."""
        with self._changed:
            self._schedule.is_allowed = False

    def flush(self, deadline_s: float) -> bool:
        """Write everything, idle or not.

        Args:
            deadline_s: How long that may take.

        Returns:
            Everything that waited was dealt with, and nothing of it was dropped.
        """
        with self._changed:
            dropped = self._counts.dropped
            self._schedule.flush_until_s = self._clock() + deadline_s
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._queue, timeout=deadline_s)
            return not self._queue and self._counts.dropped == dropped

    def close(self, deadline_s: float) -> None:
        """Write what there is time for, then end. What is left is dropped."""
        self.flush(deadline_s)
        with self._changed:
            self._schedule.is_closing = True
            self._changed.notify_all()
        # A write under way is not torn off; the file system may still keep it longer than this.
        self._thread.join(max(1.0, deadline_s))

    def reading(self) -> tuple[int, int, int]:
        """Records written, records dropped, bytes that wait."""
        with self._changed:
            return self._counts.written, self._counts.dropped, self._counts.queued_bytes

    def _run(self) -> None:
        while self._wait_for_work():
            self._touch()
            self._survey()
            with self._changed:
                pending = self._queue[0] if self._may_write() else None
            if pending is not None:
                self._write(pending)
        self._touch()
        with self._changed:
            self._drop_queue()

    def _wait_for_work(self) -> bool:
        """Returns false when it is time to end."""
        with self._changed:
            while not self._schedule.is_closing:
                next_s = self._next_errand_in_s()
                if self._may_write() or (next_s is not None and next_s <= 0):
                    return True
                self._changed.wait(next_s)
            return False

    def _write(self, pending: Pending) -> None:
        try:
            is_written = self._store.write(pending)
        except OSError as error:
            self._troubles.note("Writing the prefix cache to disk paused", error)
            with self._changed:
                self._schedule.paused_until_s = self._clock() + self._settings.pause_s
                self._drop_queue()
            return
        with self._changed:
            self._counts.written += is_written
            self._counts.dropped += not is_written
            self._take_first()

    def _touch(self) -> None:
        with self._changed:
            if not self._schedule.is_closing and self._touch_in_s() > 0:
                return
            used, self._used = self._used, {}
        try:
            self._store.touch(used)
        except OSError as error:
            self._troubles.note("The time of a hit could not be kept", error)

    def _survey(self) -> None:
        with self._changed:
            if not self._schedule.is_allowed or self._clock() < self._schedule.survey_at_s:
                return
        try:
            self._store.survey()
        except OSError as error:
            self._troubles.note("The prefix cache on disk cannot be read", error)
        with self._changed:
            self._schedule.survey_at_s = self._clock() + self._settings.survey_s

    def _drop_queue(self) -> None:
        while self._queue:
            self._counts.dropped += 1
            self._take_first()

    def _take_first(self) -> None:
        self._counts.queued_bytes -= self._queue.popleft().size_bytes
        self._changed.notify_all()

    def _has_room(self, size_bytes: int) -> bool:
        if self._schedule.is_closing or self._clock() < self._schedule.paused_until_s:
            return False
        return self._counts.queued_bytes + size_bytes <= self._settings.queue_bytes

    def _may_write(self) -> bool:
        is_flushing = self._clock() < self._schedule.flush_until_s
        return bool(self._queue) and (self._schedule.is_allowed or is_flushing)

    def _next_errand_in_s(self) -> float | None:
        errands_s = [self._touch_in_s()] if self._used else []
        if self._schedule.is_allowed:
            errands_s.append(self._schedule.survey_at_s - self._clock())
        return min(errands_s, default=None)

    def _touch_in_s(self) -> float:
        return self._schedule.touch_at_s - self._clock()


class _Schedule:
    """When what may happen; seconds of the writer's clock."""

    def __init__(self, *, survey_at_s: float) -> None:
        self.is_allowed = False
        self.is_closing = False
        self.flush_until_s = 0.0
        self.paused_until_s = 0.0
        self.survey_at_s = survey_at_s  # happens while allowed
        self.touch_at_s = 0.0  # means something while there are hits to tell


class _Counts:
    def __init__(self) -> None:
        self.written = 0
        self.dropped = 0
        self.queued_bytes = 0


def _serves(held: Place, wanted: Place) -> bool:
    is_same = (held.start_digest, held.end_digest) == (wanted.start_digest, wanted.end_digest)
    return is_same and (held.has_snapshot or not wanted.has_snapshot)
