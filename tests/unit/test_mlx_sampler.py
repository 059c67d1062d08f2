"""The vectorised sampler: distributions, independence of rows, and nothing that raises."""

import math
from typing import Any

import mlx.core as mx
import pytest

from lmx.engines.mlx.sampler import BatchSampler, Row

LOGITS = [2.0, 1.0, 0.0, -1.0, 3.0, -5.0, 0.5, 1.5]
DRAWS = 6000
# Six standard deviations of a frequency over so many draws.
TOLERANCE = 6 * math.sqrt(0.25 / DRAWS)


def as_ids(array: mx.array) -> list[int]:
    """A row of ids as Python has them."""
    values: Any = array.tolist()
    return [int(value) for value in values]


def softmax(logits: list[float], temperature: float) -> list[float]:
    """The reference distribution."""
    weights = [math.exp(value / temperature) for value in logits]
    return [weight / sum(weights) for weight in weights]


def nucleus(probabilities: list[float], top_p: float) -> list[float]:
    """The reference: most likely tokens until their mass reaches `top_p`, renormalised."""
    kept = [0.0] * len(probabilities)
    for index in sorted(range(len(kept)), key=lambda i: -probabilities[i]):
        if sum(kept) < top_p:
            kept[index] = probabilities[index]
    return [value / sum(kept) for value in kept]


def frequencies(temperature: float, top_p: float) -> list[float]:
    """How often each token is drawn by as many rows as seeds."""
    rows = [Row(temperature, top_p, seed, 0) for seed in range(DRAWS)]
    logits = mx.broadcast_to(mx.array(LOGITS), (DRAWS, len(LOGITS)))
    drawn = ids(sampler_of(rows), logits)
    return [drawn.count(index) / DRAWS for index in range(len(LOGITS))]


def sampler_of(rows: list[Row], vocabulary: int = len(LOGITS)) -> BatchSampler:
    """A sampler without end tokens; rows without a bias or a penalty ask for no size."""
    return BatchSampler(rows, vocabulary)


def ids(sampler: BatchSampler, logits: mx.array) -> list[int]:
    """One draw of every row."""
    return as_ids(sampler.sample(logits))


def random_logits(rows: int, vocabulary: int) -> mx.array:
    """The same numbers every time."""
    return mx.random.normal((rows, vocabulary), key=mx.random.key(1)) * 3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_free_rows_follow_the_softmax(temperature: float) -> None:
    """Draws without top_p have the distribution of the tempered softmax."""
    assert frequencies(temperature, 1.0) == pytest.approx(
        softmax(LOGITS, temperature), abs=TOLERANCE
    )


@pytest.mark.parametrize("top_p", [0.001, 0.3, 0.7, 0.95])
def test_nucleus_rows_follow_the_cut_softmax(top_p: float) -> None:
    """Draws with top_p have the renormalised distribution of the nucleus and never leave it."""
    expected = nucleus(softmax(LOGITS, 1.0), top_p)
    found = frequencies(1.0, top_p)
    assert found == pytest.approx(expected, abs=TOLERANCE)
    assert [value for value, wanted in zip(found, expected, strict=True) if wanted == 0] == [
        0.0
    ] * expected.count(0.0)


def test_successive_draws_of_one_row_are_independent() -> None:
    """The same seed goes through the distribution draw by draw, not once."""
    sampler = sampler_of([Row(1.0, 1.0, 7, 0)])
    logits = mx.array([LOGITS])
    drawn = [ids(sampler, logits)[0] for _ in range(600)]
    found = [drawn.count(index) / 600 for index in range(len(LOGITS))]
    assert found == pytest.approx(softmax(LOGITS, 1.0), abs=6 * math.sqrt(0.25 / 600))


def test_greedy_rows_take_the_maximum() -> None:
    """Temperature 0 is argmax, whatever the neighbours do."""
    logits = random_logits(4, 300)
    rows = [Row(0, 1.0, 1, 0), Row(1.0, 1.0, 2, 0), Row(0, 0.5, 3, 0), Row(1.0, 0.5, 4, 0)]
    best = as_ids(mx.argmax(logits, axis=-1))
    found = ids(sampler_of(rows), logits)
    assert [best[0], best[2]] == [found[0], found[2]]


