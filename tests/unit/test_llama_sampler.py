"""How the llama.cpp engine chooses tokens: the MLX engine's semantics, and draws that last."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from lmx.engines.base import Choice
from lmx.engines.llama.sampler import RowSampler
from lmx.engines.mlx.sampler import BatchSampler
from lmx.engines.mlx.sequence import make_sequence
from lmx.protocol.values import Sampling
from tests.unit.test_constraints import Ids

# Nothing numpy warns about may reach the log.
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

VOCABULARY = 500
ENDS = (3, 499, 9999)
PROMPT = (1, 2, 2, 70, 12_345)
DRAWS = 3000
Floats = NDArray[np.float32]


def frozen(values: Floats) -> Floats:
    """Logits as the engine shows them: whoever writes to them fails."""
    values.setflags(write=False)
    return values


def logits_of(seed: int, size: int = VOCABULARY) -> Floats:
    """The same numbers every time."""
    random = np.random.default_rng(seed)
    return frozen((random.standard_normal(size) * 3).astype(np.float32))


def mask_of(allowed: Sequence[int], size: int = VOCABULARY) -> NDArray[np.int32]:
    """Words as a constraint writes them."""
    words = np.zeros((size + 31) // 32, dtype=np.uint32)
    for token_id in allowed:
        words[token_id // 32] |= np.uint32(1 << token_id % 32)
    return words.view(np.int32)


def sampler_of(
    *, ends: Sequence[int] = ENDS, is_constrained: bool = False, **settings: Any
) -> RowSampler:
    """Of one sequence; greedy unless the settings say otherwise."""
    return RowSampler(
        Sampling(64, **{"temperature": 0.0, "seed": 1, **settings}),
        PROMPT,
        end_ids=ends,
        vocabulary_size=VOCABULARY,
        is_constrained=is_constrained,
    )


def mlx_choice(*, is_constrained: bool = False, **settings: Any) -> Callable[..., int]:
    """What the MLX engine's sampler chooses for the same sequence."""
    sampling = Sampling(64, **{"temperature": 0.0, **settings})
    row = make_sequence(Choice(1, sampling, Ids() if is_constrained else None), PROMPT).row
    sampler = BatchSampler([row], VOCABULARY, ENDS)

    def choose(logits: Floats, mask: NDArray[np.int32] | None = None) -> int:
        masks = None if mask is None else mx.array(mask.view(np.uint32)[None])
        tokens: Any = sampler.sample(mx.array(logits[None]), masks).tolist()
        return int(tokens[0])

    return choose


PROCESSORS: list[dict[str, Any]] = [
    {},
    {"logit_bias": {7: 50.0, 9999: 100.0, -1: 100.0}},
    {"logit_bias": {3: 90.0}, "min_tokens": 3},
    {"logit_bias": {499: 90.0, 11: 80.0}, "min_tokens": 2},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7},
    {"presence_penalty": 2.5},
    {"frequency_penalty": 1.5},
    {"presence_penalty": -1.0, "frequency_penalty": 0.2},
    {
        "logit_bias": {5: 9.0, 70: 9.0},
        "min_tokens": 4,
        "repetition_penalty": 1.1,
        "presence_penalty": -0.5,
        "frequency_penalty": 4.0,
    },
]


