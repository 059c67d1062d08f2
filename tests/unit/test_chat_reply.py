"""Answers as OpenAI's clients read them: stream chunks and the whole document."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.errors import WorkerBroken
from lmx.protocol.values import FinishReason, TokenLogprob, Usage
from lmx.schema.chat_reply import (
    THINK_MARKS,
    ChatStreamEncoder,
    ReasoningMarks,
    WholeChoice,
    encode_completion,
)
from lmx.schema.reply import ReplyHead
from lmx.text.parts import AnswerPart, ReasoningPart, TextPart, ToolCallPart
from tests.sse import events

HEAD = ReplyHead(id="chatcmpl-1", created=1700000000, model="org/m", system_fingerprint="lmx-0")
USAGE = Usage(prompt_tokens=7, completion_tokens=5, cached_tokens=3)
USAGE_DOCUMENT = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 3},
}
CALL = ToolCallPart(0, "f", '{"a":1}')
LOGPROB = TokenLogprob("é", b"\xc3\xa9", -0.5, [TokenLogprob("e", b"e", float("-inf"))])
LOGPROB_DOCUMENT = {
    "token": "é",
    "logprob": -0.5,
    "bytes": [195, 169],
    "top_logprobs": [{"token": "e", "logprob": -9999.0, "bytes": [101]}],
}


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


def choice(
    delta: dict[str, Any], finish_reason: str | None = None, *, index: int = 0
) -> dict[str, Any]:
    """The only choice of a chunk."""
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def make_encoder(
    *, include_usage: bool = False, marks: ReasoningMarks | None = None
) -> ChatStreamEncoder:
    """An encoder for the head above."""
    return ChatStreamEncoder(HEAD, include_usage=include_usage, inline_reasoning=marks)


def deltas_of(
    parts: Sequence[AnswerPart],
    reason: FinishReason = "stop",
    *,
    marks: ReasoningMarks | None = None,
) -> list[dict[str, Any]]:
    """What a stream of one choice adds to the message, the first chunk left out."""
    encoder = make_encoder(marks=marks)
    data = encoder.parts(0, parts, []) + encoder.finish_choice(0, reason)
    return [event["choices"][0]["delta"] for event in events(data)]


def message_of(
    parts: Sequence[AnswerPart], *, marks: ReasoningMarks | None = None
) -> dict[str, Any]:
    """The message of a whole answer."""
    choices = [WholeChoice(parts, None, "stop")]
    document = json.loads(encode_completion(HEAD, choices, USAGE, inline_reasoning=marks))
    message: dict[str, Any] = document["choices"][0]["message"]
    return message


def test_the_first_chunk_carries_the_role() -> None:
    """A choice begins with the assistant's role and empty content."""
    expected = [chunk([choice({"role": "assistant", "content": ""}, index=3)])]
    assert expected == events(make_encoder().first(3))


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4), st.booleans(), st.integers(0, 15))
def test_each_part_is_one_whole_chunk(
    texts: list[str],
    include_usage: bool,  # noqa: FBT001
    index: int,
) -> None:
    """The chunk pasted together from constant ends is the chunk that JSON encoding would give."""
    encoder = make_encoder(include_usage=include_usage)
    more = {"usage": None} if include_usage else {}
    expected = [chunk([choice({"content": text}, index=index)], **more) for text in texts]
    assert expected == events(encoder.parts(index, [TextPart(text) for text in texts], []))


@given(st.text())
def test_the_models_name_cannot_break_a_chunk(name: str) -> None:
    """Whatever a model is called, chunks stay well-formed and carry its name."""
    head = ReplyHead(id='"content":""', created=1, model=name, system_fingerprint='"content":""')
    encoder = ChatStreamEncoder(head, include_usage=False, inline_reasoning=None)
    (event,) = events(encoder.parts(0, [TextPart("x")], []))
    assert (name, "x") == (event["model"], event["choices"][0]["delta"]["content"])


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_the_end_without_usage(reason: Any) -> None:
    """The reason stands alone in a choice's last chunk; no chunk mentions usage unless asked."""
    encoder = make_encoder()
    data = encoder.finish_choice(1, reason) + encoder.finish(USAGE)
    assert [chunk([choice({}, reason, index=1)]), "[DONE]"] == events(data)


