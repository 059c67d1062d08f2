"""Request bodies are read strictly: anything ambiguous or hostile is an `InvalidRequest`."""

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from lmx.errors import InvalidRequest
from lmx.schema.json_body import decode_body
from tests.strategies import json_values


class Inner(Struct):
    """Something nested."""

    number: int


class Outer(Struct):
    """Something to decode."""

    inner: Inner
    many: list[Inner] = []
    text: str = ""
    level: float = 0.0
    counts: dict[int, int] = {}


OUTER = msgspec.json.Decoder(Outer)
ANYTHING = msgspec.json.Decoder(Any)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", "body"),
        (b" ", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b"null", "body"),
        (b'{"inner": {"number": 1}} {}', "body"),
        (b"{}", "inner"),
        (b'{"inner": null}', "inner"),
        (b'{"inner": {}}', "inner.number"),
        (b'{"inner": {"number": "1"}}', "inner.number"),
        (b'{"inner": {"number": 1.5}}', "inner.number"),
        (b'{"inner": {"number": 1}, "many": [{"number": 1}, {}]}', "many[1].number"),
        (b'{"inner": {"number": 1}, "level": NaN}', "body"),
        (b'{"inner": {"number": 1}, "level": Infinity}', "body"),
        (b'{"inner": {"number": 1}, "level": -Infinity}', "body"),
        (b'{"inner": {"number": 1}, "level": 1e999}', "level"),
        (b'{"inner": {"number": 1}, "counts": {"x": 1}}', "counts"),
        (b'{"inner": {"number": 1}, "counts": {"1": "x"}}', "counts"),
        (b'{"inner": {"number": 1}, "unknown": NaN}', "body"),
        (b'{"inner": {"number": 1}, "text": "\xff"}', "body"),
        (b'{"inner": {"number": 1}, "text": "\\ud800 "}', "body"),
        (b'\xef\xbb\xbf{"inner": {"number": 1}}', "body"),
        ('{"inner": {"number": 1}}'.encode("utf-16"), "body"),
        (b'{"inner": {"number": 1}, "text": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", None),
        (b'{"inner": {"number": 1}, "unknown": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "body"),
        (b"[" * 10_000, "body"),
        (b'{"inner": {"number": ' + b"9" * 5_000 + b"}}", "inner.number"),
        (b'{"inner": {"number": 1}, "unknown": ' + b"9" * 5_000 + b"}", "body"),
        (b'{"inner": {"number": 1}, "inner": {"number": 2}}', "inner"),
        (b'{"inner": {"number": 1, "number": 1}}', "number"),
        (b'{"inner": {"number": 1}, "unknown": {"x": 1, "\\u0078": 2}}', "x"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, bytes) else None,
)
def test_a_bad_body_is_refused_by_name(body: bytes, param: str | None) -> None:
    """What cannot be read is an `InvalidRequest` whose `param` is the field at fault."""
    with pytest.raises(InvalidRequest) as caught:
        decode_body(body, OUTER)
    assert param is None or param == caught.value.param


@given(st.binary(max_size=60) | st.text('{}[]",:\\u019eE.- truefalsn', max_size=60).map(str.encode))
def test_arbitrary_bytes_are_a_value_or_an_invalid_request(body: bytes) -> None:
    """No bytes make the reader raise anything but `InvalidRequest`."""
    param: str | None = "none"
    try:
        decode_body(body, ANYTHING)
    except InvalidRequest as error:
        param = error.param
    assert param is not None


@given(json_values())
def test_what_json_can_hold_is_read_as_it_is(value: Any) -> None:
    """A well-formed body decodes to the value it spells."""
    assert value == decode_body(json.dumps(value).encode(), ANYTHING)


def test_equal_keys_in_different_objects_are_no_duplicates() -> None:
    """A key may occur once in each object."""
    assert [{"a": 1}, {"a": {"a": 2}}] == decode_body(b'[{"a": 1}, {"a": {"a": 2}}]', ANYTHING)


def test_a_duplicate_among_very_many_keys_is_found_in_linear_time() -> None:
    """A hostile object does not cost the square of its size."""
    keys = [f'"{i}":0' for i in range(200_000)]
    body = ("{" + ",".join([*keys, keys[-1]]) + "}").encode()
    started_s = time.process_time()
    with pytest.raises(InvalidRequest, match="'199999' appears twice"):
        decode_body(body, ANYTHING)
    assert time.process_time() - started_s < 5


def test_the_message_does_not_spell_msgspecs_path() -> None:
    """The path goes to `param`; the sentence stays readable."""
    with pytest.raises(InvalidRequest) as caught:
        decode_body(b'{"inner": {"number": "1"}}', OUTER)
    assert "Expected `int`, got `str`" == caught.value.message
