"""The ASGI application: token streams and probes go to raw handlers, everything else to Quart.

The dispatcher is also where every response gets its ``x-request-id``. A known path with the wrong
method and an unknown path are Quart's to refuse, in the same envelope as every other error.
"""

from collections.abc import Iterable
from typing import Any, NoReturn

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent
from quart import Response
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from lmx.catalog.sessions import SessionShelf
from lmx.daemon.log_folders import LogFolders
from lmx.errors import LmxError
from lmx.schema.problems import ProblemReply, encode_http_problem, encode_problem
from lmx.web.admin import CONVERTERS, admin_routes
from lmx.web.admin_live import live_routes
from lmx.web.anthropic import MessagesRoute
from lmx.web.chat import ChatRoute
from lmx.web.completions import CompletionRoute
from lmx.web.dashboard import dashboard_routes
from lmx.web.docs import show_docs, show_openapi
from lmx.web.door import with_headers
from lmx.web.events import EventsRoute
from lmx.web.exchange import REQUEST_ID, Exchange, Handler, new_request_id, run_exchange
from lmx.web.extras import extra_routes
from lmx.web.health import HealthRoutes
from lmx.web.jobs import download_routes, quantize_routes
from lmx.web.logs import log_routes
from lmx.web.machine import DiscoveryRoute, machine_routes
from lmx.web.mcp import MCP_BODY_BYTES, MCP_METHODS, MCP_PATH, McpRoute
from lmx.web.models import model_routes
from lmx.web.presets import preset_routes
from lmx.web.services import Services
from lmx.web.skills import SkillNameConverter, skill_routes
from lmx.web.socket_requests import SocketServices
from lmx.web.tokens import TokenRoutes
from lmx.web.vectors import VectorRoutes
from lmx.web.websocket import ROUTE as SOCKET_ROUTE
from lmx.web.websocket import ChatSocket

SOCKET_PATHS = frozenset({SOCKET_ROUTE, "/ws/stream"})


class SafeHTTPConnection(TrioASGIHTTPConnection):
    """Quart-Trio's connection whose last send is not cut off by the disconnect it causes.

    Hypercorn reports the end of a response as a disconnect from inside the app's last send;
    unshielded, that send never returns and the connection is never closed or reused.
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Run one request with its last send shielded."""

        async def send_whole(message: ASGISendEvent) -> None:
            is_last = message["type"] == "http.response.body" and not message.get("more_body")
            with trio.CancelScope(shield=is_last):
                await send(message)

        await super().__call__(receive, send_whole)


def make_quart(services: Services) -> QuartTrio:
    """The routes that need no speed."""
    app = QuartTrio("lmx")
    app.asgi_http_class = SafeHTTPConnection
    app.config["RESPONSE_TIMEOUT"] = None  # 60 s by default, which cuts long answers off

    def follow_settings() -> None:
        settings = services.settings.server
        app.config["BODY_TIMEOUT"] = settings.body_timeout_s
        app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes

    follow_settings()
    services.live.listen(follow_settings)
    app.url_map.converters.update(CONVERTERS, skill_name=SkillNameConverter)
    app.register_blueprint(model_routes(services.loader))
    app.register_blueprint(admin_routes(services.arrivals, services.dispatch))
    app.register_blueprint(download_routes(services.arrivals))
    app.register_blueprint(quantize_routes(services.quantizer))
    app.register_blueprint(machine_routes(services))
    app.register_blueprint(live_routes(services))
    app.register_blueprint(preset_routes(services.presets))
    app.register_blueprint(extra_routes(services.loader, services.live, SessionShelf()))
    folders = LogFolders(services.settings.home, services.settings.logging.path)
    app.register_blueprint(log_routes(services.log_tail, folders))
    app.register_blueprint(skill_routes(services.skills))

    @app.errorhandler(LmxError)
    async def refuse(error: LmxError) -> Response:
        return _response(encode_problem(error))

    @app.errorhandler(HTTPException)
    async def refuse_http(error: HTTPException) -> Response:
        status = error.code or 500
        response = _response(encode_http_problem(status, error.description or "unknown error"))
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["allow"] = ", ".join(sorted(error.valid_methods))
        return response

    return app


