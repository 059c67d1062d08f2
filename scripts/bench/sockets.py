"""Clients of the WebSocket and of the event stream for benchmarks, by hand and cheap.

Like `scripts.bench.load` they count markers in bytes; frames are taken apart by nobody.
"""

import base64
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from scripts.bench.load import RECEIVE_BYTES, LoadResult, Stream

DONE = b'"chat.done"'
MEDIUM, LONG = 126, 127


def connect_websocket(port: int) -> socket.socket:
    """A socket whose handshake is over."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = base64.b64encode(os.urandom(16)).decode()
    head = (
        "GET /v1/chat/stream HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: Upgrade\r\n"
        f"upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n"
    )
    connection.sendall(head.encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(4096)
    if b" 101 " not in answer.partition(b"\r\n")[0]:
        raise ConnectionError(answer.decode("latin-1"))
    return connection


def masked_frame(payload: bytes) -> bytes:
    """A client's text frame, masked with zeroes."""
    size, mask = len(payload), bytes(4)
    if size < MEDIUM:
        return struct.pack("!BB", 0x81, 0x80 | size) + mask + payload
    if size < 1 << 16:
        return struct.pack("!BBH", 0x81, 0x80 | MEDIUM, size) + mask + payload
    return struct.pack("!BBQ", 0x81, 0x80 | LONG, size) + mask + payload


def run_on_one_socket(port: int, bodies: list[bytes]) -> LoadResult:
    """All requests on one WebSocket, read until the last of them has ended."""
    with connect_websocket(port) as connection:
        began_s = time.perf_counter()
        stream = Stream(connection, began_s)
        connection.sendall(b"".join(map(masked_frame, bodies)))
        ended, tail = 0, b""
        while ended < len(bodies):
            data = connection.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionError("the socket closed before the last answer ended")
            seen = tail + data
            ended += seen.count(DONE) - tail.count(DONE)
            tail = seen[-len(DONE) + 1 :]
            stream.take(data, time.perf_counter())
        stream.ended_s = time.perf_counter()
    stream.token_count = stream.event_count
    return LoadResult([stream], stream.ended_s - began_s)


@contextmanager
def event_subscribers(port: int, count: int) -> Iterator[None]:
    """So many clients of ``/admin/events`` that read all they get, in one thread."""
    stop = threading.Event()
    request = b"GET /admin/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port), timeout=30)
            connection.sendall(request)
            selector.register(connection, selectors.EVENT_READ)
        reader = threading.Thread(target=_read_all, args=(selector, stop), daemon=True)
        reader.start()
        try:
            yield
        finally:
            stop.set()
            reader.join()
            for key in list(selector.get_map().values()):
                selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]


def _read_all(selector: selectors.BaseSelector, stop: threading.Event) -> None:
    while not stop.is_set():
        for key, _ in selector.select(timeout=0.2):
            key.fileobj.recv(RECEIVE_BYTES)  # type: ignore[union-attr]