@pytest.mark.parametrize("is_constrained", [False, True])
@pytest.mark.parametrize("settings", PROCESSORS)
def test_greedy_answers_are_those_of_the_mlx_engine(
    settings: dict[str, Any], *, is_constrained: bool
) -> None:
    """Biases, end bans, penalties and masks act in the same order, with the same counts."""
    ours = sampler_of(is_constrained=is_constrained, **settings)
    theirs = mlx_choice(is_constrained=is_constrained, **settings)
    mask = mask_of(range(0, VOCABULARY, 3)) if is_constrained else None
    rows = [logits_of(step // 8) for step in range(24)]
    assert [theirs(row, mask) for row in rows] == [ours.choose(row, mask) for row in rows]


@pytest.mark.parametrize("is_constrained", [False, True])
def test_end_tokens_wait_for_min_tokens_unless_a_grammar_decides(*, is_constrained: bool) -> None:
    """The ban lasts for exactly so many tokens."""
    sampler = sampler_of(is_constrained=is_constrained, min_tokens=2, logit_bias={3: 90.0})
    chosen = [sampler.choose(logits_of(1)) for _ in range(3)]
    expected = [True, True, True] if is_constrained else [False, False, True]
    assert expected == [token_id == 3 for token_id in chosen]


def shares_of(settings: dict[str, Any], logits: Floats) -> NDArray[np.float64]:
    """The reference: what the filters leave of the softmax, renormalised, in float64."""
    scaled = logits.astype(np.float64) / settings["temperature"]
    top_k = settings.get("top_k", 0)
    if 0 < top_k < scaled.size:
        scaled = np.where(scaled >= np.sort(scaled)[-top_k], scaled, -np.inf)
    weights: NDArray[np.float64] = np.exp(scaled - scaled.max())
    if "top_p" in settings:
        ordered = np.sort(weights)[::-1]
        wanted = settings["top_p"] * weights.sum()
        weights = np.where(
            weights >= ordered[np.searchsorted(np.cumsum(ordered), wanted)], weights, 0
        )
    weights = np.where(weights >= settings.get("min_p", 0), weights, 0)
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.6},
        {"temperature": 1.0},
        {"temperature": 5.0},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.0, "top_k": 7},
        {"temperature": 1.0, "top_k": 499},
        {"temperature": 1.0, "top_k": 10_000},
        {"temperature": 1.0, "min_p": 0.2},
        {"temperature": 1.0, "min_p": 1.0},
        {"temperature": 1.0, "top_p": 0.001},
        {"temperature": 1.0, "top_p": 0.5},
        {"temperature": 1.0, "top_p": 0.999},
        {"temperature": 1.0, "top_k": 20, "top_p": 0.8, "min_p": 0.1},
        {"temperature": 3.0, "top_k": 5, "top_p": 0.99},
    ],
)
@pytest.mark.parametrize("is_one_answer", [True, False])
def test_draws_stay_within_the_filters_and_follow_the_softmax(
    settings: dict[str, Any], *, is_one_answer: bool
) -> None:
    """Each kept id comes as often as its share, over one long answer and over many seeds."""
    logits = logits_of(4)
    shares = shares_of(settings, logits)
    if is_one_answer:
        sampler = sampler_of(**settings)
        drawn = [sampler.choose(logits) for _ in range(DRAWS)]
    else:
        drawn = [sampler_of(seed=seed, **settings).choose(logits) for seed in range(DRAWS)]
    found = np.bincount(drawn, minlength=VOCABULARY) / DRAWS
    assert set(np.flatnonzero(found)) <= set(np.flatnonzero(shares))
    tolerance = 6 * np.sqrt(shares * (1 - shares) / DRAWS) + 2 / DRAWS
    assert np.all(np.abs(found - shares) <= tolerance)


def test_successive_draws_are_independent() -> None:
    """Pairs of neighbouring draws, of one answer and of neighbouring seeds, come as products."""
    logits = frozen(np.zeros(2, dtype=np.float32))
    sampler = sampler_of(temperature=1.0)
    answer = [sampler.choose(logits) for _ in range(DRAWS)]
    first = [sampler_of(temperature=1.0, seed=seed).choose(logits) for seed in range(DRAWS)]
    for drawn in (answer, first):
        pairs = np.bincount([2 * a + b for a, b in pairwise(drawn)])
        assert pairs / len(drawn) == pytest.approx([0.25] * 4, abs=6 * math.sqrt(0.19 / DRAWS))


@pytest.mark.parametrize("seed", [0, 7, 2**63, 2**64 - 1, -5])
def test_a_seed_gives_the_same_answer_whatever_its_neighbours_do(seed: int) -> None:
    """Alone, and with another sequence's draws in between."""
    settings: dict[str, Any] = {
        "temperature": 1.2,
        "top_p": 0.95,
        "frequency_penalty": 0.1,
        "seed": seed,
    }
    alone, crowded = sampler_of(**settings), sampler_of(**settings)
    neighbour = sampler_of(temperature=1.0, seed=seed + 1)
    rows = [logits_of(step) for step in range(40)]
    expected = [alone.choose(row) for row in rows]
    found, other = [], []
    for row in rows:
        other.append(neighbour.choose(row))
        found.append(crowded.choose(row))
    assert expected == found
    assert found != other


def test_a_seed_means_the_same_in_every_release() -> None:
    """The uniform numbers behind the draws, read off a flat distribution."""
    flat = frozen(np.zeros(1000, dtype=np.float32))
    sampler = sampler_of(temperature=1.0, seed=2**64 - 1)
    assert [753, 684, 619, 966, 457, 627] == [sampler.choose(flat) for _ in range(6)]


