"""Load generator for benchmarks: many SSE streams on one thread, time-stamped as bytes arrive.

Plain sockets and a selector, so that the client's own cost stays small beside what it measures. It
finds texts by their marker in the bytes and reads token counts from the usage chunk.
"""

import json
import re
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

# A text that is not empty; the chunk that carries the role has an empty one, or none.
TEXT = re.compile(rb'"content": ?"[^"]')
END_MARKERS = (b"data: [DONE]", b'data: {"error"', b"\r\n0\r\n\r\n")
REFUSED = re.compile(rb"HTTP/1\.1 [45]\d\d")
USAGE = re.compile(rb'"completion_tokens": ?(\d+)')
RECEIVE_BYTES = 256 * 1024
# How often a condition is looked at while nothing arrives.
GLANCE_S = 0.02


@dataclass
class Stream:
    """One request in flight and what came of it. Times in seconds on the monotonic clock."""

    connection: socket.socket
    started_s: float
    arrivals_s: list[float] = field(default_factory=list)
    event_count: int = 0
    token_count: int = 0
    tail: bytes = b""
    ended_s: float = 0.0
    is_refused: bool = False

    def take(self, data: bytes, now_s: float) -> bool:
        """Add received bytes; returns whether the answer has ended."""
        self.is_refused |= not self.tail and REFUSED.match(data) is not None
        seen = self.tail + data
        fresh = len(TEXT.findall(seen)) - len(TEXT.findall(self.tail))
        if fresh:
            self.event_count += fresh
            self.arrivals_s.append(now_s)
        if found := USAGE.search(seen):
            self.token_count = int(found[1])
        self.tail = seen[-400:]
        if not data or self.is_refused or any(marker in seen for marker in END_MARKERS):
            self.ended_s = now_s
            return True
        return False

    @property
    def ttft_ms(self) -> float:
        """Request sent to the first text.

        Raises:
            RuntimeError: There was none, so that no refusal is taken for a quick answer.
        """
        if not self.arrivals_s:
            raise RuntimeError(f"an answer without text: {self.tail!r}")
        return 1000 * (self.arrivals_s[0] - self.started_s)

    def itl_ms(self, since_s: float = 0.0, until_s: float = float("inf")) -> list[float]:
        """Gaps between arrivals with text that end after `since_s` and begin before `until_s`."""
        return [
            1000 * (later - earlier)
            for earlier, later in zip(self.arrivals_s, self.arrivals_s[1:], strict=False)
            if later > since_s and earlier < until_s
        ]


@dataclass(frozen=True)
class LoadResult:
    """Streams of one run and the span from the first request to the last byte."""

    streams: list[Stream]
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens as the server counted them, events where it did not."""
        return sum(stream.token_count or stream.event_count for stream in self.streams)

    @property
    def events(self) -> int:
        """Texts received."""
        return sum(stream.event_count for stream in self.streams)

    def ttft_ms(self) -> list[float]:
        """Of every stream that had any text."""
        return [stream.ttft_ms for stream in self.streams if stream.arrivals_s]

    def itl_ms(self) -> list[float]:
        """Gaps between arrivals with text, over all streams."""
        return [gap for stream in self.streams for gap in stream.itl_ms()]


def chat_body(
    prompt: str | list[dict[str, Any]], *, model: str, max_tokens: int, **fields: Any
) -> bytes:
    """A greedy streamed chat request as bytes; the prompt is one message's text, or all of them."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return json.dumps(
        {
            "model": model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **fields,
        }
    ).encode()


class Fleet:
    """Streams that start when the caller says, read on the caller's thread.

    Args:
        port: Where the server listens on this machine.
        timeout_s: Longest wait for anything.
    """

    def __init__(self, port: int, *, timeout_s: float = 300.0) -> None:
        self._port = port
        self._timeout_s = timeout_s
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for key in list(self._selector.get_map().values()):
            self.hang_up(key.data)
        self._selector.close()

    @property
    def under_way(self) -> int:
        """Streams that have not ended."""
        return len(self._selector.get_map())

    def send(self, body: bytes) -> Stream:
        """Start a stream."""
        stream = Stream(_send(self._port, body), time.perf_counter())
        self._selector.register(stream.connection, selectors.EVENT_READ, stream)
        return stream

    def hang_up(self, stream: Stream) -> None:
        """End a stream from this side; nothing happens if it has ended."""
        if not stream.ended_s:
            stream.ended_s = time.perf_counter()
            self._close(stream)

    def read_until(self, is_over: Callable[[], bool]) -> None:
        """Read every stream until the condition holds.

        Raises:
            TimeoutError: It did not within the time limit.
        """
        began_s = time.perf_counter()
        while not is_over():
            if time.perf_counter() - began_s > self._timeout_s:
                raise TimeoutError(f"{self.under_way} streams did not end")
            if not self.under_way:
                time.sleep(GLANCE_S / 10)
                continue
            for key, _ in self._selector.select(timeout=GLANCE_S):
                self._read(key.data)

    def read_all(self) -> None:
        """Read every stream to its end."""
        self.read_until(lambda: not self.under_way)

    def read_for(self, seconds: float) -> None:
        """Read for a while."""
        until_s = time.perf_counter() + seconds
        self.read_until(lambda: time.perf_counter() >= until_s)

    def _read(self, stream: Stream) -> None:
        try:
            data = stream.connection.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if stream.take(data, time.perf_counter()):
            self._close(stream)

    def _close(self, stream: Stream) -> None:
        self._selector.unregister(stream.connection)
        stream.connection.close()


def run_streams(port: int, bodies: list[bytes], *, timeout_s: float = 300.0) -> LoadResult:
    """Send every request at once and read every answer to its end.

    Raises:
        TimeoutError: Some stream did not end in time.
    """
    with Fleet(port, timeout_s=timeout_s) as fleet:
        began_s = time.perf_counter()
        streams = [fleet.send(body) for body in bodies]
        fleet.read_all()
    return LoadResult(streams, max(s.ended_s for s in streams) - began_s)


def _send(port: int, body: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    connection.setblocking(False)  # noqa: FBT003  # the standard library's signature
    return connection