def _declare(app: QuartTrio, routes: Iterable[tuple[str, str]]) -> None:
    """Tell Quart of the raw routes, so that it refuses other methods there as on its own."""

    async def serve() -> NoReturn:
        raise AssertionError("unreachable: the dispatcher serves this route")

    for method, path in routes:
        app.add_url_rule(path, f"raw {method} {path}", serve, methods=[method])


def _response(reply: ProblemReply) -> Response:
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    return Response(reply.body, reply.status, headers)


class Dispatcher:
    """Chooses the handler of each request.

    Args:
        services: What the routes work with.
    """

    def __init__(self, services: Services) -> None:
        settings, dispatch, keeper = services.settings, services.dispatch, services.keeper
        self._settings = settings
        presets = services.presets
        health = HealthRoutes(services.loader, dispatch)
        discovery = DiscoveryRoute(services)
        tokens = TokenRoutes(dispatch, services.loader, settings)
        messages = MessagesRoute(dispatch, settings, keeper, presets=presets)
        vectors = VectorRoutes(services.vectors, settings)
        mcp = McpRoute(services.mcp, settings, dispatch.wait_revoked)
        self._raw: dict[tuple[str, str], Handler] = {
            **{(method, MCP_PATH): mcp for method in MCP_METHODS},
            **dashboard_routes(health.index),
            ("GET", "/health"): health.live,
            ("GET", "/healthz"): health.live,
            ("GET", "/readyz"): health.ready,
            ("GET", "/admin/events"): EventsRoute(services.events, dispatch.wait_revoked),
            ("GET", "/.well-known/opta-lmx"): discovery,
            ("GET", "/v1/discovery"): discovery,
            ("GET", "/openapi.json"): show_openapi,
            ("GET", "/docs"): show_docs,
            ("POST", "/v1/chat/completions"): ChatRoute(
                dispatch, settings, keeper, presets=presets, skills=services.skills
            ),
            ("GET", "/v1/chat/completions"): keeper.take_up,
            ("GET", "/v1/completions"): keeper.take_up,
            ("POST", "/v1/completions"): CompletionRoute(
                dispatch, settings, keeper, presets=presets
            ),
            ("POST", "/v1/messages"): messages.answer,
            ("POST", "/v1/messages/count_tokens"): messages.count_tokens,
            ("POST", "/tokenize"): tokens.tokenize,
            ("POST", "/detokenize"): tokens.detokenize,
            ("POST", "/apply-template"): tokens.apply_template,
            ("POST", "/v1/embeddings"): vectors.embed,
            ("POST", "/v1/rerank"): vectors.rerank,
            ("POST", "/rerank"): vectors.rerank,
            ("POST", "/v2/rerank"): vectors.rerank_v2,
            ("POST", "/v1/score"): vectors.score,
        }
        sockets = SocketServices(dispatch, settings, keeper, presets, services.skills)
        self._socket = ChatSocket(sockets)
        self._quart = make_quart(services)
        _declare(self._quart, self._raw)

    async def __call__(
        self, scope: dict[str, Any], receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Handle one ASGI scope."""
        if scope["type"] == "websocket" and scope["path"] in SOCKET_PATHS:
            await self._socket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._quart(scope, receive, send)  # type: ignore[arg-type]
            return
        # Hypercorn leaves the body out of an answer to HEAD.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        handler = self._raw.get((method, scope["path"]))
        if handler is None:
            scope[REQUEST_ID] = new_request_id()
            request_id = (b"x-request-id", scope[REQUEST_ID].encode())
            await self._quart(scope, receive, with_headers(send, [request_id]))  # type: ignore[arg-type]
            return
        body_limit = self._settings.server.max_body_bytes
        if scope["path"] == MCP_PATH:
            body_limit = min(body_limit, MCP_BODY_BYTES)
        await run_exchange(handler, Exchange(scope, receive, send), body_limit=body_limit)