def test_the_end_with_usage() -> None:
    """Asked for usage, the stream ends in a chunk without choices that holds the counts."""
    encoder = make_encoder(include_usage=True)
    expected = [
        chunk([choice({}, "stop")], usage=None),
        chunk([], usage=USAGE_DOCUMENT),
        "[DONE]",
    ]
    assert expected == events(encoder.finish_choice(0, "stop") + encoder.finish(USAGE))


def test_an_error_inside_a_stream_is_one_event() -> None:
    """A failure after the headers is an event with the same envelope as a response's body."""
    (event,) = events(make_encoder(include_usage=True).error(WorkerBroken("it died")))
    expected = {
        "message": "it died",
        "type": "server_error",
        "param": None,
        "code": "worker-broken",
    }
    assert expected == event["error"]
    assert "worker-broken" == event["code"]


def test_a_call_is_one_complete_delta() -> None:
    """A call's delta holds its index, a fresh id, its name and all arguments."""
    call, end = deltas_of([CALL])
    (found,) = call["tool_calls"]
    call_id = found.pop("id")
    expected = {"index": 0, "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    assert ({"tool_calls": [expected]}, {}) == (call, end)
    assert call_id.startswith("call_")
    assert len(call_id.removeprefix("call_")) == 24


def test_call_ids_differ_within_an_answer_and_between_answers() -> None:
    """An id names one call: of one answer, of one choice, at one place."""
    heads = [HEAD, ReplyHead("chatcmpl-2", 1, "m", "f")]
    parts = [CALL, ToolCallPart(1, "f", '{"a":1}')]
    found = {
        call["id"]
        for head in heads
        for choice in json.loads(
            encode_completion(head, [WholeChoice(parts, None, "stop")] * 2, USAGE)
        )["choices"]
        for call in choice["message"]["tool_calls"]
    }
    assert 8 == len(found)


@pytest.mark.parametrize(
    ("parts", "reason", "expected"),
    [
        ([CALL], "stop", "tool_calls"),
        ([TextPart("a"), CALL], "stop", "tool_calls"),
        ([CALL], "length", "length"),
        ([TextPart("a")], "stop", "stop"),
    ],
)
def test_a_choice_with_calls_ends_for_them(
    parts: list[AnswerPart], reason: FinishReason, expected: str
) -> None:
    """Calls are the reason, unless the answer was cut off; streamed and whole agree."""
    encoder = make_encoder()
    data = encoder.parts(0, parts, []) + encoder.finish_choice(0, reason)
    document = json.loads(encode_completion(HEAD, [WholeChoice(parts, None, reason)], USAGE))
    assert expected == events(data)[-1]["choices"][0]["finish_reason"]
    assert expected == document["choices"][0]["finish_reason"]


@pytest.mark.parametrize(
    ("parts", "beside", "inline"),
    [
        (
            [ReasoningPart("hm"), ReasoningPart(" so"), TextPart("Hi"), TextPart("!")],
            [
                {"reasoning_content": "hm"},
                {"reasoning_content": " so"},
                {"content": "Hi"},
                {"content": "!"},
            ],
            [
                {"content": "<think>hm"},
                {"content": " so"},
                {"content": "</think>Hi"},
                {"content": "!"},
            ],
        ),
        (
            [ReasoningPart("hm")],
            [{"reasoning_content": "hm"}],
            [{"content": "<think>hm"}, {"content": "</think>"}],
        ),
        ([TextPart("Hi")], [{"content": "Hi"}], [{"content": "Hi"}]),
        (
            [ReasoningPart("a"), TextPart("b"), ReasoningPart("c"), TextPart("d")],
            [
                {"reasoning_content": "a"},
                {"content": "b"},
                {"reasoning_content": "c"},
                {"content": "d"},
            ],
            [
                {"content": "<think>a"},
                {"content": "</think>b"},
                {"content": "<think>c"},
                {"content": "</think>d"},
            ],
        ),
    ],
)
def test_reasoning_stands_beside_or_inside_the_content(
    parts: list[AnswerPart], beside: list[Any], inline: list[Any]
) -> None:
    """Inside, it is opened once and closed before anything else; the end closes it, too."""
    assert [*beside, {}] == deltas_of(parts)
    assert [*inline, {}] == deltas_of(parts, marks=THINK_MARKS)


def test_a_call_closes_reasoning() -> None:
    """The closing mark comes no later than the call."""
    _, delta, _ = deltas_of([ReasoningPart("a"), CALL], marks=THINK_MARKS)
    assert "</think>" == delta["content"]
    assert "f" == delta["tool_calls"][0]["function"]["name"]


def test_log_probabilities_ride_on_the_first_chunk() -> None:
    """They stand beside the delta they came with, or beside empty content."""
    expected = {"content": [LOGPROB_DOCUMENT], "refusal": None}
    for parts, texts in (([TextPart("é"), TextPart("!")], ["é", "!"]), ([], [""])):
        found = [event["choices"][0] for event in events(make_encoder().parts(0, parts, [LOGPROB]))]
        assert texts == [shown["delta"]["content"] for shown in found]
        assert [expected, None][: len(texts)] == [shown["logprobs"] for shown in found]


def test_the_whole_document() -> None:
    """A non-streamed answer holds each choice's text, reason and logprobs, and the usage."""
    choices = [
        WholeChoice([TextPart("Hello,"), TextPart(" world")], None, "length"),
        WholeChoice([ReasoningPart("hm"), TextPart("é")], [LOGPROB], "stop"),
    ]
    document = json.loads(encode_completion(HEAD, choices, USAGE))
    second = {
        "role": "assistant",
        "content": "é",
        "refusal": None,
        "reasoning_content": "hm",
    }
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
            },
            {
                "index": 1,
                "message": second,
                "logprobs": {"content": [LOGPROB_DOCUMENT], "refusal": None},
                "finish_reason": "stop",
            },
        ],
        "usage": USAGE_DOCUMENT,
    } == document


