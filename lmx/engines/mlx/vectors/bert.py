"""BERT, RoBERTa and XLM-RoBERTa encoders, after the papers (Devlin et al. 2018, Liu et al. 2019).

Knows how hidden states come from token ids; pooling and heads are elsewhere. The two families
differ in where positions begin: RoBERTa counts them from the padding id on and has one segment.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from lmx.catalog.mlx_config import ROBERTA
from lmx.engines.mlx.vectors.activations import find_activation
from lmx.engines.mlx.vectors.attention import View, attend, make_view, split_heads
from lmx.engines.mlx.vectors.rows import Padded
from lmx.engines.mlx.vectors.sizes import head_width, number, require_count
from lmx.engines.mlx.vectors.weights import LayerNorm, Linear, Weights
from lmx.errors import UnsupportedModel

DEFAULT_EPSILON = 1e-12


class _Layer(NamedTuple):
    attention_in: Linear
    attention_out: Linear
    attention_norm: LayerNorm
    inner: Linear
    outer: Linear
    norm: LayerNorm


class BertEncoder:
    """Token ids to hidden states.

    Args:
        config: The model's `config.json`.
        weights: Under transformers' names.

    Raises:
        CorruptModel: A field or tensor is missing or wrong.
        UnsupportedModel: Positions or the activation are of another kind.
    """

    def __init__(self, config: Mapping[str, Any], weights: Weights) -> None:
        positions = config.get("position_embedding_type", "absolute")
        if positions != "absolute":
            raise UnsupportedModel(f"position_embedding_type {positions!r} is not supported")
        self.width = require_count(config, "hidden_size")
        self.vocabulary_size = require_count(config, "vocab_size")
        self._heads = self.width // head_width(config)
        self._is_roberta = config.get("model_type") in ROBERTA
        self.pad_id = _pad_id(config, default=1 if self._is_roberta else 0)
        rows = require_count(config, "max_position_embeddings")
        self.max_tokens = rows - self.pad_id - 1 if self._is_roberta else rows
        self._activate = find_activation(config.get("hidden_act", "gelu"), field="hidden_act")
        self._read_embeddings(config, weights, rows)
        self._layers = [
            self._read_layer(config, weights, f"encoder.layer.{index}")
            for index in range(require_count(config, "num_hidden_layers"))
        ]

    def __call__(self, padded: Padded) -> mx.array:
        """Hidden states of the last layer: (B, L, D)."""
        x = self._words[mx.array(padded.ids)] + self._places[self._positions(padded.ids)]
        if self._is_roberta or not padded.type_ids.any():
            x = x + self._types[0]
        else:
            x = x + self._types[mx.array(padded.type_ids)]
        x = self._norm(x)  # (B, L, D)
        view = make_view(padded.mask, padded.ids.shape[1])
        for layer in self._layers:
            x = self._run_layer(layer, x, view)
        return x

    def _run_layer(self, layer: _Layer, x: mx.array, view: View) -> mx.array:
        queries, keys, values = split_heads(layer.attention_in(x), self._heads)
        mixed = attend(queries, keys, values, view=view)
        x = layer.attention_norm(x + layer.attention_out(mixed))
        return layer.norm(x + layer.outer(self._activate(layer.inner(x))))

    def _positions(self, ids: NDArray[np.int32]) -> mx.array:
        """(B, L) or (1, L) int32."""
        if not self._is_roberta:
            return mx.arange(ids.shape[1])[None]
        is_counted = ids != self.pad_id
        return mx.array((is_counted.cumsum(axis=1) * is_counted + self.pad_id).astype(np.int32))

    def _read_embeddings(self, config: Mapping[str, Any], weights: Weights, rows: int) -> None:
        tables, width = "embeddings.{}_embeddings.weight", self.width
        types = require_count(config, "type_vocab_size")
        self._words = weights.take(tables.format("word"), self.vocabulary_size, width)
        self._places = weights.take(tables.format("position"), rows, width)
        self._types = weights.take(tables.format("token_type"), types, width)
        self._norm = weights.norm("embeddings.LayerNorm", width, _epsilon(config))

    def _read_layer(self, config: Mapping[str, Any], weights: Weights, name: str) -> _Layer:
        width, inner = self.width, require_count(config, "intermediate_size")
        own = f"{name}.attention.self"
        return _Layer(
            weights.joined([f"{own}.{part}" for part in ("query", "key", "value")], width, width),
            weights.linear(f"{name}.attention.output.dense", width, width),
            weights.norm(f"{name}.attention.output.LayerNorm", width, _epsilon(config)),
            weights.linear(f"{name}.intermediate.dense", inner, width),
            weights.linear(f"{name}.output.dense", width, inner),
            weights.norm(f"{name}.output.LayerNorm", width, _epsilon(config)),
        )


def _epsilon(config: Mapping[str, Any]) -> float:
    return number(config, "layer_norm_eps", DEFAULT_EPSILON)


def _pad_id(config: Mapping[str, Any], *, default: int) -> int:
    found = config.get("pad_token_id")
    return found if type(found) is int and 0 <= found < config["vocab_size"] else default
