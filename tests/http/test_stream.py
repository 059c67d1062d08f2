"""Event streams byte by byte: the grammar, the blanks, the text, and that whole answers agree."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import pytest

from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import (
    CHAT_PATH,
    Connection,
    Reply,
    chat_body,
    chat_request,
    deltas,
    event_blocks,
    stream_chunks,
    wait_until,
)

# The fake engine's tokens are single bytes here, so every boundary falls inside something.
UTF8_TEXT = 'naïve "café" ☕ — 日本語, 🎉👩\u200d💻\n\ttab\\ \x01 </s> ümläut\r\nend\u2028.'
CODE_TEXT = "def f(x):\n    if x:\n\t\treturn  1 \n    \n    return 2   \t "
WORDS = 24
HEAD_FIELDS = ("id", "object", "created", "model", "system_fingerprint")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with models that say known things, one byte or one word per token."""
    models = (
        f"fake:words?tokens={WORDS}&step_ms=2",
        f"fake:utf8?step_ms=0.5&text={quote(UTF8_TEXT)}",
        f"fake:code?step_ms=0.5&text={quote(CODE_TEXT)}",
        "fake:crash?step_ms=2&fail=exit&fail_step=6",
    )
    with shared_daemon(tmp_path_factory.mktemp("home"), *models) as shared:
        assert wait_until(lambda: shared.get_json("/healthz")[1]["loaded_models"] == len(models))
        yield shared


def ask(daemon: Daemon, model: str, **fields: Any) -> Reply:
    """One chat on a connection of its own."""
    with Connection(daemon) as connection:
        return connection.ask("POST", CHAT_PATH, chat_body(model, temperature=0, **fields))


def whole_choice(reply: Reply) -> dict[str, Any]:
    """The only choice of a whole answer."""
    [choice] = reply.json()["choices"]
    return dict(choice)


def both_ways(daemon: Daemon, model: str, **fields: Any) -> tuple[str, str]:
    """Text and finish reason, after checking that streamed and whole agree on them."""
    choice = whole_choice(ask(daemon, model, **fields))
    body = ask(daemon, model, stream=True, **fields).body
    text, reason = "".join(deltas(body)), last_choice(body)["finish_reason"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, reason)
    return text, reason


def last_choice(body: bytes) -> dict[str, Any]:
    """The choice of the last chunk that has one."""
    return dict([c for c in stream_chunks(body) if c["choices"]][-1]["choices"][0])


def test_the_head_of_a_stream(daemon: Daemon) -> None:
    """An event stream says what it is, that it must not be kept or held back, and its id."""
    reply = ask(daemon, "words", stream=True)
    assert "text/event-stream; charset=utf-8" == reply.headers["content-type"]
    assert "no-cache" == reply.headers["cache-control"]
    assert "no" == reply.headers["x-accel-buffering"]
    request_id = reply.headers["x-request-id"].removeprefix("req_")
    assert f"chatcmpl-{request_id}" == stream_chunks(reply.body)[0]["id"]


def test_the_grammar_of_a_stream(daemon: Daemon) -> None:
    """Role first, then content alone, then one finish reason, then [DONE], under one head."""
    body = ask(daemon, "words", stream=True).body
    chunks = stream_chunks(body)
    heads = {tuple(chunk[field] for field in HEAD_FIELDS) for chunk in chunks}
    [(_, kind, created, model, fingerprint)] = heads
    assert ("chat.completion.chunk", "words") == (kind, model)
    assert fingerprint.startswith("lmx-")
    assert isinstance(created, int)
    assert {(*HEAD_FIELDS, "choices")} == {tuple(chunk) for chunk in chunks}
    first, *middle, last = [chunk["choices"] for chunk in chunks]

    def choice(delta: dict[str, str], reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]

    assert choice({"role": "assistant", "content": ""}) == first
    assert choice({}, "stop") == last
    assert [choice({"content": c[0]["delta"]["content"]}) for c in middle] == middle
    assert b"data: [DONE]" == event_blocks(body)[-1]


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None}])
def test_no_usage_unless_asked(daemon: Daemon, options: dict[str, bool] | None) -> None:
    """Without the option no chunk mentions usage."""
    body = ask(daemon, "words", stream=True, stream_options=options).body
    assert all("usage" not in chunk and chunk["choices"] for chunk in stream_chunks(body))


def test_usage_comes_last_and_agrees(daemon: Daemon) -> None:
    """With the option a last chunk without choices holds the counts of the whole answer."""
    usage = ask(daemon, "words").json()["usage"]
    body = ask(daemon, "words", stream=True, stream_options={"include_usage": True}).body
    *before, last = stream_chunks(body)
    assert [None] * len(before) == [chunk["usage"] for chunk in before]
    assert ([], usage) == (last["choices"], last["usage"])
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert len("user: hi\nassistant:") == usage["prompt_tokens"]
    assert WORDS + 1 == usage["completion_tokens"]


