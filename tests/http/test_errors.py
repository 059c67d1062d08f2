"""Errors on the wire: status, headers, code and param for whatever a client gets wrong."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import (
    CHAT_PATH,
    Connection,
    Reply,
    chat_body,
    chat_request,
    wait_until,
)

CONTEXT_TOKENS = 64
HELLO = [{"role": "user", "content": "hi"}]


class Refusal(NamedTuple):
    """A chat body and what must be said about it.

    Attributes:
        name: Names it in a report.
        body: What is sent.
        status: HTTP status.
        code: `error.code`, and the top-level code unless `top_code` is given.
        param: `error.param`.
        top_code: The top-level code.
    """

    name: str
    body: bytes
    status: int = 400
    code: str = "invalid-request"
    param: str | None = "body"
    top_code: str | None = None


def chat(**fields: Any) -> bytes:
    """A chat body with these fields on top of a good one."""
    return json.dumps({"model": "x", "messages": HELLO, **fields}).encode()


def refused(name: str, *, param: str, code: str = "invalid-request", **fields: Any) -> Refusal:
    """A refusal of a good body with these fields changed."""
    return Refusal(name, chat(**fields), code=code, param=param)


def unsupported(param: str, value: Any) -> Refusal:
    """A documented field whose value asks for what LMX cannot do yet."""
    return refused(param, param=param, code="unsupported-parameter", **{param: value})


NESTED = b"[" * 10_000 + b"]" * 10_000
REFUSALS = (
    Refusal("no json", b"hello"),
    Refusal("cut off", b'{"model": "x", "messages": ['),
    Refusal("two documents", chat() + b"{}"),
    Refusal("an array", b"[]"),
    Refusal("null", b"null"),
    Refusal("blanks", b"   "),
    Refusal("invalid utf-8", chat().replace(b"hi", b"\xff\xfe")),
    Refusal("lone surrogate", chat().replace(b"hi", b"\\ud800")),
    Refusal("byte order mark", b"\xef\xbb\xbf" + chat()),
    Refusal("utf-16", chat().decode().encode("utf-16")),
    Refusal("nul bytes", b"\x00" * 20),
    Refusal("not a number", chat().replace(b'"hi"', b"NaN")),
    Refusal("not a number as temperature", chat()[:-1] + b', "temperature": NaN}'),
    Refusal("infinity", chat()[:-1] + b', "temperature": Infinity}'),
    Refusal("nested 10,000 deep", chat()[:-1] + b', "metadata": ' + NESTED + b"}"),
    Refusal("only nesting", NESTED),
    Refusal("nested objects", b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    Refusal("duplicate key", chat()[:-1] + b', "model": "y"}', param="model"),
    Refusal(
        "duplicate key inside",
        chat().replace(b'"role": "user"', b'"role": "user", "role": "system"'),
        param="role",
    ),
    Refusal("no messages", b'{"model": "x"}', param="messages"),
    refused("empty messages", param="messages", messages=[]),
    refused("messages of a wrong type", param="messages", messages="hi"),
    refused("messages null", param="messages", messages=None),
    refused("a message of a wrong type", param="messages[0]", messages=["hi"]),
    refused("unknown role", param="messages[0].role", messages=[{"role": "boss", "content": "x"}]),
    refused("no role", param="messages[0].role", messages=[{"content": "x"}]),
    refused(
        "number as content", param="messages[0].content", messages=[{"role": "user", "content": 1}]
    ),
    refused("number as model", param="model", model=7),
    refused("text as stream", param="stream", stream="yes"),
    refused("too hot", param="temperature", temperature=2.1),
    refused("text as temperature", param="temperature", temperature="hot"),
    refused("top_p of zero", param="top_p", top_p=0),
    refused("no tokens", param="max_tokens", max_tokens=0),
    refused("half a token", param="max_tokens", max_tokens=1.5),
    refused("huge seed", param="seed", seed=2**70),
    refused("empty stop", param="stop[0]", stop=[""]),
    refused("many stops", param="stop", stop=["a"] * 17),
    refused("stream options without a stream", param="stream_options", stream_options={}),
    refused("unknown field", param="max_tokns", max_tokns=5),
    refused("too many answers", param="n", n=17),
    refused("alternatives without logprobs", param="top_logprobs", top_logprobs=3),
    refused(
        "a schema that is none",
        param="response_format.json_schema.schema",
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "nonsense"}},
        },
    ),
    unsupported("prediction", {"type": "content", "content": "x"}),
    unsupported("modalities", ["audio"]),
    unsupported("web_search_options", {}),
    refused(
        "an image",
        param="messages[0].content[0]",
        code="unsupported-content",
        messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
    )._replace(status=422),
    refused(
        "refused by the template",
        param="messages",
        messages=[{"role": "user", "content": "refuse me"}],
    ),
    Refusal("unknown model", chat_body("gpt-9"), 404, "model-not-found", "model", "not_found"),
    Refusal(
        "prompt too long",
        chat_body("small", content="a" * CONTEXT_TOKENS),
        code="context_length_exceeded",
        param="messages",
    ),
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a model, one with little context, and one with a single slot and no queue."""
    models = (
        "fake:x?text=fine",
        f"fake:small?context={CONTEXT_TOKENS}",
        "fake:single?max_sequences=1&step_ms=20&tokens=1000",
    )
    settings = {"LMX_MODELS__MAX_WAITING": "0"}
    with shared_daemon(tmp_path_factory.mktemp("home"), *models, settings=settings) as shared:
        assert wait_until(lambda: shared.get_json("/healthz")[1]["loaded_models"] == len(models))
        yield shared


