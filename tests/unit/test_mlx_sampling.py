"""Every sampling parameter against a plain numpy reference, row by row and in a crowd."""

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmx.engines.mlx.processors import PenaltyState
from lmx.engines.mlx.sampler import BatchSampler, Row
from lmx.engines.mlx.thresholds import kth_largest, nucleus_edge

VOCABULARY = 500
ENDS = (3, 499)
DRAWS = 3000
Array = np.ndarray[Any, np.dtype[Any]]


def logits_of(seed: int, rows: int = 1, spread: float = 3.0) -> Array:
    """The same numbers every time."""
    random = np.random.default_rng(seed)
    return (random.standard_normal((rows, VOCABULARY)) * spread).astype(np.float32)


def reference(row: Row, logits: Array, answer: list[int]) -> Array:
    """What is left of one row's logits, in float64: bias, end ban, penalties, mask order."""
    left = logits.astype(np.float64)
    for token_id, value in row.bias.items():
        if 0 <= token_id < VOCABULARY:
            left[token_id] += value
    if len(answer) < row.min_tokens:
        left[list(ENDS)] = -np.inf
    if row.penalties is not None:
        counts = np.bincount(answer, minlength=VOCABULARY)
        seen = counts > 0
        seen[list(row.penalties.prompt_ids)] = True
        factor = row.penalties.repetition
        left = np.where(seen, np.where(left > 0, left / factor, left * factor), left)
        left -= counts * row.penalties.frequency + (counts > 0) * row.penalties.presence
    return left


def kept_by_filters(row: Row, left: Array) -> set[int]:
    """The ids that `top_k`, `top_p` and `min_p` leave, ties included."""
    scaled = left / row.temperature
    if row.top_k:
        scaled = np.where(scaled >= np.sort(scaled)[-row.top_k], scaled, -np.inf)
    weights = np.exp(scaled - scaled.max())
    if row.top_p < 1:
        ordered = np.sort(weights)[::-1]
        wanted = row.top_p * weights.sum()
        edge = ordered[np.searchsorted(np.cumsum(ordered), wanted)]
        weights = np.where(weights >= edge, weights, 0)
    return {int(i) for i in np.flatnonzero(weights >= max(row.min_p, 1e-300))}


def draw(sampler: BatchSampler, logits: Array) -> list[int]:
    """One token per row."""
    return as_ids(sampler.sample(mx.array(logits)))


def as_ids(array: mx.array) -> list[int]:
    """A row of ids as Python has them."""
    values: Any = array.tolist()
    return [int(value) for value in values]


def as_floats(array: mx.array) -> list[float]:
    """Whatever its shape, one after the other."""
    values: Any = array.reshape(-1).tolist()
    return [float(value) for value in values]


GREEDY_ROWS = [
    Row(bias={7: 50.0, 9999: 100.0, -1: 100.0}),
    Row(bias={3: 90.0}, min_tokens=3),
    Row(bias={499: 90.0, 11: 80.0}, min_tokens=2),
    Row(penalties=PenaltyState(1.3, 0.0, 0.0, [1, 2, 3, 70])),
    Row(penalties=PenaltyState(1.0, 2.5, 0.0)),
    Row(penalties=PenaltyState(1.0, 0.0, 1.5)),
    Row(bias={5: 30.0}, penalties=PenaltyState(1.1, -0.5, 4.0, [5]), min_tokens=4),
    Row(),
]


def fresh(rows: list[Row]) -> list[Row]:
    """Rows that have counted nothing."""
    for row in rows:
        if row.penalties is not None:
            row.penalties.counts = None
    return rows


