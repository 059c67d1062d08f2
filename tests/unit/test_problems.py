"""Errors as clients read them: one table, one envelope, honest retry headers."""

import json

import pytest

from lmx import errors
from lmx.errors import LmxError
from lmx.schema.problems import TABLE, describe, encode_http_problem, encode_problem, error_body


def error_classes(root: type[LmxError] = LmxError) -> list[type[LmxError]]:
    """Every error LMX has."""
    below = [cls for child in root.__subclasses__() for cls in error_classes(child)]
    return [root, *(cls for cls in below if cls.__module__.startswith(errors.__name__))]


STATUSES: dict[type[LmxError], int] = {
    errors.InvalidRequest: 400,
    errors.UnsupportedFeature: 400,
    errors.UnreadableContent: 422,
    errors.ContextTooLong: 400,
    errors.BodyTooLarge: 413,
    errors.BodyTimeout: 408,
    errors.PoisonRequest: 422,
    errors.ModelInUse: 409,
    errors.NotDeletable: 409,
    errors.RequestCancelled: 499,
    errors.RequestNotFound: 404,
    errors.ModelNotFound: 404,
    errors.StreamNotFound: 404,
    errors.LogNotFound: 404,
    errors.SkillNotFound: 404,
    errors.EntryNotFound: 404,
    errors.JobNotFound: 404,
    errors.TokenNotFound: 404,
    errors.TokenExpired: 404,
    errors.OutputExists: 409,
    errors.AdminKeyRefused: 403,
    errors.AdminKeyUnset: 403,
    errors.DownloadsDisabled: 403,
    errors.RepositoryGated: 403,
    errors.HostRefused: 403,
    errors.OriginRefused: 403,
    errors.QueueFull: 429,
    errors.NoModelLoaded: 503,
    errors.ModelLoading: 503,
    errors.NoFreeSlot: 503,
    errors.OutOfMemory: 503,
    errors.Draining: 503,
    errors.CorruptModel: 422,
    errors.UnsupportedModel: 422,
    errors.DoesNotFit: 507,
    errors.ModelQuarantined: 409,
    errors.LoadCrashed: 409,
    errors.LoadCancelled: 409,
    errors.HubUnreachable: 422,
    errors.ChecksumMismatch: 422,
    errors.StorageFull: 507,
    errors.JobCrashed: 422,
    errors.ImportFailed: 422,
    errors.WorkerBroken: 503,
    errors.WorkerClosed: 503,
    errors.WorkerStalled: 503,
    errors.FrameError: 500,
    errors.AlreadyRunning: 409,
    errors.ConfigError: 422,
}


def test_every_leaf_has_a_status() -> None:
    """A new error cannot be added without deciding its status here."""
    leaves = {cls for cls in error_classes() if not cls.__subclasses__()}
    assert set(STATUSES) == leaves


@pytest.mark.parametrize("kind", STATUSES, ids=lambda kind: kind.__name__)
def test_statuses(kind: type[LmxError]) -> None:
    """Each error has the status that says whose action is needed."""
    assert STATUSES[kind] == describe(kind("x")).status


def test_a_missing_inference_key_is_challenged() -> None:
    """A 401 says how to authenticate; the admin's 403 cannot."""
    reply = encode_problem(errors.KeyRefused("x", retry_after_s=3))
    assert 401 == reply.status
    assert (b"Bearer", b"3") == (
        dict(reply.headers)[b"www-authenticate"],
        dict(reply.headers)[b"retry-after"],
    )
    assert b"www-authenticate" not in dict(encode_problem(errors.AdminKeyRefused("x")).headers)


def test_no_row_hides_another() -> None:
    """In the table, no class stands after one of its bases."""
    kinds = [kind for kind, _ in TABLE]
    hidden = [
        (base.__name__, kind.__name__)
        for at, kind in enumerate(kinds)
        for base in kinds[:at]
        if issubclass(kind, base)
    ]
    assert [] == hidden


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
def test_the_envelope_serves_every_client(kind: type[LmxError]) -> None:
    """The body has a top-level code and OpenAI's error object, whose type follows the status."""
    error = kind("what happened", param="field")
    status = describe(error).status
    body = error_body(error)
    assert {"code", "error"} == set(body)
    assert isinstance(body["code"], str)
    assert {
        "message": "what happened",
        "type": "invalid_request_error" if status < 500 else "server_error",
        "param": "field",
        "code": kind.code,
    } == body["error"]


@pytest.mark.parametrize(
    ("kind", "top_code"),
    [
        (errors.ModelNotFound, "not_found"),
        (errors.StreamNotFound, "not_found"),
        (errors.SkillNotFound, "not_found"),
        (errors.EntryNotFound, "not_found"),
        (errors.QueueFull, "rate_limited"),
        (errors.NoModelLoaded, "no-model-loaded"),
        (errors.OutOfMemory, "oom-unloaded"),
        (errors.InvalidRequest, "invalid-request"),
    ],
)
def test_what_the_opta_cli_branches_on(kind: type[LmxError], top_code: str) -> None:
    """The top-level code is the contract's, which is not always the error's own."""
    assert top_code == error_body(kind("x"))["code"]


@pytest.mark.parametrize(
    ("retry_after_s", "expected"), [(None, None), (0.0, b"0"), (0.2, b"1"), (5, b"5"), (7.5, b"8")]
)
def test_retry_after_is_whole_seconds(retry_after_s: float | None, expected: bytes | None) -> None:
    """The header is there iff the error knows a time, rounded up."""
    reply = encode_problem(errors.QueueFull("full", retry_after_s=retry_after_s))
    assert expected == dict(reply.headers).get(b"retry-after")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (errors.NoModelLoaded, b"false"),
        (errors.OutOfMemory, b"false"),
        (errors.RequestCancelled, b"false"),
        (errors.BodyTimeout, b"false"),
        (errors.QueueFull, None),
        (errors.ModelLoading, None),
        (errors.WorkerBroken, None),
    ],
)
def test_where_a_retry_is_pointless_the_sdks_are_told(
    kind: type[LmxError], expected: bytes | None
) -> None:
    """OpenAI's SDKs retry 408, 429 and 5xx unless this header says otherwise."""
    assert expected == dict(encode_problem(kind("x")).headers).get(b"x-should-retry")


def test_a_response_is_json() -> None:
    """The whole response parses and says it is JSON."""
    reply = encode_problem(errors.InvalidRequest("bad", param="n"))
    assert 400 == reply.status
    assert b"application/json" == dict(reply.headers)[b"content-type"]
    assert error_body(errors.InvalidRequest("bad", param="n")) == json.loads(reply.body)


@pytest.mark.parametrize(
    ("status", "code"), [(404, "not_found"), (405, "method-not-allowed"), (418, "http-error")]
)
def test_what_the_framework_refuses_has_the_same_envelope(status: int, code: str) -> None:
    """An unknown route looks like every other error."""
    reply = encode_http_problem(status, "no such thing")
    body = json.loads(reply.body)
    assert (status, code) == (reply.status, body["code"])
    assert {"message", "type", "param", "code"} == set(body["error"])
    assert "invalid_request_error" == body["error"]["type"]
