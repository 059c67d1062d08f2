"""The door: every request passes the gate before any route, and every answer says who may read it.

An ASGI application around the one with the routes. A refusal is answered like any other error, a
refused WebSocket before it is one; preflights of browsers end here.
"""

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent

from lmx.errors import LmxError
from lmx.schema.problems import encode_problem
from lmx.web.auth import CALLER, RESTRAINT, Gate, read_head
from lmx.web.connection import AsgiApp
from lmx.web.exchange import NO_CONTENT, Answer, Exchange, new_request_id, run_exchange

Header = tuple[bytes, bytes]

# How long a refused client may go on sending its body before it gets its answer all the same.
DROP_LIMIT_S = 10.0
EXPOSED: Header = (
    b"access-control-expose-headers",
    b"x-request-id, retry-after, x-lmx-cache, mcp-session-id",
)
VARY: Header = (b"vary", b"Origin")
ALLOWED_HEADERS = (
    b"Content-Type, Authorization, X-Admin-Key, X-Api-Key, X-Client-ID, X-Opta-Bridge-ID, "
    b"Idempotency-Key, Last-Event-ID, X-Priority, X-Serving-Lane, "
    b"Mcp-Session-Id, Mcp-Protocol-Version, Mcp-Method, Mcp-Name"
)
PREFLIGHT: tuple[Header, ...] = (
    (b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"),
    (b"access-control-allow-headers", ALLOWED_HEADERS),
    (b"access-control-max-age", b"600"),
)
PRIVATE_NETWORK: Header = (b"access-control-allow-private-network", b"true")


class Door:
    """The application that the server runs.

    Args:
        app: The routes.
        gate: Decides who gets to them.
    """

    def __init__(self, app: AsgiApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(
        self, scope: dict[str, Any], receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Handle one ASGI scope."""
        # Routes are matched on the very path that was judged.
        scope["path"] = path_of(scope["path"])
        refusal = self._gate.check(scope)
        if scope["type"] == "websocket":
            if refusal is not None:
                await _refuse_socket(refusal, send)
                return
        else:
            grants = self._grants(scope)
            send = with_headers(send, grants) if grants else send
            if refusal is not None or read_head(scope).is_preflight:
                await _answer(refusal, Exchange(scope, receive, send), grants)
                return
        scope[CALLER] = self._gate.identify(scope)
        scope[RESTRAINT] = self._gate.restrain(scope)
        await self._app(scope, receive, send)

    def _grants(self, scope: dict[str, Any]) -> list[Header]:
        """What a browser reads of an answer before it gives it to a page."""
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        if not origins:
            return []
        if not self._gate.allows_origin(scope):
            return [VARY]
        return [(b"access-control-allow-origin", origins[-1]), EXPOSED, VARY]


def path_of(target: str) -> str:
    """The path of a request's target: proxies send whole URLs, and RFC 9112 wants them served."""
    if target.startswith("/"):
        return target
    try:
        path = urlsplit(target).path
    except ValueError:
        path = target
    return path if path.startswith("/") else f"/{path}"


def with_headers(send: ASGISendCallable, headers: Iterable[Header]) -> ASGISendCallable:
    """A `send` that adds headers to the head of the answer."""

    async def send_with_headers(message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *headers]}
        await send(message)

    return send_with_headers


async def _answer(refusal: LmxError | None, exchange: Exchange, grants: list[Header]) -> None:
    """Answer a refused request or a preflight. Its body is read and dropped."""
    headers = dict(exchange.scope["headers"])

    async def answer(exchange: Exchange) -> Answer:
        if refusal is not None:
            await exchange.body.drop(timeout_s=DROP_LIMIT_S)
            raise refusal
        if EXPOSED not in grants:  # a page that may nothing; its browser tells it so
            return Answer(b"", NO_CONTENT, ())
        wants_private = headers.get(b"access-control-request-private-network") == b"true"
        return Answer(b"", NO_CONTENT, (*PREFLIGHT, *([PRIVATE_NETWORK] if wants_private else [])))

    await run_exchange(answer, exchange, body_limit=0)


async def _refuse_socket(refusal: LmxError, send: ASGISendCallable) -> None:
    """Answer the upgrade like a request; ASGI's extension for that comes with every scope here."""
    reply = encode_problem(refusal)
    length = (b"content-length", b"%d" % len(reply.body))
    request_id = (b"x-request-id", new_request_id().encode())
    await send(
        {
            "type": "websocket.http.response.start",
            "status": reply.status,
            "headers": [*reply.headers, length, request_id],
        }
    )
    await send({"type": "websocket.http.response.body", "body": reply.body, "more_body": False})
