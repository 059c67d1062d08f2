"""The API's description, generated from the types that parse requests and spell answers.

Knows no framework: a table says which types belong to which route, and msgspec says what the
types hold. Source: OpenAPI Specification 3.1.0, whose schemas are JSON Schema 2020-12.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from lmx.errors import (
    CapacityError,
    DoesNotFit,
    InvalidRequest,
    LmxError,
    LoadError,
    ModelNotFound,
    ModelQuarantined,
    QueueFull,
    SkillNotFound,
    StreamNotFound,
    UnreadableContent,
    WorkerError,
)
from lmx.schema.access import Access, access_errors, needed_access
from lmx.schema.admin_routes import ADMIN_ROUTES
from lmx.schema.anthropic_reply import AnthropicMessage, MessageEvent, TokenCountReply
from lmx.schema.anthropic_request import AnthropicRequest, CountRequest
from lmx.schema.chat_documents import ChatChunk, ChatCompletion
from lmx.schema.chat_request import ChatRequest
from lmx.schema.completion_reply import TextCompletion
from lmx.schema.completion_request import CompletionRequest
from lmx.schema.events import TakeUpQuery
from lmx.schema.extra_routes import EXTRA_ROUTES
from lmx.schema.job_routes import JOB_ROUTES
from lmx.schema.live_routes import LIVE_ROUTES
from lmx.schema.machine import Discovery
from lmx.schema.priority import PRIORITY_HEADERS
from lmx.schema.problems import TABLE, ErrorDocument
from lmx.schema.ranking import RerankRequest, ScoreRequest
from lmx.schema.route import BODY_ERRORS, Errors, Route
from lmx.schema.skill_routes import SKILL_ROUTES
from lmx.schema.status import Health, Index, ModelList, ModelRow, Ready, Unready
from lmx.schema.tokens import (
    ApplyTemplateReply,
    ApplyTemplateRequest,
    DetokenizeReply,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
)
from lmx.schema.vector_reply import CohereRerankReply, EmbeddingList, RerankReply, ScoreList
from lmx.schema.vectors import EmbeddingRequest

OPENAPI_VERSION = "3.1.0"
REF_TEMPLATE = "#/components/schemas/{name}"

PATH_PARAMETERS = {
    "model": "A model's name; slashes in it may stand as they are.",
    "name": "A preset's name.",
    "filename": "A file's name, as the listing has it.",
    "session_id": "A session's id.",
    "job_id": "An id, as the answer that began the job says.",
    "skill": "A skill's name, qualified name or reference; slashes may stand as they are.",
    "request_id": "A request's id, as its answer's x-request-id says.",
}

MODEL_ERRORS: Errors = (ModelNotFound, QueueFull, CapacityError, WorkerError, LmxError)
# Whatever is asked for, a model that only the settings name may have to be loaded.
VECTOR_ERRORS: Errors = (*BODY_ERRORS, *MODEL_ERRORS, ModelQuarantined, LoadError, DoesNotFit)

SECURITY_SCHEMES: dict[str, dict[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    "adminKey": {"type": "apiKey", "in": "header", "name": "X-Admin-Key"},
}
# Any of these; the empty one because a server without keys needs none.
SECURITY: dict[Access, list[dict[str, list[str]]]] = {
    "open": [],
    "inference": [{}, {"bearer": []}, {"apiKey": []}, {"adminKey": []}],
    "admin": [{}, {"bearer": []}, {"adminKey": []}],
}

ROUTES: tuple[Route, ...] = (
    Route(
        "post",
        "/v1/chat/completions",
        "Answer a conversation",
        ChatCompletion,
        request=ChatRequest,
        event=ChatChunk,
        errors=(*BODY_ERRORS, *MODEL_ERRORS, UnreadableContent, SkillNotFound),
        headers=PRIORITY_HEADERS,
    ),
    Route(
        "get",
        "/v1/chat/completions",
        "Take up the stream of an answer that was cut",
        None,
        event=ChatChunk,
        query=TakeUpQuery,
        errors=(InvalidRequest, StreamNotFound),
    ),
    Route(
        "post",
        "/v1/completions",
        "Continue a text",
        TextCompletion,
        request=CompletionRequest,
        event=TextCompletion,
        errors=(*BODY_ERRORS, *MODEL_ERRORS),
        headers=PRIORITY_HEADERS,
    ),
    Route(
        "get",
        "/v1/completions",
        "Take up the stream of a text that was cut",
        None,
        event=TextCompletion,
        query=TakeUpQuery,
        errors=(InvalidRequest, StreamNotFound),
    ),
    Route(
        "post",
        "/v1/messages",
        "Answer a conversation, in Anthropic's shape",
        AnthropicMessage,
        request=AnthropicRequest,
        event=MessageEvent,
        errors=(*BODY_ERRORS, *MODEL_ERRORS),
        headers=PRIORITY_HEADERS,
    ),
    Route(
        "post",
        "/v1/messages/count_tokens",
        "How many tokens a conversation is, in Anthropic's shape",
        TokenCountReply,
        request=CountRequest,
        errors=(*BODY_ERRORS, *MODEL_ERRORS),
    ),
    Route(
        "post",
        "/v1/embeddings",
        "Vectors of texts",
        EmbeddingList,
        request=EmbeddingRequest,
        errors=VECTOR_ERRORS,
    ),
    *(
        Route(
            "post",
            path,
            "Order documents by how well they fit a query",
            reply,
            request=RerankRequest,
            errors=VECTOR_ERRORS,
        )
        for path, reply in (
            ("/v1/rerank", RerankReply),
            ("/rerank", RerankReply),
            ("/v2/rerank", CohereRerankReply),
        )
    ),
    Route(
        "post",
        "/v1/score",
        "How well the texts of pairs fit each other",
        ScoreList,
        request=ScoreRequest,
        errors=VECTOR_ERRORS,
    ),
    Route("get", "/v1/models", "List the loaded models", ModelList),
    Route("get", "/v1/models/{model}", "Show one model", ModelRow, errors=(ModelNotFound,)),
    Route(
        "post",
        "/tokenize",
        "Text or a conversation to token ids",
        TokenizeReply,
        request=TokenizeRequest,
        errors=(*BODY_ERRORS, *MODEL_ERRORS, UnreadableContent),
    ),
    Route(
        "post",
        "/detokenize",
        "Token ids to text",
        DetokenizeReply,
        request=DetokenizeRequest,
        errors=(*BODY_ERRORS, *MODEL_ERRORS),
    ),
    Route(
        "post",
        "/apply-template",
        "A conversation to the prompt a model gets",
        ApplyTemplateReply,
        request=ApplyTemplateRequest,
        errors=(*BODY_ERRORS, *MODEL_ERRORS, UnreadableContent),
    ),
    Route("get", "/healthz", "Whether the server lives", Health),
    Route("get", "/health", "Whether the server lives", Health),
    Route("get", "/readyz", "Whether a model can answer", Ready, others={503: Unready}),
    Route("get", "/.well-known/opta-lmx", "How to use this server", Discovery),
    Route("get", "/v1/discovery", "How to use this server", Discovery),
    Route("get", "/", "What this server is", Index),
    *ADMIN_ROUTES,
    *JOB_ROUTES,
    *LIVE_ROUTES,
    *EXTRA_ROUTES,
    *SKILL_ROUTES,
)


def openapi_document(version: str) -> dict[str, Any]:
    """The description of every route, ready to be encoded.

    Args:
        version: Of LMX.
    """
    return {
        "openapi": OPENAPI_VERSION,
        "info": {
            "title": "LMX",
            "version": version,
            "description": "Language models on one machine, served to a LAN.",
        },
        "paths": _paths(),
        "components": {"schemas": _schemas(), "securitySchemes": SECURITY_SCHEMES},
    }


def _schemas() -> dict[str, Any]:
    requests = _components([route.request for route in ROUTES])
    for route in ROUTES:
        if route.request is not None:
            # A field nobody reads is refused, unless it is null.
            requests[route.request.__name__]["additionalProperties"] = {"type": "null"}
    replies = _components([ErrorDocument, *[kind for route in ROUTES for kind in route.replies]])
    for schema in replies.values():
        # Answers spell their defaults out; only what may be absent has no default here.
        fields = schema["properties"].items()
        given = [name for name, field in fields if field.pop("default", field) is not field]
        schema["required"] = [*schema["required"], *given]
    return {**requests, **replies}


def _components(kinds: Iterable[type[Struct] | None]) -> dict[str, Any]:
    named = [kind for kind in dict.fromkeys(kinds) if kind is not None]
    return msgspec.json.schema_components(named, ref_template=REF_TEMPLATE)[1]


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method] = _operation(route)
    return paths


def _operation(route: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": route.summary, "content": _answers(route)}}
    for status, kind in route.others.items():
        responses[str(status)] = _response(kind, description=kind.__doc__)
    errors = (*route.errors, *access_errors(route.method, route.path))
    for status, description in _error_statuses(errors).items():
        responses[str(status)] = _response(ErrorDocument, description=description)
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "responses": responses,
        "security": SECURITY[needed_access(route.path)],
    }
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if route.request is not None:
        content = {"application/json": {"schema": _reference(route.request)}}
        operation["requestBody"] = {"required": route.needs_body, "content": content}
    return operation


def _answers(route: Route) -> dict[str, Any]:
    """What a good answer holds, by its media type."""
    events = {}
    if route.event is not None:
        events = {"text/event-stream": {"schema": _reference(route.event)}}
    if route.reply is None:
        return events or {route.text_type: {"schema": {"type": "string"}}}
    reply: dict[str, Any] = _reference(route.reply)
    if route.is_list:
        reply = {"type": "array", "items": reply}
    return {"application/json": {"schema": reply}, **events}


def _parameters(route: Route) -> list[dict[str, Any]]:
    """What stands in the path, in the query string and in headers."""
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": description,
            "schema": {"type": "string"},
        }
        for name, description in PATH_PARAMETERS.items()
        if f"{{{name}}}" in route.path
    ]
    if route.query is not None:
        fields = _components([route.query])[route.query.__name__]["properties"]
        parameters += [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in fields.items()
        ]
    parameters += [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": description,
            "schema": {"type": "string"},
        }
        for name, description in route.headers.items()
    ]
    return parameters


def _error_statuses(errors: Sequence[type[LmxError]]) -> dict[int, str]:
    """What each status means, from the errors that lead to it."""
    meanings: dict[int, list[str]] = {}
    for error in errors:
        status = next(problem.status for kind, problem in TABLE if issubclass(error, kind))
        meaning = (error.__doc__ or "").partition("\n")[0].partition(". ")[0].rstrip(".")
        if error is LmxError:
            meaning = "The server failed"
        meanings.setdefault(status, []).append(meaning)
    return {status: "; or: ".join(found) for status, found in sorted(meanings.items())}


def _operation_id(route: Route) -> str:
    words = route.path.strip("/{}.").replace("{", "").replace("-", "/").split("/")
    return "_".join([route.method, *filter(None, words)])


def _response(kind: type[Struct], *, description: str | None) -> dict[str, Any]:
    content = {"application/json": {"schema": _reference(kind)}}
    return {"description": description or kind.__name__, "content": content}


def _reference(kind: type[Struct]) -> dict[str, str]:
    return {"$ref": REF_TEMPLATE.format(name=kind.__name__)}
