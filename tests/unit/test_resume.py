"""Answers that are kept: what readers get, how long, and what all of them together may hold."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.config import ServerSettings, Settings
from lmx.errors import InvalidRequest, LmxError, NoModelLoaded, StreamNotFound
from lmx.web.answer_log import MESSAGE_FRAMING, SSE_FRAMING, AnswerLog
from lmx.web.answers import StartStream
from lmx.web.resume import AnswerKeeper, KeptAnswer, Perform

if TYPE_CHECKING:
    from lmx.web.sink import Sink


def frame(text: str) -> bytes:
    """One event."""
    return b'data: {"t":"%b"}\n\n' % text.encode()


class Script:
    """An answer whose frames the test gives."""

    def __init__(self) -> None:
        self.sink: Sink | None = None
        self.cancelled = False
        self._over = trio.Event()

    async def perform(self, start: StartStream, *, heartbeat_s: float) -> None:
        self.sink = await start(frame("first"))
        try:
            await self._over.wait()
        except trio.Cancelled:
            self.cancelled = True
            raise

    def say(self, *texts: str) -> None:
        assert self.sink is not None
        self.sink.feed(b"".join(map(frame, texts)))

    def end(self) -> None:
        self._over.set()


class Owner:
    """Says what ends a cancelled answer."""

    name = "a"
    is_over = False

    def encode_cancelled(self) -> bytes:
        return frame("last")

    def stop_thinking(self) -> None:
        raise AssertionError("nobody asks for it")


class Keeping:
    """A running keeper."""

    def __init__(self, keeper: AnswerKeeper) -> None:
        self.keeper = keeper

    async def begin(self, answer_id: str) -> tuple[KeptAnswer, Script]:
        """An answer that has begun."""
        script = Script()
        kept = self.keeper.begin(answer_id, SSE_FRAMING, script.perform)
        await kept.wait_open()
        return kept, script

    def is_kept(self, answer_id: str) -> bool:
        """Whether it can be taken up."""
        try:
            self.keeper.find(f"{answer_id}:0", SSE_FRAMING)
        except StreamNotFound:
            return False
        return True


def keeper_with(**settings: Any) -> AnswerKeeper:
    """A keeper with these settings of the server."""
    return AnswerKeeper(Settings(home=Path("/nowhere"), server=ServerSettings(**settings)))


async def keeping(use: Callable[[Keeping], Awaitable[None]], **settings: Any) -> None:
    """Run a test with a keeper."""
    keeper = keeper_with(**settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.run)
        await use(Keeping(keeper))
        nursery.cancel_scope.cancel()


@given(st.lists(st.integers(0, 5), max_size=12), st.integers(0, 12))
def test_who_comes_back_reads_on_where_it_was(sizes: list[int], seen: int) -> None:
    """At any frame and however the frames came: the two pieces are the whole."""
    log = AnswerLog("a", SSE_FRAMING, lambda _: None)
    for number, size in enumerate(sizes):
        log.feed(b"".join(frame(f"{number}.{i}") for i in range(size)))
    log.finish()
    seen = min(seen, sum(sizes))
    whole = log.frames_after(0)
    first = b"".join(part + b"\n\n" for part in whole.split(b"\n\n")[:-1][:seen])
    reader = log.read_after(seen)
    assert whole == first + reader.take()
    assert reader.is_ended
    assert b"" == reader.take()


@pytest.mark.parametrize(
    ("framing", "given_frame", "kept"),
    [
        (SSE_FRAMING, b"data: {}\n\n", b"id: a:1\ndata: {}\n\n"),
        (MESSAGE_FRAMING, b'{"x":1}\n', b'{"event_id":"a:1","x":1}\n'),
    ],
)
def test_every_frame_says_its_id(framing: Any, given_frame: bytes, kept: bytes) -> None:
    """In the way of its transport."""
    log = AnswerLog("a", framing, lambda _: None)
    log.feed(given_frame)
    assert kept == log.frames_after(0)


async def test_an_answer_is_kept_for_a_while_after_its_end(autojump_clock: MockClock) -> None:
    """Not from its beginning: a long one is still there when it ends."""

    async def use(house: Keeping) -> None:
        _, script = await house.begin("a")
        await trio.sleep(1000)
        script.end()
        await trio.sleep(59)
        assert house.is_kept("a")
        await trio.sleep(2)
        assert not house.is_kept("a")
        assert 0 == house.keeper.held_bytes

    await keeping(use, resume_keep_s=60)


async def test_an_answer_goes_on_without_readers(autojump_clock: MockClock) -> None:
    """And several may read it, each at its own place."""

    async def use(house: Keeping) -> None:
        kept, script = await house.begin("a")
        script.say("one")
        first, second = kept.log.read_after(0), kept.log.read_after(1)
        whole = first.take()
        assert whole.endswith(second.take())
        script.say("two")
        assert b"two" in first.take()
        assert not second.is_ended
        script.end()
        await wait_all_tasks_blocked()
        assert (True, b"two" in second.take()) == (first.is_ended, True)

    await keeping(use)


async def test_a_refused_answer_is_an_error_and_is_not_kept(autojump_clock: MockClock) -> None:
    """The status line is still to come, so the client gets the reason."""

    async def refuse(start: StartStream, *, heartbeat_s: float) -> None:
        await trio.sleep(1)
        raise NoModelLoaded("No model loaded")

    async def use(house: Keeping) -> None:
        kept = house.keeper.begin("a", SSE_FRAMING, refuse)
        with pytest.raises(NoModelLoaded):
            await kept.wait_open()
        await wait_all_tasks_blocked()
        assert not house.is_kept("a")

    await keeping(use)


async def test_a_fault_ends_one_answer_and_no_other(autojump_clock: MockClock) -> None:
    """What breaks is told as such, not taken for an end; the keeper goes on."""

    async def fail(start: StartStream, *, heartbeat_s: float) -> None:
        await start(frame("x"))
        raise ZeroDivisionError

    async def use(house: Keeping) -> None:
        kept = house.keeper.begin("a", SSE_FRAMING, fail)
        with pytest.raises(LmxError, match="internal error"):
            await kept.wait_open()
        await house.begin("b")
        assert house.is_kept("b")

    await keeping(use)


async def test_who_leaves_before_the_first_frame_cancels(autojump_clock: MockClock) -> None:
    """Nobody knows the answer's id, so nobody could come back for it."""
    script = Script()

    async def queue(start: StartStream, *, heartbeat_s: float) -> None:
        try:
            await trio.sleep(100)
        except trio.Cancelled:
            script.cancelled = True
            raise
        await script.perform(start, heartbeat_s=heartbeat_s)

    async def use(house: Keeping) -> None:
        kept = house.keeper.begin("a", SSE_FRAMING, queue)
        with trio.move_on_after(1):
            await kept.wait_open()
        await wait_all_tasks_blocked()
        assert (True, 0) == (script.cancelled, house.keeper.held_bytes)

    await keeping(use)


