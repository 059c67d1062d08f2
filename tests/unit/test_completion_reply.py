"""Legacy completion answers: chunks, the whole document, and the best of several."""

import json
from typing import Any

import pytest

from lmx.errors import WorkerBroken
from lmx.protocol.values import TokenLogprob, Usage
from lmx.schema.completion_reply import (
    CompletionStreamEncoder,
    Echo,
    WholeText,
    choose_best,
    encode_text_completion,
    encode_text_logprobs,
)
from lmx.schema.reply import ReplyHead
from lmx.text.parts import ReasoningPart, TextPart
from tests.sse import events

HEAD = ReplyHead(id="cmpl-1", created=1700000000, model="org/m", system_fingerprint="lmx-0")
USAGE = Usage(prompt_tokens=7, completion_tokens=5)
USAGE_DOCUMENT = {
    "prompt_tokens": 7,
    "completion_tokens": 5,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 0},
}


def scored(token: str, logprob: float | None, **top: float) -> TokenLogprob:
    """A token with its alternatives."""
    others = [TokenLogprob(text, text.encode(), value) for text, value in top.items()]
    return TokenLogprob(token, token.encode(), logprob, others)


PROMPT = [scored("Once", None), scored(" upon", -1.0)]
ANSWER = [scored(" a", -0.5, a=-0.5, b=-2.0), scored(" time", float("-inf"))]


def document(choices: list[Any], **more: Any) -> dict[str, Any]:
    """A whole document or chunk."""
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1700000000,
        "model": "org/m",
        "system_fingerprint": "lmx-0",
        "choices": choices,
        **more,
    }


def choice(text: str, index: int = 0, reason: str | None = None) -> dict[str, Any]:
    """A choice without log-probabilities."""
    return {"text": text, "index": index, "logprobs": None, "finish_reason": reason}


def test_a_stream_without_usage() -> None:
    """Chunks hold text, then the reason; nothing announces a choice."""
    encoder = CompletionStreamEncoder(HEAD, include_usage=False)
    data = encoder.parts(1, [TextPart("a"), TextPart(" b")], [])
    data += encoder.parts(1, [], []) + encoder.finish_choice(1, "length") + encoder.finish(USAGE)
    expected = [document([choice("a b", 1)]), document([choice("", 1, "length")]), "[DONE]"]
    assert expected == events(data)


def test_a_stream_with_usage() -> None:
    """Asked for usage, the stream ends in a chunk without choices that holds the counts."""
    encoder = CompletionStreamEncoder(HEAD, include_usage=True)
    data = encoder.finish_choice(0, "stop") + encoder.finish(USAGE)
    expected = [
        document([choice("", 0, "stop")], usage=None),
        document([], usage=USAGE_DOCUMENT),
        "[DONE]",
    ]
    assert expected == events(data)


def test_an_error_inside_a_stream_is_one_event() -> None:
    """A failure after the headers is an event with the envelope of a response's body."""
    encoder = CompletionStreamEncoder(HEAD, include_usage=False)
    (event,) = events(encoder.error(WorkerBroken("it died")))
    assert "it died" == event["error"]["message"]


def test_whatever_was_parsed_is_shown_as_text() -> None:
    """There is no place beside the text, so nothing is lost."""
    encoder = CompletionStreamEncoder(HEAD, include_usage=False)
    (event,) = events(encoder.parts(0, [ReasoningPart("hm "), TextPart("so")], []))
    assert "hm so" == event["choices"][0]["text"]


def test_log_probabilities_are_parallel_lists() -> None:
    """The legacy shape: a prompt's first token has no score, and offsets count characters."""
    found = encode_text_logprobs([*PROMPT, *ANSWER])
    assert ["Once", " upon", " a", " time"] == found.tokens
    assert [None, -1.0, -0.5, -9999.0] == found.token_logprobs
    assert [None, {}, {"a": -0.5, "b": -2.0}, {}] == found.top_logprobs
    assert [0, 4, 9, 11] == found.text_offset


def test_no_alternatives_are_null() -> None:
    """Asked for none, the list of alternatives is null."""
    assert encode_text_logprobs(PROMPT).top_logprobs is None


@pytest.mark.parametrize("echo", [None, Echo("Once upon", PROMPT), Echo("Once upon")])
def test_streamed_and_whole_say_the_same(echo: Echo | None) -> None:
    """Texts and log-probabilities of the chunks, joined, are those of the whole document."""
    whole = WholeText(" a time", ANSWER, "stop", echo)
    data = encode_text_completion(HEAD, [whole], USAGE, shows_logprobs=True)
    (expected,) = json.loads(data)["choices"]
    encoder = CompletionStreamEncoder(HEAD, include_usage=False)
    stream = encoder.echo(0, echo) if echo else b""
    stream += encoder.parts(0, [TextPart(" a")], ANSWER[:1])
    stream += encoder.parts(0, [TextPart(" time")], ANSWER[1:])
    chunks = [event["choices"][0] for event in events(stream)]
    scores = [chunk["logprobs"] for chunk in chunks if chunk["logprobs"]]
    assert expected["text"] == "".join(chunk["text"] for chunk in chunks)
    for key in ("tokens", "token_logprobs", "text_offset"):
        assert expected["logprobs"][key] == [item for score in scores for item in score[key]]


def test_the_whole_document() -> None:
    """Choices are numbered in order; scores needed only for choosing are not shown."""
    choices = [WholeText("a", None, "stop"), WholeText("b", ANSWER, "length", Echo("Once "))]
    data = encode_text_completion(HEAD, choices, USAGE, shows_logprobs=False)
    expected = [choice("a", 0, "stop"), choice("Once b", 1, "length")]
    assert document(expected, usage=USAGE_DOCUMENT) == json.loads(data)


def test_the_best_have_the_highest_mean_log_probability() -> None:
    """Length does not count; an answer without tokens is the last choice."""
    poor = WholeText("poor", [scored("x", -3.0)], "stop")
    long = WholeText("long", [scored("x", -1.0)] * 9, "stop")
    short = WholeText("short", [scored("x", -2.0)], "stop")
    empty = WholeText("", [], "stop")
    assert [long, short] == choose_best([empty, poor, long, short], 2)
