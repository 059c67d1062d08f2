"""The API's description: served, valid, and true of a live daemon, as schemathesis finds it.

Schemathesis makes requests from the description, good and bad ones, and holds the answers against
it. These checks of its own are left out, for good reason:

* `positive_data_acceptance`: rules between fields and those of compilers (a guide that is no
  grammar, a prompt beyond the context) cannot be said in a schema, so a 400 may meet it.
* `missing_required_header`, `ignored_auth`, `object_level_authorization`: there are no such
  headers, and these daemons have no keys; `test_keys` asks every route with some.
* `/admin/events` never ends; `test_events` reads it.
* `/mcp` speaks a protocol of its own; `test_mcp_wire` and MCP's official client hold it to that.
* `use_after_free`, `ensure_resource_availability`: no route gives out ids of what it makes.

The admin routes have a daemon of their own, without models but its own and with a home of its own:
whatever they are asked to delete, it is nobody's.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from jsonschema_rs import validator_for
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from lmx import __version__
from lmx.schema.openapi import openapi_document
from tests.daemon_process import Daemon
from tests.http.answers import HELLO, chat, post
from tests.http.shared import shared_daemon
from tests.http.wire import CHAT_PATH, Connection, stream_chunks

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
    checks.allow_header_conformance,
]
# What is refused here because nothing can be loaded is a 503.
REFUSAL_CHECKS = [check for check in CHECKS if check is not not_a_server_error]
EVENT_STREAM = "text/event-stream"
CALL = "%3Ctool_call%3E%7B%22name%22:%22f%22,%22arguments%22:%7B%7D%7D%3C/tool_call%3E"


def without_events(document: dict[str, Any]) -> dict[str, Any]:
    """The document without the schemas of event streams.

    Ours describe the JSON that an event's data holds, as OpenAI's own document does; schemathesis
    takes them for the event around it. `test_chunks_are_as_described` holds them to it.
    """
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"]["200"]["content"].get(EVENT_STREAM, {}).pop("schema", None)
    return document


SCHEMA = schemathesis.openapi.from_dict(without_events(openapi_document(__version__)))
ADMIN = "^/admin/"
NUMBERS = "rerank$|^/v1/(embeddings|score)$"
REPEATABLE = settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A small context keeps the longest answer short; one model calls a tool."""
    models = ("fake:x?tokens=4&context=256", f"fake:calls?text=So.+{CALL}")
    # It is loaded when vectors are asked for; what no models are configured for is cosines.
    settings = {"LMX_MODELS__EMBEDDING_MODEL": "fake:emb?purpose=embedding"}
    with shared_daemon(tmp_path_factory.mktemp("home"), *models, settings=settings) as shared:
        assert 200 == chat(shared, "x").status  # waits for it
        yield shared


@pytest.fixture(scope="module")
def wordless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that has nothing to make vectors with, and may load nothing."""
    settings = {"LMX_MODELS__ON_DEMAND": "false"}
    with shared_daemon(tmp_path_factory.mktemp("wordless"), "fake:x", settings=settings) as shared:
        yield shared


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that may lose its model, and asks no hub for others."""
    home = tmp_path_factory.mktemp("managed")
    own = {"HOME": str(home / "user"), "HF_HOME": str(home / "hub")}
    own |= {"LMX_DOWNLOADS__ENABLED": "false"}
    with shared_daemon(home, "fake:x", settings=own) as shared:
        yield shared


@SCHEMA.exclude(path_regex=ADMIN).exclude(path="/mcp").parametrize()
@REPEATABLE
@pytest.mark.timeout(120)
def test_the_daemon_does_as_described(daemon: Daemon, case: "schemathesis.Case[Any]") -> None:
    """Whatever is asked, the answer is one that the description announces."""
    case.call_and_validate(base_url=daemon.url, checks=CHECKS)


@SCHEMA.include(path_regex=NUMBERS).parametrize()
@REPEATABLE
@pytest.mark.timeout(120)
def test_what_cannot_be_computed_is_as_described(
    wordless: Daemon, case: "schemathesis.Case[Any]"
) -> None:
    """Without any model for it, a request for numbers gets a described refusal."""
    case.call_and_validate(base_url=wordless.url, checks=REFUSAL_CHECKS)


@SCHEMA.include(path_regex=ADMIN).exclude(path="/admin/events").parametrize()
@REPEATABLE
@pytest.mark.timeout(120)
def test_models_are_managed_as_described(managed: Daemon, case: "schemathesis.Case[Any]") -> None:
    """Whatever is asked, the answer is one that the description announces."""
    case.call_and_validate(base_url=managed.url, checks=CHECKS)


