"""A server that plays the daemon for its dashboard: the real page, scripted answers, real events.

It is for what a healthy daemon does not do on request: ask for a key, break the stream, be slow,
fail, download. It listens on a free port of 127.0.0.1 and remembers what it was asked.
"""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from lmx.schema.openapi import openapi_document
from lmx.schema.problems import encode_http_problem
from lmx.web.dashboard import dashboard_routes
from lmx.web.exchange import Answer, Exchange, run_exchange

BODY_LIMIT = 1 << 20
# As the daemon names its events on the wire.
UNNAMED = frozenset({"throughput", "memory", "model_event"})
SENT_TWICE = frozenset({"heartbeat", "memory_warning", "memory_critical"})

Document = Any
Reply = tuple[int, Document]
Script = Callable[["Asked"], Document | Reply]


class Asked(NamedTuple):
    """One request, and when it came by Trio's clock."""

    at_s: float
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


def memory(used_gb: float = 20.0) -> Document:
    """What ``GET /admin/memory`` answers: one model of four gigabytes, loaded."""
    return {
        "total_unified_memory_gb": 64.0,
        "total_gb": 64.0,
        "used_gb": used_gb,
        "available_gb": 64.0 - used_gb,
        "usage_percent": 100 * used_gb / 64,
        "used_percent": 100 * used_gb / 64,
        "warning_percent": 85.0,
        "threshold_percent": 90.0,
        "models": {"played/model": {"memory_gb": 4.0, "loaded": True}},
        "per_model": [{"model_id": "played/model", "memory_gb": 4.0, "backend": "mlx"}],
        "budget": {"budget_gb": 40.0, "reserved_gb": 6.0, "free_gb": 34.0},
    }


def loaded_row(model_id: str) -> Document:
    """A row of the loaded models, with what the page reads."""
    return {
        "id": model_id,
        "memory_gb": 4.0,
        "context_length": 32768,
        "backend": "mlx",
        "request_count": 3,
        "stats": {"avg_tokens_per_second": 41.5},
        "readiness": {"state": "routable", "reason": None, "crash_count": 0},
    }


def loading_row(model_id: str, **fields: Any) -> Document:
    """A row of the models on their way."""
    since = time.time() - 5
    row = {"id": model_id, "state": "loading", "reason": None, "waiting": 0, "since": since}
    return row | fields


def skill_list(name: str = "played", text: str = "Plays.") -> Document:
    """What ``GET /v1/skills`` answers: one skill, and one that is broken."""
    skill = {
        "name": name,
        "qualified_name": f"local/{name}",
        "reference": f"local/{name}@1.0.0",
        "description": text,
        "kind": "command",
        "permission_tags": ["network", text],
        "risk_tags": [text],
        "requires_approval": True,
        "input_schema": {"properties": {name: {"default": text}}},
    }
    return {"data": [skill], "broken": [{"path": f"/{name}.yaml", "error": text}]}