def test_a_whole_answer(daemon: Daemon) -> None:
    """The same head without the chunks, and nothing else."""
    reply = ask(daemon, "utf8")
    document = reply.json()
    assert {*HEAD_FIELDS, "choices", "usage"} == set(document)
    assert ("chat.completion", "utf8") == (document["object"], document["model"])
    message = {"role": "assistant", "content": UTF8_TEXT, "refusal": None}
    expected = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    assert expected == whole_choice(reply)


def test_text_arrives_exactly(daemon: Daemon) -> None:
    """Characters of several bytes, controls and escapes survive being sent byte by byte."""
    assert (UTF8_TEXT, "stop") == both_ways(daemon, "utf8")


def test_text_flows_in_many_deltas(daemon: Daemon) -> None:
    """A stream is one: deltas come as tokens do, each HTTP chunk of whole events."""
    reply = ask(daemon, "words", stream=True)
    assert len(deltas(reply.body)) > WORDS / 4
    assert all(chunk.startswith(b"data: ") and chunk.endswith(b"\n\n") for chunk in reply.chunks)


def test_no_delta_ends_in_a_blank(daemon: Daemon) -> None:
    """Spaces and tabs travel in front of what follows; at the very end they are dropped."""
    body = ask(daemon, "code", stream=True).body
    assert [] == [text for text in deltas(body) if text[-1] in " \t"]
    assert (CODE_TEXT.rstrip(" \t"), "stop") == both_ways(daemon, "code")


@pytest.mark.parametrize(
    ("stop", "shown"),
    [
        ("return  1", "def f(x):\n    if x:\n\t\t"),
        (["nowhere", "x:\n"], "def f(x):\n    if "),
        (["f(x", "def"], ""),
        ("    if", "def f(x):\n"),
        ("not there", CODE_TEXT),
        (["return 22", "return 2"], CODE_TEXT[: CODE_TEXT.index("return 2")]),
    ],
)
def test_stops_end_the_text_before_themselves(
    daemon: Daemon, stop: str | list[str], shown: str
) -> None:
    """A stop string is found across tokens, and no part of it is ever shown."""
    assert (shown.rstrip(" \t"), "stop") == both_ways(daemon, "code", stop=stop)


def test_a_stop_inside_characters_of_several_bytes(daemon: Daemon) -> None:
    """Stop strings are text, not bytes."""
    shown = UTF8_TEXT[: UTF8_TEXT.index("日")].rstrip(" \t")
    assert (shown, "stop") == both_ways(daemon, "utf8", stop="日本")


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_token_limit_is_said(daemon: Daemon, field: str) -> None:
    """An answer cut at its limit says `length` and counts exactly its tokens."""
    text, reason = both_ways(daemon, "words", **{field: 5})
    assert (5, "length") == (len(text.split()), reason)
    assert 5 == ask(daemon, "words", **{field: 5}).json()["usage"]["completion_tokens"]


def test_a_limit_inside_a_character(daemon: Daemon) -> None:
    """Half a character becomes one replacement character, streamed and whole."""
    assert ("na\ufffd", "length") == both_ways(daemon, "utf8", max_tokens=3)


def test_a_limit_beyond_the_context_is_no_error(daemon: Daemon) -> None:
    """Clients compute limits from tables of their own; too much is as much as there is."""
    assert (UTF8_TEXT, "stop") == both_ways(daemon, "utf8", max_tokens=10_000_000)


def test_streams_side_by_side_do_not_mix(daemon: Daemon) -> None:
    """Each of a dozen clients at once gets its own answer whole."""
    expected = {"utf8": UTF8_TEXT, "code": CODE_TEXT.rstrip(" \t")}
    models = ["utf8", "code"] * 6
    with ExitStack() as stack:
        clients = [stack.enter_context(Connection(daemon)) for _ in models]
        for client, model in zip(clients, models, strict=True):
            client.send(chat_request(model, stream=True))
        texts = ["".join(deltas(client.read_reply().body)) for client in clients]
    assert [expected[model] for model in models] == texts


def test_a_failure_after_the_head_is_an_event(daemon: Daemon) -> None:
    """When the worker dies the stream ends in one error frame, in order, and not in [DONE]."""
    with Connection(daemon) as connection:
        reply = connection.ask("POST", CHAT_PATH, chat_body("crash", stream=True))
        assert 200 == connection.ask("GET", "/healthz").status
    assert 200 == reply.status
    *text, last = event_blocks(reply.body)
    assert len(text) > 1
    problem = json.loads(last.removeprefix(b"data: "))
    assert ("worker-broken", "worker-broken", "server_error") == (
        problem["code"],
        problem["error"]["code"],
        problem["error"]["type"],
    )
    assert b"[DONE]" not in reply.body


def test_a_failure_of_a_whole_answer_has_a_status(daemon: Daemon) -> None:
    """The same death is a 503 to a client that had no answer yet; it may try again."""
    reply = ask(daemon, "crash")
    assert (503, "worker-broken") == (reply.status, reply.json()["code"])
    assert "x-should-retry" not in reply.headers
