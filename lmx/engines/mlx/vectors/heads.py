"""Nets: token rows to vectors or scores. An encoder with what stands on it.

Knows which tensors a cross-encoder's head has; hidden states are the encoder's business. Sources:
the classes ``...ForSequenceClassification`` of transformers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import mlx.core as mx

from lmx.catalog.mlx_config import BERT, ROBERTA
from lmx.engines.mlx.vectors.activations import find_activation
from lmx.engines.mlx.vectors.modules import VectorPlan
from lmx.engines.mlx.vectors.pooling import Pooling
from lmx.engines.mlx.vectors.rows import Padded, pad_rows
from lmx.engines.mlx.vectors.sizes import number
from lmx.engines.mlx.vectors.weights import LayerNorm, Linear, Weights
from lmx.engines.vectors import TokenRow
from lmx.errors import UnsupportedModel

SCORED_LABELS = 2
MODERNBERT_EPSILON = 1e-5
MODERNBERT_POOLINGS = frozenset({"cls", "mean"})


class Encoder(Protocol):
    """Token ids to hidden states."""

    @property
    def width(self) -> int:
        """Numbers of a hidden state."""

    @property
    def vocabulary_size(self) -> int:
        """Token ids are below this."""

    @property
    def max_tokens(self) -> int:
        """The longest row it has positions for."""

    @property
    def pad_id(self) -> int:
        """What rows are padded with."""

    def __call__(self, padded: Padded) -> mx.array:
        """Shapes: -> (B, L, D)."""


Head = Callable[[mx.array, mx.array], mx.array]


class Net(Protocol):
    """Token rows to numbers, one row of them each."""

    def __call__(self, rows: Sequence[TokenRow]) -> mx.array:
        """Shapes: -> (B, D) float32, not evaluated."""

    def shrink(self) -> None:
        """Drop what is only kept for speed."""


class EncoderNet:
    """Vectors or scores from one pass over an encoder.

    Args:
        encoder: Makes the hidden states.
        steps: Applied to them one after another, with the rows' lengths; the last one's result is
            (B, D) float32.
    """

    def __init__(self, encoder: Encoder, steps: Sequence[Head]) -> None:
        self._encoder = encoder
        self._steps = steps

    def __call__(self, rows: Sequence[TokenRow]) -> mx.array:
        """Shapes: -> (B, D) float32, not evaluated."""
        padded = pad_rows(rows, self._encoder.pad_id)
        lengths = mx.array(padded.lengths)
        found = self._encoder(padded)  # (B, L, D)
        for step in self._steps:
            found = step(found, lengths)
        return found

    def shrink(self) -> None:
        """Nothing is kept."""


def embedding_net(encoder: Encoder, plan: VectorPlan) -> EncoderNet:
    """Vectors as the model's modules make them."""
    return EncoderNet(encoder, plan.steps)


def cross_encoder_net(config: Mapping[str, Any], encoder: Encoder, weights: Weights) -> EncoderNet:
    """Scores of pairs.

    Raises:
        CorruptModel: A tensor is missing or wrong.
        UnsupportedModel: The head has more labels than a score can come from.
    """
    kind = config.get("model_type")
    if kind in BERT:
        head = _bert_head(encoder.width, weights)
    elif kind in ROBERTA:
        head = _roberta_head(encoder.width, weights)
    else:
        head = _modernbert_head(config, encoder.width, weights)
    return EncoderNet(encoder, [head, _to_score])


def _to_score(logits: mx.array, lengths: mx.array) -> mx.array:
    """(B, 1 or 2) -> (B, 1): the share of the last label."""
    logits = logits.astype(mx.float32)
    if logits.shape[-1] == 1:
        return mx.sigmoid(logits)
    return mx.softmax(logits, axis=-1)[:, 1:]


def _labels(weights: Weights, name: str) -> int:
    labels = weights.shape(f"{name}.weight")[0]
    if labels > SCORED_LABELS:
        raise UnsupportedModel(f"{name}.weight has {labels} labels; a score needs 1 or 2")
    return labels


def _bert_head(width: int, weights: Weights) -> Head:
    pooler = weights.linear("pooler.dense", width, width)
    return _first_token_head(
        pooler, weights.linear("classifier", _labels(weights, "classifier"), width)
    )


def _roberta_head(width: int, weights: Weights) -> Head:
    dense = weights.linear("classifier.dense", width, width)
    name = "classifier.out_proj"
    return _first_token_head(dense, weights.linear(name, _labels(weights, name), width))


def _first_token_head(dense: Linear, classifier: Linear) -> Head:
    def head(states: mx.array, lengths: mx.array) -> mx.array:
        return classifier(mx.tanh(dense(states[:, 0])))  # (B, labels)

    return head


def _modernbert_head(config: Mapping[str, Any], width: int, weights: Weights) -> Head:
    pooling = config.get("classifier_pooling", "cls")
    if pooling not in MODERNBERT_POOLINGS:
        raise UnsupportedModel(f"classifier_pooling {pooling!r} is not supported")
    activate = find_activation(
        config.get("classifier_activation", "gelu"), field="classifier_activation"
    )
    has_bias = bool(config.get("classifier_bias"))
    dense = weights.linear("head.dense", width, width, has_bias=has_bias)
    norm = _modernbert_norm(config, width, weights)
    classifier = weights.linear("classifier", _labels(weights, "classifier"), width)
    pool = Pooling([pooling])

    def head(states: mx.array, lengths: mx.array) -> mx.array:
        vectors = pool(states, lengths).astype(dense.weight.dtype)  # (B, D)
        return classifier(norm(activate(dense(vectors))))  # (B, labels)

    return head


def _modernbert_norm(config: Mapping[str, Any], width: int, weights: Weights) -> LayerNorm:
    epsilon = number(config, "norm_eps", MODERNBERT_EPSILON)
    return weights.norm("head.norm", width, epsilon, has_bias=bool(config.get("norm_bias")))
