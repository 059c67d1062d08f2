"""HTTP/1.1 by hand, so that a test decides every byte and sees every byte.

A `Connection` is one blocking socket; its calls end within its timeout. Replies are read as they
were framed: `Reply.chunks` are the chunks on the wire. It accepts nothing that the RFC forbids, and
it knows no more of LMX than how a chat request is spelled.
"""

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.daemon_process import Daemon

RECEIVE_BYTES = 65536
TIMEOUT_S = 10.0
CHAT_PATH = "/v1/chat/completions"
ENDLESS_PATH = "/admin/events"


class EndOfStream(Exception):
    """The server closed where more bytes had to come; holds what came."""


class Head(NamedTuple):
    """A status line and headers, names in lower case."""

    version: str
    status: int
    headers: dict[str, str]


class Reply(NamedTuple):
    """A whole response; `chunks` is empty unless it was chunked."""

    version: str
    status: int
    headers: dict[str, str]
    body: bytes
    chunks: tuple[bytes, ...] = ()

    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


class Connection:
    """One connection to the daemon.

    Args:
        daemon: Whom to talk to.
        timeout_s: Longest wait of each call.
        receive_buffer_bytes: Size of the kernel's receive buffer, if it matters.
    """

    def __init__(
        self,
        daemon: Daemon,
        *,
        timeout_s: float = TIMEOUT_S,
        receive_buffer_bytes: int | None = None,
    ) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(timeout_s)
        if receive_buffer_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.connect((daemon.host, daemon.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = b""

    def __enter__(self) -> Self:
        """The connection itself; leaving closes it."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close our end."""
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send raw bytes."""
        self.socket.sendall(data)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        version: str = "1.1",
    ) -> Reply:
        """Send a request and read its reply; of a stream that never ends only the head."""
        self.send(encode_request(method, path, body, headers=headers, version=version))
        if path.startswith(ENDLESS_PATH) and method == "GET":
            head = self.read_head()
            length = int(head.headers.get("content-length", 0))
            return Reply(*head, self.read_exactly(length))
        return self.read_reply()

    def read_reply(self) -> Reply:
        """The next reply, past any interim ones."""
        head = self.read_head()
        while head.status < 200:
            head = self.read_head()
        if head.headers.get("transfer-encoding") == "chunked":
            chunks = tuple(self.iterate_chunks())
            return Reply(*head, b"".join(chunks), chunks)
        length = head.headers.get("content-length")
        body = self.read_until_closed() if length is None else self.read_exactly(int(length))
        return Reply(*head, body)

    def read_head(self) -> Head:
        """The next status line and its headers."""
        lines = self._read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status, *_ = lines[0].split(" ", 2)
        pairs = [line.split(":", 1) for line in lines[1:]]
        headers = {name.lower(): value.strip() for name, value in pairs}
        assert len(pairs) == len(headers), f"a header came twice: {lines}"
        return Head(version, int(status), headers)

    def iterate_chunks(self) -> Iterator[bytes]:
        """The chunks of a body as they come, up to and without the last, empty one."""
        while size := int(self._read_until(b"\r\n"), 16):
            yield self.read_exactly(size)
            assert b"\r\n" == self.read_exactly(2)
        assert b"\r\n" == self.read_exactly(2)

    def read_exactly(self, count: int) -> bytes:
        """The next `count` bytes."""
        while len(self._held) < count:
            self._receive()
        data, self._held = self._held[:count], self._held[count:]
        return data

    def read_until_closed(self) -> bytes:
        """Everything up to the server's close, which must be an orderly one."""
        while True:
            try:
                self._receive()
            except EndOfStream:
                data, self._held = self._held, b""
                return data

    def _read_until(self, mark: bytes) -> bytes:
        while mark not in self._held:
            self._receive()
        data, self._held = self._held.split(mark, 1)
        return data

    def _receive(self) -> None:
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise EndOfStream(self._held)
        self._held += data


def encode_request(
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    version: str = "1.1",
) -> bytes:
    """A request's bytes. `Host` and, with a body, its length and type are added unless given."""
    fields = {"host": "lmx"}
    if body is not None:
        fields |= {"content-type": "application/json"}
        if "transfer-encoding" not in (headers or {}):
            fields |= {"content-length": str(len(body))}
    fields |= headers or {}
    lines = [f"{method} {path} HTTP/{version}", *(f"{k}: {v}" for k, v in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def encode_chunks(*pieces: bytes) -> bytes:
    """A chunked body of these pieces, with its end."""
    framed = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b"")]
    return b"".join(framed)


def chat_body(model: str, *, content: str = "hi", **fields: Any) -> bytes:
    """A chat request of one user message."""
    messages = [{"role": "user", "content": content}]
    return json.dumps({"model": model, "messages": messages, **fields}).encode()


def chat_request(
    model: str, *, headers: Mapping[str, str] | None = None, version: str = "1.1", **fields: Any
) -> bytes:
    """The bytes of a whole chat request."""
    body = chat_body(model, **fields)
    return encode_request("POST", CHAT_PATH, body, headers=headers, version=version)


def event_blocks(body: bytes) -> list[bytes]:
    """The blocks of an event stream, which must end where a block ends."""
    *blocks, rest = body.split(b"\n\n")
    assert b"" == rest
    return blocks


def stream_chunks(body: bytes) -> list[dict[str, Any]]:
    """The JSON of every `data:` block but the closing ``[DONE]``, which must be the last."""
    data = [block for block in event_blocks(body) if not block.startswith(b":")]
    assert b"data: [DONE]" == data[-1]
    assert all(block.startswith(b"data: {") for block in data[:-1])
    return [json.loads(block.removeprefix(b"data: ")) for block in data[:-1]]


def deltas(body: bytes) -> list[str]:
    """The text deltas of a streamed answer, the empty one beside the role left out."""
    choices = [choice for chunk in stream_chunks(body) for choice in chunk["choices"]]
    texts = [choice["delta"].get("content", "") for choice in choices]
    return [text for text in texts if text]


def wait_until(is_true: Callable[[], bool], *, limit_s: float = 5.0) -> bool:
    """Whether something about another process became true within the limit."""
    deadline_s = time.monotonic() + limit_s
    while not (seen := is_true()) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return seen
