"""The accept loop: Hypercorn's `TCPServer` per connection, behind a barrier, a cap and a deadline.

Stock `hypercorn.trio.serve` ends with the first connection that confuses one of its parsers and
cannot stop while a client does not read (docs/adr/0004).
"""

import contextlib
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import structlog
import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.worker_context import WorkerContext

from lmx.config import ServerSettings, Settings
from lmx.web.barrier import contain
from lmx.web.connection import AsgiApp, Connection
from lmx.web.guarded import GuardedStream

BACKLOG = 1024
# Larger than the default 16 KiB for clients that carry long tokens in headers.
MAX_HEADER_BYTES = 32 * 1024
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 30, 10, 3
if sys.platform == "darwin":
    TCP_IDLE_OPTION = socket.TCP_KEEPALIVE
else:
    TCP_IDLE_OPTION = socket.TCP_KEEPIDLE
REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
)
REFUSAL_BODY = (
    b'{"code":"overloaded","error":{"message":"too many connections","type":"server_error",'
    b'"param":null,"code":"overloaded"}}'
)
# How long a refused client has to read its answer and leave.
REFUSAL_GRACE_S = 1.0

log = structlog.get_logger("lmx.web")


def hypercorn_config(settings: ServerSettings) -> HypercornConfig:
    """Hypercorn's settings; see docs/adr/0004 for why each differs from its default."""
    config = HypercornConfig()
    config.keep_alive_timeout = settings.keep_alive_s
    config.read_timeout = None  # counts a streaming client's silence as idleness
    config.keep_alive_max_requests = sys.maxsize  # at its end HTTP/2 forgets its open streams
    config.h11_max_incomplete_size = MAX_HEADER_BYTES
    config.websocket_max_message_size = settings.max_body_bytes
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    return config


def bind_sockets(host: str, port: int) -> list[socket.socket]:
    """Bind, but do not listen: conflicts show early and no client meets half a daemon.

    Raises:
        OSError: The address is taken or not ours.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return [bound]


def _keep_alive(connection: trio.socket.SocketType) -> None:
    """Let the kernel notice clients that vanished without a FIN, such as sleeping laptops."""
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, TCP_IDLE_OPTION, KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
    ):
        with contextlib.suppress(OSError):  # the peer may be gone already
            connection.setsockopt(level, option, value)


class HttpServer:
    """Accepts connections until told to stop, and then ends whatever the clients do.

    Args:
        app: The ASGI application.
        settings: Limits and deadlines.
        sockets: Bound, not yet listening.
    """

    def __init__(self, app: AsgiApp, settings: Settings, sockets: Sequence[socket.socket]) -> None:
        self._app = app
        self._settings = settings
        self._sockets = sockets
        self._config = hypercorn_config(settings.server)
        self._context = WorkerContext(None)
        self._state: dict[str, Any] = {}  # of the ASGI lifespan, which LMX does without
        self._open: set[GuardedStream] = set()
        self._accepting = trio.CancelScope()
        self._closing = trio.Event()
        self._became_empty = trio.Event()

    async def run(
        self, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve. Reports the bound addresses as URLs once clients can connect."""
        listeners = [self._listener(bound) for bound in self._sockets]
        async with trio.open_nursery() as connections:
            with self._accepting:
                task_status.started([_url(listener.socket) for listener in listeners])
                await trio.serve_listeners(
                    self._handle_connection, listeners, handler_nursery=connections
                )
            for listener in listeners:
                await listener.aclose()
            await self._closing.wait()
            await self._context.terminated.set()
            with trio.move_on_after(self._settings.server.close_grace_s):
                await self._wait_closed()
            for stream in list(self._open):
                stream.abort()
            connections.cancel_scope.cancel()

    def follow_settings(self) -> None:
        """Settings have changed: connections from now on keep to them."""
        self._config = hypercorn_config(self._settings.server)

    def stop_accepting(self) -> None:
        """Refuse new connections; open ones go on."""
        self._accepting.cancel()

    def close(self) -> None:
        """End: idle connections at once, busy ones after a short grace, stuck ones by reset."""
        self.stop_accepting()
        self._closing.set()

    def _listener(self, bound: socket.socket) -> trio.SocketListener:
        bound.listen(BACKLOG)
        bound.setblocking(False)  # noqa: FBT003  # the standard library's signature
        return trio.SocketListener(trio.socket.from_stdlib_socket(bound))

    async def _wait_closed(self) -> None:
        while self._open:
            self._became_empty = trio.Event()
            await self._became_empty.wait()

    async def _handle_connection(self, stream: trio.SocketStream) -> None:
        if len(self._open) >= self._settings.server.max_connections:
            await _refuse(stream)
            return
        _keep_alive(stream.socket)
        guarded = GuardedStream(stream, write_timeout_s=self._settings.server.write_timeout_s)
        self._open.add(guarded)
        server = Connection(
            self._app, self._config, context=self._context, state=self._state, stream=guarded
        )
        try:
            await contain(server.run, _log_dropped)
        finally:
            self._open.discard(guarded)
            if not self._open:
                self._became_empty.set()
            await trio.aclose_forcefully(guarded)


def _log_dropped(error: Exception) -> None:
    """Without the error's text: parsers quote what they cannot read, and that may be a key."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{PurePath(frame.filename).name}:{frame.lineno}"
    log.info("connection dropped", reason=f"{type(error).__name__} in {place}")


async def _refuse(stream: trio.SocketStream) -> None:
    """Say why, and read what the client sent: closing over unread bytes would reset the answer."""
    with trio.move_on_after(REFUSAL_GRACE_S), contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(REFUSAL % (len(REFUSAL_BODY), REFUSAL_BODY))
        await stream.send_eof()
        async for _ in stream:
            pass
    await trio.aclose_forcefully(stream)


def _url(bound: trio.socket.SocketType) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