@pytest.mark.parametrize(
    ("parts", "content"),
    [([], ""), ([CALL], None), ([TextPart("a"), CALL], "a"), ([ReasoningPart("a")], "")],
)
def test_content_is_null_only_beside_calls(parts: list[AnswerPart], content: str | None) -> None:
    """Without any text there is null beside calls and an empty string elsewhere."""
    assert content == message_of(parts)["content"]


PARTS = st.one_of(
    st.builds(TextPart, st.text(min_size=1, max_size=4)),
    st.builds(ReasoningPart, st.text(min_size=1, max_size=4)),
    st.builds(ToolCallPart, st.just(0), st.text(min_size=1, max_size=4), st.just("{}")),
)


@given(st.lists(PARTS, max_size=6), st.sampled_from([None, THINK_MARKS]))
def test_streamed_and_whole_say_the_same(
    drawn: list[AnswerPart], marks: ReasoningMarks | None
) -> None:
    """The deltas of a stream, joined as clients join them, are the whole message."""
    parts = [
        ToolCallPart(place, part.name, part.arguments) if isinstance(part, ToolCallPart) else part
        for place, part in enumerate(drawn)
    ]
    joined: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    for delta in deltas_of(parts, marks=marks):
        for key, value in delta.items():
            joined[key] += value
    message = message_of(parts, marks=marks)
    calls = [{"index": 0, **call} for call in message.get("tool_calls", [])]
    assert (message["content"] or "") == joined["content"]
    assert message.get("reasoning_content", "") == joined["reasoning_content"]
    assert calls == [{**call, "index": 0} for call in joined["tool_calls"]]
