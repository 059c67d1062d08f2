"""A failed task is started again after a growing pause, and cancellation passes through."""

from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from lmx.daemon.restarts import DELAY_LIMIT_S, FIRST_DELAY_S, keep_running, restart_delay_s


@given(st.integers(1, 10_000), st.floats(0.01, 10), st.floats(10, 100))
def test_the_pause_doubles_up_to_its_limit(failures: int, first_s: float, limit_s: float) -> None:
    """The pause is the doubled first one or the limit, within a fifth."""
    base_s = min(limit_s, first_s * 2 ** min(failures - 1, 60))
    delay_s = restart_delay_s(failures, first_s=first_s, limit_s=limit_s)
    assert 0.8 * base_s <= delay_s <= 1.2 * base_s


def test_pauses_are_spread() -> None:
    """Many tasks that failed together do not come back together."""
    assert len({restart_delay_s(3, first_s=1, limit_s=30) for _ in range(20)}) > 1


class Flaky:
    """A task that fails a number of times and then returns.

    Attributes:
        started_at: When each attempt began.
    """

    def __init__(self, *errors: BaseException) -> None:
        self.started_at: list[float] = []
        self._errors = list(errors)

    async def __call__(self) -> None:
        self.started_at.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self._errors:
            raise self._errors.pop(0)


async def test_a_task_that_returns_is_done(autojump_clock: MockClock) -> None:
    """Nothing is restarted without a failure."""
    task = Flaky()
    await keep_running(task, name="x")
    assert 1 == len(task.started_at)


async def test_a_task_runs_until_it_returns(autojump_clock: MockClock) -> None:
    """Failures of any kind, groups too, cost a growing pause each."""
    task = Flaky(ValueError(), OSError(), ExceptionGroup("both", [KeyError(), TypeError()]))
    await keep_running(task, name="x")
    times = task.started_at
    pauses = [after - before for before, after in pairwise(times)]
    assert 3 == len(pauses)
    for number, pause_s in enumerate(pauses):
        assert 0.8 * FIRST_DELAY_S * 2**number <= pause_s <= 1.2 * FIRST_DELAY_S * 2**number


async def test_it_never_gives_up(autojump_clock: MockClock) -> None:
    """After a hundred failures there is still a next attempt, at the longest pause."""
    task = Flaky(*(ValueError() for _ in range(100)))
    await keep_running(task, name="x")
    assert 101 == len(task.started_at)
    assert task.started_at[-1] - task.started_at[-2] <= 1.2 * DELAY_LIMIT_S


async def test_cancellation_is_no_failure(autojump_clock: MockClock) -> None:
    """A cancelled task is not started again."""
    attempts = 0

    async def forever() -> None:
        nonlocal attempts
        attempts += 1
        await trio.sleep_forever()

    with trio.move_on_after(5):
        await keep_running(forever, name="x")
    assert 1 == attempts


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_passes_through(kind: type[BaseException]) -> None:
    """What is meant for the process is not swallowed."""
    with pytest.RaisesGroup(kind):
        await keep_running(Flaky(BaseExceptionGroup("x", [kind(), ValueError()])), name="x")