async def test_cancelling_ends_it_with_the_last_frame(autojump_clock: MockClock) -> None:
    """What the model says after that is no part of the answer."""

    async def use(house: Keeping) -> None:
        kept, script = await house.begin("a")
        kept.owner = Owner()
        reader = kept.log.read_after(1)
        kept.cancel()
        script.say("late")
        kept.cancel()
        await wait_all_tasks_blocked()
        assert (b"id: a:2\n" + frame("last"), True) == (reader.take(), reader.is_ended)
        assert script.cancelled

    await keeping(use)


async def test_what_has_said_its_last_is_not_cancelled(autojump_clock: MockClock) -> None:
    """A cancel between the last frame and the end of the task adds no second last frame."""

    async def use(house: Keeping) -> None:
        kept, script = await house.begin("a")
        kept.owner = Owner()
        reader = kept.log.read_after(1)
        script.say("done")
        kept.owner.is_over = True
        kept.cancel()
        script.end()
        await wait_all_tasks_blocked()
        assert (b"id: a:2\n" + frame("done"), True) == (reader.take(), reader.is_ended)
        assert not script.cancelled

    await keeping(use)


async def test_what_all_hold_is_bounded(autojump_clock: MockClock) -> None:
    """First go those that are over, then running ones that nobody reads, which are cancelled."""

    async def use(house: Keeping) -> None:
        (_, over), (_, unread), (read, speaking) = [await house.begin(n) for n in ("o", "u", "r")]
        reader = read.log.read_after(0)
        reader.listen(lambda: None)
        for script in (over, unread, speaking):
            script.say("x" * 300)
        over.end()
        await wait_all_tasks_blocked()
        assert [True] * 3 == [house.is_kept(n) for n in ("o", "u", "r")]
        speaking.say("y" * 100)
        assert [False, True, True] == [house.is_kept(n) for n in ("o", "u", "r")]
        speaking.say("z" * 500)
        await wait_all_tasks_blocked()
        assert [False, False, True] == [house.is_kept(n) for n in ("o", "u", "r")]
        assert (True, False) == (unread.cancelled, speaking.cancelled)

    await keeping(use, resume_max_mb=1100 / 1e6)


