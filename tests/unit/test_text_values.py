"""What models write for values becomes JSON, or is refused; nothing raises."""

import ast
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.text.tools.family import Call
from lmx.text.tools.literals import load_calls, load_literal
from lmx.text.tools.typed import schema_types, typed_value
from lmx.text.tools.values import BAD, calls_from, load_json, make_call
from tests.strategies import json_values


@given(json_values())
def test_arguments_keep_their_values(value: Any) -> None:
    """Compact JSON comes out that reads back to what went in."""
    call = make_call("f", {"v": value})
    assert call is not None
    assert {"v": value} == json.loads(call.arguments)
    assert "\n" not in call.arguments


def test_half_a_surrogate_pair_stays_valid() -> None:
    """Text that UTF-8 cannot hold is escaped."""
    assert Call("f", r'{"a":"\ud800"}') == make_call("f", load_json(r'{"a": "\ud800"}'))


@pytest.mark.parametrize(
    "text", ["", "{", "nul", "NaN", "-Infinity", "[" * 5000, "1 2", "9" * 5000]
)
def test_what_is_not_json_is_bad(text: str) -> None:
    """Broken, infinite or too deep, it is refused without an exception."""
    assert load_json(text) is BAD


@pytest.mark.parametrize("name", ["", " ", "a b", None, 1, "\ud800", "x" * 257, "a\n"])
def test_what_cannot_be_a_name_makes_no_call(name: object) -> None:
    """A name has letters, digits and a few separators."""
    assert make_call(name, {}) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"name": "f"}, [Call("f", "{}")]),
        ({"name": "f", "arguments": None}, [Call("f", "{}")]),
        ({"name": "f", "arguments": ""}, [Call("f", "{}")]),
        ({"type": "function", "function": {"name": "f", "arguments": "{}"}}, [Call("f", "{}")]),
        ({"name": "f", "arguments": "not JSON"}, None),
        ([], None),
        ([{"name": "f"}, 1], None),
        ("f", None),
    ],
)
def test_shapes_of_calls(value: object, expected: list[Call] | None) -> None:
    """The usual shapes of a call are read; all of a list, or none."""
    assert expected == calls_from(value)


@given(json_values())
def test_python_literals_are_read(value: Any) -> None:
    """Whatever Python would read back from a value's `repr`, we read the same."""
    text = repr(value)
    assert ast.literal_eval(text) == load_literal(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(1, 'a',)", [1, "a"]),
        ("[true, False, null, None]", [True, False, None, None]),
        (r"'\'\x41\u00e9\U0001F642\n\\'", "'A\u00e9\U0001f642\n\\"),
        (r"'\Uffffffff'", r"\Uffffffff"),
        ("{a: 1}", {"a": 1}),
        ("1 + 1", BAD),
        ("f(1)", BAD),
        ("x", BAD),
        ("'a' 'b'", BAD),
        ("{1: 2}", BAD),
        ("[1)", BAD),
        ("", BAD),
        ("__import__('os')", BAD),
    ],
)
def test_literals(text: str, expected: object) -> None:
    """Literals are read, expressions are not."""
    assert expected == load_literal(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f()", [Call("f", "{}")]),
        ("a.b(x=[1, 2], y={'k': 'v'})", [Call("a.b", '{"x":[1,2],"y":{"k":"v"}}')]),
        ("[f(), g(a=-1.5e3,),]", [Call("f", "{}"), Call("g", '{"a":-1500.0}')]),
        ("f()\ng()", [Call("f", "{}"), Call("g", "{}")]),
        ("[]", None),
        ("f(1)", None),
        ("f(a=g())", None),
        ("f(**{})", None),
        ("f(a=1", None),
        ("f(a=1))", None),
        ("import os", None),
        ("[['f', {}]", None),
    ],
)
def test_calls(text: str, expected: list[Call] | None) -> None:
    """Calls with keyword arguments are read, with or without a list around them."""
    assert expected == load_calls(text)


@given(st.text("f(a=1)[]{}'\",:\\ \n-.eN", max_size=30))
def test_any_text_is_a_literal_or_bad(text: str) -> None:
    """Python-like noise never raises."""
    load_literal(text)
    load_literal(text, quote="'")
    load_calls(text)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"anyOf": [{"type": "number"}, {"oneOf": [{"type": "array"}]}]}, {"number", "array"}),
        ({"enum": ["a", 1, 1.5, None, True]}, {"string", "integer", "number", "null", "boolean"}),
        ({"$ref": "#/x"}, set()),
        ({"type": {}}, set()),
        (None, set()),
    ],
)
def test_types_of_a_schema(schema: object, expected: set[str]) -> None:
    """Types are found where schemas name them; a schema of another kind says nothing."""
    assert expected == schema_types(schema)


@pytest.mark.parametrize(
    ("text", "types", "expected"),
    [
        ("5", {"string"}, "5"),
        (" 5\n", {"integer"}, 5),
        ("5.0", {"integer"}, 5),
        ("5.5", {"integer"}, "5.5"),
        ("5", {"number"}, 5),
        ("true", {"boolean"}, True),
        ("None", {"null", "string"}, None),
        ("yes", {"boolean"}, "yes"),
        ("{'a': None}", {"object"}, {"a": None}),
        ("[1]", {"object"}, "[1]"),
        ("01234", set(), "01234"),
        ("5", set(), 5),
        (" plain ", set(), " plain "),
    ],
)
def test_untyped_values(text: str, types: set[str], expected: object) -> None:
    """The schema's type decides; text that does not fit stays as the model wrote it."""
    value = typed_value(text, frozenset(types))
    assert (type(expected), expected) == (type(value), value)
