"""The link over a real socket pair, with the test playing the worker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lmx.daemon.reply import ReplyStream
from lmx.errors import CorruptModel, FrameError, InvalidRequest, LmxError, WorkerBroken
from lmx.protocol.codec import LENGTH, encode_events
from lmx.protocol.messages import (
    Cancel,
    ChatPrompt,
    Generate,
    Load,
    LoadFailed,
    Rejected,
    Shutdown,
    Started,
)
from tests.fakes import ScriptedWorker, delta, finished, generate, loaded_event

LOAD = Load("fake", "", 4)


@asynccontextmanager
async def open_link() -> AsyncIterator[ScriptedWorker]:
    """A worker whose link is being pumped; the pump ends with the block."""
    worker = ScriptedWorker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        try:
            yield worker
        finally:
            nursery.cancel_scope.cancel()


def open_one(worker: ScriptedWorker) -> ReplyStream:
    """A request for one choice."""
    (reply,) = worker.link.open_replies(generate())
    return reply


async def settled(worker: ScriptedWorker, *replies: ReplyStream) -> list[tuple[str, bool]]:
    """Text and whether it is over, of each reply, once all that was sent has arrived."""
    await wait_all_tasks_blocked()
    return [(reply.take_text(), reply.is_over) for reply in replies]


async def test_requests_are_numbered_and_sent_in_order() -> None:
    """Each request gets a number of its own, whatever number it came with."""
    async with open_link() as worker:
        numbers = [open_one(worker).sequence for _ in range(3)]
        sent = [c.sequence for c in worker.commands() if isinstance(c, Generate)]
        assert [1, 2, 3] == numbers == sent


async def test_events_reach_their_requests() -> None:
    """The events of one step are told apart by their number."""
    async with open_link() as worker:
        one, two = open_one(worker), open_one(worker)
        worker.send(Started(2, 5), Started(1, 4), delta(1, "a"))
        worker.send(delta(2, "b"), delta(1, "c"), finished(2))
        assert [("ac", False), ("b", True)] == await settled(worker, one, two)
        assert (Started(1, 4), Started(2, 5)) == (one.started, two.started)
        assert 6 == worker.link.sign_count


async def test_closing_a_running_reply_cancels_it_once() -> None:
    """The worker is told once, and what it still says is dropped."""
    async with open_link() as worker:
        reply = open_one(worker)
        worker.send(Started(1, 4))
        await wait_all_tasks_blocked()
        worker.commands()
        worker.link.close_reply(reply)
        worker.link.close_reply(reply)
        assert [Cancel(1)] == worker.commands()
        worker.send(delta(1, "late"), finished(1, "cancelled"))
        assert [("", False)] == await settled(worker, reply)


async def test_closing_an_ended_reply_sends_nothing() -> None:
    """A request that has finished or was rejected needs no cancellation."""
    async with open_link() as worker:
        done, refused = open_one(worker), open_one(worker)
        worker.send(Started(1, 4), finished(1), Rejected(2, "invalid-request", "no"))
        await wait_all_tasks_blocked()
        worker.commands()
        worker.link.close_reply(done)
        worker.link.close_reply(refused)
        assert [] == worker.commands()


async def test_a_load_that_succeeds() -> None:
    """`load` sends the command and returns what the worker reports."""
    async with open_link() as worker:
        worker.send(loaded_event(7))
        assert loaded_event(7) == await worker.link.load(LOAD)
        assert [LOAD] == worker.commands()


async def test_a_load_that_fails() -> None:
    """`load` raises the error that the worker's code names."""
    async with open_link() as worker:
        worker.send(LoadFailed("corrupt-model", "no weights"))
        with pytest.raises(CorruptModel, match="no weights"):
            await worker.link.load(LOAD)


async def test_a_worker_that_dies_while_loading() -> None:
    """`load` raises the reason with which the link was ended."""
    async with open_link() as worker:
        worker.die()
        with pytest.raises(WorkerBroken, match="the scripted worker ended"):
            await worker.link.load(LOAD)


async def test_a_worker_that_dies_fails_every_open_reply() -> None:
    """Running and waiting requests all hear why; later ones are refused."""
    async with open_link() as worker:
        running, waiting = open_one(worker), open_one(worker)
        worker.send(Started(1, 4), delta(1, "half"))
        worker.die()
        assert [("half", True), ("", True)] == await settled(worker, running, waiting)
        assert isinstance(running.error, WorkerBroken)
        assert isinstance(waiting.error, WorkerBroken)
        with pytest.raises(WorkerBroken):
            open_one(worker)
        worker.link.close_reply(running)
        worker.link.send(Shutdown())