async def test_a_reader_reads_on_when_its_answer_is_given_up(autojump_clock: MockClock) -> None:
    """It gets every frame; what it has had is not held any more."""

    async def use(house: Keeping) -> None:
        kept, script = await house.begin("a")
        reader = kept.log.read_after(0)
        reader.listen(lambda: None)
        told = reader.take()
        for number in range(50):
            script.say(f"{number}" * 50)
            told += reader.take()
        assert not house.is_kept("a")
        assert house.keeper.held_bytes < 1000
        script.end()
        await wait_all_tasks_blocked()
        assert (True, 51) == (reader.is_ended, told.count(b"data: "))
        reader.listen(None)
        assert 0 == house.keeper.held_bytes

    await keeping(use, resume_max_mb=500 / 1e6)


@pytest.mark.parametrize("event_id", ["", "a", ":1", "a:", "a:x", "a:-1", "a:²"])
async def test_what_is_no_id_is_refused(event_id: str, autojump_clock: MockClock) -> None:
    """With a reason, not a guess."""

    async def use(house: Keeping) -> None:
        await house.begin("a")
        with pytest.raises(InvalidRequest):
            house.keeper.find(event_id, SSE_FRAMING)

    await keeping(use)


@pytest.mark.parametrize("event_id", ["b:1", "a:2", "a:" + "9" * 99])
async def test_what_is_not_kept_is_not_found(event_id: str, autojump_clock: MockClock) -> None:
    """Neither another answer nor a frame that was never sent; nor over another transport."""

    async def use(house: Keeping) -> None:
        await house.begin("a")
        with pytest.raises(StreamNotFound):
            house.keeper.find(event_id, SSE_FRAMING)
        with pytest.raises(StreamNotFound, match="SSE only"):
            house.keeper.find("a:1", MESSAGE_FRAMING)

    await keeping(use)


@pytest.mark.parametrize(
    ("setting", "asked", "wants"),
    [(False, None, False), (False, True, True), (True, None, True), (True, False, False)],
)
def test_the_request_decides_before_the_setting(
    setting: bool,  # noqa: FBT001  # a table's columns
    asked: bool | None,  # noqa: FBT001
    wants: bool,  # noqa: FBT001
) -> None:
    """Off unless one of them asks."""
    assert wants is keeper_with(resume=setting).wants(asked)


def test_a_keeper_that_does_not_run_keeps_nothing() -> None:
    """It says so at once."""
    unused: Perform = Script().perform
    with pytest.raises(RuntimeError):
        keeper_with().begin("a", SSE_FRAMING, unused)
