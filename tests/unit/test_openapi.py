"""The API's description: whole, consistent, and true of what is parsed and answered."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.errors import InvalidRequest, LmxError, RequestError
from lmx.protocol.values import TokenLogprob, Usage
from lmx.schema.chat_reply import ChatStreamEncoder, WholeChoice, encode_completion
from lmx.schema.chat_request import ChatRequest, parse_chat_request, to_generate
from lmx.schema.completion_reply import (
    CompletionStreamEncoder,
    WholeText,
    encode_text_completion,
)
from lmx.schema.completion_request import (
    CompletionRequest,
    parse_completion_request,
    to_generates,
)
from lmx.schema.openapi import ROUTES, openapi_document
from lmx.schema.priority import PRIORITY_HEADERS
from lmx.schema.problems import error_body
from lmx.schema.reply import ReplyHead
from lmx.text.parts import AnswerPart, ReasoningPart, TextPart, ToolCallPart
from tests.chat_bodies import USER
from tests.json_schema import has_whole_float, is_described, nodes
from tests.sse import events
from tests.strategies import json_values

DOCUMENT = json.loads(json.dumps(openapi_document("1.2.3")))
SCHEMAS = DOCUMENT["components"]["schemas"]
EXTENSIONS = set(
    """
    chat_template_kwargs enable_thinking guided_choice guided_grammar guided_json guided_regex
    ignore_eos min_p min_tokens num_ctx priority reasoning_format repetition_penalty resumable
    skill_approvals skill_limits skills speculation thinking_budget top_k
    """.split()  # noqa: SIM905  # a list of words reads best as words
)
HEAD = ReplyHead("id-1", 1, "m", "f")
PARTS: list[AnswerPart] = [ReasoningPart("hm"), TextPart("a"), ToolCallPart(0, "f", "{}")]
SCORES = [TokenLogprob("a", b"a", -1.0, [TokenLogprob("b", b"b", -2.0)])]


def test_the_document_has_what_openapi_demands() -> None:
    """Version, title and paths; each operation has its own id and describes its answers."""
    assert "3.1.0" == DOCUMENT["openapi"]
    assert ("LMX", "1.2.3") == (DOCUMENT["info"]["title"], DOCUMENT["info"]["version"])
    operations = [operation for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len(ROUTES) == len({operation["operationId"] for operation in operations})
    for operation in operations:
        assert all(re.fullmatch("[2-5]..", status) for status in operation["responses"])
        assert all(answer["description"] for answer in operation["responses"].values())


def test_headers_that_say_a_priority_are_declared() -> None:
    """Where text is generated, and nowhere else."""
    for path, operations in DOCUMENT["paths"].items():
        for method, operation in operations.items():
            declared = {
                one["name"] for one in operation.get("parameters", []) if one["in"] == "header"
            } & set(PRIORITY_HEADERS)
            body = operation.get("requestBody", {"content": {}})["content"].get("application/json")
            name = "" if body is None else body["schema"]["$ref"].rpartition("/")[2]
            is_generation = name in {"ChatRequest", "CompletionRequest", "AnthropicRequest"}
            expected = {"X-Priority", "X-Serving-Lane"} if is_generation else set()
            assert expected == declared, (path, method)


def test_parameters_of_a_path_are_declared() -> None:
    """Each name in braces has a parameter."""
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            parameters = operation.get("parameters", [])
            declared = [one["name"] for one in parameters if one["in"] == "path"]
            assert re.findall(r"{(\w+)}", path) == declared


def test_text_is_described_as_text() -> None:
    """A scrape is a string under its own media type, and no JSON."""
    content = DOCUMENT["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
    assert {"text/plain": {"schema": {"type": "string"}}} == content


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    """No reference is dangling, and no component is left over."""
    found = {
        node["$ref"].removeprefix("#/components/schemas/")
        for node in nodes(DOCUMENT)
        if isinstance(node, dict) and isinstance(node.get("$ref"), str)
    }
    assert set(SCHEMAS) == found


PATHS = {
    "/",
    "/.well-known/opta-lmx",
    "/admin/config/reload",
    "/admin/device",
    "/admin/diagnostics",
    "/admin/events",
    "/admin/health",
    "/admin/helpers",
    "/admin/logs/sessions",
    "/admin/logs/sessions/{filename}",
    "/admin/logs/tail",
    "/admin/logs/updates",
    "/admin/logs/updates/{filename}",
    "/admin/memory",
    "/admin/metrics",
    "/admin/metrics/json",
    "/admin/models",
    "/admin/models/available",
    "/admin/models/compatibility",
    "/admin/models/download",
    "/admin/models/download/preview",
    "/admin/models/download/{job_id}/cancel",
    "/admin/models/download/{job_id}/progress",
    "/admin/models/downloads",
    "/admin/models/load",
    "/admin/models/load/confirm",
    "/admin/models/probe",
    "/admin/models/unload",
    "/admin/models/{model}",
    "/admin/models/{model}/card",
    "/admin/models/{model}/performance",
    "/admin/predictor",
    "/admin/presets",
    "/admin/presets/reload",
    "/admin/presets/{name}",
    "/admin/quantize",
    "/admin/quantize/{job_id}",
    "/admin/quantize/{job_id}/cancel",
    "/admin/requests",
    "/admin/requests/{request_id}/cancel",
    "/admin/sessions",
    "/admin/sessions/search",
    "/admin/sessions/{session_id}",
    "/admin/stack",
    "/admin/status",
    "/apply-template",
    "/detokenize",
    "/health",
    "/healthz",
    "/mcp",
    "/mcp/capabilities",
    "/mcp/prompts/get",
    "/mcp/prompts/list",
    "/mcp/resources/list",
    "/mcp/resources/read",
    "/metrics",
    "/readyz",
    "/rerank",
    "/tokenize",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/discovery",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/models",
    "/v1/models/{model}",
    "/v1/rerank",
    "/v1/score",
    "/v1/skills",
    "/v1/skills/mcp/call",
    "/v1/skills/mcp/capabilities",
    "/v1/skills/mcp/prompts",
    "/v1/skills/mcp/prompts/get",
    "/v1/skills/mcp/resources",
    "/v1/skills/mcp/tools",
    "/v1/skills/openclaw/invoke",
    "/v1/skills/{skill}",
    "/v1/skills/{skill}/execute",
    "/v2/rerank",
}


def test_the_routes_are_all_there() -> None:
    """Generating, text form, models, probes, discovery and what manages models."""
    assert PATHS == set(DOCUMENT["paths"])


@pytest.mark.parametrize(
    ("method", "path", "keys", "statuses"),
    [
        ("get", "/healthz", [], set()),
        ("get", "/v1/discovery", [], {"403"}),
        ("get", "/v1/models", ["bearer", "apiKey", "adminKey"], {"401", "403"}),
        ("post", "/tokenize", ["bearer", "apiKey", "adminKey"], {"401", "403"}),
        ("post", "/v1/embeddings", ["bearer", "apiKey", "adminKey"], {"401", "403"}),
        ("post", "/rerank", ["bearer", "apiKey", "adminKey"], {"401", "403"}),
        ("get", "/admin/status", ["bearer", "adminKey"], {"403"}),
        ("delete", "/admin/models/{model}", ["bearer", "adminKey"], {"403"}),
    ],
)
def test_keys_and_refusals_are_described(
    method: str, path: str, *, keys: list[str], statuses: set[str]
) -> None:
    """Each closed route names what opens it, none at all included, and how it refuses."""
    operation = DOCUMENT["paths"][path][method]
    expected = [{}, *({key: []} for key in keys)] if keys else []
    assert expected == operation["security"]
    assert statuses == {"401", "403"} & set(operation["responses"])
    assert set(keys) <= set(DOCUMENT["components"]["securitySchemes"])


@pytest.mark.parametrize("include_usage", [True, False])
def test_chat_answers_are_as_described(include_usage: bool) -> None:  # noqa: FBT001  # pytest's way
    """Whole documents and every chunk fit the description."""
    encoder = ChatStreamEncoder(HEAD, include_usage=include_usage, inline_reasoning=None)
    data = encoder.first(0) + encoder.parts(0, PARTS, []) + encoder.parts(0, [], SCORES)
    data += encoder.finish_choice(0, "stop") + encoder.finish(Usage(1, 2))
    *chunks, _ = events(data)
    assert all(is_described("ChatChunk", chunk) for chunk in chunks)
    whole = encode_completion(HEAD, [WholeChoice(PARTS, SCORES, "stop")], Usage(1, 2))
    assert is_described("ChatCompletion", json.loads(whole))


@pytest.mark.parametrize("include_usage", [True, False])
def test_text_answers_are_as_described(include_usage: bool) -> None:  # noqa: FBT001  # pytest's way
    """Whole documents and every chunk fit the description."""
    encoder = CompletionStreamEncoder(HEAD, include_usage=include_usage)
    data = encoder.parts(0, [TextPart("a")], SCORES) + encoder.finish_choice(0, "stop")
    *chunks, _ = events(data + encoder.finish(Usage(1, 2)))
    assert all(is_described("TextCompletion", chunk) for chunk in chunks)
    whole = encode_text_completion(
        HEAD, [WholeText("a", SCORES, "stop")], Usage(1, 2), shows_logprobs=True
    )
    assert is_described("TextCompletion", json.loads(whole))


def test_errors_are_as_described() -> None:
    """Every error's body fits the description."""
    for error in (LmxError("x"), InvalidRequest("x", param="n")):
        assert is_described("ErrorDocument", error_body(error))