class Stage:
    """The played daemon.

    Attributes:
        documents: What each route answers: a document, a status with a document, or a function of
            the request that gives either, at once or later, or the events of a stream.
        asked: Every request to the API, in order.
        key: The admin key that is asked for; empty for none.
        is_streaming: Whether ``/admin/events`` answers.
        url: Where it listens.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.key = ""
        self.is_streaming = True
        self.url = ""
        self._sent: list[tuple[int, bytes]] = []  # as the daemon's ring, without an end
        self._streams: list[trio.MemorySendChannel[bytes]] = []
        models = {"loaded": [loaded_row("played/model")], "count": 1, "loading": [], "models": []}
        status = {"version": "9.9", "uptime_seconds": 3700.0, "in_flight_requests": 0}
        self.documents: dict[tuple[str, str], Document | Reply | Script] = {
            ("GET", "/admin/status"): {**status, "waiting_requests": 0},
            ("GET", "/admin/models"): models,
            ("GET", "/admin/models/available"): [],
            ("GET", "/admin/memory"): memory(),
            ("GET", "/admin/requests"): {"requests": [], "count": 0},
            ("GET", "/admin/logs/tail"): {"lines": []},
            ("GET", "/admin/presets"): {"presets": [{"name": "played", "model": "played/model"}]},
            ("GET", "/v1/skills"): skill_list(),
            ("GET", "/openapi.json"): self._description,
        }
        self._files = dashboard_routes(self._index)

    def publish(self, kind: str, /, **fields: Any) -> None:
        """Send an event to every stream, as the daemon would."""
        event = {"type": kind, "ts": fields.pop("ts", time.time()), **fields}
        if kind not in UNNAMED:
            self._send(f"event: {kind}\n", event)
        if kind in UNNAMED or kind in SENT_TWICE:
            self._send("", event)

    def cut(self) -> None:
        """End every stream."""
        for stream in self._streams:
            stream.close()
        self._streams.clear()

    @property
    def stream_count(self) -> int:
        """Streams that are open now."""
        return len(self._streams)

    def requests_to(self, path: str) -> list[Asked]:
        """What was asked of one path."""
        return [asked for asked in self.asked if asked.path == path]

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI application."""
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
            return
        if (scope["method"], scope["path"]) in self._files:
            handler = self._files[scope["method"], scope["path"]]
        else:
            handler = self._answer
        await run_exchange(handler, Exchange(scope, receive, send), body_limit=BODY_LIMIT)

    def _send(self, name: str, event: Document) -> None:
        number = len(self._sent) + 1
        frame = f"id: {number}\n{name}data: {json.dumps(event)}\n\n".encode()
        self._sent.append((number, frame))
        for stream in self._streams:
            stream.send_nowait(frame)

    async def _answer(self, exchange: Exchange) -> Answer | None:
        scope = exchange.scope
        body = await exchange.body.read(timeout_s=5)
        asked = Asked(
            trio.current_time(),
            scope["method"],
            scope["path"],
            dict(parse_qsl(scope["query_string"].decode())),
            {name.decode(): value.decode() for name, value in scope["headers"]},
            json.loads(body) if body else None,
        )
        self.asked.append(asked)
        if self._is_closed_to(asked):
            return _refusal(401, "unauthorized", "the admin key is missing or wrong")
        if asked.path == "/admin/events":
            return await self._stream(exchange, asked)
        scripted = self.documents.get((asked.method, asked.path))
        if scripted is None:
            return _refusal(404, "not_found", f"nothing is at {asked.path}")
        found = scripted(asked) if callable(scripted) else scripted
        if isinstance(found, Awaitable):
            found = await found
        if isinstance(found, AsyncIterator):
            return await _stream_out(exchange, found)
        status, document = found if isinstance(found, tuple) else (200, found)
        return Answer(json.dumps(document).encode(), status)

    def _is_closed_to(self, asked: Asked) -> bool:
        if not self.key or asked.path == "/openapi.json":
            return False
        return asked.headers.get("x-admin-key") != self.key

    async def _stream(self, exchange: Exchange, asked: Asked) -> Answer | None:
        if not self.is_streaming:
            return _refusal(503, "draining", "no streams now")
        last_id = int(asked.headers.get("last-event-id", 0) or len(self._sent))
        send, receive = trio.open_memory_channel[bytes](1000)
        self._streams.append(send)
        try:
            sink = await exchange.start_stream(b": hello\n\n")
            sink.feed(b"".join(frame for number, frame in self._sent if number > last_id))
            await sink.flush()
            async for frame in receive:
                sink.feed(frame)
                await sink.flush()
        finally:
            if send in self._streams:
                self._streams.remove(send)
        return None

    def _description(self, _asked: Asked) -> Document:
        """What is scripted is described, and nothing else: a server has what it describes."""
        paths: dict[str, Document] = {}
        for method, path in self.documents:
            paths.setdefault(path, {})[method.lower()] = {}
        return {**openapi_document("9.9"), "paths": paths}

    async def _index(self, _exchange: Exchange) -> Answer:
        return Answer(b"{}")


def _refusal(status: int, code: str, message: str) -> Answer:
    body = json.loads(encode_http_problem(status, message).body)
    body["code"] = body["error"]["code"] = code
    return Answer(json.dumps(body).encode(), status)


async def _stream_out(exchange: Exchange, events: AsyncIterator[Document]) -> None:
    """A scripted event stream, such as an answer to a chat."""
    sink = await exchange.start_stream(b": hello\n\n")
    async for event in events:
        text = event if isinstance(event, str) else json.dumps(event)
        sink.feed(f"data: {text}\n\n".encode())
        await sink.flush()


@asynccontextmanager
async def open_stage() -> AsyncIterator[Stage]:
    """A played daemon that listens while the block runs."""
    stage = Stage()
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    config.graceful_timeout = 0.1
    async with trio.open_nursery() as nursery:
        urls = await nursery.start(serve, stage.app, config)
        stage.url = f"http://127.0.0.1:{urlsplit(urls[0]).port}"
        yield stage
        stage.cut()
        nursery.cancel_scope.cancel()
