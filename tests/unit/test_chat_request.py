"""Chat requests: each documented field works or is refused by name, and nothing crashes."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.errors import InvalidRequest, RequestError, UnsupportedFeature
from lmx.protocol.messages import Generate
from lmx.protocol.values import Sampling
from lmx.schema.chat_request import IDENTIFICATION_FIELDS, parse_chat_request, to_generate
from tests.strategies import json_values

USER = {"role": "user", "content": "Hi"}


def translate(body: bytes) -> Generate:
    """From the body to what the worker gets."""
    return to_generate(parse_chat_request(body), default_max_tokens=77, default_temperature=0.5)


def ask(**fields: Any) -> Generate:
    """Translate a request with one user message and these fields."""
    return translate(json.dumps({"messages": [USER], **fields}).encode())


def refusal(**fields: Any) -> RequestError:
    """The error that such a request gets."""
    with pytest.raises(RequestError) as caught:
        ask(**fields)
    return caught.value


def test_the_smallest_request_gets_the_defaults() -> None:
    """Only messages are needed; the server's defaults fill the rest."""
    assert Generate(0, [USER], Sampling(77, 0.5, 1.0, None), []) == ask()


@pytest.mark.parametrize(
    ("fields", "sampling"),
    [
        ({"max_tokens": 5}, Sampling(5, 0.5)),
        ({"max_completion_tokens": 6}, Sampling(6, 0.5)),
        ({"max_tokens": 5, "max_completion_tokens": 6}, Sampling(6, 0.5)),
        ({"temperature": 0}, Sampling(77, 0.0)),
        ({"temperature": 2}, Sampling(77, 2.0)),
        ({"top_p": 0.25}, Sampling(77, 0.5, 0.25)),
        ({"seed": 0}, Sampling(77, 0.5, 1.0, 0)),
        ({"seed": -(2**63)}, Sampling(77, 0.5, 1.0, -(2**63))),
        ({"max_tokens": 2**63 - 1}, Sampling(2**63 - 1, 0.5)),
    ],
)
def test_sampling_fields_have_their_effect(fields: dict[str, Any], sampling: Sampling) -> None:
    """Each sampling field reaches the worker as the value given."""
    assert sampling == ask(**fields).sampling


@pytest.mark.parametrize(
    ("stop", "expected"), [("END", ["END"]), (["a", "b"], ["a", "b"]), ([], []), (None, [])]
)
def test_stop_takes_one_string_or_many(stop: Any, expected: list[str]) -> None:
    """A single stop string is a list of one."""
    assert expected == ask(stop=stop).stop


def test_model_and_stream_options_are_kept() -> None:
    """What the route needs is there after parsing."""
    request = parse_chat_request(
        b'{"messages": [{"role": "user"}], "model": "m", "stream": true,'
        b' "stream_options": {"include_usage": true}}'
    )
    assert ("m", True) == (request.model, request.stream)
    assert request.stream_options is not None
    assert request.stream_options.include_usage is True


# Documented fields that no model gets to see yet, with a value that asks for something.
ASKED_IN_VAIN: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "frequency_penalty": 0.5,
    "function_call": {"name": "f"},
    "functions": [{"name": "f"}],
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "modalities": ["text", "audio"],
    "n": 2,
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": -0.5,
    "reasoning_effort": "low",
    "response_format": {"type": "json_object"},
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "top_logprobs": 3,
    "verbosity": "low",
    "web_search_options": {},
}
# The same fields with the value that asks for nothing.
NEUTRAL: dict[str, Any] = {
    "frequency_penalty": 0,
    "function_call": "none",
    "functions": [],
    "logit_bias": {},
    "logprobs": False,
    "modalities": ["text"],
    "n": 1,
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "response_format": {"type": "text"},
    "tool_choice": "auto",
    "tools": [],
    "verbosity": "medium",
}
EFFECTIVE = {
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "model",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
}
# The create-chat-completion reference of OpenAI's API, all body parameters.
DOCUMENTED = set(
    """
    messages model audio frequency_penalty function_call functions logit_bias logprobs
    max_completion_tokens max_tokens metadata modalities n parallel_tool_calls prediction
    presence_penalty prompt_cache_key prompt_cache_retention reasoning_effort response_format
    safety_identifier seed service_tier stop store stream stream_options temperature tool_choice
    tools top_logprobs top_p user verbosity web_search_options
    """.split()  # noqa: SIM905  # a list of words reads best as words
)


