"""Legacy completion requests: each documented field works or is refused by name."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.errors import InvalidRequest, RequestError, UnsupportedFeature
from lmx.protocol.messages import Generate, TextPrompt, TokenPrompt
from lmx.protocol.values import Grammar, Sampling
from lmx.schema.completion_request import (
    CompletionRequest,
    choice_count,
    parse_completion_request,
    to_generates,
)
from tests.strategies import json_values

# The create-completion reference of OpenAI's API, all body parameters, then LMX's extensions.
DOCUMENTED = set(
    """
    model prompt best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty
    seed stop stream stream_options suffix temperature top_p user
    """.split()  # noqa: SIM905  # a list of words reads best as words
)


def translate(body: bytes) -> list[Generate]:
    """From the body to what the worker gets."""
    return to_generates(parse_completion_request(body), default_temperature=0.5)


def ask(**fields: Any) -> list[Generate]:
    """Translate a request with these fields."""
    return translate(json.dumps({"prompt": "Once", **fields}).encode())


def ask_one(**fields: Any) -> Generate:
    """The only command of a request."""
    (generate,) = ask(**fields)
    return generate


def refusal(**fields: Any) -> RequestError:
    """The error that such a request gets."""
    with pytest.raises(RequestError) as caught:
        ask(**fields)
    return caught.value


def test_every_documented_field_is_there() -> None:
    """No documented field falls through."""
    assert set() == DOCUMENTED - set(CompletionRequest.__struct_fields__)


def test_the_smallest_request_gets_the_defaults() -> None:
    """Only the prompt is needed; 16 tokens are OpenAI's default."""
    assert [Generate(0, TextPrompt("Once"), [Sampling(16, 0.5)], [])] == ask()


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", [TextPrompt("a")]),
        (["a", "b"], [TextPrompt("a"), TextPrompt("b")]),
        ([1, 2], [TokenPrompt([1, 2])]),
        ([[1, 2], [3]], [TokenPrompt([1, 2]), TokenPrompt([3])]),
        ([7] * 500, [TokenPrompt([7] * 500)]),
    ],
)
def test_prompts_come_in_four_shapes(prompt: Any, prompts: list[Any]) -> None:
    """One text, several, one list of token ids, or several; each is a command of its own."""
    assert prompts == [generate.prompt for generate in ask(prompt=prompt)]


@pytest.mark.parametrize(
    ("fields", "sampling"),
    [
        ({"max_tokens": 5}, Sampling(5, 0.5)),
        ({"temperature": 0}, Sampling(16, 0.0)),
        ({"top_p": 0.25}, Sampling(16, 0.5, 0.25)),
        ({"seed": 3}, Sampling(16, 0.5, seed=3)),
        ({"logprobs": 0}, Sampling(16, 0.5, top_logprobs=0)),
        ({"logprobs": 5}, Sampling(16, 0.5, top_logprobs=5)),
        ({"frequency_penalty": 1}, Sampling(16, 0.5, frequency_penalty=1)),
        ({"presence_penalty": 1}, Sampling(16, 0.5, presence_penalty=1)),
        ({"logit_bias": {"5": 1}}, Sampling(16, 0.5, logit_bias={5: 1})),
        ({"top_k": 4}, Sampling(16, 0.5, top_k=4)),
        ({"ignore_eos": True}, Sampling(16, 0.5, ignore_eos=True)),
        ({"suffix": "", "best_of": 1, "n": 1, "echo": False, "user": "x"}, Sampling(16, 0.5)),
    ],
)
def test_fields_have_their_effect(fields: dict[str, Any], sampling: Sampling) -> None:
    """Each field reaches the worker as the value given."""
    assert [sampling] == ask_one(**fields).samplings


def test_fields_beside_sampling_have_their_effect() -> None:
    """Stops, constraints and the echo reach the worker."""
    generate = ask_one(stop="END", guided_regex="a", echo=True)
    assert (["END"], Grammar("regex", "a", "guided_regex")) == (generate.stop, generate.grammar)
    assert generate.wants_prompt
    assert not ask_one().wants_prompt


def test_each_prompt_gets_all_choices() -> None:
    """Choices of a prompt are samplings of its command."""
    generates = ask(prompt=["a", "b"], n=2, seed=5)
    assert [[5, 6], [5, 6]] == [[s.seed for s in g.samplings] for g in generates]


def test_the_best_are_chosen_by_log_probability() -> None:
    """More answers than are shown need scores, even if the client wants none."""
    body = b'{"prompt": "a", "n": 2, "best_of": 5}'
    assert 2 == choice_count(parse_completion_request(body))
    assert [Sampling(16, 0.5, top_logprobs=0)] * 5 == translate(body)[0].samplings
    assert [Sampling(16, 0.5, top_logprobs=3)] * 5 == ask_one(best_of=5, logprobs=3).samplings


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [""]}, "prompt[0]"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [1.5]}, "prompt[0]"),
        ({"prompt": [2**31]}, "prompt[0]"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [[1], 1]}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"best_of": 17}, "best_of"),
        ({"n": 0}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"echo": "yes"}, "echo"),
        ({"min_tokens": 17}, "min_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"guided_regex": "a", "guided_json": {}}, "guided_regex"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else None,
)
def test_a_wrong_value_is_an_invalid_request(fields: dict[str, Any], param: str) -> None:
    """A value of the wrong type or out of range is refused with the field's path."""
    error = refusal(**fields)
    assert (InvalidRequest, param) == (type(error), error.param)


def test_what_is_not_supported_is_refused_by_name() -> None:
    """A documented field without effect is a 400 that names it."""
    error = refusal(suffix="x")
    assert (UnsupportedFeature, "suffix") == (type(error), error.param)


@given(
    st.dictionaries(
        st.sampled_from(sorted(CompletionRequest.__struct_fields__)), json_values(), max_size=4
    ),
    st.sampled_from([{}, {"prompt": "a"}]),
)
def test_arbitrary_values_are_a_request_or_refused(
    fields: dict[str, Any], base: dict[str, Any]
) -> None:
    """No value in any field raises anything but a `RequestError` that names a field."""
    refused: RequestError | None = None
    try:
        generates = translate(json.dumps({**fields, **base}).encode())
    except RequestError as error:
        refused = error
    if refused:
        assert refused.param
    else:
        assert generates
        msgspec.json.encode(generates)
