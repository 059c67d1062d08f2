"""What the readings of memory say of a worker that was killed."""

import threading
from collections.abc import Collection

import pytest
import trio

from lmx.daemon.gauge import KILL_WINDOW_S, Gauge
from lmx.daemon.meter import Pressure, Reading


class Kernel:
    """A meter whose count of kills the test moves by hand.

    Attributes:
        kills: What it counts.
        pressure: What it says of memory.
        is_broken: Whether it cannot be read.
        is_stuck: Whether reading hangs until `release`.
    """

    def __init__(self) -> None:
        self.kills = 5  # from before the daemon began
        self.pressure: Pressure = "normal"
        self.is_broken = False
        self.is_stuck = False
        self._released = threading.Event()

    def read(self, pids: Collection[int]) -> Reading:
        if self.is_stuck:
            self._released.wait(timeout=10)
        if self.is_broken:
            raise OSError("no such luck")
        return Reading(
            used_bytes=1,
            total_bytes=2,
            daemon_bytes=0,
            worker_bytes=dict.fromkeys(pids, 7),
            oom_kills=self.kills,
            pressure=self.pressure,
        )

    def release(self) -> None:
        """End the thread that hangs."""
        self._released.set()


@pytest.fixture
def kernel() -> Kernel:
    """One that has killed before."""
    return Kernel()


async def test_a_rising_count_explains_one_death(kernel: Kernel) -> None:
    """The first death after it was the kernel's doing, a second one was not."""
    gauge = Gauge(kernel)
    await gauge.read(())
    kernel.kills += 1
    assert [True, False] == [await gauge.has_killed(), await gauge.has_killed()]


async def test_two_kills_explain_two_deaths(kernel: Kernel) -> None:
    """Both of two workers that the kernel ended at once are told as such."""
    gauge = Gauge(kernel)
    await gauge.read(())
    kernel.kills += 2
    assert [True, True, False] == [await gauge.has_killed() for _ in range(3)]


async def test_kills_before_the_daemon_began_explain_nothing(kernel: Kernel) -> None:
    """Only what rose since the first reading counts."""
    gauge = Gauge(kernel)
    assert not await gauge.has_killed()
    await gauge.read(())
    assert not await gauge.has_killed()


async def test_a_count_seen_before_the_pipe_ended(kernel: Kernel) -> None:
    """A large process takes seconds to go; a reading in between does not hide why it went."""
    gauge = Gauge(kernel)
    await gauge.read(())
    kernel.kills += 1
    await gauge.read(())
    assert await gauge.has_killed()


async def test_an_old_kill_explains_nothing(kernel: Kernel) -> None:
    """What somebody kills by hand long after is no victim of the kernel."""
    now_s = trio.current_time()
    gauge = Gauge(kernel)
    await gauge.read(())
    kernel.kills += 1
    await gauge.read(())
    while trio.current_time() < now_s + KILL_WINDOW_S + 2:
        await trio.sleep(1)
        await gauge.read(())
    assert not await gauge.has_killed()


async def test_critical_pressure_explains_where_nobody_counts(kernel: Kernel) -> None:
    """MacOS keeps no count; its verdict at the time has to do."""
    gauge = Gauge(kernel)
    kernel.pressure = "critical"
    await gauge.read(())
    kernel.pressure = "normal"
    assert await gauge.has_killed()


@pytest.mark.parametrize("fault", ["is_broken", "is_stuck"])
async def test_without_a_fresh_reading_the_last_ones_count(kernel: Kernel, fault: str) -> None:
    """A meter that fails or hangs costs half a second and no answer."""
    gauge = Gauge(kernel)
    await gauge.read(())
    kernel.kills += 1
    await gauge.read(())
    setattr(kernel, fault, True)
    with trio.fail_after(5):
        assert await gauge.has_killed()
        assert not await gauge.has_killed()
    kernel.release()


async def test_the_last_reading_is_kept(kernel: Kernel) -> None:
    """With the processes that were asked for, also after somebody asked about a death."""
    gauge = Gauge(kernel)
    await gauge.read([3])
    await gauge.has_killed()
    assert gauge.reading is not None
    assert {3: 7} == gauge.reading.worker_bytes
