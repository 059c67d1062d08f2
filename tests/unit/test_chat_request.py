"""Chat requests: each documented field works or is refused by name, and nothing crashes."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.errors import InvalidRequest, RequestError, UnsupportedFeature
from lmx.protocol.messages import ChatPrompt, Generate
from lmx.protocol.values import Sampling
from lmx.schema.chat_request import ChatRequest, is_reasoning_inline, parse_chat_request
from tests.chat_bodies import USER, ask, parse, prompt_of, refusal, translate
from tests.strategies import json_values


def test_the_smallest_request_gets_the_defaults() -> None:
    """Only messages are needed; the server's defaults fill the rest."""
    assert Generate(0, ChatPrompt([USER]), [Sampling(77, 0.5)], []) == ask()


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
        ({"frequency_penalty": -2}, Sampling(77, 0.5, frequency_penalty=-2)),
        ({"presence_penalty": 1.5}, Sampling(77, 0.5, presence_penalty=1.5)),
        ({"logit_bias": {"5": -100, "0": 2.5}}, Sampling(77, 0.5, logit_bias={5: -100, 0: 2.5})),
        ({"logprobs": True}, Sampling(77, 0.5, top_logprobs=0)),
        ({"logprobs": True, "top_logprobs": 20}, Sampling(77, 0.5, top_logprobs=20)),
        ({"top_k": 40}, Sampling(77, 0.5, top_k=40)),
        ({"top_k": -1}, Sampling(77, 0.5)),
        ({"min_p": 0.05}, Sampling(77, 0.5, min_p=0.05)),
        ({"repetition_penalty": 1.1}, Sampling(77, 0.5, repetition_penalty=1.1)),
        ({"min_tokens": 77}, Sampling(77, 0.5, min_tokens=77)),
        ({"ignore_eos": True}, Sampling(77, 0.5, ignore_eos=True)),
        ({"speculation": "off"}, Sampling(77, 0.5, speculate=False)),
        ({"speculation": "auto"}, Sampling(77, 0.5)),
    ],
)
def test_sampling_fields_have_their_effect(fields: dict[str, Any], sampling: Sampling) -> None:
    """Each sampling field reaches the worker as the value given."""
    assert [sampling] == ask(**fields).samplings


def test_several_choices_are_sampled_alike_without_a_seed() -> None:
    """Each choice has its own sampling; the engine's fresh seeds make them differ."""
    assert [Sampling(77, 0.5)] * 3 == ask(n=3).samplings


@pytest.mark.parametrize(
    ("seed", "expected"), [(7, [7, 8, 9]), (2**63 - 2, [2**63 - 2, 2**63 - 1, -(2**63)])]
)
def test_seeded_choices_differ_and_repeat(seed: int, expected: list[int]) -> None:
    """Choice `i` has the seed plus `i`, also where that leaves 64 bits."""
    assert expected == [sampling.seed for sampling in ask(n=3, seed=seed).samplings]


@pytest.mark.parametrize(
    ("fields", "variables"),
    [
        *[
            ({"reasoning_effort": effort}, {"reasoning_effort": effort})
            for effort in ("minimal", "low", "medium", "high", "xhigh")
        ],
        ({"reasoning_effort": "none"}, {"reasoning_effort": "none", "enable_thinking": False}),
        ({"enable_thinking": True}, {"enable_thinking": True}),
        ({"chat_template_kwargs": {"a": [1]}}, {"a": [1]}),
        (
            {"chat_template_kwargs": {"a": 1}, "enable_thinking": False},
            {"a": 1, "enable_thinking": False},
        ),
        (
            {"chat_template_kwargs": {"enable_thinking": True}, "enable_thinking": True},
            {"enable_thinking": True},
        ),
    ],
)
def test_what_the_template_is_told(fields: dict[str, Any], variables: dict[str, Any]) -> None:
    """How much to think and other variables reach the template."""
    assert variables == prompt_of(ask(**fields)).template_kwargs


def test_the_thinking_budget_reaches_the_worker() -> None:
    """Zero is a budget, too."""
    assert (0, 9) == (
        ask(thinking_budget=0).thinking_budget,
        ask(thinking_budget=9).thinking_budget,
    )


