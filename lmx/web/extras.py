"""``/admin/stack``, ``/admin/predictor``, ``/admin/helpers`` and ``/admin/sessions``.

They answer with what there is: names that stand for models, how often models were asked, no other
machines, and the CLI's own files.
"""

from collections.abc import Iterable

import msgspec
import trio
from quart import Blueprint, Response, request

from lmx.catalog.names import resolve_name
from lmx.catalog.sessions import Session, SessionShelf, matches
from lmx.daemon.live import LiveSettings
from lmx.daemon.loader import Loader
from lmx.errors import EntryNotFound, InvalidRequest
from lmx.schema.extras import (
    HelpersReply,
    PredictorReply,
    SessionDeleted,
    SessionDocument,
    SessionList,
    SessionMessage,
    SessionRow,
    StackReply,
    StackRole,
)
from lmx.web.bodies import json_response

DEFAULT_LIMIT = 50
MAX_LIMIT = 1000
TOP_MODELS = 10


def extra_routes(loader: Loader, live: LiveSettings, shelf: SessionShelf) -> Blueprint:
    """The routes.

    Args:
        loader: Knows the models.
        live: The settings in force.
        shelf: Has the sessions.
    """
    routes = Blueprint("extras", __name__, url_prefix="/admin")
    sessions = SessionRoutes(shelf)

    @routes.get("/stack")
    async def stack() -> Response:
        return json_response(_stack(loader, live))

    @routes.get("/predictor")
    async def predictor() -> Response:
        return json_response(_predictor(loader))

    @routes.get("/helpers")
    async def helpers() -> Response:
        return json_response(HelpersReply())

    routes.get("/sessions")(sessions.list)
    routes.get("/sessions/search")(sessions.search)
    routes.get("/sessions/<session_id:session_id>")(sessions.show)
    routes.delete("/sessions/<session_id:session_id>")(sessions.delete)
    return routes


class SessionRoutes:
    """The routes over the CLI's sessions.

    Args:
        shelf: Has them.
    """

    def __init__(self, shelf: SessionShelf) -> None:
        self._shelf = shelf

    async def list(self) -> Response:
        """``GET /admin/sessions``."""
        limit, offset = _number("limit", DEFAULT_LIMIT, most=MAX_LIMIT), _number("offset", 0)
        asked = request.args
        found = [
            session
            for session in await trio.to_thread.run_sync(self._shelf.read_all)
            if asked.get("model", session.model) == session.model
            and ("tag" not in asked or asked["tag"] in session.tags)
            and session.updated >= asked.get("since", "")
        ]
        rows = _rows(found[offset : offset + limit])
        return json_response(SessionList(rows, len(found), limit, offset))

    async def search(self) -> Response:
        """``GET /admin/sessions/search``."""
        limit = _number("limit", DEFAULT_LIMIT, most=MAX_LIMIT)
        query = request.args.get("q", "")

        def look() -> list[Session]:
            return [one for one in self._shelf.read_all() if matches(one, query)]

        found = await trio.to_thread.run_sync(look)
        return json_response(_rows(found[:limit]))

    async def show(self, session_id: str) -> Response:
        """``GET /admin/sessions/{id}``."""
        session = await trio.to_thread.run_sync(self._shelf.read, session_id)
        if session is None:
            raise EntryNotFound(f"there is no session {session_id!r}", param="id")
        return json_response(_document(session))

    async def delete(self, session_id: str) -> Response:
        """``DELETE /admin/sessions/{id}``."""
        deleted = await trio.to_thread.run_sync(self._shelf.delete, session_id)
        return json_response(SessionDeleted(deleted))


def _stack(loader: Loader, live: LiveSettings) -> StackReply:
    routing = live.current.routing
    loaded = {model.id: model.spec.aliases for model in loader.routable}
    roles = {}
    for name in routing.aliases:
        preferences = list(routing.targets(name))
        found = (resolve_name(preference, loaded) for preference in preferences)
        resolved = next((model_id for model_id in found if model_id is not None), None)
        roles[name] = StackRole(preferences, resolved, resolved is not None)
    return StackReply(roles=roles, loaded_models=list(loaded), default_model=routing.default_model)


def _predictor(loader: Loader) -> PredictorReply:
    counts = {model.id: model.statistics.request_count for model in loader.models.values()}
    asked = sorted(counts.items(), key=lambda row: (-row[1], row[0]))
    used: list[list[str | int]] = [[model_id, count] for model_id, count in asked if count]
    total = sum(counts.values())
    return PredictorReply(
        total_accesses=total,
        unique_models=len(used),
        history_size=total,
        top_models=used[:TOP_MODELS],
    )


def _rows(sessions: Iterable[Session]) -> "list[SessionRow]":
    return [_row(session) for session in sessions]


def _row(session: Session) -> SessionRow:
    return SessionRow(
        id=session.id,
        title=session.title,
        model=session.model,
        tags=session.tags,
        created=session.created,
        updated=session.updated,
        created_at=session.created,
        updated_at=session.updated,
        message_count=len(session.messages),
        first_user_message=session.first_user_message,
    )


def _document(session: Session) -> SessionDocument:
    messages = msgspec.convert(
        [
            {key: value for key, value in message.items() if value is not None}
            for message in session.messages
        ],
        list[SessionMessage],
    )
    return SessionDocument(
        **msgspec.structs.asdict(_row(session)),
        cwd=session.cwd,
        messages=messages,
        tool_call_count=session.tool_call_count,
        compacted=session.compacted,
    )


def _number(name: str, default: int, *, most: int = 2**31 - 1) -> int:
    """A whole number of the query string.

    Raises:
        InvalidRequest: It is none, or negative.
    """
    text = request.args.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal()):
        raise InvalidRequest(f"{name!r} must be a whole number", param=name)
    return min(int(text[:12]), most)
