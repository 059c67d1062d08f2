"""Random models of several architectures, in memory: every kind of cache that mlx-lm has.

They know no engine. The same weights come out every time, wide enough that every token matters.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map_with_path
from mlx_lm.models import gemma3_text, lfm2, llama, mamba

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
WINDOWED = {
    **COMMON,
    "model_type": "gemma3_text",
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "num_hidden_layers": 3,
    "sliding_window": 24,
    "sliding_window_pattern": 3,
}
PLAIN = {**COMMON, "model_type": "llama", "rms_norm_eps": 1e-5}
KINDS = {
    "plain": (llama, PLAIN),
    "sliding": (llama, SLIDING),
    "windowed": (gemma3_text, WINDOWED),
    "hybrid": (lfm2, HYBRID),
    "state space": (mamba, STATE_SPACE),
}


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
