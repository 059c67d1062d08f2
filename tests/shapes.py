"""What a document must look like: a small language for contracts that name fields and types.

A shape is a type, ``None``, a tuple of shapes of which one must fit, a list of one shape for all
elements, an empty list, a dictionary whose keys must be there (others may be, too), or a value to
be equal to. ``float`` takes whole numbers, and nothing takes a boolean for a number.
"""

from collections.abc import Iterator
from typing import Any

Shape = Any


def misfits(shape: Shape, value: Any, at: str = "$") -> list[str]:
    """Where a value does not fit, in words; empty if it does."""
    return list(_misfits(shape, value, at))


def assert_fits(shape: Shape, value: Any) -> None:
    """Fail with every place that does not fit."""
    found = misfits(shape, value)
    assert not found, "\n".join(found)


def _misfits(shape: Shape, value: Any, at: str) -> Iterator[str]:
    if isinstance(shape, type):
        if not _is_a(shape, value):
            yield f"{at} is {value!r}, not a {shape.__name__}"
    elif isinstance(shape, tuple):
        if all(misfits(one, value, at) for one in shape):
            yield f"{at} is {value!r}, none of {shape}"
    elif isinstance(shape, list) and shape:
        yield from _misfits_of_list(shape[0], value, at)
    elif isinstance(shape, dict):
        yield from _misfits_of_object(shape, value, at)
    elif shape != value or isinstance(shape, bool) is not isinstance(value, bool):
        yield f"{at} is {value!r}, not {shape!r}"


def _is_a(kind: type, value: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _misfits_of_list(shape: Shape, value: Any, at: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{at} is {value!r}, not a list"
        return
    for index, element in enumerate(value):
        yield from _misfits(shape, element, f"{at}[{index}]")


def _misfits_of_object(shape: dict[str, Shape], value: Any, at: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{at} is {value!r}, not an object"
        return
    for key, inner in shape.items():
        if key in value:
            yield from _misfits(inner, value[key], f"{at}.{key}")
        else:
            yield f"{at} has no {key!r}"
