"""Errors cross the worker pipe as codes and come back as the classes they were."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx import errors
from lmx.errors import LmxError, from_code


def leaves(root: type[LmxError] = LmxError) -> list[type[LmxError]]:
    """Errors that are raised: those without subclasses."""
    children = [cls for cls in root.__subclasses__() if cls.__module__.startswith(errors.__name__)]
    return [leaf for child in children for leaf in leaves(child)] if children else [root]


@pytest.mark.parametrize("kind", leaves(), ids=lambda kind: kind.__name__)
def test_a_code_becomes_its_class_again(kind: type[LmxError]) -> None:
    """Every error survives the way through its code, message and parameter."""
    error = from_code(kind.code, "why", param="field")
    assert (kind, "why", "field") == (type(error), error.message, error.param)


def test_codes_of_leaves_are_distinct() -> None:
    """No two errors share a code, or one could not come back."""
    codes = [kind.code for kind in leaves()]
    assert sorted(set(codes)) == sorted(codes)


@given(st.text())
def test_any_code_becomes_some_error(code: str) -> None:
    """A worker cannot send a code that breaks the daemon."""
    error = from_code(code, "why")
    assert isinstance(error, LmxError)
    assert error.code in {code, LmxError.code}


def test_the_load_error_itself_comes_back() -> None:
    """A load that failed for an unforeseen reason is still a `LoadError`."""
    assert errors.LoadError is type(from_code("load-failed", "why"))


def test_the_docstring_draws_the_whole_tree() -> None:
    """Every error class is in the module's tree, and the tree names nothing else."""
    line = re.compile(r"^[ │├└─]*(?:── )?([A-Z]\w+)(?:  |$)", re.MULTILINE)
    drawn = set(line.findall(errors.__doc__ or ""))
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, LmxError)
    }
    assert defined == drawn


def test_the_message_is_what_people_see() -> None:
    """Printing an error prints its sentence."""
    assert "it broke" == str(errors.WorkerBroken("it broke"))
