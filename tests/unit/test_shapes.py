"""The language in which contracts are written down finds what does not fit."""

from typing import Any

import pytest

from tests.shapes import Shape, misfits


@pytest.mark.parametrize(
    ("shape", "value"),
    [
        (int, 1),
        (float, 1),
        (float, 1.5),
        (bool, True),
        (dict, {}),
        (None, None),
        ((str, None), None),
        ([int], []),
        ([], []),
        ([{"a": int}], [{"a": 1, "b": 2}]),
        ("ok", "ok"),
    ],
)
def test_what_fits(shape: Shape, value: Any) -> None:
    """Nothing is said about it."""
    assert [] == misfits(shape, value)


@pytest.mark.parametrize(
    ("shape", "value", "found"),
    [
        (int, True, "$ is True, not a int"),
        (int, 1.0, "$ is 1.0, not a int"),
        (float, "1", "$ is '1', not a float"),
        (True, 1, "$ is 1, not True"),
        ((str, None), 1, f"$ is 1, none of {(str, None)}"),
        ([int], {}, "$ is {}, not a list"),
        ([], [1], "$ is [1], not []"),
        ({"a": int}, [], "$ is [], not an object"),
        ({"a": int}, {}, "$ has no 'a'"),
        ({"a": [{"b": str}]}, {"a": [{"b": "x"}, {"b": 2}]}, "$.a[1].b is 2, not a str"),
        ("ok", "degraded", "$ is 'degraded', not 'ok'"),
    ],
)
def test_what_does_not(shape: Shape, value: Any, found: str) -> None:
    """The place is named."""
    assert [found] == misfits(shape, value)
