"""When connections stay, close, wait their turn and are refused, on raw and on Quart routes."""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import (
    CHAT_PATH,
    Connection,
    chat_body,
    chat_request,
    deltas,
    encode_request,
    stream_chunks,
    wait_until,
)

KEEP_ALIVE_S = 2.0
MAX_CONNECTIONS = 8
TEXT = "one two three"
# Raw handlers, Quart's routes, and what Quart refuses.
PATHS = ("/healthz", "/readyz", "/", "/v1/models", "/v1/models/x", "/nowhere")
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with few connections, a quick model and one with a single slot."""
    settings = {
        "LMX_SERVER__KEEP_ALIVE_S": str(KEEP_ALIVE_S),
        "LMX_SERVER__MAX_CONNECTIONS": str(MAX_CONNECTIONS),
        "LMX_MODELS__MAX_WAITING": "0",
    }
    models = ("fake:x?text=one+two+three", "fake:single?max_sequences=1&step_ms=10&tokens=3000")
    with shared_daemon(tmp_path_factory.mktemp("home"), *models, settings=settings) as shared:
        assert wait_until(lambda: shared.get_json("/healthz")[1]["loaded_models"] == len(models))
        yield shared


def has_room(daemon: Daemon) -> bool:
    """Whether a new connection is served."""
    return daemon.get_json("/healthz")[0] == 200


def is_free(daemon: Daemon) -> bool:
    """Whether the model with a single slot takes a request."""
    with Connection(daemon) as connection:
        body = chat_body("single", max_tokens=1)
        return connection.ask("POST", CHAT_PATH, body).status == 200


@pytest.mark.parametrize("path", PATHS)
def test_connection_close_closes(daemon: Daemon, path: str) -> None:
    """A client that asks for it sees the close right after its reply, not at the idle timeout."""
    with Connection(daemon) as connection:
        connection.ask("GET", path, headers={"connection": "close"})
        started_s = time.monotonic()
        assert b"" == connection.read_until_closed()
        assert time.monotonic() - started_s < KEEP_ALIVE_S / 2


@pytest.mark.parametrize("stream", [False, True])
def test_connection_close_closes_after_a_chat(daemon: Daemon, *, stream: bool) -> None:
    """The same holds for answers, whole and streamed."""
    with Connection(daemon) as connection:
        body = chat_body("x", stream=stream)
        assert (
            200 == connection.ask("POST", CHAT_PATH, body, headers={"connection": "close"}).status
        )
        started_s = time.monotonic()
        assert b"" == connection.read_until_closed()
        assert time.monotonic() - started_s < KEEP_ALIVE_S / 2


@pytest.mark.parametrize("path", PATHS)
def test_http_1_0_ends_by_close(daemon: Daemon, path: str) -> None:
    """A client of HTTP/1.0 gets a whole reply without chunks, and then the close."""
    with Connection(daemon) as connection:
        reply = connection.ask("GET", path, version="1.0")
        assert "transfer-encoding" not in reply.headers
        assert str(len(reply.body)) == reply.headers["content-length"]
        started_s = time.monotonic()
        assert b"" == connection.read_until_closed()
        assert time.monotonic() - started_s < KEEP_ALIVE_S / 2


def test_http_1_0_streams_until_close(daemon: Daemon) -> None:
    """An event stream to HTTP/1.0 is not chunked and ends with the connection."""
    with Connection(daemon) as connection:
        connection.send(chat_request("x", version="1.0", stream=True))
        head = connection.read_head()
        assert 200 == head.status
        assert set() == {"transfer-encoding", "content-length"} & set(head.headers)
        started_s = time.monotonic()
        assert TEXT == "".join(deltas(connection.read_until_closed()))
        assert time.monotonic() - started_s < KEEP_ALIVE_S / 2


def test_one_connection_serves_all_kinds_of_requests(daemon: Daemon) -> None:
    """Raw, Quart, whole, streamed and refused requests follow each other on one connection."""
    with Connection(daemon) as connection:
        for _ in range(3):
            assert [200, 200, 200, 200, 200, 404] == [
                connection.ask("GET", path).status for path in PATHS
            ]
            whole = connection.ask("POST", CHAT_PATH, chat_body("x"))
            assert TEXT == whole.json()["choices"][0]["message"]["content"]
            streamed = connection.ask("POST", CHAT_PATH, chat_body("x", stream=True))
            assert TEXT == "".join(deltas(streamed.body))
            assert 400 == connection.ask("POST", CHAT_PATH, b"{").status
            assert 405 == connection.ask("DELETE", CHAT_PATH).status


def test_pipelined_requests_are_answered_in_order(daemon: Daemon) -> None:
    """Requests sent in one packet get their replies one after the other, a stream among them."""
    requests = [
        encode_request("GET", "/v1/models"),
        chat_request("x", stream=True),
        encode_request("GET", "/nowhere"),
        chat_request("x"),
        encode_request("GET", "/healthz"),
    ]
    with Connection(daemon) as connection:
        connection.send(b"".join(requests))
        models, streamed, unknown, whole, health = [connection.read_reply() for _ in requests]
        assert "list" == models.json()["object"]
        assert "chat.completion.chunk" == stream_chunks(streamed.body)[0]["object"]
        assert 404 == unknown.status
        assert "chat.completion" == whole.json()["object"]
        assert "ok" == health.json()["status"]


@pytest.mark.parametrize("path", ["/healthz", "/v1/models"])
def test_an_idle_connection_is_closed(daemon: Daemon, path: str) -> None:
    """After a reply the connection stays for the idle timeout, and no longer."""
    with Connection(daemon) as connection:
        assert 200 == connection.ask("GET", path).status
        started_s = time.monotonic()
        assert b"" == connection.read_until_closed()
        assert KEEP_ALIVE_S * 0.9 < time.monotonic() - started_s < KEEP_ALIVE_S * 2.5


def test_a_head_must_arrive_within_the_idle_timeout(daemon: Daemon) -> None:
    """A client that drips its request line is closed; each new byte buys it nothing."""
    with Connection(daemon, timeout_s=0.1) as connection:
        started_s = time.monotonic()
        connection.send(b"GET /")
        received: bytes | None = None
        while received is None and time.monotonic() - started_s < KEEP_ALIVE_S * 3:
            try:
                received = connection.socket.recv(1)
            except TimeoutError:
                connection.send(b"a")
        assert b"" == received
        assert time.monotonic() - started_s < KEEP_ALIVE_S * 2.5


def test_clients_that_just_leave_cost_nothing(daemon: Daemon) -> None:
    """A client that closes without a word gives its place back at once, not at the idle timeout."""
    for _ in range(5 * MAX_CONNECTIONS):
        with Connection(daemon) as connection:
            assert 200 == connection.ask("GET", "/healthz").status
        assert wait_until(lambda: has_room(daemon), limit_s=KEEP_ALIVE_S / 2)


def test_too_many_connections_are_refused_and_room_comes_back(daemon: Daemon) -> None:
    """The one over the cap reads a whole 503 and a clean close; when one leaves, one may come."""
    assert wait_until(lambda: has_room(daemon))
    with ExitStack() as stack:
        held = [stack.enter_context(Connection(daemon)) for _ in range(MAX_CONNECTIONS)]
        assert [200] * MAX_CONNECTIONS == [c.ask("GET", "/healthz").status for c in held]
        with Connection(daemon) as refused:
            reply = refused.ask("POST", CHAT_PATH, chat_body("x", content="long " * 1000))
            assert b"" == refused.read_until_closed()
        assert (503, "1", "close") == (
            reply.status,
            reply.headers["retry-after"],
            reply.headers["connection"],
        )
        assert "overloaded" == reply.json()["code"]
        assert {"message", "type", "param", "code"} == set(reply.json()["error"])
        assert 200 == held[0].ask("GET", "/v1/models").status
        held[0].close()
        assert wait_until(lambda: has_room(daemon), limit_s=KEEP_ALIVE_S / 2)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("is_reset", [False, True])
def test_a_client_that_leaves_frees_its_slot(
    daemon: Daemon, *, stream: bool, is_reset: bool
) -> None:
    """Closing or resetting the connection ends the generation, whole or streamed, at once."""
    assert wait_until(lambda: is_free(daemon))
    with Connection(daemon) as connection:
        connection.send(chat_request("single", stream=stream))
        assert wait_until(lambda: not is_free(daemon))
        if is_reset:
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    assert wait_until(lambda: is_free(daemon), limit_s=2.0)


def test_a_client_that_leaves_behind_a_pipelined_request_frees_its_slot(daemon: Daemon) -> None:
    """Bytes after the request hide the close from the parser; the next write finds out."""
    assert wait_until(lambda: is_free(daemon))
    with Connection(daemon) as connection:
        request = chat_request("single", stream=True) + encode_request("GET", "/healthz")
        connection.send(request)
        assert 200 == connection.read_head().status
    assert wait_until(lambda: is_free(daemon), limit_s=2.0)
