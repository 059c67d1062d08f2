"""One HTTP exchange on raw ASGI: reads the body, watches for the client, sends exactly one reply.

One task listens on `receive` from the first byte to the last: it collects the body, and when the
client goes away it cancels the handler, streaming or not. It also keeps reading after an early
answer, without which Hypercorn would leak the connection.
"""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any, TypeVar
from urllib.parse import parse_qs

import structlog
import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from msgspec import Struct

from lmx.daemon.origin import Origin
from lmx.errors import LmxError
from lmx.schema.priority import read_priority_headers
from lmx.schema.problems import JSON_TYPE, Headers, ProblemReply, encode_problem
from lmx.web.auth import caller_of
from lmx.web.barrier import contain
from lmx.web.body import RequestBody
from lmx.web.connection import STREAM_EXTENSION
from lmx.web.guarded import GuardedStream
from lmx.web.sink import AsgiSink, Sink, SocketSink

# How long the last bytes of a finished answer and the connection's own bookkeeping may take.
FINISH_GRACE_S = 5.0
# A larger answer goes out in pieces, each of which may take this long: a client that takes less is
# lost, and between two pieces everybody else has a turn.
PIECE_BYTES = 128 * 1024
PIECE_LIMIT_S = 60.0
# Above this, parsing takes long enough to be felt on the event loop and goes to a thread.
PARSE_IN_THREAD_BYTES = 64 * 1024
NOT_MODIFIED = 304
# What a client may call itself, in characters; the rest is cut off.
CLIENT_NAME_LIMIT = 64
JSON_HEADERS: Headers = (JSON_TYPE,)
# The status of an answer that has no body, not even one of no bytes.
NO_CONTENT = 204
# Where a scope notes the id of its request, for applications that know no `Exchange`.
REQUEST_ID = "lmx.request_id"
EVENT_STREAM_HEADERS: Headers = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)

T = TypeVar("T")
Message = MutableMapping[str, Any]
AsgiCall = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]

log = structlog.get_logger("lmx.web")


class Answer(Struct, frozen=True):
    """A whole response.

    Attributes:
        body: All of it, or its pieces in order where they are too large to be copied together.
        status: Of HTTP.
        headers: Beside its length and the request's id.
    """

    body: bytes | list[bytes]
    status: int = 200
    headers: Headers = JSON_HEADERS


