"""A word from outside ends the thinking of a running request."""

import msgspec
import pytest

from lmx.worker.constraints import ReasoningConstraint
from tests.unit.test_constraints import (
    ANSWERING,
    CLOSING,
    THINKING,
    Ids,
    allowed,
    asked,
    constraint_of,
    follow,
)


def test_a_word_ends_the_thinking() -> None:
    """Nothing is bound until it comes; then the marker is forced, and the answer is free."""
    constraint = ReasoningConstraint(CLOSING, opening_id=None, budget=None, inner=None)
    assert follow(constraint, [1, 2, 3])
    assert (None, False) == (allowed(constraint), constraint.is_binding)
    constraint.stop_thinking()
    assert constraint.is_binding
    assert follow(constraint, CLOSING)
    assert (None, False) == (allowed(constraint), constraint.is_binding)


def test_a_token_sampled_ahead_is_still_a_thought() -> None:
    """An engine may be one step ahead of the word; the marker follows whole."""
    constraint = ReasoningConstraint(CLOSING, opening_id=None, budget=None, inner=Ids(7))
    constraint.consume(1)
    constraint.stop_thinking()
    constraint.consume(2)
    assert follow(constraint, CLOSING)
    assert {7} == allowed(constraint)


@pytest.mark.parametrize("budget", [None, 9])
def test_a_word_before_the_thinking_began(budget: int | None) -> None:
    """Thinking that the model opens afterwards is closed at once, whatever its budget."""
    constraint = ReasoningConstraint(CLOSING, opening_id=49, budget=budget, inner=None)
    constraint.stop_thinking()
    assert follow(constraint, [49])
    assert {CLOSING[0]} == allowed(constraint)


def test_a_word_after_the_thinking_changes_nothing() -> None:
    """The answer goes on under its own constraint."""
    constraint = ReasoningConstraint(CLOSING, opening_id=None, budget=None, inner=Ids(7, 8))
    assert follow(constraint, [*CLOSING, 7])
    constraint.stop_thinking()
    assert {8} == allowed(constraint)


@pytest.mark.parametrize("inner", [None, Ids(7)])
def test_only_what_follows_the_thinking_decides_the_end(inner: Ids | None) -> None:
    """A request whose thinking may be stopped keeps its least number of tokens."""
    constraint = ReasoningConstraint(CLOSING, opening_id=None, budget=None, inner=inner)
    assert (inner is not None) is constraint.decides_end


def test_thinking_that_may_be_stopped_is_watched() -> None:
    """Only where there is thinking."""
    may_stop = msgspec.structs.replace(asked(), may_stop_thinking=True)
    assert isinstance(constraint_of(may_stop, THINKING), ReasoningConstraint)
    assert None is constraint_of(may_stop, ANSWERING)