@pytest.fixture(scope="module")
def empty_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose one model cannot be loaded and whose other takes for ever."""
    models = ("fake:broken?colour=blue", "fake:late?load_ms=600000")
    settings = {"LMX_MODELS__LOAD_WAIT_S": "0.2", "LMX_WORKER__STOP_GRACE_S": "0.1"}
    home = tmp_path_factory.mktemp("home")
    with shared_daemon(home, *models, settings=settings, is_ready=False) as shared:
        assert wait_until(lambda: bool(shared.events("model failed")))
        yield shared


def check_envelope(reply: Reply, *, top_code: str, code: str, param: str | None) -> str:
    """The envelope's exact shape; returns the message."""
    assert "application/json" == reply.headers["content-type"]
    assert reply.headers["x-request-id"].startswith("req_")
    document = reply.json()
    assert {"code", "error"} == set(document)
    assert {"message", "type", "param", "code"} == set(document["error"])
    message = document["error"]["message"]
    kind = "invalid_request_error" if reply.status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    assert {"code": top_code, "error": error} == document
    assert message
    assert "Traceback" not in message
    return str(message)


def post(daemon: Daemon, body: bytes) -> Reply:
    """One chat request on a connection that must be usable afterwards."""
    with Connection(daemon) as connection:
        reply = connection.ask("POST", CHAT_PATH, body)
        assert 200 == connection.ask("GET", "/healthz").status
        return reply


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_what_is_wrong_is_named(daemon: Daemon, refusal: Refusal) -> None:
    """Each mistake has its status, code and parameter, and is the client's, never a 500."""
    reply = post(daemon, refusal.body)
    assert refusal.status == reply.status, reply.body
    top_code = refusal.top_code or refusal.code
    check_envelope(reply, top_code=top_code, code=refusal.code, param=refusal.param)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_a_stream_is_refused_before_it_begins(daemon: Daemon, refusal: Refusal) -> None:
    """Asking for a stream changes nothing: what is wrong is said with a status, not in an event."""
    try:
        fields = json.loads(refusal.body)
    except (ValueError, RecursionError):
        return
    if isinstance(fields, dict) and "stream" not in fields and "stream_options" not in fields:
        reply = post(daemon, refusal.body.replace(b"{", b'{"stream": true, ', 1))
        assert refusal.status == reply.status
        assert "application/json" == reply.headers["content-type"]


def test_the_context_error_holds_both_numbers(daemon: Daemon) -> None:
    """Clients read the context's length and the prompt's out of the message."""
    reply = post(daemon, chat_body("small", content="a" * CONTEXT_TOKENS))
    prompt_tokens = len("user: \nassistant:") + CONTEXT_TOKENS
    message = reply.json()["error"]["message"]
    assert f"maximum context length is {CONTEXT_TOKENS} tokens" in message
    assert f"{prompt_tokens} tokens" in message


