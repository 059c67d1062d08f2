"""While nothing is asked a worker does what can wait, piece by piece, and hears every command."""

from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

from lmx.protocol.messages import Event, Shutdown
from lmx.worker.intake import Work
from lmx.worker.intervals import IntervalLog
from lmx.worker.lease import WorkerLease
from lmx.worker.loop import run_steps


class Resting:
    """A scheduler without requests that has so many pieces of other work."""

    has_work = False

    def __init__(self, work: SimpleQueue[Work], pieces: int, end_after: int) -> None:
        self.rests = 0
        self._work = work
        self._pieces = pieces
        self._end_after = end_after

    def rest(self) -> bool:
        self.rests += 1
        if self.rests == self._end_after:
            self._work.put(Shutdown())
        return self.rests < self._pieces

    def submit(self, _work: Any) -> None: ...
    def cancel(self, _sequence: int) -> Sequence[Event]:
        return ()

    def stop_thinking(self, _sequence: int) -> None: ...
    def shrink(self, _prefix_cache_bytes: int | None = None) -> None: ...
    def step(self) -> Sequence[Event]:
        return ()


def run(pieces: int, end_after: int) -> int:
    """How often a worker rested that is told to end after so many times."""
    work: SimpleQueue[Work] = SimpleQueue()
    scheduler = Resting(work, pieces, end_after)
    lease = WorkerLease(is_needed=False, quiesce=lambda: None, clock=lambda: 0.0)
    run_steps(work, scheduler, lambda _: None, lease=lease, log=IntervalLog(None))
    return scheduler.rests


def test_it_rests_until_nothing_is_left() -> None:
    """Then it waits for commands without waking up."""
    assert 3 == run(pieces=3, end_after=3)


def test_a_command_ends_the_rest() -> None:
    """What is left is done in the next pause."""
    assert 2 == run(pieces=100, end_after=2)
