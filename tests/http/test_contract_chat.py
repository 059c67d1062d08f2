"""The client contract on a real daemon: chats and texts as clients send them.

`tests/contract.py` lists the promises; here stand those that no other test checks.
"""

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.daemon_process import Daemon
from tests.http.answers import chat, post
from tests.http.shared import shared_daemon
from tests.http.socket_client import open_socket
from tests.http.wire import stream_chunks
from tests.shapes import Shape, assert_fits

ID = "mlx-community/Qwen3-30B-A3B-4bit"
CALL = '<tool_call>{"name": "read", "arguments": {"path": "a"}}</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}]
USAGE = dict.fromkeys(["prompt_tokens", "completion_tokens", "total_tokens"], int)
# A history as the Opta CLI keeps it.
HISTORY = [
    {"role": "system", "content": "You are Opta."},
    {"role": "user", "content": [{"type": "text", "text": "Read a."}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "read", "arguments": '{"a": 1}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "text of a"},
    {"role": "system", "content": "In the middle."},
    {"role": "developer", "content": "By its newer name."},
    {"role": "user", "content": "One."},
    {"role": "user", "content": "And another."},
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Models that say words and that call a tool, and one for vectors and one for ranks."""
    home = tmp_path_factory.mktemp("home")
    (home / "config.yaml").write_text(f"routing: {{aliases: {{code: '{ID}'}}}}\n")
    settings = {
        "HOME": str(home / "user"),
        "HF_HOME": str(home / "hub"),
        "LMX_MODELS__EMBEDDING_MODEL": "fake:emb?purpose=embedding",
        "LMX_MODELS__RERANK_MODEL": "fake:rank?purpose=reranking",
    }
    models = (f"fake:{ID}?tokens=6&context=2048", f"fake:caller?text={quote(CALL)}")
    with shared_daemon(home, *models, settings=settings) as shared:
        for model in (ID, "caller"):
            assert 200 == chat(shared, model).status  # waits for it
        yield shared


def test_a_request_of_the_command_line(daemon: Daemon) -> None:
    """Its history, its tools, and an allowance beyond any context."""
    fields = {
        "messages": HISTORY,
        "tools": TOOLS,
        "tool_choice": "auto",
        "temperature": 0.1,
        "top_p": 1.0,
        "stop": None,
        "max_tokens": 10**6,
        "response_format": {"type": "text"},
        "user": "bridge",
    }
    reply = chat(daemon, ID, **fields)
    assert 200 == reply.status, reply.body
    message = {"role": "assistant", "content": (str, None)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    assert_fits(
        {
            "id": str,
            "object": "chat.completion",
            "created": int,
            "model": ID,
            "choices": [choice],
            "usage": USAGE,
        },
        reply.json(),
    )
    used = reply.json()["usage"]
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]


def test_a_stream_of_the_command_line(daemon: Daemon) -> None:
    """Role, texts, the reason, then usage beside no choices, and the end mark."""
    fields = {"messages": HISTORY, "stream": True, "stream_options": {"include_usage": True}}
    reply = chat(daemon, ID, **fields)
    first, *texts, last, usage = stream_chunks(reply.body)
    head = {"id": str, "object": "chat.completion.chunk", "created": int, "model": ID}
    for chunk in (first, *texts, last, usage):
        assert_fits(head, chunk)
    assert "assistant" == first["choices"][0]["delta"]["role"]
    assert_fits([{"choices": [{"index": 0, "delta": {"content": str}}]}], texts)
    assert "stop" == last["choices"][0]["finish_reason"]
    assert_fits({"choices": [], "usage": USAGE}, usage)


def test_a_call_in_a_stream(daemon: Daemon) -> None:
    """Fragments by index, arguments as text, and the reason that clients wait for."""
    chunks = stream_chunks(chat(daemon, "caller", tools=TOOLS, stream=True).body)
    calls = [
        call
        for chunk in chunks
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", [])
    ]
    function = {"name": "read", "arguments": str}
    assert_fits([{"index": 0, "id": str, "type": "function", "function": function}], calls)
    assert {"path": "a"} == json.loads("".join(call["function"]["arguments"] for call in calls))
    assert "tool_calls" == chunks[-1]["choices"][0]["finish_reason"]


ACCEPTED: dict[str, Any] = {
    "user": "someone",
    "store": True,
    "metadata": {"a": "b"},
    "service_tier": "auto",
    "prompt_cache_key": "k",
    "safety_identifier": "s",
    "logit_bias": {"97": 1},
    "n": 1,
    "seed": 7,
    "logprobs": True,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "num_ctx": 512,
    "max_completion_tokens": 5,
    "parallel_tool_calls": True,
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_fields_that_clients_send(daemon: Daemon, name: str) -> None:
    """Whatever their effect, they are no mistake; and neither is null, nor an unknown null."""
    assert 200 == chat(daemon, ID, **{name: ACCEPTED[name]}).status
    assert 200 == chat(daemon, ID, **{name: None, "of_tomorrow": None}).status


def test_a_limited_context_drops_the_oldest(daemon: Daemon) -> None:
    """A client that limits the context gets an answer to what is left of its history."""
    talk = [{"role": "user", "content": f"{n}: " + "x" * 200} for n in range(8)]
    whole = chat(daemon, ID, messages=talk).json()["usage"]
    limited = chat(daemon, ID, messages=talk, num_ctx=600).json()["usage"]
    assert whole["prompt_tokens"] > 1600
    assert 200 < limited["prompt_tokens"] < limited["total_tokens"] <= 600


NAMES = [
    ID,
    ID.lower(),
    "qwen3 30b a3b 4bit",
    "Qwen3-30B-A3B-4bit",
    "qwen3-30b-a3b",
    "code",
]


@pytest.mark.parametrize("name", NAMES)
def test_names(daemon: Daemon, name: str) -> None:
    """However a client spells it; the answer has the canonical id."""
    assert ID == chat(daemon, name).json()["model"]


@pytest.mark.parametrize("name", ["auto", "current", "reasoning", "chat", "", None])
def test_names_of_whatever_there_is(daemon: Daemon, name: str | None) -> None:
    """The dashboard's default, words for a role that nobody fills, and no name at all."""
    fields = {} if name is None else {"model": name}
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    reply = post(daemon, "/v1/chat/completions", **body)
    assert 200 == reply.status
    assert reply.json()["model"] in {ID, "caller"}


def test_an_image_is_refused_by_name(daemon: Daemon) -> None:
    """A model that reads text says so before the template does."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [{"type": "text", "text": "See"}, image]
    reply = chat(daemon, ID, messages=[{"role": "user", "content": parts}])
    error = reply.json()["error"]
    assert (422, "unsupported-content") == (reply.status, error["code"])
    assert "messages[0].content[1]" == error["param"]


SOCKET_NULLS = dict.fromkeys(
    """
    temperature max_tokens top_p stop tools tool_choice response_format frequency_penalty
    presence_penalty num_ctx
    """.split()  # noqa: SIM905  # a list of words reads best as words
)


async def test_a_socket_of_the_command_line(daemon: Daemon) -> None:
    """Nulls for all that was not chosen; a name at once, text, the reason and the usage."""
    async with open_socket(daemon) as client:
        messages = await client.answer(ID, stream=True, **SOCKET_NULLS)
    accepted, *texts, done = messages
    name = accepted["request_id"]
    assert_fits({"type": "chat.accepted", "request_id": str}, accepted)
    assert_fits(
        [{"type": "chat.token", "request_id": name, "content": str, "model": ID}],
        [m for m in texts if m["type"] != "chat.keepalive"],
    )
    shape = {"type": "chat.done", "request_id": name, "finish_reason": "stop", "usage": USAGE}
    assert_fits(shape, done)


async def test_a_call_on_a_socket(daemon: Daemon) -> None:
    """One message per call, with its place among them."""
    async with open_socket(daemon) as client:
        messages = await client.answer("caller", tools=TOOLS, tool_choice="auto", num_ctx=1024)
    calls = [m for m in messages if m["type"] == "chat.tool_call"]
    call = {"index": 0, "id": str, "name": "read", "arguments": str}
    assert_fits([{"request_id": str, "tool_call": call}], calls)
    assert ("chat.done", "tool_calls") == (messages[-1]["type"], messages[-1]["finish_reason"])


async def test_a_mistake_on_a_socket(daemon: Daemon) -> None:
    """Words in a field of text, under the name of the request."""
    async with open_socket(daemon) as client:
        *_, last = await client.answer("none/none")
    assert_fits({"type": "chat.error", "request_id": str, "error": str}, last)


async def test_a_plain_socket(daemon: Daemon) -> None:
    """The help pages' way: a body without a type, tokens, and one end."""
    async with open_socket(daemon, "/ws/stream") as client:
        await client.send(None, model=ID, messages=[{"role": "user", "content": "hi"}])
        messages = [await client.next()]
        while not messages[-1].get("done"):
            messages.append(await client.next())
    *texts, done = messages
    assert_fits([{"token": str}], texts)
    assert texts
    assert_fits({"done": True, "stats": {"tokens_per_second": float}}, done)


def test_texts(daemon: Daemon) -> None:
    """OpenAI's older route, one prompt or several."""
    fields = {"model": ID, "stop": None, "suffix": None, "echo": True, "logprobs": 1, "n": 1}
    fields |= {"best_of": 1, "seed": 1, "num_ctx": 1024, "max_tokens": 3}
    reply = post(daemon, "/v1/completions", prompt=["a", "b"], **fields)
    assert 200 == reply.status, reply.body
    choice = {"text": str, "index": int, "logprobs": dict, "finish_reason": ("stop", "length")}
    shape = {"object": "text_completion", "choices": [choice], "usage": USAGE, "model": ID}
    assert_fits(shape, reply.json())
    assert [0, 1] == [choice["index"] for choice in reply.json()["choices"]]


def test_messages(daemon: Daemon) -> None:
    """Anthropic's route, with a system text and blocks."""
    content = [{"type": "text", "text": "hi"}]
    reply = post(
        daemon,
        "/v1/messages",
        model=ID,
        messages=[{"role": "user", "content": content}],
        max_tokens=20,
        system="Be brief.",
        temperature=0.5,
        top_p=0.9,
        stop_sequences=["END"],
    )
    assert 200 == reply.status, reply.body
    shape = {
        "id": str,
        "type": "message",
        "role": "assistant",
        "model": ID,
        "content": [{"type": "text", "text": str}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": int, "output_tokens": int},
    }
    assert_fits(shape, reply.json())


@pytest.mark.parametrize("model", [None, ID, "text-embedding-ada-002", "nowhere/at-all"])
def test_vectors(daemon: Daemon, model: str | None) -> None:
    """Any name and none at all; numbers, or their bytes for those who ask."""
    named = {} if model is None else {"model": model}
    plain = post(daemon, "/v1/embeddings", input=["a", "b"], user="u", **named)
    packed = post(daemon, "/v1/embeddings", input="a", encoding_format="base64", **named)
    row: Shape = {"object": "embedding", "index": int, "embedding": [float]}
    usage = {"prompt_tokens": int, "total_tokens": int}
    assert_fits({"object": "list", "data": [row], "model": "emb", "usage": usage}, plain.json())
    data = base64.b64decode(packed.json()["data"][0]["embedding"])
    assert plain.json()["data"][0]["embedding"] == list(struct.unpack(f"<{len(data) // 4}f", data))


@pytest.mark.parametrize("fields", [{}, {"model": ID, "top_n": 2}, {"return_documents": True}])
def test_ranks(daemon: Daemon, fields: dict[str, Any]) -> None:
    """Best first, each with its text in an object, whatever form the documents have."""
    documents = ["one", {"text": "two"}, "three"]
    reply = post(daemon, "/v1/rerank", query="two", documents=documents, **fields)
    row = {"index": int, "relevance_score": float, "document": {"text": str}}
    assert_fits({"results": [row], "usage": {"total_tokens": int}, "model": str}, reply.json())
    results = reply.json()["results"]
    assert fields.get("top_n", 3) == len(results)
    scores = [one["relevance_score"] for one in results]
    assert sorted(scores, reverse=True) == scores
    texts = ["one", "two", "three"]
    assert all(texts[one["index"]] == one["document"]["text"] for one in results)


def test_nothing_loaded_is_for_every_route(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same words, code and header, so that no client asks again in vain."""
    own = {"LMX_MODELS__ON_DEMAND": "false"}
    home = tmp_path_factory.mktemp("empty")
    with shared_daemon(home, "fake:x", settings=own) as empty:
        assert 200 == post(empty, "/admin/models/unload").status
        hi = [{"role": "user", "content": "hi"}]
        for path, fields in (
            ("/v1/chat/completions", {"messages": hi, "stream": True}),
            ("/v1/chat/completions", {"messages": hi, "model": "never/heard-of"}),
            ("/v1/completions", {"prompt": "hi"}),
            ("/v1/messages", {"messages": hi, "max_tokens": 5, "model": "auto"}),
        ):
            reply = post(empty, path, **fields)
            document = reply.json()
            assert (503, "false") == (reply.status, reply.headers["x-should-retry"])
            assert "no-model-loaded" == document["code"] == document["error"]["code"]
            assert "No model loaded" in document["error"]["message"]
        status, unready = empty.get_json("/readyz")
        assert (503, "no_models_loaded", []) == (status, unready["reason"], unready["loading"])
        assert [] == empty.get_json("/v1/models")[1]["data"]
