"""The recent past is bounded, and its percentiles are of values that were there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.daemon.recent import (
    ERROR_LIMIT,
    MESSAGE_LIMIT_CHARACTERS,
    REQUEST_LIMIT,
    EndedRequest,
    RecentPast,
    percentile,
)
from lmx.errors import QueueFull


class Clock:
    """Time as an input."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_minute_has_sixty_seconds() -> None:
    """A request counts for a minute after its end, and then no more."""
    clock = Clock()
    past = RecentPast(clock)
    for _ in range(3):
        past.count_end()
    clock.now_s += 30
    past.count_end()
    assert 4 == past.requests_per_minute()
    clock.now_s += 30.5
    assert 1 == past.requests_per_minute()
    clock.now_s += 60
    assert 0 == past.requests_per_minute()


def test_a_busy_minute_costs_no_memory() -> None:
    """Any number of requests in one second is one entry, so that none is forgotten."""
    past = RecentPast(Clock())
    for _ in range(5000):
        past.count_end()
    assert 5000 == past.requests_per_minute()


@given(st.lists(st.floats(0, 100), min_size=1).map(sorted), st.floats(0, 1))
def test_a_percentile_is_one_of_the_values(values: list[float], share: float) -> None:
    """So many of the values do not exceed it, and no smaller value has that many."""
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) <= share * len(values)


def test_the_percentile_of_nothing_is_zero() -> None:
    """Before the first request there is a number all the same."""
    assert [0.0] == RecentPast().durations_s(0.95)


def test_only_known_speeds_count() -> None:
    """An answer of one token has a duration and no speed."""
    past = RecentPast()
    past.add_answered(EndedRequest(1.0, 0.0))
    past.add_answered(EndedRequest(3.0, 20.0))
    assert [20.0] == past.speeds(0.01)
    assert [1.0, 3.0] == past.durations_s(0.5, 1.0)


def test_old_requests_are_forgotten() -> None:
    """Percentiles are of the last ones alone."""
    past = RecentPast()
    for _ in range(10):
        past.add_answered(EndedRequest(99.0, 99.0))
    for _ in range(REQUEST_LIMIT):
        past.add_answered(EndedRequest(1.0, 1.0))
    assert [1.0] == past.durations_s(1.0)


def test_errors_are_kept_short_and_few() -> None:
    """The last ones stay, each with so much of its message."""
    past = RecentPast()
    for number in range(ERROR_LIMIT + 5):
        past.add_error(QueueFull("x" * 9999), at=float(number), model="m")
    assert ERROR_LIMIT == len(past.errors)
    last = past.errors[-1]
    assert (ERROR_LIMIT + 4.0, "overloaded", "m") == (last.timestamp, last.category, last.model)
    assert MESSAGE_LIMIT_CHARACTERS == len(last.message)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_one_value_is_every_percentile(share: float) -> None:
    """Of a single request, every percentile is that request's."""
    assert 7.0 == percentile([7.0], share)
