"""Models with other caches than plain attention also decode in batches as they do alone."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_map_with_path
from mlx_lm.generate import generate_step
from mlx_lm.models import lfm2, llama, mamba

from lmx.engines.base import Choice
from lmx.engines.mlx.caches import can_batch, can_pad
from lmx.engines.mlx.engine import MlxEngine
from lmx.engines.mlx.prefill import PrefillLimits
from lmx.protocol.values import ModelInfo, Sampling

COMMON: Mapping[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
SLIDING = {
    **COMMON,
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "layer_types": ["full_attention", "sliding_attention"],
    "sliding_window": 16,
}
HYBRID = {
    **COMMON,
    "model_type": "lfm2",
    "norm_eps": 1e-5,
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_dim": 32,
    "block_multiple_of": 16,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False,
    "layer_types": ["conv", "full_attention"],
}
STATE_SPACE = {
    **COMMON,
    "model_type": "mamba",
    "state_size": 8,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "time_step_rank": 4,
}
KINDS = {"sliding": (llama, SLIDING), "hybrid": (lfm2, HYBRID), "state space": (mamba, STATE_SPACE)}
PROMPTS = [[5, 9, 20, 31], [44], list(range(1, 60)), [17, 4], list(range(100, 75, -1))]
TOKENS = 24


def random_model(kind: str) -> Any:
    """The same random weights every time, wide enough that every token matters."""
    module, config = KINDS[kind]
    model = module.Model(module.ModelArgs.from_dict(config))

    def randomise(name: str, value: mx.array) -> mx.array:
        if value.ndim == 1 or "A_log" in name:
            return value
        key = mx.random.key(sum(name.encode()))
        scaled: mx.array = mx.random.normal(value.shape, key=key) * (3 / value.shape[-1] ** 0.5)
        return scaled

    model.update(tree_map_with_path(randomise, model.parameters()))
    mx.eval(model.parameters())
    return model


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
