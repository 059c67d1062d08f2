"""Embedding requests: every form of input is read, and what is wrong is named by its position."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.errors import InvalidRequest, RequestError
from lmx.protocol.messages import Embed
from lmx.schema.vectors import (
    MAX_INPUTS,
    embedding_param,
    parse_embedding_request,
    to_embed,
)
from tests.json_schema import has_whole_float, is_described
from tests.strategies import json_values


def ask(**fields: Any) -> Embed:
    """What the worker is asked for a body with these fields."""
    return to_embed(parse_embedding_request(json.dumps(fields).encode()))


def refusal(**fields: Any) -> InvalidRequest:
    """Why a body with these fields is refused."""
    with pytest.raises(InvalidRequest) as raised:
        ask(**fields)
    return raised.value


@pytest.mark.parametrize(
    ("given_input", "inputs"),
    [
        ("hi", ["hi"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (" ", [" "]),
        (["é 🙂", "\u0000"], ["é 🙂", "\u0000"]),
        ([0], [[0]]),
        ([5] * (MAX_INPUTS + 1), [[5] * (MAX_INPUTS + 1)]),
        (["x"] * MAX_INPUTS, ["x"] * MAX_INPUTS),
    ],
)
def test_every_form_of_input_is_a_list(given_input: Any, inputs: list[Any]) -> None:
    """One text or one list of ids is a list of one; only the number of inputs is limited."""
    assert Embed(0, inputs) == ask(input=given_input)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"dimensions": 8}, Embed(0, ["a"], dimensions=8)),
        ({"dimensions": None}, Embed(0, ["a"])),
        ({"truncate": True}, Embed(0, ["a"], truncate=True)),
        ({"truncate": False}, Embed(0, ["a"])),
        (
            {"model": None, "user": {"any": 1}, "metadata": [], "encoding_format": None},
            Embed(0, ["a"]),
        ),
        ({"nobody": None}, Embed(0, ["a"])),
    ],
)
def test_the_other_fields(fields: dict[str, Any], expected: Embed) -> None:
    """Each has its effect; null is absent, and who asks has no effect."""
    assert expected == ask(input="a", **fields)


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("input", {}),
        ("input", {"input": None}),
        ("input", {"input": ""}),
        ("input", {"input": []}),
        ("input", {"input": 5}),
        ("input", {"input": {"text": "a"}}),
        ("input.1", {"input": ["a", ""]}),
        ("input.0", {"input": [[]]}),
        ("input.2", {"input": [[1], [2], []]}),
        ("input.1", {"input": ["a", None]}),
        ("input.1", {"input": ["a", True]}),
        ("input.0", {"input": [-1]}),
        ("input.0", {"input": [1.5]}),
        ("input.1.0", {"input": [[1], ["a"]]}),
        ("input.0", {"input": [2**31]}),
        ("input", {"input": ["a", 1]}),
        ("input", {"input": [1, [1]]}),
        ("input", {"input": ["a", [1]]}),
        ("input", {"input": ["x"] * (MAX_INPUTS + 1)}),
        ("input", {"input": [[1]] * (MAX_INPUTS + 1)}),
        ("dimensions", {"input": "a", "dimensions": 0}),
        ("dimensions", {"input": "a", "dimensions": 1.5}),
        ("dimensions", {"input": "a", "dimensions": True}),
        ("encoding_format", {"input": "a", "encoding_format": "int8"}),
        ("truncate", {"input": "a", "truncate": "END"}),
        ("model", {"input": "a", "model": 3}),
        ("inputs", {"input": "a", "inputs": "b"}),
        ("task", {"input": "a", "task": "retrieval.query"}),
    ],
)
def test_what_is_wrong_is_named(param: str, fields: dict[str, Any]) -> None:
    """Wrong types, nothing at all, too many and unknown fields."""
    assert param == refusal(**fields).param


def test_the_limit_is_said() -> None:
    """Whoever sends too many inputs reads both numbers."""
    message = refusal(input=["x"] * (MAX_INPUTS + 1)).message
    assert str(MAX_INPUTS) in message
    assert str(MAX_INPUTS + 1) in message


@pytest.mark.parametrize(
    ("given_input", "param", "expected"),
    [
        ("a", "input.0", "input"),
        ([7], "input.0", "input"),
        ([[7]], "input.0", "input.0"),
        (["a"], "input.0", "input.0"),
        (["a", "b"], "input.1", "input.1"),
        ("a", "dimensions", "dimensions"),
    ],
)
def test_errors_name_what_the_client_sent(given_input: Any, param: str, expected: str) -> None:
    """There is no position in an input that is no list of inputs."""
    request = parse_embedding_request(json.dumps({"input": given_input}).encode())
    assert expected == embedding_param(request, param)


EDGES = st.one_of(
    st.sampled_from(
        [
            0,
            1,
            -1,
            2.5,
            2**31,
            "",
            "x",
            "float",
            "base64",
            [],
            [""],
            ["x"],
            [1],
            [[1]],
            [[]],
            [1, "x"],
        ]
    ),
    st.sampled_from([["x", [1]], [1, [1]], ["x", ""], [[1], []], {}, [None], [True], [[1.5]]]),
)
FIELDS = st.sampled_from(["input", "model", "encoding_format", "dimensions", "truncate", "user"])


@given(FIELDS, EDGES | json_values(3))
def test_a_request_is_taken_iff_it_is_as_described(name: str, value: Any) -> None:
    """The description and the parser agree, but for lists of several kinds."""
    body = {"input": "a", name: value}
    try:
        ask(**body)
    except RequestError:
        is_taken = False
    else:
        is_taken = True
    may_mix = name == "input" and isinstance(value, list)
    if not has_whole_float(body) and (is_taken or not may_mix):
        assert is_taken is is_described("EmbeddingRequest", body)
