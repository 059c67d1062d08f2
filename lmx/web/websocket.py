"""``WS /v1/chat/stream``: many chat requests on one socket, each answered, cancelled or taken up.

Theory of operation. One task reads messages and never waits for an answer; each request runs in a
task of its own, and what it says is written to the connection from the task that reads the worker's
frames, as with server-sent events. Whether the client speaks in typed messages or in plain ones is
decided by its first message. A client that does not read delays itself alone: its answers merge,
its messages are not read, and in the end its connection is reset. Leaving the socket cancels what
was not asked to outlive it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable

from lmx.errors import InvalidRequest, LmxError, QueueFull
from lmx.schema.chat_frames import (
    ClientMessage,
    MessageEncoder,
    PlainEncoder,
    TypedEncoder,
    parse_client_message,
)
from lmx.web.answer_log import MESSAGE_FRAMING
from lmx.web.auth import caller_of
from lmx.web.barrier import contain
from lmx.web.connection import STREAM_EXTENSION
from lmx.web.exchange import (
    PARSE_IN_THREAD_BYTES,
    client_name,
    header_priority,
    new_request_id,
)
from lmx.web.guarded import GuardedStream
from lmx.web.sink import GONE
from lmx.web.socket_frames import SocketMessages
from lmx.web.socket_requests import Handshake, SocketRequest, SocketServices

ROUTE = "/v1/chat/stream"
PING_PERIOD_S = 20.0
NOT_RUNNING = "chat.not_running"
# How long the terminal messages of a stopping daemon may take.
LAST_WORDS_S = 1.0
# Source: RFC 6455, section 7.4.1, and its registry.
INTERNAL_ERROR, SERVICE_RESTART = 1011, 1012

log = structlog.get_logger("lmx.web")


class ChatSocket:
    """The route: accepts a socket and serves it to its end.

    Args:
        services: What its requests work with.
    """

    def __init__(self, services: SocketServices) -> None:
        self._services = services

    async def __call__(
        self, scope: dict[str, Any], receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Handle one ASGI scope."""
        stream = scope["extensions"].get(STREAM_EXTENSION)
        await receive()  # the handshake
        if not isinstance(stream, GuardedStream):
            await send({"type": "websocket.close", "code": INTERNAL_ERROR, "reason": None})
            return
        request_id = new_request_id().encode()
        headers = [(b"x-request-id", request_id)]
        await send({"type": "websocket.accept", "subprotocol": None, "headers": headers})
        stream.is_websocket = True
        session = SocketSession(scope, stream, self._services)

        def fail(error: Exception) -> None:
            log.error("socket failed", exc_info=error)
            session.close_code = INTERNAL_ERROR

        await contain(partial(session.run, receive), fail)
        if session.close_code is not None:
            reason = "the server is stopping" if session.close_code == SERVICE_RESTART else None
            close = {"type": "websocket.close", "code": session.close_code, "reason": reason}
            with trio.move_on_after(LAST_WORDS_S):
                await send(close)  # type: ignore[arg-type]