def test_rows_do_not_depend_on_their_neighbours() -> None:
    """A row draws the same alone as in any batch, at any draw number."""
    logits = random_logits(6, 300)
    rows = [
        Row(0, 1.0, 1, 0),
        Row(1.0, 1.0, 2, 5),
        Row(0.7, 0.9, 3, 9),
        Row(1.5, 0.4, 4, 0),
        Row(2.0, 1.0, 2**64 - 1, 3),
        Row(2.0, 0.99, 2**63, 1),
    ]
    together = sampler_of(rows)
    found = [ids(together, logits) for _ in range(3)]
    for index, row in enumerate(rows):
        alone = sampler_of([row])
        assert [draw[index] for draw in found] == [
            ids(alone, logits[index : index + 1])[0] for _ in range(3)
        ]


def test_a_new_sampler_goes_on_where_the_old_one_was() -> None:
    """The draw number is all a row carries from one batch to the next."""
    logits = random_logits(1, 300)
    whole = sampler_of([Row(1.5, 0.95, 9, 0)])
    expected = [ids(whole, logits) for _ in range(6)]
    found = [ids(sampler_of([Row(1.5, 0.95, 9, drawn)]), logits) for drawn in range(6)]
    assert expected == found


def test_a_large_vocabulary_keeps_its_nucleus() -> None:
    """With more tokens than candidates, draws still come from the most likely ones."""
    vocabulary = 4096 + 1000
    logits = mx.zeros((50, vocabulary)) - 20
    favourites = [3, 4096 + 500, vocabulary - 1]
    logits[:, mx.array(favourites)] = mx.array([5.0, 5.0, 5.0])
    rows = [Row(1.0, 0.9, seed, 0) for seed in range(50)]
    assert set(favourites) == set(ids(sampler_of(rows), logits))


@pytest.mark.parametrize("vocabulary", [300, 4096 + 1000])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_broken_row_stays_alone(vocabulary: int, bad: float) -> None:
    """NaN or infinite logits in one row give it some valid id and leave the others as they were."""
    rows = [Row(t, p, 5, 0) for t, p in ((0, 1.0), (1.0, 1.0), (1.0, 0.9)) for _ in range(2)]
    good = random_logits(6, vocabulary)
    broken = mx.where(mx.arange(6)[:, None] % 2 == 1, bad, good)
    expected, found = ids(sampler_of(rows), good), ids(sampler_of(rows), broken)
    assert expected[::2] == found[::2]
    assert all(0 <= token_id < vocabulary for token_id in found)


def test_partly_broken_rows_give_valid_ids() -> None:
    """NaN among finite logits never leaves the vocabulary."""
    vocabulary = 4096 + 1000
    logits = mx.where(mx.arange(vocabulary) % 3 == 0, math.nan, random_logits(3, vocabulary))
    rows = [Row(0, 1.0, 1, 0), Row(1.0, 1.0, 1, 0), Row(1.0, 0.5, 1, 0)]
    assert all(0 <= token_id < vocabulary for token_id in ids(sampler_of(rows), logits))


def test_the_lowest_temperature_is_greedy() -> None:
    """A temperature just above 0 overflows nothing and takes the maximum."""
    logits = random_logits(2, 300) * 10
    rows = [Row(1e-9, 1.0, 1, 0), Row(1e-9, 0.9, 2, 0)]
    best = as_ids(mx.argmax(logits, axis=-1))
    assert best == ids(sampler_of(rows), logits)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_logits_are_taken(dtype: mx.Dtype) -> None:
    """Models that compute in 16 bits use the same sampler."""
    rows = [Row(0, 1.0, 1, 0), Row(1.0, 1.0, 1, 0), Row(1.0, 0.5, 1, 0)]
    assert len(ids(sampler_of(rows), random_logits(3, 300).astype(dtype))) == 3