@pytest.mark.parametrize("rebuilds", [False, True])
def test_greedy_rows_take_the_best_processed_logit(*, rebuilds: bool) -> None:
    """Biases, end bans and penalties give the reference's argmax at every step.

    A batch that changes hands the counts to the next sampler.
    """
    rows = fresh(GREEDY_ROWS)
    sampler = BatchSampler(rows, VOCABULARY, ENDS)
    answers: list[list[int]] = [[] for _ in rows]
    for step in range(12):
        logits = logits_of(step // 6, len(rows))
        expected = [
            int(reference(row, logits[i], answers[i]).argmax()) for i, row in enumerate(rows)
        ]
        assert expected == draw(sampler, logits)
        for answer, token_id in zip(answers, expected, strict=True):
            answer.append(token_id)
        if rebuilds:
            sampler.hand_back()
            for row in rows:
                row.drawn += 1
            sampler = BatchSampler(rows, VOCABULARY, ENDS)
    for row in rows:
        row.drawn = 0


@pytest.mark.parametrize(
    "settings_of_row",
    [
        {"top_k": 1},
        {"top_k": 7},
        {"top_k": 499},
        {"top_k": 10_000},
        {"min_p": 0.2},
        {"min_p": 1.0},
        {"top_p": 0.5},
        {"top_p": 0.999},
        {"top_k": 20, "top_p": 0.8, "min_p": 0.1},
        {"top_k": 5, "top_p": 0.99, "temperature": 3.0},
    ],
)
def test_draws_stay_within_the_filters_and_follow_the_softmax(
    settings_of_row: dict[str, Any],
) -> None:
    """Only kept ids are drawn, each as often as its share of what is kept."""
    logits = logits_of(4)[0]
    row = Row(**{"temperature": 1.0, **settings_of_row})
    wide = Row(**{**settings_of_row, "temperature": row.temperature})
    wide.top_k = min(row.top_k, VOCABULARY)
    kept = kept_by_filters(wide, logits.astype(np.float64))
    rows = [Row(**{"temperature": 1.0, **settings_of_row, "seed": i}) for i in range(DRAWS)]
    drawn = draw(BatchSampler(rows, VOCABULARY), np.broadcast_to(logits, (DRAWS, VOCABULARY)))
    assert set(drawn) <= kept
    weights = {i: math.exp(float(logits[i]) / row.temperature) for i in kept}
    total = sum(weights.values())
    for token_id, weight in weights.items():
        share = weight / total
        tolerance = 6 * math.sqrt(share * (1 - share) / DRAWS) + 1 / DRAWS
        assert share == pytest.approx(drawn.count(token_id) / DRAWS, abs=tolerance)


@given(st.integers(0, 10_000), st.floats(0.01, 0.999), st.sampled_from([0.01, 1.0, 8.0]))
@settings(max_examples=60, deadline=None)
def test_a_nucleus_is_exact_at_any_size(seed: int, top_p: float, spread: float) -> None:
    """The cut is the reference's, from one token to nearly all of them."""
    logits = logits_of(seed, spread=spread)
    edge = as_floats(nucleus_edge(mx.array(logits), mx.array([[top_p]])))[0]
    kept = np.flatnonzero(logits[0] >= edge)
    weights = np.exp(logits[0].astype(np.float64) - logits.max())
    share = weights[kept].sum() / weights.sum()
    without_least = share - weights[kept].min() / weights.sum()
    assert without_least - 1e-5 < top_p < share + 1e-5


@given(st.integers(0, 10_000), st.integers(1, VOCABULARY))
@settings(max_examples=60, deadline=None)
def test_the_kth_largest_is_exact_at_any_rank(seed: int, rank: int) -> None:
    """It is the very logit of that rank."""
    logits = logits_of(seed)
    found = as_floats(kth_largest(mx.array(logits), mx.array([[rank]])))
    assert [float(np.sort(logits[0])[-rank])] == found


def test_ties_stay_together() -> None:
    """Equal logits at the edge are all kept."""
    logits = np.zeros((1, VOCABULARY), dtype=np.float32)
    for settings_of_row in ({"top_k": 3}, {"top_p": 0.01}):
        rows = [Row(temperature=1.0, seed=i, **settings_of_row) for i in range(200)]
        drawn = draw(BatchSampler(rows, VOCABULARY), np.repeat(logits, 200, axis=0))
        assert len(set(drawn)) > 100


def test_masked_rows_take_allowed_ids_only() -> None:
    """A mask wins over everything, NaN and infinities included; other rows do not notice."""
    allowed = [5, 31, 32, 63, 498]
    words = np.zeros((3, (VOCABULARY + 31) // 32), dtype=np.uint32)
    for token_id in allowed:
        words[:, token_id // 32] |= np.uint32(1 << token_id % 32)
    logits = logits_of(8, 5)
    logits[1, ::2], logits[2] = math.nan, math.inf
    rows = [
        Row(is_constrained=True),
        Row(temperature=1.0, top_p=0.5, is_constrained=True, seed=3),
        Row(temperature=0.5, top_k=2, is_constrained=True, seed=4),
        Row(),
        Row(temperature=1.0, seed=9),
    ]
    sampler = BatchSampler(rows, VOCABULARY)
    found = as_ids(sampler.sample(mx.array(logits), mx.array(words)))
    assert allowed[int(logits[0, allowed].argmax())] == found[0]
    assert set(found[:3]) <= set(allowed)
    free = BatchSampler(rows[3:], VOCABULARY)
    assert draw(free, logits[3:]) == found[3:]


def test_a_crowd_changes_nobodys_draws() -> None:
    """Eight rows with everything mixed draw together what each draws alone."""

    def rows() -> list[Row]:
        return [
            Row(),
            Row(temperature=1.0, seed=1),
            Row(temperature=0.8, seed=2, top_p=0.9),
            Row(temperature=1.2, seed=3, top_k=30),
            Row(temperature=0.7, seed=4, min_p=0.05, top_k=50, top_p=0.95),
            Row(temperature=1.0, seed=5, penalties=PenaltyState(1.2, 0.5, 0.3, [1, 2])),
            Row(temperature=1.0, seed=6, bias={8: 4.0, 9: -4.0}, min_tokens=3),
            Row(penalties=PenaltyState(1.0, 1.0, 1.0)),
        ]

    together = BatchSampler(rows(), VOCABULARY, ENDS)
    alone = [BatchSampler([row], VOCABULARY, ENDS) for row in rows()]
    for step in range(6):
        logits = logits_of(step, 8)
        found = draw(together, logits)
        assert [draw(one, logits[i : i + 1])[0] for i, one in enumerate(alone)] == found


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_broken_row_with_every_setting_stays_alone(bad: float) -> None:
    """Whatever one row's logits are, it gets a valid id and its neighbours their own."""
    row_settings: dict[str, Any] = {"top_k": 9, "top_p": 0.9, "min_p": 0.1, "bias": {4: 1.0}}

    def rows() -> list[Row]:
        return [
            Row(temperature=1.0, seed=i, penalties=PenaltyState(1.1, 0.2, 0.2), **row_settings)
            for i in range(4)
        ]

    good = logits_of(1, 4)
    broken = good.copy()
    broken[1], broken[3, ::3] = bad, bad
    expected = draw(BatchSampler(rows(), VOCABULARY, ENDS), good)
    found = draw(BatchSampler(rows(), VOCABULARY, ENDS), broken)
    assert expected[::2] == found[::2]
    assert all(0 <= token_id < VOCABULARY for token_id in found)
