"""Histograms keep what Prometheus wants, and folding models together loses nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.daemon.measures import Histogram, ModelMeasures, merge

BOUNDS = (1.0, 2.0, 5.0)
VALUES = st.lists(st.floats(0, 10), max_size=30)


@pytest.mark.parametrize(
    ("value", "bucket"), [(0.0, 0), (1.0, 0), (1.001, 1), (2.0, 1), (5.0, 2), (5.001, 3)]
)
def test_bounds_are_inclusive(value: float, bucket: int) -> None:
    """An observation falls into the first bucket whose bound it does not exceed."""
    histogram = Histogram(BOUNDS)
    histogram.observe(value)
    assert [int(at == bucket) for at in range(4)] == histogram.counts


@given(VALUES)
def test_a_histogram_says_what_was_observed(values: list[float]) -> None:
    """Cumulative counts, the count and the sum are those of the observations."""
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.observe(value)
    expected = [sum(value <= bound for value in values) for bound in BOUNDS]
    assert [*expected, len(values)] == histogram.cumulative
    assert (len(values), pytest.approx(sum(values))) == (histogram.count, histogram.total)


def test_the_mean_of_nothing_is_unknown() -> None:
    """Before the first observation there is no mean, and zero would be a lie."""
    histogram = Histogram(BOUNDS)
    assert histogram.mean is None
    histogram.observe(1.0)
    histogram.observe(4.0)
    assert 2.5 == histogram.mean


@given(VALUES, VALUES)
def test_folding_adds_up(ours: list[float], theirs: list[float]) -> None:
    """Two histograms together hold the observations of both."""
    one, other, both = (Histogram(BOUNDS) for _ in range(3))
    for histogram, values in ((one, ours), (other, theirs), (both, ours + theirs)):
        for value in values:
            histogram.observe(value)
    one.add(other)
    assert both.counts == one.counts
    assert pytest.approx(both.total) == one.total


def filled(number: int) -> ModelMeasures:
    """Measures in which everything was counted so many times."""
    measures = ModelMeasures()
    for _ in range(number):
        measures.count_load(2.0)
        measures.outcomes["stop"] += 1
        measures.errors["overloaded"] += 1
        measures.exits["signal"] += 1
        measures.totals.generated_tokens += 3
        measures.totals.ended_tokens += 3
        measures.totals.decode_s += 0.5
        measures.latencies.first_text.observe(0.25)
        measures.latencies.lease.observe(0.25)
    return measures


def test_merging_models_loses_nothing() -> None:
    """All models as one have the sums of all counters, and the models are left as they were."""
    parts = [filled(1), filled(2)]
    whole = merge(parts)
    assert (3, 3, 3, 3) == (
        whole.request_count,
        whole.error_count,
        whole.exits.total(),
        whole.totals.load_count,
    )
    assert (9, 6.0, 1.5) == (
        whole.totals.generated_tokens,
        whole.totals.load_s,
        whole.totals.decode_s,
    )
    assert (3, 3) == (whole.latencies.first_text.count, whole.latencies.lease.count)
    assert [1, 2] == [part.request_count for part in parts]


def test_speed_is_of_ended_requests() -> None:
    """Tokens of ended requests over the time they decoded; without any there is none."""
    assert 0.0 == ModelMeasures().tokens_per_second
    assert 6.0 == filled(2).tokens_per_second


def test_what_may_be_folded() -> None:
    """A model that is loaded or has open requests is about to count something."""
    measures = ModelMeasures()
    assert measures.is_at_rest
    measures.is_loaded = True
    assert not measures.is_at_rest
    measures.is_loaded = False
    measures.open_count = 1
    assert not measures.is_at_rest
