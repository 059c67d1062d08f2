"""The life of a model: legal transitions lead where the table says, others change nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.daemon.model_state import (
    TRANSITIONS,
    IllegalTransition,
    ModelEvent,
    ModelState,
    next_state,
)

S, E = ModelState, ModelEvent


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], S.ABSENT),
        ([E.LOAD], S.LOADING),
        ([E.LOAD, E.LOADED], S.READY),
        ([E.LOAD, E.LOADED, E.DRAIN], S.DRAINING),
        ([E.LOAD, E.LOADED, E.DRAIN, E.GONE], S.ABSENT),
        ([E.LOAD, E.LOADED, E.DRAIN, E.DIED], S.ABSENT),
        ([E.LOAD, E.LOAD_FAILED], S.FAILED),
        ([E.LOAD, E.LOAD_FAILED, E.LOAD], S.LOADING),
        ([E.LOAD, E.LOADED, E.DIED], S.FAILED),
        ([E.LOAD, E.LOADED, E.DIED, E.LOAD, E.LOADED], S.READY),
        ([E.LOAD, E.GONE], S.ABSENT),
    ],
)
def test_lives(events: list[ModelEvent], expected: ModelState) -> None:
    """Loading, serving, dying, restarting and unloading lead where people expect."""
    state = S.ABSENT
    for event in events:
        state = next_state(state, event)
    assert expected == state


@pytest.mark.parametrize("state", S)
@pytest.mark.parametrize("event", E)
def test_the_table_is_all_there_is(state: ModelState, event: ModelEvent) -> None:
    """What the table lacks raises and names both; what it has is returned."""
    if event in TRANSITIONS[state]:
        assert TRANSITIONS[state][event] == next_state(state, event)
    else:
        with pytest.raises(IllegalTransition, match=f"{event.value} in state {state.value}"):
            next_state(state, event)


def test_every_state_is_reachable_and_leads_back_to_absent() -> None:
    """No state is dead, and from none is there no way to unload."""
    assert set(S) == set(TRANSITIONS)
    reachable = {S.ABSENT}
    for _ in S:
        reachable |= {after for state in reachable for after in TRANSITIONS[state].values()}
    assert set(S) == reachable
    assert all(E.GONE in TRANSITIONS[state] for state in S if state is not S.ABSENT)


@given(st.lists(st.sampled_from(E), max_size=30))
def test_illegal_events_change_nothing(events: list[ModelEvent]) -> None:
    """Any sequence of events, the illegal ones skipped, stays within the states."""
    state = S.ABSENT
    for event in events:
        try:
            after = next_state(state, event)
        except IllegalTransition:
            continue
        assert after != state or event is E.GONE
        assert after in S
        state = after
