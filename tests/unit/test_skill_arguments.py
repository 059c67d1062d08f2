"""Arguments of skills: what matches, what is said of the rest, and what cannot stall anybody."""

import json
import time
from contextlib import suppress
from typing import Any

import pytest

from lmx.errors import ConfigError, InvalidRequest
from lmx.skills.arguments import MAX_ARGUMENT_BYTES, ArgumentRules, digest

SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "string", "maxLength": 5},
        "n": {"type": "integer", "default": 3},
        "list": {"type": "array", "items": {"type": "object", "required": ["x"]}},
    },
    "required": ["a"],
    "additionalProperties": False,
}


def error_of(arguments: Any, schema: dict[str, Any] = SCHEMA) -> InvalidRequest:
    """The refusal of arguments."""
    with pytest.raises(InvalidRequest) as caught:
        ArgumentRules(schema).parse(arguments)
    return caught.value


@pytest.mark.parametrize("arguments", [{"a": "x"}, '{"a": "x"}', ' {"a":"x"} '])
def test_arguments_are_an_object_or_its_text(arguments: Any) -> None:
    """Both spellings give the same arguments, and defaults of the top level are filled in."""
    assert {"a": "x", "n": 3} == ArgumentRules(SCHEMA).parse(arguments)


@pytest.mark.parametrize("nothing", [None, "", "{}", {}])
def test_no_arguments_are_an_empty_object(nothing: Any) -> None:
    """A skill without parameters can be called in any of these ways."""
    assert {} == ArgumentRules({"type": "object"}).parse(nothing)


BAD = [
    ({"a": 5}, 'arguments.a: 5 is not of type "string"', "arguments.a"),
    ({}, 'arguments: "a" is a required property', "arguments"),
    ({"a": "x", "b": 1}, "arguments: Additional properties are not allowed", "arguments"),
    ({"a": "toolong"}, 'arguments.a: "toolong" is longer than 5', "arguments.a"),
    ({"a": "x", "list": [{"x": 1}, {}]}, 'arguments.list.1: "x" is a', "arguments.list.1"),
    ("{", "arguments: not JSON", "arguments"),
    ("[1]", "arguments: must be an object", "arguments"),
    ([1], "arguments: must be an object", "arguments"),
    ({"a": object()}, "arguments: must be JSON", "arguments"),
    ({"a": "x" * MAX_ARGUMENT_BYTES}, "arguments: more than", "arguments"),
    ('{"a": "' + "x" * MAX_ARGUMENT_BYTES, "arguments: more than", "arguments"),
    ("[" * 100_000, "arguments: not JSON", "arguments"),
]


@pytest.mark.parametrize(("arguments", "message", "param"), BAD, ids=range(len(BAD)))
def test_what_does_not_match_is_said_with_its_place(
    arguments: Any, message: str, param: str
) -> None:
    """The message starts with the place, and is short whatever was sent."""
    error = error_of(arguments)
    assert error.message.startswith(message)
    assert param == error.param
    assert len(error.message) < 400


def test_given_values_win_over_defaults() -> None:
    """A default is for what is not there."""
    assert {"a": "x", "n": 9} == ArgumentRules(SCHEMA).parse({"a": "x", "n": 9})


def timed(function: Any, *arguments: Any) -> float:
    """Seconds of CPU that a call takes, whatever it raises."""
    began = time.process_time()
    with suppress(ConfigError, InvalidRequest):
        function(*arguments)
    return time.process_time() - began


def doubling(steps: int) -> dict[str, Any]:
    """A schema whose references, written out, are two to the power of `steps`."""
    defs: dict[str, Any] = {
        f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]}
        for n in range(steps)
    }
    defs[f"d{steps}"] = {"type": "object"}
    return {"$defs": defs, "$ref": "#/$defs/d0"}


def under_default(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema for the property `default`, which is no keyword there."""
    text = json.dumps(schema).replace("#/", "#/properties/default/")
    return {"properties": {"default": json.loads(text)}}


HOSTILE: list[tuple[dict[str, Any], Any]] = [
    ({"properties": {"a": {"pattern": "^(a+)+$"}}}, {"a": "a" * 500_000 + "!"}),
    ({"properties": {"a": {"pattern": "((a{1000}){1000}){1000}"}}}, {}),
    (doubling(60), {}),
    (under_default(doubling(28)), {"default": {}}),
    ({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}, {"a": 1}),
    (
        {
            "$defs": {
                "n": {
                    "properties": {
                        "c": {"anyOf": [{"$ref": "#/$defs/n"}, {"$ref": "#/$defs/n"}]},
                        "z": {"type": "string"},
                    }
                }
            },
            "$ref": "#/$defs/n",
        },
        None,
    ),
    ({"properties": {"a": {"uniqueItems": True}}}, {"a": [{"b": n} for n in range(60_000)]}),
]


@pytest.mark.parametrize("case", range(len(HOSTILE)))
def test_no_schema_and_no_arguments_stall(case: int) -> None:
    """Patterns, references and large values cost no more than their size."""
    schema, arguments = HOSTILE[case]
    if arguments is None:
        arguments = {"z": 1}
        for _ in range(40):
            arguments = {"c": arguments}
    assert timed(lambda: ArgumentRules(schema).parse(arguments)) < 1.0


def test_a_recursive_schema_works_without_the_place() -> None:
    """Trees of arguments are checked; why one does not match is said in general."""
    schema = {"properties": {"c": {"$ref": "#"}, "z": {"type": "string"}}}
    tree = {"c": {"c": {"z": "x"}}}
    assert tree == ArgumentRules(schema).parse(tree)
    assert "do not match" in error_of({"c": {"z": 1}}, schema).message


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"$ref": "https://example.com/x"}}},
        {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
        {"properties": {"a": {"$id": "x", "$ref": "#/x"}}},
        {"properties": {"a": {"$dynamicRef": "#node"}}},
        {"properties": {"const": {"$id": "x"}}},
        {"$schema": "http://127.0.0.1:9/x"},
        {"$schema": ""},
        {"$ref": f"#/allOf/{'9' * 5000}", "allOf": [{}]},
    ],
)
def test_a_schema_is_whole_in_itself(schema: dict[str, Any]) -> None:
    """Nothing outside it is fetched or read."""
    with pytest.raises(ConfigError, match="input_schema"):
        ArgumentRules(schema)


@pytest.mark.parametrize(
    "dialect",
    [
        "http://json-schema.org/draft-04/schema#",
        "http://json-schema.org/draft-06/schema#",
        "https://json-schema.org/draft-07/schema",
        "https://json-schema.org/draft/2019-09/schema",
        "https://json-schema.org/draft/2020-12/schema",
        "http://json-schema.org/schema#",
    ],
)
def test_every_dialect_is_understood(dialect: str) -> None:
    """A schema may say which version of the language it is written in."""
    schema = {"$schema": dialect, "properties": {"a": {"type": "integer"}}}
    assert "arguments.a" == error_of({"a": "x"}, schema).param


def test_a_digest_is_of_the_meaning() -> None:
    """Order and spelling make no difference; values do; nothing fails."""
    assert digest({"a": 1, "b": 2}) == digest('{"b":2, "a": 1}')
    assert digest({"a": 1}) != digest({"a": 2})
    assert (64, 7) == (len(digest({"a": 1})[0]), digest({"a": 1})[1])
    assert digest("{")[1] == 1
    assert digest("\ud800")[1] == 1
    assert digest(object())[1] == 0
