"""Log-probabilities of the llama.cpp engine against float64, and of rows that are broken."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from lmx.engines.llama.logprobs import FLOOR, describe, describe_rows

# Nothing numpy warns about may reach the log.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

VOCABULARY = 5000
Floats = NDArray[np.float32]


def rows_of(seed: int, count: int = 1, spread: float = 3.0) -> Floats:
    """The same numbers every time, in memory that must not be written."""
    random = np.random.default_rng(seed)
    rows = (random.standard_normal((count, VOCABULARY)) * spread).astype(np.float32)
    rows.setflags(write=False)
    return rows


def reference(row: Floats) -> NDArray[np.float64]:
    """Log-softmax in float64."""
    wide = row.astype(np.float64) - row.max()
    result: NDArray[np.float64] = wide - np.log(np.exp(wide).sum())
    return result


@pytest.mark.parametrize("spread", [0.0, 3.0, 50.0])
@pytest.mark.parametrize("top_count", [0, 1, 20])
def test_log_probabilities_are_those_of_the_softmax(spread: float, top_count: int) -> None:
    """Of the chosen id and of the best ones, best first, lower ids first among equals."""
    row = rows_of(1, spread=spread)[0]
    expected = reference(row)
    best = np.argsort(-expected, kind="stable")[:top_count].tolist()
    found = describe(row, 77, top_count)
    assert found.logprob == pytest.approx(expected[77], abs=2e-5)
    assert best == [token_id for token_id, _ in found.top]
    assert [value for _, value in found.top] == pytest.approx(expected[best].tolist(), abs=2e-5)


def test_rows_are_described_one_by_one() -> None:
    """Each with its own id."""
    rows = rows_of(2, count=3)
    expected = [
        describe(row, token_id, 4) for row, token_id in zip(rows, (9, 0, 4999), strict=True)
    ]
    assert expected == describe_rows(rows, [9, 0, 4999], 4)
    assert describe_rows(rows[:0], [], 4) == []


def test_more_alternatives_than_tokens_are_all_tokens() -> None:
    """The whole vocabulary, and nothing twice."""
    row = rows_of(3)[0, :7]
    found = describe(row, 0, 20)
    assert np.argsort(-row).tolist() == [token_id for token_id, _ in found.top]
    assert sum(math.exp(value) for _, value in found.top) == pytest.approx(1)


@pytest.mark.parametrize("value", [-math.inf, -3e38])
def test_an_impossible_token_is_reported_at_the_floor(value: float) -> None:
    """JSON has no infinities."""
    row = rows_of(4)[0].copy()
    row[5] = value
    row.setflags(write=False)
    assert describe(row, 5, 0).logprob == FLOOR
    assert describe(row, 6, 0).logprob == pytest.approx(reference(row)[6], abs=2e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("top_count", [0, 5])
def test_a_broken_row_says_the_floor_of_valid_ids(bad: float, top_count: int) -> None:
    """All of a row or some of it."""
    whole = np.full(VOCABULARY, bad, dtype=np.float32)
    rows = [whole]
    if bad != -math.inf:
        partly = rows_of(5)[0].copy()
        partly[::3] = bad
        rows.append(partly)
    for row in rows:
        row.setflags(write=False)
        found = describe(row, 1, top_count)
        assert found.logprob == FLOOR
        assert [value for _, value in found.top] == [FLOOR] * top_count
        assert len({i for i, _ in found.top if 0 <= i < VOCABULARY}) == top_count