def test_a_full_queue_says_when_to_come_back(daemon: Daemon) -> None:
    """429 with a whole number of seconds, while the one before is answered."""
    with Connection(daemon) as busy:
        busy.send(chat_request("single", stream=True))
        assert 200 == busy.read_head().status
        reply = post(daemon, chat_body("single"))
    assert 429 == reply.status
    assert int(reply.headers["retry-after"]) >= 1
    assert "x-should-retry" not in reply.headers
    check_envelope(reply, top_code="rate_limited", code="overloaded", param=None)


def test_nothing_loaded_is_said_in_the_words_clients_know(empty_daemon: Daemon) -> None:
    """503 with the code, the words and the header that keep clients from trying on."""
    reply = post(empty_daemon, chat_body("broken"))
    assert 503 == reply.status
    assert "false" == reply.headers["x-should-retry"]
    message = check_envelope(reply, top_code="no-model-loaded", code="no-model-loaded", param=None)
    assert "No model loaded" in message
    assert "colour" in message


def test_a_model_that_is_not_there_yet_is_worth_another_try(empty_daemon: Daemon) -> None:
    """503 with Retry-After while a model loads longer than a request waits."""
    reply = post(empty_daemon, chat_body("late"))
    assert 503 == reply.status
    assert int(reply.headers["retry-after"]) >= 1
    assert "x-should-retry" not in reply.headers
    check_envelope(reply, top_code="model-loading", code="model-loading", param=None)


def test_probes_without_a_model(empty_daemon: Daemon) -> None:
    """Alive and well, not ready, and it says what is on its way."""
    assert "ok" == empty_daemon.get_json("/healthz")[1]["status"]
    assert (200, []) == (
        empty_daemon.get_json("/v1/models")[0],
        empty_daemon.get_json("/v1/models")[1]["data"],
    )
    status, ready = empty_daemon.get_json("/readyz")
    assert 503 == status
    assert {
        "status": "unavailable",
        "ready": False,
        "reason": "loading",
        "error": "no-model-loaded",
        "models_loaded": 0,
        "loading": ["late"],
        "version": ready["version"],
    } == ready


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "top_code"),
    [
        ("GET", "/nowhere", 404, "not_found", "not_found"),
        ("POST", "/v1/nowhere", 404, "not_found", "not_found"),
        ("GET", "/v1/models/no%2Fsuch", 404, "model-not-found", "not_found"),
        ("GET", "/tokenize", 405, "method-not-allowed", "method-not-allowed"),
        ("DELETE", "/healthz", 405, "method-not-allowed", "method-not-allowed"),
        ("POST", "/v1/models", 405, "method-not-allowed", "method-not-allowed"),
    ],
)
def test_routes_that_are_not_there(
    daemon: Daemon, method: str, path: str, *, status: int, code: str, top_code: str
) -> None:
    """Unknown routes and wrong methods have the same envelope, raw and Quart alike."""
    with Connection(daemon) as connection:
        reply = connection.ask(method, path, b"" if method == "POST" else None)
    assert status == reply.status
    assert ("allow" in reply.headers) == (status == 405)
    param = "model" if code == "model-not-found" else None
    check_envelope(reply, top_code=top_code, code=code, param=param)


@pytest.mark.parametrize("path", ["/healthz", "/v1/models"])
def test_every_request_gets_an_id_of_its_own(daemon: Daemon, path: str) -> None:
    """Ids differ between requests of one connection."""
    with Connection(daemon) as connection:
        ids = [connection.ask("GET", path).headers["x-request-id"] for _ in range(3)]
    assert 3 == len(set(ids))


@pytest.mark.parametrize("path", ["/healthz", "/v1/models"])
def test_head_is_get_without_a_body(daemon: Daemon, path: str) -> None:
    """Monitors may ask for the head alone."""
    with Connection(daemon) as connection:
        connection.send(f"HEAD {path} HTTP/1.1\r\nhost: lmx\r\n\r\n".encode())
        head = connection.read_head()
        assert 200 == head.status
        assert int(head.headers["content-length"]) > 0
        assert 200 == connection.ask("GET", path).status
