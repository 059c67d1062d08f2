"""A worker hangs when it has work and shows no sign of it for too long; nothing else counts."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from lmx.daemon.stalls import wait_stalled
from lmx.protocol.messages import Event, Inspected, Started, TextPrompt, Vitals
from lmx.protocol.values import Memory
from tests.fakes import ScriptedWorker, delta, finished, generate

LIMIT_S = 30.0
VITALS = Vitals(Memory(5, 6, 7))


class Watch:
    """A worker under watch.

    Attributes:
        worker: The worker.
        stalled_at_s: When it was found to hang.
        is_excused: Whether it cannot be expected to work.
    """

    def __init__(self) -> None:
        self.worker = ScriptedWorker()
        self.stalled_at_s: float | None = None
        self.is_excused = False

    async def run(self, limit_s: float = LIMIT_S) -> None:
        """Watch until it hangs."""
        await wait_stalled(self.worker.link, limit_s, is_excused=lambda: self.is_excused)
        self.stalled_at_s = trio.current_time()


@asynccontextmanager
async def open_watch() -> AsyncIterator[Watch]:
    """A watch that runs, over a link that is pumped."""
    watch = Watch()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.worker.run)
        nursery.start_soon(watch.run)
        yield watch
        nursery.cancel_scope.cancel()


async def test_without_work_there_is_no_hang(autojump_clock: MockClock) -> None:
    """An idle worker may be silent for ever; its time counts from the request."""
    async with open_watch() as watch:
        await trio.sleep(1000)
        watch.worker.link.open_replies(generate())
        await trio.sleep(LIMIT_S - 2)
        assert None is watch.stalled_at_s
        await trio.sleep(4)
        assert watch.stalled_at_s is not None


@pytest.mark.parametrize(
    "sign", [lambda _: VITALS, lambda _: delta(1, "x"), lambda _: delta(1, "")]
)
async def test_signs_of_work(sign: Callable[[int], Event], autojump_clock: MockClock) -> None:
    """Tokens and pieces of a prefill count; as long as they come, however slowly, it works."""
    async with open_watch() as watch:
        watch.worker.link.open_replies(generate())
        watch.worker.send(Started(1, 3))
        for number in range(20):
            await trio.sleep(LIMIT_S - 2)
            watch.worker.send(sign(number))
        assert None is watch.stalled_at_s
        assert watch.worker.link.memory in {None, VITALS.memory}
        await trio.sleep(LIMIT_S + 2)
        assert watch.stalled_at_s is not None


async def test_answering_is_no_sign_of_work(autojump_clock: MockClock) -> None:
    """A worker whose other threads still talk hangs all the same."""
    async with open_watch() as watch:
        watch.worker.link.open_replies(generate())
        for number in range(2, 5):
            watch.worker.send(Inspected(number, "", [], []))
            await trio.sleep(LIMIT_S / 3)
        await trio.sleep(2)
        assert watch.stalled_at_s is not None


async def test_an_unanswered_inspection_is_a_hang(autojump_clock: MockClock) -> None:
    """Questions about prompts are work as well."""
    async with open_watch() as watch:
        with trio.move_on_after(LIMIT_S + 2):
            await watch.worker.link.inspect(TextPrompt("hi"))
        assert watch.stalled_at_s is not None


async def test_the_end_of_the_work_is_the_end_of_the_watch(autojump_clock: MockClock) -> None:
    """Once nobody waits for anything the worker may be silent."""
    async with open_watch() as watch:
        link = watch.worker.link
        link.open_replies(generate())
        watch.worker.send(Started(1, 3), finished(1))
        (cancelled,) = link.open_replies(generate())
        link.close_reply(cancelled)
        await trio.sleep(10 * LIMIT_S)
        assert None is watch.stalled_at_s


async def test_an_excuse_counts_as_a_sign(autojump_clock: MockClock) -> None:
    """The time begins anew when the excuse ends."""
    async with open_watch() as watch:
        watch.worker.link.open_replies(generate())
        watch.is_excused = True
        await trio.sleep(100 * LIMIT_S)
        watch.is_excused = False
        await trio.sleep(LIMIT_S - 2)
        assert None is watch.stalled_at_s
        await trio.sleep(4)
        assert watch.stalled_at_s is not None


@pytest.mark.parametrize("limit_s", [0.5, 3.0, 100.0])
async def test_it_is_noticed_in_time(limit_s: float, autojump_clock: MockClock) -> None:
    """Not before the limit, and little after it."""
    watch = Watch()
    watch.worker.link.open_replies(generate())
    with trio.fail_after(limit_s + 2 * min(1, limit_s / 20)):
        await watch.run(limit_s)
    assert trio.current_time() >= limit_s
