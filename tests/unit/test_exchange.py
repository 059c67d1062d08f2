"""One exchange over plain ASGI callables: what is sent when a handler fails, early or late."""

from typing import Any

import pytest
import trio
import trio.testing

from lmx.daemon.origin import Origin
from lmx.errors import QueueFull
from lmx.web.exchange import (
    CLIENT_NAME_LIMIT,
    PIECE_BYTES,
    PIECE_LIMIT_S,
    Answer,
    Exchange,
    client_name,
    run_exchange,
)

BODY_LIMIT = 100


class Peer:
    """The server's side of one ASGI call: a body to give, and what was sent."""

    def __init__(self, body: bytes = b"{}") -> None:
        self.sent: list[dict[str, Any]] = []
        self._body = body
        self._gave_body = False
        self.is_over = trio.Event()

    async def receive(self) -> Any:
        if not self._gave_body:
            self._gave_body = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self.is_over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body" and not message["more_body"]:
            self.is_over.set()

    def exchange(self) -> Exchange:
        scope = {"type": "http", "headers": [], "state": {}, "extensions": {}}
        return Exchange(scope, self.receive, self.send)


async def _run(peer: Peer, handler: Any) -> None:
    await run_exchange(handler, peer.exchange(), body_limit=BODY_LIMIT)


async def test_an_answer_is_sent_with_its_length_and_request_id(autojump_clock: object) -> None:
    """Status, length, id and body arrive in one response."""
    peer = Peer()

    async def handler(exchange: Exchange) -> Answer:
        return Answer(await exchange.body.read(timeout_s=1), 201)

    await _run(peer, handler)
    head, body = peer.sent
    names = dict(head["headers"])
    assert (201, b"2") == (head["status"], names[b"content-length"])
    assert names[b"x-request-id"].startswith(b"req_")
    assert b"{}" == body["body"]


async def test_an_lmx_error_becomes_its_response(autojump_clock: object) -> None:
    """The mapped status and headers, not a 500."""
    peer = Peer()

    async def handler(_exchange: Exchange) -> Answer:
        await trio.lowlevel.checkpoint()
        raise QueueFull("full", retry_after_s=2.5)

    await _run(peer, handler)
    assert 429 == peer.sent[0]["status"]
    assert (b"retry-after", b"3") in peer.sent[0]["headers"]


async def test_an_unforeseen_failure_says_nothing_of_the_inside(autojump_clock: object) -> None:
    """A 500 in the envelope, without the exception's words."""
    peer = Peer()

    async def handler(_exchange: Exchange) -> Answer:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError("secret")

    await _run(peer, handler)
    assert 500 == peer.sent[0]["status"]
    assert b"secret" not in peer.sent[1]["body"]


async def test_a_stream_whose_handler_fails_is_cut_off(autojump_clock: object) -> None:
    """No last chunk is sent, so that nobody takes the stream for whole."""
    peer = Peer()

    async def handler(exchange: Exchange) -> None:
        await exchange.start_stream(b"data: 1\n\n")
        raise ZeroDivisionError

    await _run(peer, handler)
    assert [True] == [m["more_body"] for m in peer.sent if m["type"] == "http.response.body"]


async def test_a_body_over_the_limit_is_refused(autojump_clock: object) -> None:
    """413, and the rest of the body is still read."""
    peer = Peer(b"x" * (BODY_LIMIT + 1))

    async def handler(exchange: Exchange) -> Answer:
        return Answer(await exchange.body.read(timeout_s=1))

    await _run(peer, handler)
    assert 413 == peer.sent[0]["status"]


async def test_a_client_that_leaves_cancels_the_handler(autojump_clock: object) -> None:
    """A handler waiting for anything at all is cancelled, and nothing is sent."""
    peer = Peer()
    cancelled = []

    async def handler(_exchange: Exchange) -> Answer:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run, peer, handler)
        await trio.testing.wait_all_tasks_blocked()
        peer.is_over.set()
    assert [True] == cancelled
    assert [] == peer.sent


class SlowPeer(Peer):
    """Takes the head and so many pieces of the body, and no more."""

    def __init__(self, piece_count: int) -> None:
        super().__init__()
        self._left = piece_count

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            if not self._left:
                await trio.sleep_forever()
            self._left -= 1
        await super().send(message)


@pytest.mark.parametrize(
    "body", [b"ab" * PIECE_BYTES, [b"a" * 5, b"b" * PIECE_BYTES, b"c"], [b"ab"], b""]
)
async def test_a_large_answer_goes_out_in_pieces(
    body: bytes | list[bytes], autojump_clock: object
) -> None:
    """None of them large, all of them in order, and their length is known before the first."""
    peer, whole = Peer(), b"".join([body] if isinstance(body, bytes) else body)

    async def handler(_exchange: Exchange) -> Answer:
        await trio.lowlevel.checkpoint()
        return Answer(body)

    await _run(peer, handler)
    head, *messages = peer.sent
    assert (b"content-length", b"%d" % len(whole)) in head["headers"]
    assert whole == b"".join(message["body"] for message in messages)
    assert max(len(message["body"]) for message in messages) <= PIECE_BYTES
    assert [False] == [m["more_body"] for m in messages if m is messages[-1] or not m["more_body"]]


async def test_a_client_that_leaves_during_a_large_answer_ends_it(autojump_clock: object) -> None:
    """At once, and not when the next piece were due."""
    peer = SlowPeer(2)

    async def handler(_exchange: Exchange) -> Answer:
        await trio.lowlevel.checkpoint()
        return Answer(bytes(9 * PIECE_BYTES))

    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run, peer, handler)
        await trio.testing.wait_all_tasks_blocked()
        peer.is_over.set()
    assert began_s == trio.current_time()
    assert [True, True] == [m["more_body"] for m in peer.sent[1:]]


async def test_a_client_that_takes_no_more_is_lost(autojump_clock: object) -> None:
    """After a while without a piece the exchange is over."""
    peer = SlowPeer(2)

    async def handler(_exchange: Exchange) -> Answer:
        await trio.lowlevel.checkpoint()
        return Answer(bytes(9 * PIECE_BYTES))

    began_s = trio.current_time()
    await _run(peer, handler)
    assert PIECE_LIMIT_S == trio.current_time() - began_s
    assert [True, True] == [m["more_body"] for m in peer.sent[1:]]


@pytest.mark.parametrize(
    ("said", "peer", "expected"),
    [
        (None, ("10.0.0.7", 5123), "10.0.0.7"),
        (b"desk", ("10.0.0.7", 5123), "desk"),
        (b" \x1b[31mdesk\r\n ", ("10.0.0.7", 5123), "[31mdesk"),
        (b"\x00\x07", ("10.0.0.7", 5123), "10.0.0.7"),
        (b"x" * 999, None, "x" * CLIENT_NAME_LIMIT),
        (None, None, ""),
    ],
)
def test_who_a_client_is(said: bytes | None, peer: tuple[str, int] | None, expected: str) -> None:
    """What it calls itself, short and printable; without that, its address."""
    headers = [] if said is None else [(b"x-client-id", said)]
    assert expected == client_name({"headers": headers, "client": peer})


async def test_where_a_request_comes_from(autojump_clock: object) -> None:
    """Its id, its client, its route, and the time at which its head was there."""
    exchange, before_s = Peer().exchange(), trio.current_time()
    await trio.sleep(1)
    assert Origin(exchange.request_id, "", "/v1/x", before_s) == exchange.origin("/v1/x")
