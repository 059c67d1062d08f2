"""Errors as clients read them: HTTP status, headers and body. The only file with error numbers.

The body serves every client at once: a top-level ``code`` for the Opta CLI, and OpenAI's nested
``error`` object for everybody else.
"""

import math
from typing import Any, Literal

import msgspec
from msgspec import Struct

from lmx.errors import (
    AccessError,
    AdminKeyRefused,
    AlreadyRunning,
    BodyTimeout,
    BodyTooLarge,
    CapacityError,
    ConfigError,
    ContextTooLong,
    DoesNotFit,
    Draining,
    EntryNotFound,
    InvalidRequest,
    JobNotFound,
    KeyRefused,
    LmxError,
    LoadCancelled,
    LoadCrashed,
    LoadError,
    LogNotFound,
    ModelInUse,
    ModelLoading,
    ModelNotFound,
    ModelQuarantined,
    NoModelLoaded,
    NotDeletable,
    OutOfMemory,
    OutputExists,
    PoisonRequest,
    QueueFull,
    RequestCancelled,
    RequestError,
    RequestNotFound,
    SkillNotFound,
    StorageFull,
    StreamNotFound,
    TokenExpired,
    TokenNotFound,
    UnreadableContent,
    UnsupportedFeature,
    WorkerError,
)

Headers = tuple[tuple[bytes, bytes], ...]

JSON_TYPE = (b"content-type", b"application/json")
CHALLENGE: Headers = ((b"www-authenticate", b"Bearer"),)
FIRST_SERVER_STATUS = 500
ErrorType = Literal["invalid_request_error", "server_error"]


class Problem(Struct, frozen=True):
    """One row of the table below.

    Attributes:
        status: HTTP status.
        top_code: What the Opta CLI branches on; `None` for the error's own code.
        may_retry: `False` sends ``x-should-retry: false``, which OpenAI's SDKs obey.
        headers: Further headers that the status demands.
    """

    status: int
    top_code: str | None = None
    may_retry: bool = True
    headers: Headers = ()


# The first class that fits wins, so subclasses stand before their bases.
TABLE: tuple[tuple[type[LmxError], Problem], ...] = (
    (BodyTooLarge, Problem(413)),
    (BodyTimeout, Problem(408, may_retry=False)),
    (ModelNotFound, Problem(404, "not_found")),
    (StreamNotFound, Problem(404, "not_found")),
    (LogNotFound, Problem(404, "not_found")),
    (SkillNotFound, Problem(404, "not_found")),
    (EntryNotFound, Problem(404, "not_found")),
    (JobNotFound, Problem(404, "not_found")),
    (TokenNotFound, Problem(404, "not_found")),
    (TokenExpired, Problem(404, "not_found")),
    (OutputExists, Problem(409, "conflict")),
    (PoisonRequest, Problem(422, may_retry=False)),
    (ModelInUse, Problem(409, "conflict")),
    (NotDeletable, Problem(409, "conflict")),
    # 499 is nginx's "client closed request"; OpenAI's SDKs do not repeat it of their own accord.
    (RequestCancelled, Problem(499, may_retry=False)),
    (RequestNotFound, Problem(404)),
    (ContextTooLong, Problem(400)),
    (UnsupportedFeature, Problem(400)),
    (UnreadableContent, Problem(422)),
    (InvalidRequest, Problem(400)),
    (RequestError, Problem(400)),
    (AdminKeyRefused, Problem(403)),
    (KeyRefused, Problem(401, headers=CHALLENGE)),
    (AccessError, Problem(403)),
    (QueueFull, Problem(429, "rate_limited")),
    (NoModelLoaded, Problem(503, may_retry=False)),
    (OutOfMemory, Problem(503, may_retry=False)),
    (ModelLoading, Problem(503)),
    (Draining, Problem(503)),
    (CapacityError, Problem(503)),
    (WorkerError, Problem(503)),
    (DoesNotFit, Problem(507, "out_of_memory", may_retry=False)),
    (ModelQuarantined, Problem(409, may_retry=False)),
    (LoadCrashed, Problem(409, "model_unstable", may_retry=False)),
    # Never `out_of_memory`, on which clients unload other models for nothing.
    (StorageFull, Problem(507, may_retry=False)),
    (LoadCancelled, Problem(409, "conflict", may_retry=False)),
    (LoadError, Problem(422)),
    (AlreadyRunning, Problem(409, "conflict")),
    (ConfigError, Problem(422)),
    (LmxError, Problem(500)),
)


class ErrorDetail(Struct, frozen=True):
    """The error as OpenAI's clients read it."""

    message: str
    type: ErrorType
    param: str | None
    code: str


class ErrorDocument(Struct, frozen=True):
    """Every error's body."""

    code: str
    error: ErrorDetail


class ProblemReply(Struct, frozen=True):
    """An error as an HTTP response."""

    status: int
    headers: Headers
    body: bytes


def describe(error: LmxError) -> Problem:
    """The table's row for an error."""
    return next(problem for kind, problem in TABLE if isinstance(error, kind))


def error_body(error: LmxError) -> dict[str, Any]:
    """The envelope as a value."""
    problem = describe(error)
    return _envelope(
        error.message,
        status=problem.status,
        code=error.code,
        top_code=problem.top_code or error.code,
        param=error.param,
    )


def encode_problem(error: LmxError) -> ProblemReply:
    """The whole response for an error before the response began."""
    problem = describe(error)
    headers: Headers = (JSON_TYPE, *problem.headers)
    if error.retry_after_s is not None:
        headers += ((b"retry-after", b"%d" % math.ceil(error.retry_after_s)),)
    if not problem.may_retry:
        headers += ((b"x-should-retry", b"false"),)
    return ProblemReply(problem.status, headers, msgspec.json.encode(error_body(error)))


def encode_http_problem(status: int, message: str) -> ProblemReply:
    """The response for what the web framework refuses by itself, such as an unknown route."""
    code = {404: "not_found", 405: "method-not-allowed"}.get(status, "http-error")
    body = _envelope(message, status=status, code=code, top_code=code, param=None)
    return ProblemReply(status, (JSON_TYPE,), msgspec.json.encode(body))


def _envelope(
    message: str, *, status: int, code: str, top_code: str, param: str | None
) -> dict[str, Any]:
    is_servers = status >= FIRST_SERVER_STATUS
    kind: ErrorType = "server_error" if is_servers else "invalid_request_error"
    document = ErrorDocument(top_code, ErrorDetail(message, kind, param, code))
    body: dict[str, Any] = msgspec.to_builtins(document)
    return body
