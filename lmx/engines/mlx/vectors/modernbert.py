"""ModernBERT encoders (Warner et al. 2024): rotary positions, local and global layers, GeGLU.

Knows how hidden states come from token ids; pooling and heads are elsewhere. Norms come before
attention and feed-forward, except before the first attention, where the embeddings' own serves.
Field names are those of transformers 4.48 and, where they differ, 5.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import mlx.core as mx

from lmx.engines.mlx.vectors.activations import find_activation
from lmx.engines.mlx.vectors.attention import View, attend, make_view, split_heads
from lmx.engines.mlx.vectors.rows import Padded
from lmx.engines.mlx.vectors.sizes import head_width, number, require_count
from lmx.engines.mlx.vectors.weights import LayerNorm, Linear, Weights
from lmx.errors import CorruptModel, UnsupportedModel

DEFAULT_EPSILON = 1e-5
DEFAULT_GLOBAL_EVERY, DEFAULT_WINDOW = 3, 128
GLOBAL_THETA, LOCAL_THETA = 160_000.0, 10_000.0


class _Reach(NamedTuple):
    """Of one layer: how far tokens look to either side, and the base of their rotation."""

    window: int | None
    theta: float


class _Layer(NamedTuple):
    reach: _Reach
    attention_norm: LayerNorm | None
    attention_in: Linear
    attention_out: Linear
    norm: LayerNorm
    inner: Linear
    outer: Linear


class ModernBertEncoder:
    """Token ids to hidden states.

    Args:
        config: The model's `config.json`.
        weights: Under transformers' names.

    Raises:
        CorruptModel: A field or tensor is missing or wrong.
        UnsupportedModel: The activation or the rotation is of another kind.
    """

    def __init__(self, config: Mapping[str, Any], weights: Weights) -> None:
        self.width = require_count(config, "hidden_size")
        self.vocabulary_size = require_count(config, "vocab_size")
        self.max_tokens = require_count(config, "max_position_embeddings")
        self.pad_id = 0  # of no effect: padding is masked
        self._head_width = head_width(config)
        name = config.get("hidden_activation", "gelu")
        self._activate = find_activation(name, field="hidden_activation")
        self._words = weights.take(
            "embeddings.tok_embeddings.weight", self.vocabulary_size, self.width
        )
        self._norm = _norm(config, weights, "embeddings.norm")
        self._layers = [
            self._read_layer(config, weights, index)
            for index in range(require_count(config, "num_hidden_layers"))
        ]
        self._final_norm = _norm(config, weights, "final_norm")

    def __call__(self, padded: Padded) -> mx.array:
        """Hidden states after the final norm: (B, L, D)."""
        x = self._norm(self._words[mx.array(padded.ids)])
        view = make_view(padded.mask, padded.ids.shape[1])
        for layer in self._layers:
            x = self._run_layer(layer, x, view)
        return self._final_norm(x)

    def _run_layer(self, layer: _Layer, x: mx.array, view: View) -> mx.array:
        normed = x if layer.attention_norm is None else layer.attention_norm(x)
        heads = self.width // self._head_width
        queries, keys, values = split_heads(layer.attention_in(normed), heads)
        mixed = attend(
            self._rotate(queries, layer.reach.theta),
            self._rotate(keys, layer.reach.theta),
            values,
            view=view,
            window=layer.reach.window,
        )
        x = x + layer.attention_out(mixed)
        value, gate = mx.split(layer.inner(layer.norm(x)), 2, axis=-1)  # (B, L, I) each
        return x + layer.outer(self._activate(value) * gate)

    def _rotate(self, x: mx.array, theta: float) -> mx.array:
        return mx.fast.rope(x, self._head_width, traditional=False, base=theta, scale=1.0, offset=0)

    def _read_layer(self, config: Mapping[str, Any], weights: Weights, index: int) -> _Layer:
        name, width = f"layers.{index}", self.width
        inner = require_count(config, "intermediate_size")
        has_bias, mlp_bias = bool(config.get("attention_bias")), bool(config.get("mlp_bias"))
        return _Layer(
            _reach(config, index),
            _norm(config, weights, f"{name}.attn_norm") if index else None,
            weights.linear(f"{name}.attn.Wqkv", 3 * width, width, has_bias=has_bias),
            weights.linear(f"{name}.attn.Wo", width, width, has_bias=has_bias),
            _norm(config, weights, f"{name}.mlp_norm"),
            weights.linear(f"{name}.mlp.Wi", 2 * inner, width, has_bias=mlp_bias),
            weights.linear(f"{name}.mlp.Wo", width, inner, has_bias=mlp_bias),
        )


def _norm(config: Mapping[str, Any], weights: Weights, name: str) -> LayerNorm:
    epsilon = number(config, "norm_eps", DEFAULT_EPSILON)
    has_bias = bool(config.get("norm_bias"))
    return weights.norm(name, require_count(config, "hidden_size"), epsilon, has_bias=has_bias)


def _reach(config: Mapping[str, Any], index: int) -> _Reach:
    kind = _layer_kind(config, index)
    window = round(number(config, "local_attention", DEFAULT_WINDOW)) // 2
    nested = config.get("rope_parameters")
    if isinstance(nested, dict):
        rotation = nested.get(kind)
        if not isinstance(rotation, dict):
            raise CorruptModel(f"config.json has no usable rope_parameters of {kind}")
        if rotation.get("rope_type", "default") != "default":
            raise UnsupportedModel(f"rope_type {rotation['rope_type']!r} is not supported")
        default = GLOBAL_THETA if kind == "full_attention" else LOCAL_THETA
        theta = number(rotation, "rope_theta", default)
    else:
        theta = number(config, "global_rope_theta", GLOBAL_THETA)
        if kind == "sliding_attention":
            # A null means that local layers turn as global ones do.
            is_null = "local_rope_theta" in config and config["local_rope_theta"] is None
            theta = theta if is_null else number(config, "local_rope_theta", LOCAL_THETA)
    return _Reach(None if kind == "full_attention" else window, theta)


def _layer_kind(config: Mapping[str, Any], index: int) -> str:
    """``full_attention`` or ``sliding_attention``."""
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        kind = kinds[index] if index < len(kinds) else None
        if kind not in {"full_attention", "sliding_attention"}:
            raise UnsupportedModel(f"layer_types has {kind!r} for layer {index}")
        return str(kind)
    every = round(number(config, "global_attn_every_n_layers", DEFAULT_GLOBAL_EVERY))
    return "sliding_attention" if index % every else "full_attention"