def test_without_a_seed_answers_differ() -> None:
    """Each sequence gets a seed of its own."""
    rows = [logits_of(step) for step in range(40)]
    answers = []
    for _ in range(2):
        sampler = sampler_of(temperature=2.0, seed=None)
        answers.append([sampler.choose(row) for row in rows])
    assert answers[0] != answers[1]


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.95}, {"top_k": 50, "min_p": 0.01}])
def test_rounding_changes_hardly_any_draw(filters: dict[str, Any]) -> None:
    """Logits that differ in their last bits give the same tokens, swapped ranks or not."""
    random = np.random.default_rng(3)
    # Pairs of equal logits: any noise decides which of each pair is ahead.
    logits = frozen(np.repeat(logits_of(5, 2000), 2))
    noise = (random.standard_normal(logits.size) * 1e-6).astype(np.float32)
    noisy = frozen(logits + noise)
    changed = 0
    for seed in range(DRAWS):
        settings = {"temperature": 1.0, "seed": seed, **filters}
        changed += sampler_of(**settings).choose(logits) != sampler_of(**settings).choose(noisy)
    assert changed <= 3


def test_ties_at_a_cut_stay_together() -> None:
    """Equal logits are all kept."""
    flat = frozen(np.zeros(VOCABULARY, dtype=np.float32))
    for filters in ({"top_k": 3}, {"top_p": 0.01}):
        sampler = sampler_of(temperature=1.0, **filters)
        assert len({sampler.choose(flat) for _ in range(200)}) > 100


def test_draws_under_a_mask_follow_the_softmax_of_what_it_allows() -> None:
    """The mask comes before the filters, so that they see allowed ids alone."""
    allowed = [5, 31, 32, 63, 498]
    logits = logits_of(8)
    settings: dict[str, Any] = {"temperature": 2.0, "top_k": 4}
    shares = shares_of(settings, logits[allowed])
    sampler = sampler_of(is_constrained=True, **settings)
    drawn = [sampler.choose(logits, mask_of(allowed)) for _ in range(DRAWS)]
    found = [drawn.count(token_id) / DRAWS for token_id in allowed]
    assert found == pytest.approx(list(shares), abs=6 * math.sqrt(0.25 / DRAWS))
    assert set(drawn) == {allowed[place] for place in np.flatnonzero(shares)}


def test_a_mask_that_allows_everything_changes_nothing() -> None:
    """Bits beyond the vocabulary are no tokens."""
    mask = np.full((VOCABULARY + 31) // 32, -1, dtype=np.int32)
    free, masked = sampler_of(temperature=1.0), sampler_of(temperature=1.0, is_constrained=True)
    rows = [logits_of(step) for step in range(20)]
    assert [free.choose(row) for row in rows] == [masked.choose(row, mask) for row in rows]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_mask_that_allows_nothing_ends_the_answer(temperature: float) -> None:
    """With an end token if the model has one, else with its favourite."""
    logits, nothing = logits_of(2), mask_of(())
    ending = sampler_of(temperature=temperature, is_constrained=True)
    endless = sampler_of(ends=(9999,), temperature=temperature, is_constrained=True)
    assert ending.choose(logits, nothing) == 3
    assert int(logits.argmax()) == endless.choose(logits, nothing)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38, -3e38])
@pytest.mark.parametrize("temperature", [0.0, 1e-9, 1.0])
def test_a_broken_row_gives_a_valid_id(temperature: float, bad: float, every: int) -> None:
    """With all settings or none, masked or not; the next sound row is as if nothing was."""
    settings: dict[str, Any] = {"top_k": 9, "top_p": 0.9, "min_p": 0.1, "logit_bias": {4: 1.0}}
    settings |= {"repetition_penalty": 1.1, "presence_penalty": 0.2, "min_tokens": 5}
    broken = logits_of(6).copy()
    broken[::every] = bad
    allowed = [6, 7, 100, 300]
    for extra in ({}, settings):
        sampler = sampler_of(temperature=temperature, **extra)
        assert all(0 <= sampler.choose(frozen(broken)) < VOCABULARY for _ in range(5))
        masked = sampler_of(temperature=temperature, is_constrained=True, **extra)
        assert all(masked.choose(frozen(broken), mask_of(allowed)) in allowed for _ in range(5))


def test_nan_among_numbers_is_never_the_best() -> None:
    """As under the MLX engine's masks, whatever is a number comes before what is none."""
    logits = logits_of(6).copy()
    best = int(logits.argmax())
    logits[best - 1] = math.nan
    assert best == sampler_of().choose(frozen(logits))


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_the_lowest_temperature_is_greedy(top_p: float) -> None:
    """A temperature just above 0 overflows nothing and takes the maximum."""
    logits = frozen(logits_of(1) * np.float32(10))
    sampler = sampler_of(temperature=1e-9, top_p=top_p)
    assert {int(logits.argmax())} == {sampler.choose(logits) for _ in range(5)}