@pytest.mark.parametrize("default", [True, False])
def test_where_reasoning_stands(default: bool) -> None:  # noqa: FBT001  # pytest passes by name
    """The request decides; without a word of it the server's setting does."""
    assert is_reasoning_inline(parse(reasoning_format="inline"), default)
    assert not is_reasoning_inline(parse(reasoning_format="separate"), default)
    assert default is is_reasoning_inline(parse(), default)


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


# Documented fields without effect, with a value that asks for something.
ASKED_IN_VAIN: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "function_call": {"name": "f"},
    "functions": [{"name": "f"}],
    "modalities": ["text", "audio"],
    "prediction": {"type": "content", "content": "x"},
    "verbosity": "low",
    "web_search_options": {},
}
# Fields with the value that asks for nothing.
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
    "top_k": 0,
    "verbosity": "medium",
}
# Fields whose effect a test in this file or beside it shows.
EFFECTIVE = set(
    """
    frequency_penalty logit_bias logprobs max_completion_tokens max_tokens messages model n
    parallel_tool_calls presence_penalty reasoning_effort response_format seed stop stream
    stream_options temperature tool_choice tools top_logprobs top_p
    """.split()  # noqa: SIM905  # a list of words reads best as words
)
# They say who asks or how to file it.
IDENTIFICATION_FIELDS = set(
    """
    metadata prompt_cache_key prompt_cache_retention safety_identifier service_tier store user
    """.split()  # noqa: SIM905  # a list of words reads best as words
)
EXTENSIONS = set(
    """
    chat_template_kwargs enable_thinking guided_choice guided_grammar guided_json guided_regex
    ignore_eos min_p min_tokens num_ctx priority reasoning_format repetition_penalty resumable
    skill_approvals skill_limits skills speculation thinking_budget top_k
    """.split()  # noqa: SIM905  # a list of words reads best as words
)
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
    assert set(ChatRequest.__struct_fields__) == DOCUMENTED | EXTENSIONS


@pytest.mark.parametrize("name", sorted(ASKED_IN_VAIN))
def test_what_is_not_supported_is_refused_by_name(name: str) -> None:
    """A documented field without effect is a 400 that names it."""
    error = refusal(**{name: ASKED_IN_VAIN[name]})
    assert (UnsupportedFeature, name) == (type(error), error.param)


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_a_neutral_value_changes_nothing(name: str) -> None:
    """Asking for what happens anyway is no error."""
    assert ask() == ask(**{name: NEUTRAL[name]})


@pytest.mark.parametrize("name", sorted((DOCUMENTED | EXTENSIONS) - {"messages"}))
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
        ({"max_tokens": -5}, "max_tokens"),
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
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stop": ["a", 1]}, "stop[1]"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": 1.5}, "n"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 0}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"presence_penalty": -2.1}, "presence_penalty"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1.5": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"5": "1"}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"reasoning_effort": "none", "enable_thinking": True}, "enable_thinking"),
        ({"enable_thinking": "yes"}, "enable_thinking"),
        ({"thinking_budget": -1}, "thinking_budget"),
        ({"reasoning_format": "beside"}, "reasoning_format"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools"),
        (
            {"chat_template_kwargs": {"enable_thinking": 1}, "enable_thinking": False},
            "chat_template_kwargs.enable_thinking",
        ),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"speculation": "on"}, "speculation"),
        ({"min_tokens": 78}, "min_tokens"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
        ({"ignore_eos": 1}, "ignore_eos"),
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


def test_obfuscation_is_refused_and_its_absence_is_not() -> None:
    """An option of the stream that would have no effect is refused by name."""
    on, off = ({"include_obfuscation": is_on} for is_on in (True, False))
    error = refusal(stream=True, stream_options=on)
    assert "stream_options.include_obfuscation" == error.param
    assert ask() == ask(stream=True, stream_options=off)


@given(st.binary(max_size=80) | st.text('{}[]",:messagruolcnt019.-e', max_size=80).map(str.encode))
def test_arbitrary_bytes_are_a_request_or_refused(body: bytes) -> None:
    """No body raises anything but a `RequestError` with a `param`."""
    assert_refused_or_fine(body)


NAMES = st.sampled_from(sorted(DOCUMENTED | EXTENSIONS | {"unknown"}))
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
                [
                    "role",
                    "content",
                    "name",
                    "tool_calls",
                    "refusal",
                    "audio",
                    "tool_call_id",
                    "type",
                ]
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
        assert prompt_of(generate).messages
        assert all(sampling.max_tokens >= 1 for sampling in generate.samplings)
        msgspec.json.encode(generate)
