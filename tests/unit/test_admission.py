"""Admission counts, refuses at its limit, and says when to come back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.daemon.admission import Admission
from lmx.errors import QueueFull


def test_the_limit_is_slots_plus_queue() -> None:
    """As many are admitted as run and may wait; the next is refused and counts nowhere."""
    admission = Admission(slot_count=2, max_waiting=1)
    for _ in range(3):
        admission.enter()
    with pytest.raises(QueueFull, match="1 requests wait"):
        admission.enter()
    assert (3, 1) == (admission.in_flight, admission.waiting_count)


def test_several_enter_together_or_not_at_all() -> None:
    """Choices of one request share one decision; a refusal takes no place."""
    admission = Admission(slot_count=2, max_waiting=2)
    admission.enter(3)
    with pytest.raises(QueueFull, match="1 requests wait"):
        admission.enter(2)
    assert (3, 1) == (admission.in_flight, admission.waiting_count)
    admission.enter(1)
    assert 4 == admission.in_flight


def test_without_a_queue_only_slots_are_admitted() -> None:
    """A queue of length zero is legal."""
    admission = Admission(slot_count=1, max_waiting=0)
    admission.enter()
    with pytest.raises(QueueFull):
        admission.enter()
    admission.leave(1.0)
    admission.enter()
    assert 1 == admission.in_flight


@pytest.mark.parametrize(
    ("slots", "in_flight", "expected"), [(1, 1, 1.0), (1, 4, 4.0), (4, 8, 2.0), (32, 32, 1.0)]
)
def test_retry_after_grows_with_the_queue(slots: int, in_flight: int, expected: float) -> None:
    """One more request waits for those before it, spread over the slots; at first 1 s each."""
    admission = Admission(slot_count=slots, max_waiting=100)
    for _ in range(in_flight):
        admission.enter()
    assert expected == admission.retry_after_s()


def test_retry_after_follows_the_recent_service_time() -> None:
    """After many requests of one duration, that duration is the estimate."""
    admission = Admission(slot_count=1, max_waiting=9)
    for _ in range(100):
        admission.enter()
        admission.leave(10.0)
    assert 10.0 == admission.retry_after_s()


def test_the_error_says_when_to_come_back() -> None:
    """A refusal carries the estimate."""
    admission = Admission(slot_count=1, max_waiting=2)
    for _ in range(3):
        admission.enter()
    with pytest.raises(QueueFull) as caught:
        admission.enter()
    assert 3.0 == caught.value.retry_after_s


@given(
    st.integers(1, 4),
    st.integers(0, 4),
    st.lists(st.integers(1, 3) | st.floats(0, 1e6), max_size=60),
)
def test_counts_stay_within_bounds(
    slots: int, max_waiting: int, schedule: list[int | float]
) -> None:
    """Over any schedule of arrivals and departures the counts are right and the wait is finite."""
    admission = Admission(slot_count=slots, max_waiting=max_waiting)
    expected = 0
    for operation in schedule:
        if isinstance(operation, int):
            try:
                admission.enter(operation)
            except QueueFull:
                assert expected + operation > slots + max_waiting
            else:
                expected += operation
                assert expected <= slots + max_waiting
        elif expected:
            admission.leave(operation)
            expected -= 1
        assert expected == admission.in_flight
        assert max(0, expected - slots) == admission.waiting_count
        assert 1 <= admission.retry_after_s() < float("inf")
        assert admission.retry_after_s().is_integer()
