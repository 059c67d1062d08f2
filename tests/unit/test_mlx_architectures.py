"""Models with other caches than plain attention also decode in batches as they do alone."""

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step

from lmx.engines.base import Choice
from lmx.engines.mlx.caches import can_batch, can_pad
from lmx.engines.mlx.engine import MlxEngine
from lmx.engines.mlx.passes import PrefillLimits
from lmx.protocol.values import ModelInfo, Sampling
from tests.random_models import COMMON, KINDS, random_model

PROMPTS = [[5, 9, 20, 31], [44], list(range(1, 60)), [17, 4], list(range(100, 75, -1))]
TOKENS = 24


def engine_of(model: Any) -> MlxEngine:
    """Limits as loading would choose them, with a small chunk."""
    limits = PrefillLimits(chunk_tokens=32, max_rows=8 if can_pad(model) else 1)
    info = ModelInfo(context_tokens=512, max_sequences=len(PROMPTS))
    return MlxEngine(
        model, info, end_ids=frozenset(), limits=limits, vocabulary_size=COMMON["vocab_size"]
    )


@pytest.mark.parametrize("gap", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_joined_sequences_equal_lone_ones(kind: str, gap: int) -> None:
    """Together, staggered and leaving at different times, all get mlx-lm's greedy tokens."""
    model = random_model(kind)
    assert can_batch(model)
    expected = {
        i: [int(token) for token, _ in generate_step(mx.array(p), model, max_tokens=TOKENS - i)]
        for i, p in enumerate(PROMPTS)
    }
    engine = engine_of(model)
    found: dict[int, list[int]] = {}
    for index, prompt in enumerate(PROMPTS):
        engine.add([Choice(index, Sampling(TOKENS - index, temperature=0.0))], prompt)
        for result in [result for _ in range(gap) for result in engine.step()]:
            found.setdefault(result.sequence_id, []).append(result.token_id)
    while engine.free_slots < len(PROMPTS):
        for result in engine.step():
            found.setdefault(result.sequence_id, []).append(result.token_id)
    assert expected == found


@pytest.mark.parametrize("kind", KINDS)
def test_choices_equal_lone_sequences(kind: str) -> None:
    """Rows made from one prefill go on as if each had had its own, whatever the caches hold."""
    model = random_model(kind)
    for prompt in PROMPTS:
        step = generate_step(mx.array(prompt), model, max_tokens=TOKENS)
        expected = [int(token) for token, _ in step]
        engine = engine_of(model)
        greedy = Sampling(TOKENS, temperature=0.0)
        engine.add([Choice(0, greedy), Choice(1, Sampling(TOKENS)), Choice(2, greedy)], prompt)
        found: dict[int, list[int]] = {}
        while engine.free_slots < len(PROMPTS):
            for result in engine.step():
                found.setdefault(result.sequence_id, []).append(result.token_id)
        assert [expected, expected] == [found[0], found[2]]