class SocketSession:
    """One socket's requests.

    Args:
        scope: The ASGI scope.
        stream: The connection.
        services: What requests work with.

    Attributes:
        close_code: With what to close it; `None` if the client has closed it.
    """

    def __init__(
        self, scope: dict[str, Any], stream: GuardedStream, services: SocketServices
    ) -> None:
        self._handshake = Handshake(client_name(scope), caller_of(scope), header_priority(scope))
        self._messages = SocketMessages(stream)
        self._services = services
        self._spelling: type[MessageEncoder] | None = None
        self._requests: dict[str, SocketRequest] = {}
        self._became_idle = trio.Event()
        self._nursery: trio.Nursery | None = None
        self.close_code: int | None = None

    async def run(self, receive: ASGIReceiveCallable) -> None:
        """Serve until the client leaves or the daemon stops."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._ping)
            nursery.start_soon(self._watch_stop)
            await self._read(receive)
            nursery.cancel_scope.cancel()

    async def _read(self, receive: ASGIReceiveCallable) -> None:
        while True:
            message: Any = await receive()
            if message["type"] != "websocket.receive":
                return
            data = message.get("bytes")
            if data is None:
                data = (message.get("text") or "").encode()
            self._take(data)
            try:
                # Who does not read what it is told is not listened to either.
                await self._messages.flush()
            except GONE:
                return

    def _take(self, data: bytes) -> None:
        """Act on a message. Never waits."""
        if len(data) > PARSE_IN_THREAD_BYTES:
            self._start(self._look_at_large, data)
            return
        try:
            self._act(parse_client_message(data), data)
        except LmxError as error:
            self._refuse(error, None)

    async def _look_at_large(self, data: bytes) -> None:
        try:
            message = await trio.to_thread.run_sync(parse_client_message, data)
            self._act(message, data)
        except LmxError as error:
            self._refuse(error, None)

    def _act(self, message: ClientMessage, data: bytes) -> None:
        if self._spelling is None:
            self._spelling = PlainEncoder if message.type is None else TypedEncoder
        match message.type:
            case None | "chat.request":
                self._begin(message, data)
            case "chat.cancel":
                self._tell(message, SocketRequest.cancel)
            case "chat.stop_thinking":
                self._tell(message, SocketRequest.stop_thinking)
            case "chat.resume":
                self._take_up(message)
            case other:
                raise InvalidRequest(f"unknown message type {other!r}", param="type")

    def _begin(self, message: ClientMessage, data: bytes) -> None:
        request = self._admit(message.request_id)
        if request is not None:
            self._start(self._serve, request, partial(request.answer, data))

    def _take_up(self, message: ClientMessage) -> None:
        kept, reader = self._services.keeper.find(message.last_event_id or "", MESSAGE_FRAMING)
        name = message.request_id if kept.owner is None else kept.owner.name
        request = self._admit(name)
        if request is not None:
            self._start(self._serve, request, partial(request.take_up, kept, reader))

    def _admit(self, name: str | None) -> SocketRequest | None:
        """A request of this name, unless it is refused, of which the client is told."""
        own_id = new_request_id()
        name = name or own_id
        self._requests = {r.name: r for r in self._requests.values() if not r.is_over}
        limit = self._services.settings.server.max_socket_requests
        if name in self._requests:
            taken = InvalidRequest(f"a request named {name!r} runs already", param="request_id")
            self._refuse(taken, None)
            return None
        if len(self._requests) >= limit:
            full = QueueFull(f"{limit} requests run on this socket already", retry_after_s=1.0)
            self._refuse(full, name)
            return None
        request = SocketRequest(
            name,
            self._handshake.origin(own_id, ROUTE),
            self._messages,
            default_priority=self._handshake.priority,
            spelling=self._spelling or TypedEncoder,
            services=self._services,
        )
        self._requests[name] = request
        return request

    async def _serve(self, request: SocketRequest, work: Callable[[], Any]) -> None:
        try:
            await work()
        except GONE:
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel()
        finally:
            if self._requests.get(request.name) is request:
                del self._requests[request.name]
            if not self._requests:
                self._became_idle.set()
                self._became_idle = trio.Event()

    def _tell(self, message: ClientMessage, word: Callable[[SocketRequest], None]) -> None:
        name = message.request_id
        if name is None:
            raise InvalidRequest(f"{message.type!r} needs a 'request_id'", param="request_id")
        request = self._requests.get(name)
        if request is not None and not request.is_over:
            word(request)
        else:
            # A word that crossed with the end of its request is no error: nothing may follow that
            # a client could take for a second end.
            self._messages.feed(TypedEncoder.spell_note(NOT_RUNNING, name))

    def _refuse(self, error: LmxError, name: str | None) -> None:
        spelling = self._spelling or TypedEncoder
        self._messages.feed(spelling.spell_error(error, name))

    def _start(self, task: Callable[..., Any], *arguments: Any) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(task, *arguments)

    async def _ping(self) -> None:
        while True:
            await trio.sleep(PING_PERIOD_S)
            self._messages.ping()

    async def _watch_stop(self) -> None:
        """Close the socket when the daemon ends what is open, after the last words of each."""
        await self._services.dispatch.wait_revoked()
        with trio.move_on_after(LAST_WORDS_S):
            while self._requests:
                await self._became_idle.wait()
        self.close_code = SERVICE_RESTART
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