async def test_the_first_end_counts() -> None:
    """Ending twice keeps the first reason."""
    worker = ScriptedWorker()
    reply = open_one(worker)
    worker.link.end(WorkerBroken("first"))
    worker.link.end(LmxError("second"))
    await wait_all_tasks_blocked()
    assert "first" == str(reply.error)


OUT_OF_ORDER = {
    "delta before start": [delta(1, "a")],
    "end before start": [finished(1)],
    "two starts": [Started(1, 4), Started(1, 4)],
    "rejected after start": [Started(1, 4), Rejected(1, "invalid-request", "no")],
}


@pytest.mark.parametrize("name", OUT_OF_ORDER)
async def test_an_event_out_of_order_condemns_the_worker(name: str) -> None:
    """The pump ends with `FrameError`, and every reply, the one at fault too, is failed."""
    async with open_link() as worker:
        replies = [open_one(worker), open_one(worker)]
        worker.send(*OUT_OF_ORDER[name])
        await wait_all_tasks_blocked()
        assert [True, True] == [reply.is_over for reply in replies]
        assert all("out of order" in str(reply.error) for reply in replies)


@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff\xff", LENGTH.pack(3) + b"abc", LENGTH.pack(0)],
    ids=["length", "payload", "empty"],
)
async def test_garbage_condemns_the_worker(data: bytes) -> None:
    """Bytes that are no frame end the pump with `FrameError`."""
    worker = ScriptedWorker()
    worker.send_bytes(data)
    with pytest.RaisesGroup(FrameError):
        await worker.link.run()
    worker.link.end(LmxError("condemned"))


async def test_a_frame_may_arrive_in_pieces() -> None:
    """A frame cut in two is delivered when its second half comes."""
    async with open_link() as worker:
        reply = open_one(worker)
        data = encode_events([Started(1, 4), delta(1, "abc")])
        worker.send_bytes(data[:7])
        assert [("", False)] == await settled(worker, reply)
        worker.send_bytes(data[7:])
        assert [("abc", False)] == await settled(worker, reply)


def big_request(number: int) -> Generate:
    """A request of about half a megabyte, more than a socket buffer holds."""
    message = {"role": "user", "content": f"{number}" + "x" * 500_000}
    return msgspec.structs.replace(generate(), prompt=ChatPrompt([message]))


async def test_commands_wait_for_a_worker_that_does_not_read() -> None:
    """Sending never blocks; everything arrives whole and in order once the worker reads."""
    async with open_link() as worker:
        for number in range(6):
            worker.link.open_replies(big_request(number))
        received = worker.commands()  # the kernel has room again, but older bytes wait
        worker.link.send(Shutdown())
        while not received or received[-1] != Shutdown():
            received += worker.commands()
            await wait_all_tasks_blocked()
        prompts = [c.prompt for c in received if isinstance(c, Generate)]
        firsts = [p.messages[0]["content"][0] for p in prompts if isinstance(p, ChatPrompt)]
        assert ["0", "1", "2", "3", "4", "5"] == firsts


async def test_ending_with_a_full_outbox_is_clean() -> None:
    """A link may be ended while commands still wait for a worker that does not read."""
    worker = ScriptedWorker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.link.run)
        (reply,) = worker.link.open_replies(big_request(1))
        await wait_all_tasks_blocked()
        worker.link.end(WorkerBroken("stopped"))
        await wait_all_tasks_blocked()
        assert 0 == len(nursery.child_tasks)
    assert "stopped" == str(reply.error)


async def test_a_worker_that_dies_with_commands_unread_is_noticed() -> None:
    """The pump ends although the outbox is not empty."""
    async with open_link() as worker:
        (reply,) = worker.link.open_replies(big_request(1))
        await wait_all_tasks_blocked()
        worker.die()
        assert [("", True)] == await settled(worker, reply)


async def test_a_request_that_no_frame_can_carry_leaves_no_trace() -> None:
    """It is refused as the client's fault, the worker hears nothing, the next one works."""
    async with open_link() as worker:
        prompt = ChatPrompt([{"role": "user", "tool_calls": [2**70]}])
        bad = msgspec.structs.replace(generate(), prompt=prompt)
        with pytest.raises(InvalidRequest):
            worker.link.open_replies(bad)
        reply = open_one(worker)
        assert [reply.sequence] == [c.sequence for c in worker.commands()]


async def test_events_of_nobody_are_ignored() -> None:
    """What a worker says about a request that was closed long ago harms nobody."""
    async with open_link() as worker:
        reply = open_one(worker)
        worker.link.close_reply(reply)
        worker.send(Started(1, 4), delta(1, "a"), finished(1))
        await wait_all_tasks_blocked()
        other = open_one(worker)
        worker.send(Started(2, 4))
        assert [("", False)] == await settled(worker, other)
        assert 1 == worker.link.sign_count
