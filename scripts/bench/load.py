"""Load generator for benchmarks: many SSE streams on one thread, time-stamped as bytes arrive.

Plain sockets and a selector, so that the client's own cost stays small beside what it measures. It
counts events by their marker in the bytes and reads token counts from the usage chunk.
"""

import json
import re
import selectors
import socket
import time
from dataclasses import dataclass, field
from typing import Any

EVENT_MARKER = b'"content":'
END_MARKERS = (b"data: [DONE]", b'data: {"error"', b"\r\n0\r\n\r\n")
USAGE = re.compile(rb'"completion_tokens": ?(\d+)')
RECEIVE_BYTES = 256 * 1024


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

    def take(self, data: bytes, now_s: float) -> bool:
        """Add received bytes; returns whether the answer has ended."""
        seen = self.tail + data
        fresh = seen.count(EVENT_MARKER) - self.tail.count(EVENT_MARKER)
        if fresh:
            self.event_count += fresh
            self.arrivals_s.append(now_s)
        if found := USAGE.search(seen):
            self.token_count = int(found[1])
        self.tail = seen[-400:]
        if not data or any(marker in seen for marker in END_MARKERS):
            self.ended_s = now_s
            return True
        return False


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
        """Content events received, the role chunk not counted."""
        return sum(max(0, stream.event_count - 1) for stream in self.streams)

    def ttft_ms(self) -> list[float]:
        """Request sent to the first text, per stream. The first arrival may be the role alone."""
        return [
            1000 * (stream.arrivals_s[min(1, len(stream.arrivals_s) - 1)] - stream.started_s)
            for stream in self.streams
            if stream.arrivals_s
        ]

    def itl_ms(self) -> list[float]:
        """Gaps between arrivals with text, over all streams."""
        return [
            1000 * (later - earlier)
            for stream in self.streams
            for earlier, later in zip(stream.arrivals_s[1:], stream.arrivals_s[2:], strict=False)
        ]


def chat_body(prompt: str, *, model: str, max_tokens: int, **fields: Any) -> bytes:
    """A greedy streamed chat request as bytes."""
    return json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **fields,
        }
    ).encode()


def run_streams(port: int, bodies: list[bytes], *, timeout_s: float = 300.0) -> LoadResult:
    """Send every request at once and read every answer to its end.

    Raises:
        TimeoutError: Some stream did not end in time.
    """
    streams: list[Stream] = []
    with selectors.DefaultSelector() as selector:
        began_s = time.perf_counter()
        for body in bodies:
            stream = Stream(_send(port, body), time.perf_counter())
            streams.append(stream)
            selector.register(stream.connection, selectors.EVENT_READ, stream)
        while selector.get_map():
            if time.perf_counter() - began_s > timeout_s:
                raise TimeoutError(f"{len(selector.get_map())} streams did not end")
            for key, _ in selector.select(timeout=1.0):
                _read(selector, key.data)
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


def _read(selector: selectors.BaseSelector, stream: Stream) -> None:
    try:
        data = stream.connection.recv(RECEIVE_BYTES)
    except BlockingIOError:
        return
    except ConnectionError:
        data = b""
    if stream.take(data, time.perf_counter()):
        selector.unregister(stream.connection)
        stream.connection.close()