def test_what_is_always_there_is_required() -> None:
    """Clients generated from the description need not expect absent keys."""
    assert "object" in SCHEMAS["ChatCompletion"]["required"]
    assert "finish_reason" in SCHEMAS["ChunkChoice"]["required"]
    assert "usage" not in SCHEMAS["ChatChunk"]["required"]


def test_extensions_are_marked() -> None:
    """What OpenAI's reference does not know says so."""
    marked = {
        name
        for name, field in SCHEMAS["ChatRequest"]["properties"].items()
        if any(str(node).startswith("LMX: ") for node in nodes(field))
    }
    assert EXTENSIONS == marked


def is_parsed(parse: Callable[[bytes], Any], fields: dict[str, Any]) -> bool:
    """Whether a body with these fields is taken."""
    try:
        parse(json.dumps(fields).encode())
    except RequestError:
        return False
    return True


# What one field alone says wrongly or rightly, near the edges.
EDGES = st.sampled_from(
    [0, 1, -1, 2, 2.5, -2, 16, 17, 20, 21, 100, 2**31, "", "x", "none", "auto", "medium", "high"]
    + [[], [""], ["x"], [1], [[1]], [[]], {}, {"1": 1}, {"1": 101}, {"x": 1}, ["text"], [{}]]
    + [{"type": "text"}, {"type": "json_object"}, {"type": "xml"}, {"type": "json_schema"}]
    + [{"type": "json_schema", "json_schema": {"schema": {}}}]
    + [[{"type": "function", "function": {"name": name}}] for name in ("f", "f g", "", "f\n")]
    + [{"type": "function", "function": {"name": "f"}}, [{"role": "user"}], [{"role": "function"}]]
    + [[{"role": "user", "content": [{"type": "text", "text": "a"}]}]]
    + [[{"role": "user", "content": [part]}] for part in ({"type": "text"}, {"type": "x"})]
)
# Their rules need a second field, or the worker.
CROSSED = {
    "resumable",
    "stream_options",
    "top_logprobs",
    "best_of",
    "n",
    "min_tokens",
    "tool_choice",
    "skill_limits",
    "skill_approvals",
}


