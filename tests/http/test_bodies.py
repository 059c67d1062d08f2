"""Request bodies: too long, too slow, in crumbs, in chunks, announced and empty."""

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import (
    CHAT_PATH,
    Connection,
    Reply,
    chat_body,
    encode_chunks,
    encode_request,
    wait_until,
)

LIMIT_BYTES = 300 * 1024
BODY_TIMEOUT_S = 0.6
CHUNKED = {"transfer-encoding": "chunked"}
TEXT = "understood"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a small body limit, little patience and room for few connections."""
    settings = {
        "LMX_SERVER__MAX_BODY_BYTES": str(LIMIT_BYTES),
        "LMX_SERVER__BODY_TIMEOUT_S": str(BODY_TIMEOUT_S),
        "LMX_SERVER__MAX_CONNECTIONS": "8",
    }
    model = f"fake:x?text={TEXT}&context=2000000"
    with shared_daemon(tmp_path_factory.mktemp("home"), model, settings=settings) as shared:
        yield shared


def content(reply: Reply) -> str:
    """The text of a whole answer."""
    assert 200 == reply.status, reply.body
    return str(reply.json()["choices"][0]["message"]["content"])


def upload(connection: Connection, data: bytes) -> Reply:
    """Send all of it if the server takes it, and read the reply in any case."""
    with contextlib.suppress(ConnectionError):  # closed while we sent, after the reply
        connection.send(data)
    return connection.read_reply()


def has_room(daemon: Daemon) -> bool:
    """Whether a new connection is served."""
    return daemon.get_json("/healthz")[0] == 200


@pytest.mark.parametrize("path", [CHAT_PATH, "/v1/nowhere"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_at_the_limit_is_read(daemon: Daemon, path: str, *, is_chunked: bool) -> None:
    """Exactly as many bytes as allowed are not too many."""
    frame = chat_body("x", content="")
    body = chat_body("x", content="a" * (LIMIT_BYTES - len(frame)))
    assert LIMIT_BYTES == len(body)
    with Connection(daemon) as connection:
        if is_chunked:
            framed = encode_chunks(body[:1000], body[1000:])
            reply = connection.ask("POST", path, framed, headers=CHUNKED)
        else:
            reply = connection.ask("POST", path, body)
        assert (200 if path == CHAT_PATH else 404) == reply.status


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_over_the_limit_is_refused_and_leaks_nothing(
    daemon: Daemon, *, is_chunked: bool
) -> None:
    """413 in the envelope, twenty times over with room for eight connections."""
    body = b"[" + b" " * LIMIT_BYTES
    for _ in range(20):
        with Connection(daemon) as connection:
            if is_chunked:
                data = encode_request("POST", CHAT_PATH, b"", headers=CHUNKED)
                data += encode_chunks(body[:70_000], body[70_000:])
            else:
                data = encode_request("POST", CHAT_PATH, body)
            reply = upload(connection, data)
            assert (413, "body-too-large") == (reply.status, reply.json()["code"])
            assert "body" == reply.json()["error"]["param"]
        assert wait_until(lambda: has_room(daemon), limit_s=2.0)


def test_a_length_over_the_limit_is_refused_before_the_body_comes(daemon: Daemon) -> None:
    """A client that says how much it will send is told at once and need not send it."""
    with Connection(daemon, timeout_s=BODY_TIMEOUT_S / 2) as connection:
        headers = {"content-length": str(LIMIT_BYTES + 1)}
        connection.send(encode_request("POST", CHAT_PATH, b"", headers=headers))
        assert 413 == connection.read_reply().status


@pytest.mark.parametrize("sent", [b"", b'{"model": "x"'])
def test_a_body_that_does_not_come_times_out(daemon: Daemon, sent: bytes) -> None:
    """After the body's time a client hears 408 and that its SDK need not try again."""
    with Connection(daemon) as connection:
        started_s = time.monotonic()
        connection.send(encode_request("POST", CHAT_PATH, sent, headers={"content-length": "99"}))
        reply = connection.read_reply()
        assert BODY_TIMEOUT_S * 0.9 < time.monotonic() - started_s < BODY_TIMEOUT_S * 4
        assert (408, "body-timeout", "false") == (
            reply.status,
            reply.json()["code"],
            reply.headers["x-should-retry"],
        )