class Exchange:
    """What a raw handler sees of one request.

    Attributes:
        request_id: Sent back as ``x-request-id`` and used in logs.
        scope: The ASGI scope.
        received_s: When its head had arrived, on Trio's clock.
        body: Its body, as far as it has arrived.
    """

    def __init__(
        self, scope: dict[str, Any], receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        self.scope = scope
        self.request_id: str = scope["state"].get("request_id") or new_request_id()
        self.received_s = trio.current_time()
        length = self.header(b"content-length")
        self.body = RequestBody(int(length) if length.isdecimal() else 0)
        self._receive = receive
        self._send = send
        self._is_streaming = False
        self._is_answered = False
        self._is_handed_over = False
        self._on_disconnect: Callable[[], None] | None = None

    @property
    def is_streaming(self) -> bool:
        """Whether the head of an event stream went out."""
        return self._is_streaming

    def header(self, name: bytes) -> str:
        """A request header's value, the last of several; empty if it is not there."""
        return header_of(self.scope, name)

    @property
    def priority(self) -> int:
        """What its headers say of its priority."""
        return header_priority(self.scope)

    @property
    def last_event_id(self) -> str:
        """Of the last event a client that comes back has seen; empty for none.

        Clients that cannot set headers say it in the query.
        """
        query: str = self.scope["query_string"].decode("latin-1")
        return self.header(b"last-event-id") or parse_qs(query).get("last_event_id", [""])[-1]

    def abort(self) -> None:
        """End the connection at once, whatever it is in the middle of."""
        stream = self.scope["extensions"].get(STREAM_EXTENSION)
        if isinstance(stream, GuardedStream):
            stream.abort()
        elif self._on_disconnect is not None:
            self._on_disconnect()

    def origin(self, route: str) -> Origin:
        """Where the request comes from.

        Args:
            route: The path it came by.
        """
        return Origin(
            self.request_id,
            client_name(self.scope),
            route,
            self.received_s,
            caller_of(self.scope),
        )

    async def start_stream(self, first: bytes, headers: Headers = ()) -> Sink:
        """Send the head of an event stream and its first bytes; the rest goes to the sink."""
        self._is_streaming = True
        await self._send_head(200, (*EVENT_STREAM_HEADERS, *headers))
        await self._send({"type": "http.response.body", "body": first, "more_body": True})
        stream = self.scope["extensions"].get(STREAM_EXTENSION)
        # Hypercorn leaves the body out of an answer to HEAD; past it nobody would.
        if isinstance(stream, GuardedStream) and self.scope["method"] != "HEAD":
            return SocketSink(stream)
        return AsgiSink(self._send)

    async def hand_over(self, app: AsgiCall, body: bytes) -> None:
        """Let an ASGI application answer.

        It gets the body whole and never a disconnect: a client that leaves cancels it. An answer
        that it began and left is ended for it; one that it began and failed at is cut off.

        Args:
            app: Called once, with this exchange's scope.
            body: As it was read.
        """
        self._is_handed_over = True
        self.scope[REQUEST_ID] = self.request_id
        unread = [body]

        async def receive() -> Message:
            if not unread:
                await trio.sleep_forever()
            return {"type": "http.request", "body": unread.pop(), "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._is_streaming = True
                request_id = (b"x-request-id", self.request_id.encode())
                message = {**message, "headers": [*message["headers"], request_id]}
            is_last = message["type"] == "http.response.body" and not message.get("more_body")
            self._is_answered = self._is_answered or is_last
            # The end of an answer shows as a disconnect from within its last send.
            with trio.CancelScope(shield=is_last):
                await self._send(message)  # type: ignore[arg-type]

        await app(self.scope, receive, send)

    async def listen(self, *, body_limit: int, on_disconnect: Callable[[], None]) -> None:
        """Read everything the client sends until it is gone or the exchange is over."""
        self._on_disconnect = on_disconnect
        self.body.begin(body_limit)
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                break
            self.body.take(bytes(message["body"]), is_last=not message["more_body"])
        if not self._is_answered:
            on_disconnect()

    async def finish(self, answer: Answer | None) -> None:
        """Send the answer, or end the stream that the handler began.

        A stream whose handler failed is cut off instead, so that nobody takes it for whole.

        Cancellation:
            A client that goes away during a large answer cancels the rest of it.
        """
        if self._is_handed_over and self._is_answered:
            return
        *most, last = [memoryview(b"")] if answer is None else _cut(answer.body)
        is_large = bool(most) and not self._is_streaming
        if answer is not None and is_large:
            await self._send_answer_head(answer)
            for piece in most:
                await self._send_piece(piece)
        self._is_answered = True
        if self._is_streaming is (answer is not None):
            return  # it is cut off, or the handler had nothing to say
        with trio.move_on_after(FINISH_GRACE_S, shield=True):
            if answer is not None and not is_large:
                await self._send_answer_head(answer)
            await self._send_body(last, is_last=True)

    async def _send_piece(self, piece: memoryview) -> None:
        with trio.move_on_after(PIECE_LIMIT_S) as scope:
            await self._send_body(piece, is_last=False)
        if scope.cancelled_caught:
            self.abort()
            await trio.sleep_forever()

    async def _send_body(self, body: memoryview, *, is_last: bool) -> None:
        await self._send(
            {"type": "http.response.body", "body": bytes(body), "more_body": not is_last}
        )

    async def _send_answer_head(self, answer: Answer) -> None:
        # A length beside "not modified" would be the whole document's (RFC 9110, 8.6).
        has_no_body = answer.status in {NO_CONTENT, NOT_MODIFIED}
        length = None if has_no_body else sum(map(len, _cut(answer.body)))
        stream = self.scope["extensions"].get(STREAM_EXTENSION)
        if isinstance(stream, GuardedStream):
            stream.hold_next()  # the body is sent next, if only to say that there is none
        await self._send_head(answer.status, answer.headers, length=length)

    async def _send_head(self, status: int, headers: Headers, *, length: int | None = None) -> None:
        size = [] if length is None else [(b"content-length", b"%d" % length)]
        request_id = (b"x-request-id", self.request_id.encode())
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*headers, *size, request_id],
            }
        )


