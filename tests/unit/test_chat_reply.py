"""Answers as OpenAI's clients read them: stream chunks and the whole document."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.errors import WorkerBroken
from lmx.protocol.values import Usage
from lmx.schema.chat_reply import (
    SSE_COMMENT,
    SSE_DONE,
    ChatStreamEncoder,
    ReplyHead,
    completion_id,
    encode_completion,
    encode_usage,
)
from lmx.text.parts import OutputParser, TextPart

HEAD = ReplyHead(id="chatcmpl-1", created=1700000000, model="org/m", system_fingerprint="lmx-0")
USAGE = Usage(prompt_tokens=7, completion_tokens=5, cached_tokens=3)
USAGE_DOCUMENT = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 3},
}


def events(data: bytes) -> list[Any]:
    """What an SSE client reads: the value of each event."""
    frames = data.split(b"\n\n")
    assert b"" == frames.pop()
    assert all(frame.startswith(b"data: ") and b"\n" not in frame for frame in frames)
    texts = [frame.removeprefix(b"data: ") for frame in frames]
    return ["[DONE]" if text == b"[DONE]" else json.loads(text) for text in texts]


def chunk(choices: list[Any], **more: Any) -> dict[str, Any]:
    """A whole chunk, as the reference documents it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "org/m",
        "system_fingerprint": "lmx-0",
        "choices": choices,
        **more,
    }


def choice(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    """The only choice of a chunk."""
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def test_the_first_chunk_carries_the_role() -> None:
    """A stream begins with the assistant's role and empty content."""
    encoder = ChatStreamEncoder(HEAD, include_usage=False)
    assert [chunk([choice({"role": "assistant", "content": ""})])] == events(encoder.first())


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4), st.booleans())
def test_each_part_is_one_whole_chunk(texts: list[str], include_usage: bool) -> None:  # noqa: FBT001
    """The chunk pasted together from constant ends is the chunk that JSON encoding would give."""
    encoder = ChatStreamEncoder(HEAD, include_usage=include_usage)
    more = {"usage": None} if include_usage else {}
    expected = [chunk([choice({"content": text})], **more) for text in texts]
    assert expected == events(encoder.parts([TextPart(text) for text in texts]))


@given(st.text())
def test_the_models_name_cannot_break_a_chunk(name: str) -> None:
    """Whatever a model is called, chunks stay well-formed and carry its name."""
    head = ReplyHead(id='"content":""', created=1, model=name, system_fingerprint='"content":""')
    encoder = ChatStreamEncoder(head, include_usage=False)
    (event,) = events(encoder.parts([TextPart("x")]))
    assert (name, "x") == (event["model"], event["choices"][0]["delta"]["content"])


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_the_end_without_usage(reason: Any) -> None:
    """The reason stands alone in the last chunk; no chunk mentions usage unless asked."""
    encoder = ChatStreamEncoder(HEAD, include_usage=False)
    assert [chunk([choice({}, reason)]), "[DONE]"] == events(encoder.finish(reason, USAGE))


def test_the_end_with_usage() -> None:
    """Asked for usage, the stream ends in a chunk without choices that holds the counts."""
    encoder = ChatStreamEncoder(HEAD, include_usage=True)
    expected = [
        chunk([choice({}, "stop")], usage=None),
        chunk([], usage=USAGE_DOCUMENT),
        "[DONE]",
    ]
    assert expected == events(encoder.finish("stop", USAGE))


def test_an_error_inside_a_stream_is_one_event() -> None:
    """A failure after the headers is an event with the same envelope as a response's body."""
    (event,) = events(ChatStreamEncoder(HEAD, include_usage=True).error(WorkerBroken("it died")))
    expected = {
        "message": "it died",
        "type": "server_error",
        "param": None,
        "code": "worker-broken",
    }
    assert expected == event["error"]
    assert "worker-broken" == event["code"]


def test_the_whole_document() -> None:
    """A non-streamed answer holds the joined text, the reason and the usage."""
    parts = [TextPart("Hello,"), TextPart(" world")]
    document = json.loads(encode_completion(HEAD, parts, reason="length", usage=USAGE))
    assert {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "org/m",
        "system_fingerprint": "lmx-0",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello, world", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": USAGE_DOCUMENT,
    } == document


@given(st.lists(st.text(max_size=6), max_size=6))
def test_streamed_and_whole_say_the_same(deltas: list[str]) -> None:
    """The deltas of a stream, joined, are the content of the whole document."""
    parser = OutputParser()
    parts = [part for delta in deltas for part in parser.feed(delta)]
    streamed = events(ChatStreamEncoder(HEAD, include_usage=False).parts(parts))
    whole = json.loads(encode_completion(HEAD, parts, reason="stop", usage=USAGE))
    texts = [event["choices"][0]["delta"]["content"] for event in streamed]
    assert whole["choices"][0]["message"]["content"] == "".join(texts)


def test_ids_are_recognisable() -> None:
    """The answer's id is the request's with another prefix."""
    assert "chatcmpl-abc" == completion_id("req_abc")


def test_usage_adds_up() -> None:
    """The total is prompt plus completion; cached tokens are part of the prompt."""
    assert USAGE_DOCUMENT == encode_usage(USAGE)


def test_constant_frames() -> None:
    """The end marker and the keep-alive comment are spelled as SSE wants them."""
    assert b"data: [DONE]\n\n" == SSE_DONE
    assert SSE_COMMENT.startswith(b":")
    assert SSE_COMMENT.endswith(b"\n\n")