@given(st.sampled_from(sorted(ChatRequest.__struct_fields__)), EDGES | json_values(3))
def test_a_chat_request_is_taken_iff_it_is_as_described(name: str, value: Any) -> None:
    """The description and the parser agree on every field."""
    body = {"messages": [USER], name: value}
    if name not in CROSSED and not has_whole_float(value):
        assert is_described("ChatRequest", body) is is_chat(body)


@given(st.sampled_from(sorted(CompletionRequest.__struct_fields__)), EDGES | json_values(3))
def test_a_completion_request_is_taken_iff_it_is_as_described(name: str, value: Any) -> None:
    """The description and the parser agree on every field."""
    body = {"prompt": "a", name: value}
    if name not in CROSSED and not has_whole_float(value):
        assert is_described("CompletionRequest", body) is is_completion(body)


def is_chat(body: dict[str, Any]) -> bool:
    """Whether a chat request is taken."""
    return is_parsed(
        lambda data: to_generate(
            parse_chat_request(data), default_max_tokens=77, default_temperature=1.0
        ),
        body,
    )


def is_completion(body: dict[str, Any]) -> bool:
    """Whether a completion request is taken."""
    return is_parsed(
        lambda data: to_generates(parse_completion_request(data), default_temperature=1.0), body
    )


@pytest.mark.parametrize("value", [1, None])
def test_unknown_fields_are_as_described(value: Any) -> None:
    """A field nobody reads is refused unless it is null."""
    body = {"messages": [USER], "temprature": value}
    assert (value is None) is is_described("ChatRequest", body)
    assert (value is None) is is_chat(body)
