"""The meter at work: read in a thread, its last reading kept, and what its readings say of a death.

A process that the kernel ended for want of memory looks like any other that got a SIGKILL. What
tells them apart is a count of such kills that rose around the time of the death, or, on a system
that keeps no count, memory that was critical then. It decides nothing.
"""

from collections import deque
from collections.abc import Collection
from contextlib import suppress
from functools import partial

import trio

from lmx.daemon.meter import Meter, Reading

# A count that rose this long ago may still explain a death: taking a large process down takes the
# kernel seconds, and its pipe ends last.
KILL_WINDOW_S = 10.0
# How long a death waits for a reading of its own; after that the earlier readings have to do.
KILL_READ_WAIT_S = 0.5


class Gauge:
    """Reads a meter, one reading at a time.

    Args:
        meter: Read in a thread.

    Attributes:
        reading: The last one that succeeded.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        # A thread of its own: other work must not delay a reading.
        self._threads = trio.CapacityLimiter(1)
        self._recent: deque[tuple[float, Reading]] = deque()
        self._explained: deque[float] = deque()  # when a kill was taken for a death's cause
        self.reading: Reading | None = None

    async def read(self, pids: Collection[int]) -> Reading:
        """Memory now, with what each of these processes holds.

        Raises:
            OSError: It cannot be read.

        Cancellation:
            Leaves a reading that hangs to its thread.
        """
        self.reading = await self._take(pids)
        return self.reading

    async def has_killed(self) -> bool:
        """Whether the kernel has just ended a process for want of memory. Asked once per death.

        One kill explains one death, so that a process which somebody else kills soon after is not
        taken for a second victim.
        """
        with trio.move_on_after(KILL_READ_WAIT_S), suppress(OSError):
            await self._take(())  # failing this, the readings before the death have to do
        now_s = trio.current_time()
        self._forget(now_s)
        if any(reading.pressure == "critical" for _, reading in self._recent):
            return True
        counts = [reading.oom_kills for _, reading in self._recent]
        if not counts or counts[-1] - counts[0] <= len(self._explained):
            return False
        self._explained.append(now_s)
        return True

    async def _take(self, pids: Collection[int]) -> Reading:
        read = partial(self._meter.read, tuple(pids))
        reading = await trio.to_thread.run_sync(read, abandon_on_cancel=True, limiter=self._threads)
        now_s = trio.current_time()
        self._recent.append((now_s, reading))
        self._forget(now_s)
        return reading

    def _forget(self, now_s: float) -> None:
        """Keep what lies in the window, and the one reading before it to count from."""
        while len(self._recent) > 1 and self._recent[1][0] < now_s - KILL_WINDOW_S:
            self._recent.popleft()
        while self._explained and self._explained[0] < now_s - KILL_WINDOW_S:
            self._explained.popleft()