def test_the_document_is_served(daemon: Daemon) -> None:
    """What is served is what is generated from the types, as JSON."""
    with Connection(daemon) as connection:
        reply = connection.ask("GET", "/openapi.json")
    assert (200, "application/json") == (reply.status, reply.headers["content-type"])
    assert openapi_document(__version__) == reply.json()


def test_the_document_is_valid() -> None:
    """The meta-schema of OpenAPI 3.1 accepts it, and every reference finds its schema."""
    document = openapi_document(__version__)
    SCHEMA.validate()
    names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set() == references(document) - names


def references(value: Any) -> set[str]:
    """Every `$ref` in a document."""
    if isinstance(value, list):
        return set().union(*map(references, value))
    if not isinstance(value, dict):
        return set()
    own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
    return own.union(*map(references, value.values()))


def test_every_route_is_described(daemon: Daemon) -> None:
    """Each described path answers its method and refuses another; the docs page is no API."""
    for path, operations in openapi_document(__version__)["paths"].items():
        target = path.replace("{model}", "x")
        with Connection(daemon) as connection:
            assert (405, path) == (connection.ask("PATCH", target).status, path)
        for method in operations:
            body = b"1" if path == "/admin/models/unload" else b""  # x is still needed
            with Connection(daemon) as connection:
                reply = connection.ask(method.upper(), target, body)
            assert reply.status not in {405, 500}, (method, path)
            if reply.status == 404:  # what the path names is unknown, and not the route
                assert "requested URL" not in reply.json()["error"]["message"], (method, path)


def valid(kind: str, value: Any) -> None:
    """Hold a value against a schema of the document."""
    schema = {**openapi_document(__version__), "$ref": f"#/components/schemas/{kind}"}
    validator_for(schema).validate(value)


STREAMS: list[tuple[str, dict[str, Any]]] = [
    ("x", {}),
    ("x", {"n": 3, "stream_options": {"include_usage": True}}),
    ("x", {"logprobs": True, "top_logprobs": 2, "max_tokens": 2}),
    ("calls", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
]


@pytest.mark.parametrize(("model", "fields"), STREAMS)
def test_chunks_are_as_described(daemon: Daemon, model: str, fields: dict[str, Any]) -> None:
    """The data of every event fits the chunk's schema, the whole answer its own."""
    request = {"model": model, "messages": HELLO, **fields}
    chunks = stream_chunks(post(daemon, CHAT_PATH, stream=True, **request).body)
    assert chunks
    for chunk in chunks:
        valid("ChatChunk", chunk)
    request.pop("stream_options", None)
    valid("ChatCompletion", post(daemon, CHAT_PATH, **request).json())


@pytest.mark.parametrize("is_streamed", [False, True])
def test_completions_are_as_described(daemon: Daemon, *, is_streamed: bool) -> None:
    """With everything a completion can hold."""
    fields = {"prompt": ["a", "b"], "echo": True, "logprobs": 2, "n": 2, "stream": is_streamed}
    reply = post(daemon, "/v1/completions", model="x", **fields)
    documents = stream_chunks(reply.body) if is_streamed else [reply.json()]
    for document in documents:
        valid("TextCompletion", document)


@pytest.mark.parametrize(
    ("path", "kind", "fields"),
    [
        ("/v1/embeddings", "EmbeddingList", {"input": ["a", "b"]}),
        ("/v1/embeddings", "EmbeddingList", {"input": [1, 2], "encoding_format": "base64"}),
        ("/v1/rerank", "RerankReply", {"query": "a", "documents": ["b", {"text": "c"}]}),
        ("/rerank", "RerankReply", {"query": "a", "documents": ["b"], "return_documents": False}),
        ("/v2/rerank", "CohereRerankReply", {"query": "a", "documents": ["b"]}),
        ("/v1/score", "ScoreList", {"text_1": "a", "text_2": ["b", "c"]}),
    ],
)
def test_numbers_are_as_described(
    daemon: Daemon, path: str, kind: str, fields: dict[str, Any]
) -> None:
    """Whatever the form of the request."""
    valid(kind, post(daemon, path, **fields).json())


def test_the_description_of_requests_is_lenient_where_the_server_is() -> None:
    """Bodies that real clients send are good by the description too."""
    body = {
        "model": "x",
        "messages": [
            {"role": "system", "content": "a"},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ]},
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "b"}]},
        ],
        "temperature": None,
        "stop": None,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": "auto",
        "logit_bias": {"5": -100},
        "user": "me",
        "stream_options": None,
    }  # fmt: skip
    valid("ChatRequest", json.loads(json.dumps(body)))
