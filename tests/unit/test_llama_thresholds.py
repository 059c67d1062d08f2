"""The cuts of `top_k` and `top_p` against those of the MLX engine, and running sums."""

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lmx.engines.llama.thresholds import kth_largest, nucleus_edge, running_place, running_sums
from lmx.engines.mlx import thresholds as mlx

SIZE = 3000
SEEDS = st.integers(0, 10_000)
Floats = NDArray[np.float32]


def row_of(seed: int, *, spread: float = 3.0, has_ties: bool = False) -> Floats:
    """The same numbers every time; with ties every value comes many times."""
    row = np.random.default_rng(seed).standard_normal(SIZE) * spread
    return (np.round(row) if has_ties else row).astype(np.float32)


def weights_of(row: Floats) -> Floats:
    """As the sampler has them."""
    weights: Floats = np.exp(row - row.max())
    return weights


@given(SEEDS, st.integers(1, SIZE), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_kth_largest_is_that_of_the_mlx_engine(seed: int, count: int, has_ties: bool) -> None:  # noqa: FBT001 - hypothesis passes by position
    """At any rank, ties included."""
    row = row_of(seed, has_ties=has_ties)
    expected: Any = mlx.kth_largest(mx.array(row[None]), mx.array([[count]])).item()
    assert expected == kth_largest(row, count)


@pytest.mark.parametrize("count", [1, 46, 47, SIZE])
def test_the_kth_largest_of_rows_in_order(count: int) -> None:
    """Rows whose largest all stand in one place are no harder."""
    row = np.arange(SIZE, dtype=np.float32)
    assert SIZE - count == kth_largest(row, count) == kth_largest(row[::-1], count)


def test_of_too_few_all_stay() -> None:
    """A rank past the end has no value, and everything is above it."""
    assert kth_largest(row_of(1), SIZE + 1) == -math.inf


@given(SEEDS, st.floats(1e-6, 1 - 1e-6), st.sampled_from([0.01, 1.0, 8.0]), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_nucleus_is_that_of_the_mlx_engine(
    seed: int,
    share: float,
    spread: float,
    has_ties: bool,  # noqa: FBT001 - hypothesis passes by position
) -> None:
    """From one token to nearly all, ties included; where float32 can tell."""
    row = row_of(seed, spread=spread, has_ties=has_ties)
    theirs: Any = mlx.nucleus_edge(mx.array(row[None]), mx.array([[share]])).item()
    ours = nucleus_edge(row, weights_of(row), share)
    # Logits as close as this may have one weight here and two there.
    if abs(theirs - ours) > 1e-6:
        weights = np.exp(row.astype(np.float64) - row.max())
        smaller = weights[row >= max(theirs, ours)].sum() / weights.sum()
        assert smaller == pytest.approx(share, abs=2e-5)


@given(SEEDS, st.floats(1e-3, 1 - 1e-6), st.sampled_from([0.01, 1.0, 8.0]))
@example(354, 0.6953125, 0.01)
@settings(max_examples=60, deadline=None)
def test_a_nucleus_is_the_smallest_that_has_its_share(
    seed: int, share: float, spread: float
) -> None:
    """Without its least token, and those whose weight float32 cannot tell from it, it has less."""
    row = row_of(seed, spread=spread)
    rounded = weights_of(row)
    kept = row >= nucleus_edge(row, rounded, share)
    weights = np.exp(row.astype(np.float64) - row.max())
    mass = weights[kept].sum() / weights.sum()
    least = weights[kept & (rounded == rounded[kept].min())].sum()
    assert mass - least / weights.sum() - 1e-6 < share < mass + 1e-6


@given(SEEDS, st.integers(1, SIZE), st.floats(0, 1, exclude_max=True))
@settings(max_examples=100, deadline=None)
def test_a_running_sum_is_passed_where_it_says(seed: int, size: int, share: float) -> None:
    """In the blocks' inside and at their borders, as one long sum in float64 has it."""
    weights = np.exp(row_of(seed)[:size])
    sums = np.cumsum(weights, dtype=np.float64)
    place = running_place(weights, running_sums(weights), share * sums[-1])
    slack = 1e-6 * sums[-1]
    assert sums[place] + slack > share * sums[-1]
    assert sums[place] - weights[place] - slack <= share * sums[-1]


def test_exceeding_and_reaching_differ_at_exact_sums() -> None:
    """A draw never ends on nothing, and a nucleus takes no token more than it needs."""
    weights = np.array([0, 2, 0, 1, 1, 0], dtype=np.float32)
    sums = running_sums(weights)
    assert [1, 3, 4, 4] == [running_place(weights, sums, wanted) for wanted in (0, 2, 3, 4)]
    assert [1, 3] == [running_place(weights, sums, wanted, side="left") for wanted in (2, 3)]