def test_every_documented_field_is_decided() -> None:
    """No documented field falls through: it works, is refused, is neutral or identifies."""
    decided = EFFECTIVE | set(ASKED_IN_VAIN) | set(NEUTRAL) | IDENTIFICATION_FIELDS
    assert set() == DOCUMENTED - decided


@pytest.mark.parametrize("name", sorted(ASKED_IN_VAIN))
def test_what_is_not_supported_is_refused_by_name(name: str) -> None:
    """A documented field without effect is a 400 that names it."""
    error = refusal(**{name: ASKED_IN_VAIN[name]})
    assert (UnsupportedFeature, name) == (type(error), error.param)


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_a_neutral_value_changes_nothing(name: str) -> None:
    """Asking for what happens anyway is no error."""
    assert ask() == ask(**{name: NEUTRAL[name]})


@pytest.mark.parametrize("name", sorted(DOCUMENTED - {"messages"}))
def test_null_means_absent(name: str) -> None:
    """An explicit null is as good as no field."""
    assert ask() == ask(**{name: None})


@pytest.mark.parametrize("name", sorted(IDENTIFICATION_FIELDS))
def test_identification_is_accepted(name: str) -> None:
    """Who asks never changes the answer."""
    assert ask() == ask(**{name: "x"})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temprature": 1}, "temprature"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "wizard"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "name": 3}]}, "messages[0].name"),
        ({"model": 3}, "model"),
        ({"stream": "true"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usge": True}}, "stream_options"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_completion_tokens": 2**63}, "max_completion_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"seed": 10**30}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"stop": 1}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": ["a", 1]}, "stop[1]"),
        ({"stop": ["a"] * 17}, "stop"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else None,
)
def test_a_wrong_value_is_an_invalid_request(fields: dict[str, Any], param: str) -> None:
    """A value of the wrong type or out of range is refused with the field's path."""
    error = refusal(**fields)
    assert (InvalidRequest, param) == (type(error), error.param)


@pytest.mark.parametrize("raw", ["1e999", "-1e999"])
@pytest.mark.parametrize("name", ["temperature", "top_p", "n", "logit_bias", "unknown"])
def test_a_number_beyond_floats_is_refused_by_name(name: str, raw: str) -> None:
    """A number that no float holds is refused wherever it stands, documented field or not."""
    body = f'{{"messages": [{{"role": "user"}}], "{name}": {raw}}}'.encode()
    with pytest.raises(InvalidRequest) as caught:
        translate(body)
    assert name == caught.value.param


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url", "image_url": {"url": "data:"}}, "messages[0].content[1]"),
        ({"type": "input_audio", "input_audio": {}}, "messages[0].content[1]"),
        ({"type": "file", "file": {}}, "messages[0].content[1]"),
        ({"type": "refusal", "refusal": "no"}, "messages[0].content[1]"),
        ({"type": "text"}, "messages[0].content[1]"),
    ],
)
def test_parts_no_text_model_reads_are_refused(part: dict[str, Any], param: str) -> None:
    """An image is a 400 that names the part, never silently dropped."""
    content = [{"type": "text", "text": "See"}, part]
    error = refusal(messages=[{"role": "user", "content": content}])
    assert (UnsupportedFeature, param) == (type(error), error.param)


@pytest.mark.parametrize("name", ["function_call", "audio"])
def test_message_fields_no_template_reads_are_refused(name: str) -> None:
    """A documented field of a message is used or refused by name."""
    error = refusal(messages=[USER, {"role": "assistant", name: {"id": "x"}}])
    assert (UnsupportedFeature, f"messages[1].{name}") == (type(error), error.param)


