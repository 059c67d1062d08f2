"""Presets, roles, habits, helpers and sessions, as the API's description lists them."""

from lmx.errors import EntryNotFound, InvalidRequest, LmxError
from lmx.schema.extras import (
    HelpersReply,
    PredictorReply,
    SessionDeleted,
    SessionDocument,
    SessionList,
    SessionQuery,
    SessionRow,
    SessionSearch,
    StackReply,
)
from lmx.schema.presets import PresetDocument, PresetList, PresetReload
from lmx.schema.route import Route

EXTRA_ROUTES: tuple[Route, ...] = (
    Route("get", "/admin/presets", "List the presets", PresetList),
    Route("get", "/admin/presets/{name}", "Show a preset", PresetDocument, errors=(EntryNotFound,)),
    Route("post", "/admin/presets/reload", "Read the presets again", PresetReload),
    Route("get", "/admin/stack", "Which names stand for which models", StackReply),
    Route("get", "/admin/predictor", "How often models were asked", PredictorReply),
    Route("get", "/admin/helpers", "Other machines that help", HelpersReply),
    Route(
        "get",
        "/admin/sessions",
        "List the CLI's sessions",
        SessionList,
        query=SessionQuery,
        errors=(InvalidRequest,),
    ),
    Route(
        "get",
        "/admin/sessions/search",
        "Search the CLI's sessions",
        SessionRow,
        query=SessionSearch,
        errors=(InvalidRequest,),
        is_list=True,
    ),
    Route(
        "get",
        "/admin/sessions/{session_id}",
        "Show a session",
        SessionDocument,
        errors=(EntryNotFound,),
    ),
    Route(
        "delete",
        "/admin/sessions/{session_id}",
        "Delete a session",
        SessionDeleted,
        errors=(LmxError,),
    ),
)