async def parse_body(exchange: Exchange, parse: Callable[[bytes], T], *, timeout_s: float) -> T:
    """Read the body and parse it, off the event loop if it is large.

    Raises:
        RequestError: The body did not come whole, or `parse` refuses it.
    """
    body = await exchange.body.read(timeout_s=timeout_s)
    if len(body) > PARSE_IN_THREAD_BYTES:
        return await trio.to_thread.run_sync(parse, body)
    return parse(body)


def header_of(scope: dict[str, Any], name: bytes) -> str:
    """A header's value, the last of several; empty if it is not there."""
    values = [value for key, value in scope["headers"] if key == name]
    return str(values[-1].decode("latin-1")) if values else ""


def header_priority(scope: dict[str, Any]) -> int:
    """What the headers of a request or of a handshake say of the priority."""
    return read_priority_headers(
        header_of(scope, b"x-priority"), header_of(scope, b"x-serving-lane")
    )


def client_name(scope: dict[str, Any]) -> str:
    """What a client calls itself in ``X-Client-ID``; else its address, without the port."""
    names = [value for name, value in scope["headers"] if name == b"x-client-id"]
    said = names[0].decode("latin-1") if names else ""
    shown = "".join(filter(str.isprintable, said)).strip()[:CLIENT_NAME_LIMIT]
    peer = scope.get("client")
    return shown or (str(peer[0]) if peer else "")


Handler = Callable[[Exchange], Awaitable[Answer | None]]


def new_request_id() -> str:
    """A fresh request id."""
    return f"req_{secrets.token_hex(12)}"


async def run_exchange(handler: Handler, exchange: Exchange, *, body_limit: int) -> None:
    """Run a handler for one request.

    The handler returns an `Answer`, or `None` after it has streamed. An `LmxError` becomes its
    response; any other failure becomes a 500 that says nothing of the inside.

    Cancellation:
        A client that goes away cancels the handler at its current await.
    """
    answers: list[Answer | None] = []

    async def handle() -> None:
        answers.append(await _answer_of(handler, exchange))

    def fail(error: Exception) -> None:
        log.error("request failed", request_id=exchange.request_id, exc_info=error)
        answers.append(problem_answer(encode_problem(LmxError("internal error"))))

    async with trio.open_nursery() as nursery:
        scope = nursery.cancel_scope
        nursery.start_soon(
            partial(exchange.listen, body_limit=body_limit, on_disconnect=scope.cancel)
        )
        await contain(handle, fail)
        await exchange.finish(answers[0])
        scope.deadline = trio.current_time() + FINISH_GRACE_S


async def _answer_of(handler: Handler, exchange: Exchange) -> Answer | None:
    try:
        return await handler(exchange)
    except LmxError as error:
        return problem_answer(encode_problem(error))
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        if not exchange.is_streaming:
            raise
        log.info("client lost", request_id=exchange.request_id, reason=str(error))
        return None


def _cut(body: bytes | list[bytes]) -> list[memoryview]:
    """A body's pieces, none of them too large; at least one."""
    given = [body] if isinstance(body, bytes) else body
    return [
        memoryview(piece)[start : start + PIECE_BYTES]
        for piece in given
        for start in range(0, max(len(piece), 1), PIECE_BYTES)
    ]


def problem_answer(reply: ProblemReply) -> Answer:
    """A problem as an answer."""
    return Answer(reply.body, reply.status, reply.headers)