def test_obfuscation_is_refused_and_its_absence_is_not() -> None:
    """An option of the stream that would have no effect is refused by name."""
    on, off = ({"include_obfuscation": is_on} for is_on in (True, False))
    error = refusal(stream=True, stream_options=on)
    assert "stream_options.include_obfuscation" == error.param
    assert ask() == ask(stream=True, stream_options=off)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "developer", "content": "x"}, {"role": "system", "content": "x"}),
        ({"role": "user"}, {"role": "user", "content": ""}),
        ({"role": "assistant", "refusal": "no"}, {"role": "assistant", "content": "no"}),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}] * 2},
            {"role": "user", "content": "a\na"},
        ),
        (
            {"role": "user", "content": "x", "name": "Ann", "function_call": None, "audio": None},
            {"role": "user", "content": "x", "name": "Ann"},
        ),
        (
            {"role": "tool", "content": "4", "tool_call_id": "c1"},
            {"role": "tool", "content": "4", "tool_call_id": "c1"},
        ),
        (
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}]},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "c1"}]},
        ),
    ],
)
def test_messages_reach_the_template(message: dict[str, Any], expected: dict[str, Any]) -> None:
    """Templates get text content, known roles and only the keys that were given."""
    assert [expected] == ask(messages=[message]).messages


@given(st.binary(max_size=80) | st.text('{}[]",:messagruolcnt019.-e', max_size=80).map(str.encode))
def test_arbitrary_bytes_are_a_request_or_refused(body: bytes) -> None:
    """No body raises anything but a `RequestError` with a `param`."""
    assert_refused_or_fine(body)


NAMES = st.sampled_from(sorted(DOCUMENTED | {"function_call", "unknown"}))
WEIRD = st.sampled_from(
    [
        "NaN",
        "-Infinity",
        "1e999",
        '"\\ud800"',
        '"\\ud800\\u0041"',
        "9" * 400,
        "[" * 2000,
        "-0",
        "1.",
    ]
)


@given(
    st.dictionaries(NAMES, json_values(), max_size=4), st.sampled_from([{}, {"messages": [USER]}])
)
def test_arbitrary_values_are_a_request_or_refused(
    fields: dict[str, Any], base: dict[str, Any]
) -> None:
    """No value in any documented field raises anything but a `RequestError`."""
    assert_refused_or_fine(json.dumps({**fields, **base}).encode())


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(
                ["role", "content", "name", "tool_calls", "refusal", "audio", "type", "text"]
            ),
            json_values() | st.sampled_from(["user", "assistant", "tool"]),
            max_size=4,
        ),
        max_size=3,
    )
)
def test_arbitrary_messages_are_a_request_or_refused(messages: list[Any]) -> None:
    """No message raises anything but a `RequestError`."""
    assert_refused_or_fine(json.dumps({"messages": messages}).encode())


@given(NAMES, WEIRD)
def test_odd_tokens_are_refused_or_fine(name: str, raw: str) -> None:
    """No token that other JSON parsers trip over raises anything but a `RequestError`."""
    assert_refused_or_fine(f'{{"messages": [{{"role": "user"}}], "{name}": {raw}}}'.encode())
    assert_refused_or_fine(f'{{"messages": [{{"role": "user"}}], {raw}: 1}}'.encode())
    assert_refused_or_fine(f'{{"messages": [{{"role": "user", "content": {raw}}}]}}'.encode())


def assert_refused_or_fine(body: bytes) -> None:
    """Parsing either gives a request that can be encoded or raises a `RequestError`."""
    refused: RequestError | None = None
    try:
        generate = translate(body)
    except RequestError as error:
        refused = error
    if refused:
        assert refused.param
    else:
        assert generate.messages
        assert generate.sampling.max_tokens >= 1
        msgspec.json.encode(generate)
