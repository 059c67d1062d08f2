"""Passes come in few shapes where every new one is dear, and nobody gets another token for it."""

from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.generate import generate_step

from lmx.engines.base import Choice
from lmx.engines.mlx.caches import can_pad
from lmx.engines.mlx.engine import MlxEngine, Savings
from lmx.engines.mlx.keeper import make_store
from lmx.engines.mlx.passes import PrefillLimits
from lmx.engines.warmup import warm_up_company, warm_up_passes
from lmx.protocol.values import ModelInfo, Sampling
from tests.random_models import COMMON, KINDS, random_model

LIMITS = PrefillLimits(2048, max_rows=32, pass_tokens=512, grain_tokens=32)
SMALL = PrefillLimits(128, max_rows=8, grain_tokens=8)
SMOOTH = PrefillLimits(128, max_rows=8)
TOKENS = 6


class Watched:
    """A model that notes the shapes of what it is given."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, token_ids: mx.array, cache: Any) -> mx.array:
        """As the model does."""
        self.shapes.append(token_ids.shape)
        found: mx.array = self._model(token_ids, cache=cache)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def passes(self) -> list[tuple[int, ...]]:
        """All but decode steps."""
        return [shape for shape in self.shapes if shape[1] > 1]


def engine_of(model: Any, limits: PrefillLimits) -> MlxEngine:
    """An engine that keeps prefixes, without end tokens."""
    if not can_pad(model):
        limits = limits._replace(max_rows=1)
    return MlxEngine(
        model,
        ModelInfo(context_tokens=512, max_sequences=8),
        end_ids=frozenset(),
        limits=limits,
        vocabulary_size=COMMON["vocab_size"],
        savings=Savings(make_store(model, 64 << 20)),
    )


def ask(engine: MlxEngine, prompts: list[list[int]]) -> dict[int, list[int]]:
    """All prompts at once; the greedy tokens of each."""
    for number, prompt in enumerate(prompts):
        engine.add([Choice(number, Sampling(TOKENS, temperature=0.0))], prompt)
    found: dict[int, list[int]] = {}
    while engine.free_slots < engine.info.max_sequences:
        for result in engine.step():
            found.setdefault(result.sequence_id, []).append(result.token_id)
    return found


def alone(model: Any, prompt: list[int]) -> list[int]:
    """mlx-lm's own greedy tokens."""
    steps = generate_step(mx.array(prompt), model, max_tokens=TOKENS)
    return [int(token) for token, _ in steps]


def text(seed: int, length: int) -> list[int]:
    """Ids that no other seed's text begins with."""
    return [(seed * 31 + place * place + place * seed) % 190 + 5 for place in range(length)]


@given(st.integers(1, 2048))
def test_a_length_is_filled_up_a_little(tokens: int) -> None:
    """To the grain, or to an eighth of its octave; whole chunks stay whole."""
    longer, shorter = LIMITS.round_up(tokens), LIMITS.round_down(tokens)
    assert tokens <= longer <= max(tokens + 31, tokens * 1.126)
    assert 0 < shorter <= tokens
    assert longer == LIMITS.round_up(longer)
    assert shorter == tokens or shorter == LIMITS.round_down(shorter)
    assert tokens == SMOOTH.round_up(tokens) == SMOOTH.round_down(tokens)
    assert LIMITS.chunk_tokens == LIMITS.round_up(LIMITS.chunk_tokens)


def test_lengths_are_few() -> None:
    """What prompts up to a chunk need fits into the plans that CUDA remembers many times over."""
    assert len({LIMITS.round_up(tokens) for tokens in range(1, 2049)}) <= 32


@given(st.integers(1, 32), st.integers(1, 2048))
def test_rows_are_a_power_of_two(count: int, length: int) -> None:
    """More than the prompts where there is room, else as many prompts as fill one."""
    taken, rows = LIMITS.row_count(count, length)
    assert 1 <= taken <= count
    assert rows.bit_count() == 1
    assert taken in {count, rows}
    assert taken == rows or rows * length <= LIMITS.chunk_tokens
    assert (count, count) == SMOOTH.row_count(count, length)


@pytest.mark.parametrize("kind", KINDS)
def test_filled_up_passes_change_no_answer(kind: str) -> None:
    """Alone, together, in pieces and going on from what is kept, on every kind of cache."""
    model = random_model(kind)
    engine = engine_of(model, SMALL)
    prompts = [text(1, 3), text(2, 9), text(3, 21), text(4, 30), text(5, 250)]
    expected = [alone(model, prompt) for prompt in prompts]
    for prompt, tokens in zip(prompts, expected, strict=True):
        assert {0: tokens} == ask(engine, [prompt])
    longer = [[*prompt, 7, 8, 9] for prompt in prompts]
    expected = [alone(model, prompt) for prompt in longer]
    assert dict(enumerate(expected)) == ask(engine, longer)
    assert dict(enumerate(expected[:3])) == ask(engine_of(model, SMALL), longer[:3])


def test_prompts_of_many_lengths_make_few_shapes() -> None:
    """However many come together, and however long they are."""
    watched = Watched(random_model("plain"))
    engine = engine_of(watched, SMALL)
    seed = 0
    for count in range(1, 9):
        for length in (4, 7, 11, 15):
            seed += 1
            ask(engine, [text(10 * seed + number, length) for number in range(count)])
    assert {1, 2, 4, 8} == {rows for rows, _ in watched.passes()}
    assert {8, 16} == {length for _, length in watched.passes()}
    smooth = Watched(random_model("plain"))
    ask(engine_of(smooth, SMOOTH), [text(number, 4) for number in range(3)])
    assert [(3, 3)] == smooth.passes()


def test_rows_join_and_leave_before_the_first_request() -> None:
    """Each number of rows is decoded, and nothing of them is left."""
    watched = Watched(random_model("plain"))
    engine = engine_of(watched, SMALL)
    warm_up_company(engine)
    decoded = [rows for rows, length in watched.shapes if length == 1]
    assert {1, 2, 3} == set(decoded)
    assert 1 == decoded[-1]
    assert (8, 0) == (engine.free_slots, engine.memory().kept.size_bytes)
    lone = MlxEngine(
        watched,
        ModelInfo(context_tokens=512, max_sequences=1),
        end_ids=frozenset(),
        limits=SMALL,
        vocabulary_size=COMMON["vocab_size"],
    )
    warm_up_company(lone)
    assert 1 == lone.free_slots


def test_usual_shapes_are_seen_before_the_first_request() -> None:
    """Each of them once, as far as there is room, and nothing of them is left."""
    watched = Watched(random_model("plain"))
    engine = engine_of(watched, SMALL)
    usual = list(SMALL.usual_shapes())
    warm_up_passes(engine, usual)
    assert set(usual) <= set(watched.passes())
    assert {(1, 8), (8, 16), (1, 128)} <= set(watched.passes())
    assert 8 == engine.free_slots
    assert 0 == engine.memory().kept.size_bytes
