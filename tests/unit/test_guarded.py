"""The stream under every connection: pieces that are to arrive together do so, in order."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lmx.web.exchange import STREAM_EXTENSION, Answer, Exchange, run_exchange
from lmx.web.guarded import GuardedStream


@asynccontextmanager
async def open_read() -> AsyncIterator[tuple[GuardedStream, list[bytes]]]:
    """A guarded stream, and what its peer has been given by each of its reads."""
    ours, theirs = (trio.SocketStream(s) for s in trio.socket.socketpair())
    reads: list[bytes] = []

    async def read() -> None:
        while data := await theirs.receive_some():
            reads.append(bytes(data))

    async with ours, theirs, trio.open_nursery() as nursery:
        nursery.start_soon(read)
        yield GuardedStream(ours, write_timeout_s=5), reads
        nursery.cancel_scope.cancel()


async def _feed(stream: GuardedStream, data: bytes) -> None:
    """Send, and let the peer read what there is."""
    await stream.send_all(data)
    await wait_all_tasks_blocked()


@pytest.mark.parametrize("second", [b"body", b""])
async def test_a_held_piece_is_read_with_the_next(second: bytes) -> None:
    """The peer reads nothing until the second piece, then both at once; a third is not held."""
    async with open_read() as (stream, reads):
        stream.hold_next()
        await _feed(stream, b"head ")
        assert [] == reads
        await _feed(stream, second)
        assert [b"head " + second] == reads
        await _feed(stream, b"more")
        assert [b"head " + second, b"more"] == reads


async def test_a_held_piece_stays_behind_what_waits() -> None:
    """A peer that was slow to take an earlier answer reads all in the order it was given."""
    async with open_read() as (stream, reads):
        first = b"x" * 2_000_000
        stream.feed(first)
        assert stream.unsent_bytes
        stream.hold_next()
        stream.feed(b"head ")
        stream.feed(b"body")
        await stream.flush()
        await wait_all_tasks_blocked()
        assert first + b"head body" == b"".join(reads)


@pytest.mark.parametrize(("status", "body"), [(200, b"{}"), (204, b"")])
async def test_a_client_reads_an_answer_at_once(status: int, body: bytes) -> None:
    """Head and body of a whole answer wake a client once."""
    is_over = trio.Event()

    async def receive() -> Any:
        await is_over.wait()
        return {"type": "http.disconnect"}

    async def handler(_exchange: Exchange) -> Answer:
        await trio.lowlevel.checkpoint()
        return Answer(body, status)

    async with open_read() as (stream, reads):

        async def send(message: Any) -> None:
            is_head = message["type"] == "http.response.start"
            await _feed(stream, b"%d " % status if is_head else message["body"])
            if not is_head:
                is_over.set()

        scope = {
            "type": "http",
            "headers": [],
            "state": {},
            "extensions": {STREAM_EXTENSION: stream},
        }
        with trio.fail_after(5):
            await run_exchange(handler, Exchange(scope, receive, send), body_limit=100)
        assert [b"%d " % status + body] == reads
