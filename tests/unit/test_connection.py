"""A connection's idle timer: one task that requests neither wake nor end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import EventWrapper

from lmx.web.connection import IdleTimer

LIMIT_S = 10.0


class Timed:
    """A timer in a task group, and when it closed its connection."""

    def __init__(self, group: TaskGroup) -> None:
        self.terminated = EventWrapper()
        self.timer = IdleTimer(LIMIT_S, self.terminated, self._close)
        self.closed_at_s: list[float] = []
        self._group = group

    async def restart(self) -> None:
        """The connection becomes idle."""
        await self.timer.restart(self._group, None)

    async def _close(self) -> None:
        self.closed_at_s.append(trio.current_time())


@asynccontextmanager
async def timed() -> AsyncIterator[Timed]:
    """A timer whose task has to end with the block."""
    async with TaskGroup() as group:
        found = Timed(group)
        yield found
        found.timer.end()


async def test_idle_for_long_is_the_end(autojump_clock: trio.testing.MockClock) -> None:
    """And not a moment before."""
    async with timed() as connection:
        began_s = trio.current_time()
        await connection.restart()
        await trio.sleep(LIMIT_S - 0.1)
        assert [] == connection.closed_at_s
        await trio.sleep(1)
        assert [began_s + LIMIT_S] == connection.closed_at_s


async def test_a_request_starts_the_time_again(autojump_clock: trio.testing.MockClock) -> None:
    """However long it takes, and however often."""
    async with timed() as connection:
        for _ in range(3):
            await connection.restart()
            await trio.sleep(LIMIT_S / 2)
            await connection.timer.stop()
            await trio.sleep(3 * LIMIT_S)
        assert [] == connection.closed_at_s
        began_s = trio.current_time()
        await connection.restart()
        await trio.sleep(2 * LIMIT_S)
        assert [began_s + LIMIT_S] == connection.closed_at_s


async def test_a_request_at_the_last_moment(mock_clock: trio.testing.MockClock) -> None:
    """It is not closed, and the time starts again afterwards."""
    async with timed() as connection:
        await connection.restart()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(LIMIT_S + 1)
        await connection.timer.stop()
        await trio.testing.wait_all_tasks_blocked()
        assert [] == connection.closed_at_s
        await connection.restart()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(LIMIT_S + 1)
        await trio.testing.wait_all_tasks_blocked()
        assert 1 == len(connection.closed_at_s)


async def test_shutdown_ends_what_is_idle_now_or_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A busy connection goes on until its request is over."""
    async with timed() as idle, timed() as busy:
        for connection in (idle, busy):
            await connection.restart()
        await trio.sleep(1)
        await busy.timer.stop()
        for connection in (idle, busy):
            await connection.terminated.set()
        await trio.sleep(1)
        assert (1, 0) == (len(idle.closed_at_s), len(busy.closed_at_s))
        await busy.restart()
        await trio.sleep(1)
        assert 1 == len(busy.closed_at_s)


async def test_the_end_of_reading_ends_the_task(autojump_clock: trio.testing.MockClock) -> None:
    """At once, and without closing what is closed; also before the task has begun."""
    for pause_s in (0.0, 1.0):
        began_s = trio.current_time()
        async with timed() as connection:
            await connection.restart()
            if pause_s:
                await trio.sleep(pause_s)
        assert began_s + pause_s == trio.current_time()
        assert [] == connection.closed_at_s
