"""Frames written past Hypercorn are whole, in order, and of the form that RFC 6455 asks for."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked
from wsproto.frame_protocol import FrameProtocol, Opcode

from lmx.config import Settings
from lmx.daemon.presets import Presets
from lmx.web.connection import STREAM_EXTENSION
from lmx.web.guarded import GuardedStream
from lmx.web.socket_frames import SocketMessages, text_frame
from lmx.web.socket_requests import SocketServices
from lmx.web.websocket import PING_PERIOD_S, ChatSocket
from tests.fakes import Bench
from tests.lifecycle import HOME
from tests.skill_bench import FakeSkills


@given(st.sampled_from([0, 1, 125, 126, 127, 65535, 65536, 200_000]))
def test_frames_of_every_size_are_read_back(size: int) -> None:
    """A parser of somebody else's reads one whole text message of the same bytes."""
    protocol = FrameProtocol(client=True, extensions=[])
    protocol.receive_bytes(text_frame(b"x" * size))
    (frame,) = protocol.received_frames()
    assert (Opcode.TEXT, "x" * size, True) == (
        frame.opcode,
        frame.payload,
        frame.message_finished,
    )


@asynccontextmanager
async def open_pair() -> AsyncIterator[tuple[GuardedStream, trio.SocketStream]]:
    """A guarded stream and its peer."""
    ours, theirs = (trio.SocketStream(s) for s in trio.socket.socketpair())
    async with ours, theirs:
        yield GuardedStream(ours, write_timeout_s=5), theirs


async def read_all(peer: trio.SocketStream) -> bytes:
    """Everything until the other side closes."""
    return b"".join([bytes(data) async for data in peer])


async def test_writers_never_mix() -> None:
    """Whole frames of both, in the order they were given, also when the peer is slow."""
    async with open_pair() as (stream, peer):
        messages = SocketMessages(stream)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        expected = b""
        told: list[bytes] = []

        may_read = trio.Event()

        async def read() -> None:
            await may_read.wait()
            told.append(await read_all(peer))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for number in range(40):
                line = b"%d" % number * 3000
                messages.feed(line + b"\n")
                expected += text_frame(line)
                hypercorns = b"\x8a%c" % number
                nursery.start_soon(stream.send_all, hypercorns)
                await wait_all_tasks_blocked()
                expected += hypercorns
            assert messages.is_blocked
            may_read.set()
            await messages.flush()
            await stream.aclose()
        assert expected == told[0]


async def test_a_ping_is_not_sent_to_who_does_not_read() -> None:
    """It would only wait behind what waits already."""
    async with open_pair() as (stream, peer):
        messages = SocketMessages(stream)
        messages.ping()
        protocol = FrameProtocol(client=True, extensions=[])
        protocol.receive_bytes(bytes(await peer.receive_some(100)))
        assert [Opcode.PING] == [frame.opcode for frame in protocol.received_frames()]
        messages.feed(b"x" * 10_000_000 + b"\n")
        waiting = stream.unsent_bytes
        assert waiting > 0
        messages.ping()
        assert waiting == stream.unsent_bytes


class Peer:
    """The other side of a socket: what it sends, and what the app sent it by ASGI."""

    def __init__(self, stream: GuardedStream) -> None:
        self.scope: dict[str, Any] = {
            "type": "websocket",
            "headers": [],
            "client": ("127.0.0.1", 1),
            "extensions": {STREAM_EXTENSION: stream},
        }
        self.sent: list[dict[str, Any]] = []
        self.says: list[Any] = [{"type": "websocket.connect"}]

    async def receive(self) -> Any:
        await trio.lowlevel.checkpoint()
        if not self.says:
            await trio.sleep_forever()
        said = self.says.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    async def send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(message)


def chat_socket(bench: Bench) -> ChatSocket:
    """The route over a bench; no answer is kept."""
    from_nowhere: Any = None
    settings = Settings(home=HOME)
    presets, skills = Presets(settings), FakeSkills()
    services = SocketServices(bench.dispatch, settings, from_nowhere, presets, skills)
    return ChatSocket(services)


async def test_a_fault_closes_with_its_code() -> None:
    """1011, not the normal close that Hypercorn would send."""
    async with open_pair() as (stream, _):
        peer = Peer(stream)
        peer.says.append(ZeroDivisionError())
        await chat_socket(Bench())(peer.scope, peer.receive, peer.send)
    assert ["websocket.accept", "websocket.close"] == [m["type"] for m in peer.sent]
    assert 1011 == peer.sent[1]["code"]


async def test_a_client_that_leaves_is_not_closed_again() -> None:
    """Nobody would read it."""
    async with open_pair() as (stream, _):
        peer = Peer(stream)
        peer.says.append({"type": "websocket.disconnect"})
        await chat_socket(Bench())(peer.scope, peer.receive, peer.send)
    assert ["websocket.accept"] == [m["type"] for m in peer.sent]


async def test_over_http_2_there_is_no_socket() -> None:
    """Several requests share a connection there, and none may write to it directly."""
    async with open_pair() as (stream, _):
        peer = Peer(stream)
        peer.scope["extensions"] = {}
        await chat_socket(Bench())(peer.scope, peer.receive, peer.send)
    assert ["websocket.close"] == [m["type"] for m in peer.sent]


async def test_idle_sockets_are_pinged(autojump_clock: MockClock) -> None:
    """So that what stands between the two does not forget them."""
    async with open_pair() as (stream, client):
        peer = Peer(stream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(chat_socket(Bench()), peer.scope, peer.receive, peer.send)
            await trio.sleep(2.5 * PING_PERIOD_S)
            nursery.cancel_scope.cancel()
        protocol = FrameProtocol(client=True, extensions=[])
        protocol.receive_bytes(bytes(await client.receive_some(100)))
        assert [Opcode.PING] * 2 == [frame.opcode for frame in protocol.received_frames()]
