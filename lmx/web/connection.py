"""Hypercorn's connection as LMX drives it: it writes without waiting and idles without new tasks.

Hypercorn takes a lock for each piece that it writes and starts and cancels a task for each request,
which come to a dozen passes of the event loop, a third of what a short request costs. Neither the
queue of `GuardedStream` nor a timer needs them. What is overridden here is no documented API:
Hypercorn is pinned, and `tests/http` holds the contract.
"""

from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, Protocol

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, LifespanState

from lmx.web.guarded import GuardedStream

STREAM_EXTENSION = "lmx.stream"
RECEIVE_BYTES = 64 * 1024
# First byte of a WebSocket's last frame, and how long a client then has to leave.
CLOSE = b"\x88"
CLOSE_GRACE_S = 2.0


class AsgiApp(Protocol):
    """An ASGI 3 application."""

    async def __call__(
        self, scope: dict[str, Any], receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Handle one scope."""


class _ConnectionApp:
    """The app as `TCPServer` calls it, telling raw handlers which stream they may write to.

    Over HTTP/2 several requests share a stream, and none may write to it past Hypercorn.
    """

    def __init__(self, app: AsgiApp, stream: GuardedStream) -> None:
        self._app = app
        self._stream = stream
        self._websockets: set[trio.CancelScope] = set()
        self._ends_at_s = inf

    def note_gone(self) -> None:
        """The client is: Hypercorn tells a WebSocket's handler so, but not after a refusal."""
        self._ends_at_s = trio.current_time() + CLOSE_GRACE_S
        for scope in self._websockets:
            scope.deadline = self._ends_at_s

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
        *_thread_runners: object,
    ) -> None:
        if scope["http_version"] == "1.1":
            scope["extensions"][STREAM_EXTENSION] = self._stream
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        with trio.CancelScope(deadline=self._ends_at_s) as handling:
            self._websockets.add(handling)
            try:
                await self._app(scope, receive, send)
            finally:
                self._websockets.discard(handling)


class IdleTimer:
    """Closes a connection that was idle for long, and an idle one at shutdown.

    One task for the connection's life, which requests neither wake nor end. In place of
    Hypercorn's `TrioSingleTask`, whose methods wait.

    Args:
        limit_s: How long a connection may be idle.
        terminated: Set at shutdown.
        close: Ends the connection.
    """

    def __init__(
        self, limit_s: float, terminated: EventWrapper, close: Callable[[], Awaitable[None]]
    ) -> None:
        self._limit_s = limit_s
        self._terminated = terminated
        self._close = close
        self._waiting = trio.CancelScope()
        self._is_started = self._is_idle = False

    async def restart(self, task_group: TaskGroup, _action: object) -> None:
        """The connection is idle from now on."""
        self._is_idle = True
        self._waiting.deadline = trio.current_time() + self._limit_s
        if not self._is_started or self._terminated.is_set():
            self._is_started = True
            task_group.spawn(self._run)

    async def stop(self) -> None:
        """It has something to do."""
        self._is_idle = False
        self._waiting.deadline = inf

    def end(self) -> None:
        """It is over: the task must not keep it."""
        self._is_idle = False
        self._waiting.cancel()

    async def _run(self) -> None:
        if not self._terminated.is_set():
            with self._waiting:
                await self._terminated.wait()
        if self._is_idle:
            with trio.CancelScope(shield=True):
                await self._close()
        else:  # a request came in at the last moment
            self._is_started = False
            self._waiting = trio.CancelScope()


class Connection(TCPServer):
    """Hypercorn's connection, which ends when the client closes and not at the idle timeout.

    A WebSocket also ends when the client does not close after it was told to, and at once when it
    was refused, because the client has sent more than its handshake, for example.

    Args:
        app: The ASGI application.
        config: Hypercorn's settings.
        context: What all connections share.
        state: Of the application's lifespan.
        stream: The accepted stream.
    """

    stream: GuardedStream  # type: ignore[assignment]  # the transport it is given
    idle_task: IdleTimer  # type: ignore[assignment]

    def __init__(
        self,
        app: AsgiApp,
        config: HypercornConfig,
        *,
        context: WorkerContext,
        state: LifespanState,
        stream: GuardedStream,
    ) -> None:
        self._bound = _ConnectionApp(app, stream)
        transport: Any = stream
        super().__init__(self._bound, config, context, state, transport)  # type: ignore[arg-type]
        terminated: Any = context.terminated
        self.idle_task = IdleTimer(
            config.keep_alive_timeout, terminated, self._initiate_server_close
        )
        self._has_read_all = False

    async def _read_data(self) -> None:
        data: bytes | bytearray = b"-"
        while data and not self._is_refused():
            try:
                data = await self.stream.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                break
            await self.protocol.handle(RawData(bytes(data)))
        await self.protocol.handle(Closed())
        # Nobody will ask again, but the timer would keep the connection's task, its descriptor and
        # its place under the cap for `keep_alive_s` more.
        self._has_read_all = True
        self.idle_task.end()
        self._bound.note_gone()

    def _is_refused(self) -> bool:
        """Whether Hypercorn has refused a handshake; it waits for the client to leave then."""
        protocol = self.protocol.protocol
        stream = protocol.stream if isinstance(protocol, H11Protocol) else None
        return isinstance(stream, WSStream) and stream.closed

    async def protocol_send(self, event: Event) -> None:
        """Write data, or follow what the protocol says of the connection."""
        if isinstance(event, RawData):
            if self.stream.is_websocket and event.data[:1] == CLOSE:
                # Hypercorn waits for the client's close, also behind data that it will not read.
                self.stream.expect_end(CLOSE_GRACE_S)
            self.stream.feed(event.data)
            if not self.stream.unsent_bytes:
                return
            event = RawData(b"")  # waits until the peer has taken what is left
        if isinstance(event, Updated) and event.idle and self._has_read_all:
            return  # would start the timer again
        await super().protocol_send(event)