def test_a_dripping_body_buys_no_time(daemon: Daemon) -> None:
    """The body's time counts from its request, whatever trickles in."""
    with Connection(daemon, timeout_s=0.05) as connection:
        started_s = time.monotonic()
        connection.send(encode_request("POST", CHAT_PATH, b"", headers={"content-length": "9999"}))
        head = None
        while head is None and time.monotonic() - started_s < BODY_TIMEOUT_S * 4:
            try:
                head = connection.read_head()
            except TimeoutError:
                connection.send(b" ")
        assert head is not None
        assert 408 == head.status


def test_expect_continue_is_answered_before_the_body(daemon: Daemon) -> None:
    """A client that waits for leave to send gets it, sends, and is served."""
    body = chat_body("x")
    with Connection(daemon) as connection:
        headers = {"expect": "100-continue", "content-length": str(len(body))}
        connection.send(encode_request("POST", CHAT_PATH, b"", headers=headers))
        assert 100 == connection.read_head().status
        connection.send(body)
        assert TEXT == content(connection.read_reply())


@pytest.mark.parametrize("headers", [{}, CHUNKED])
def test_an_empty_body_is_a_bad_request(daemon: Daemon, headers: dict[str, str]) -> None:
    """No body at all is named as such, and the connection goes on."""
    body = encode_chunks() if headers else b""
    with Connection(daemon) as connection:
        # `encode_chunks` without pieces is just the end.
        reply = connection.ask("POST", CHAT_PATH, body, headers=headers)
        assert (400, "invalid-request") == (reply.status, reply.json()["code"])
        assert "body" == reply.json()["error"]["param"]
        assert 200 == connection.ask("GET", "/healthz").status


def test_a_body_in_crumbs_is_put_together(daemon: Daemon) -> None:
    """Head and body may come byte by byte."""
    with Connection(daemon) as connection:
        for byte in encode_request("POST", CHAT_PATH, chat_body("x")):
            connection.send(bytes((byte,)))
        assert TEXT == content(connection.read_reply())


def test_a_chunked_body_in_crumbs_is_put_together(daemon: Daemon) -> None:
    """A body of one-byte chunks is the same body."""
    body = chat_body("x")
    framed = encode_chunks(*(bytes((byte,)) for byte in body))
    with Connection(daemon) as connection:
        assert TEXT == content(connection.ask("POST", CHAT_PATH, framed, headers=CHUNKED))


def test_a_large_body_is_parsed_while_probes_answer(daemon: Daemon) -> None:
    """A body big enough for the parsing thread is understood, and liveness does not wait."""
    body = chat_body("x", content="a" * 200 * 1024)
    with Connection(daemon) as connection, Connection(daemon) as probe:
        connection.send(encode_request("POST", CHAT_PATH, body))
        started_s = time.monotonic()
        assert 200 == probe.ask("GET", "/healthz").status
        assert time.monotonic() - started_s < 0.25
        assert TEXT == content(connection.read_reply())


def test_a_large_body_that_is_no_json_is_refused(daemon: Daemon) -> None:
    """An error found in the parsing thread is the client's, as it is for a small body."""
    with Connection(daemon) as connection:
        body = chat_body("x", content="a" * 200 * 1024)
        reply = connection.ask("POST", CHAT_PATH, body[:-1])
        assert (400, "invalid-request") == (reply.status, reply.json()["code"])


def test_a_client_that_stops_halfway_leaves_nothing(daemon: Daemon) -> None:
    """Closing in the middle of a body ends the request without an answer."""
    for _ in range(20):
        with Connection(daemon) as connection:
            headers = {"content-length": "5000"}
            connection.send(encode_request("POST", CHAT_PATH, b'{"model', headers=headers))
        assert wait_until(lambda: has_room(daemon), limit_s=2.0)


def test_half_a_body_and_a_close_is_a_bad_request(daemon: Daemon) -> None:
    """A client that closes its end too early hears so, if it still listens."""
    with Connection(daemon) as connection:
        connection.send(encode_request("POST", CHAT_PATH, b"{", headers={"content-length": "50"}))
        connection.socket.shutdown(socket.SHUT_WR)
        assert 400 == connection.read_head().status
        assert b"" == connection.read_until_closed()
