"""HTTP/2 with prior knowledge: the same answers, through ASGI instead of the socket."""

import json
import socket
from collections.abc import Iterator
from typing import Any, Self
from urllib.parse import quote

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded

from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import CHAT_PATH, Connection, chat_body, deltas, wait_until

TEXT = "naïve ☕ 日本語 — one two\n\tthree"
LIMIT_BYTES = 40_000


class Http2Client:
    """One HTTP/2 connection, blocking.

    Args:
        daemon: Whom to talk to.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._socket = socket.create_connection((daemon.host, daemon.port), timeout=10)
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._h2.initiate_connection()
        self._bodies: dict[int, bytes] = {}
        self._heads: dict[int, dict[str, str]] = {}
        self._ended: set[int] = set()

    def __enter__(self) -> Self:
        """The client itself; leaving closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, method: str, path: str, body: bytes = b"", *, authority: str = "lmx") -> int:
        """Send a request; returns its stream id."""
        stream = self._h2.get_next_available_stream_id()
        head = [(":method", method), (":path", path), (":scheme", "http")]
        head.append((":authority", authority))
        self._h2.send_headers(stream, head, end_stream=not body)
        self._bodies[stream] = b""
        while body:
            size = self._h2.max_outbound_frame_size
            self._h2.send_data(stream, body[:size], end_stream=len(body) <= size)
            body = body[size:]
        self._flush()
        return stream

    def read(self, stream: int) -> tuple[dict[str, str], bytes]:
        """Headers and body of a response, once it has ended."""
        while stream not in self._ended:
            data = self._socket.recv(65536)
            assert data, "the server closed"
            for event in self._h2.receive_data(data):
                self._take(event)
            self._flush()
        return self._heads[stream], self._bodies[stream]

    def reset(self, stream: int) -> None:
        """Give a stream up."""
        self._h2.reset_stream(stream)
        self._flush()

    def _take(self, event: Event) -> None:
        if isinstance(event, ResponseReceived):
            self._heads[event.stream_id] = {str(k): str(v) for k, v in event.headers}
        elif isinstance(event, DataReceived):
            self._bodies[event.stream_id] += event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded):
            self._ended.add(event.stream_id)

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that says a known text, one that says a long one, and a single slot."""
    models = (
        f"fake:x?step_ms=0.5&text={quote(TEXT)}",
        "fake:long?tokens=20000&context=65536",
        "fake:single?max_sequences=1&step_ms=10&tokens=3000",
    )
    settings = {"LMX_MODELS__MAX_WAITING": "0", "LMX_SERVER__MAX_BODY_BYTES": str(LIMIT_BYTES)}
    with shared_daemon(tmp_path_factory.mktemp("home"), *models, settings=settings) as shared:
        assert wait_until(lambda: shared.get_json("/healthz")[1]["loaded_models"] == len(models))
        yield shared


def whole_text(daemon: Daemon, **fields: Any) -> str:
    """The answer over HTTP/1.1, not streamed."""
    with Connection(daemon) as connection:
        document = connection.ask("POST", CHAT_PATH, chat_body(**fields)).json()
    return str(document["choices"][0]["message"]["content"])


def test_raw_and_quart_routes_answer(daemon: Daemon) -> None:
    """Probes, lists and errors are what they are over HTTP/1.1, on one connection."""
    with Http2Client(daemon) as client:
        paths = ["/healthz", "/v1/models", "/nowhere"]
        replies = [client.read(client.send("GET", path)) for path in paths]
    assert ["200", "200", "404"] == [head[":status"] for head, _ in replies]
    assert all(head["x-request-id"].startswith("req_") for head, _ in replies)
    assert "ok" == json.loads(replies[0][1])["status"]


def test_a_stream_is_the_same_text(daemon: Daemon) -> None:
    """Streamed over HTTP/2 and whole over HTTP/1.1 agree."""
    with Http2Client(daemon) as client:
        head, body = client.read(client.send("POST", CHAT_PATH, chat_body("x", stream=True)))
    assert ("200", "text/event-stream; charset=utf-8") == (head[":status"], head["content-type"])
    assert TEXT == "".join(deltas(body)) == whole_text(daemon, model="x")


def test_a_long_stream_gets_through_the_flow_control(daemon: Daemon) -> None:
    """An answer many times the window's size arrives whole."""
    fields: dict[str, Any] = {"model": "long", "max_tokens": 20_001, "temperature": 0}
    with Http2Client(daemon) as client:
        request = chat_body(**fields, stream=True)
        _, body = client.read(client.send("POST", CHAT_PATH, request))
    assert whole_text(daemon, **fields) == "".join(deltas(body))


def test_streams_share_a_connection(daemon: Daemon) -> None:
    """Requests side by side on one connection each get their own answer."""
    with Http2Client(daemon) as client:
        chats = [client.send("POST", CHAT_PATH, chat_body("x", stream=True)) for _ in range(6)]
        health = client.send("GET", "/healthz")
        assert "200" == client.read(health)[0][":status"]
        assert [TEXT] * 6 == ["".join(deltas(client.read(stream)[1])) for stream in chats]


def test_a_reset_stream_frees_its_slot(daemon: Daemon) -> None:
    """Giving up one stream ends its generation and leaves the connection to the others."""
    with Http2Client(daemon) as client:
        given_up = client.send("POST", CHAT_PATH, chat_body("single", stream=True))

        def status() -> str:
            one = chat_body("single", max_tokens=1)
            return client.read(client.send("POST", CHAT_PATH, one))[0][":status"]

        assert wait_until(lambda: status() == "429")
        client.reset(given_up)
        assert wait_until(lambda: status() == "200", limit_s=2.0)


def test_a_connection_does_not_wear_out(daemon: Daemon) -> None:
    """More requests than Hypercorn allows one connection by default, beside a stream that lives."""
    with Http2Client(daemon) as client:
        chat = client.send("POST", CHAT_PATH, chat_body("single", stream=True))
        statuses = {client.read(client.send("GET", "/healthz"))[0][":status"] for _ in range(1010)}
        assert {"200"} == statuses
        client.reset(chat)
        assert TEXT == "".join(
            deltas(client.read(client.send("POST", CHAT_PATH, chat_body("x", stream=True)))[1])
        )


def test_a_body_over_the_limit_is_refused(daemon: Daemon) -> None:
    """413, and the connection serves on."""
    with Http2Client(daemon) as client:
        body = chat_body("x", content="a" * LIMIT_BYTES)
        assert "413" == client.read(client.send("POST", CHAT_PATH, body))[0][":status"]
        assert "200" == client.read(client.send("GET", "/healthz"))[0][":status"]


def test_the_authority_is_judged_like_a_host(daemon: Daemon) -> None:
    """A page whose name was made to resolve to us is refused here, too; other streams go on."""
    with Http2Client(daemon) as client:
        foreign = client.send("GET", "/v1/models", authority="evil.example:1234")
        ours = client.send("GET", "/v1/models", authority="localhost:1234")
        headers, body = client.read(foreign)
        assert ("403", "host-not-allowed") == (headers[":status"], json.loads(body)["code"])
        assert "200" == client.read(ours)[0][":status"]
