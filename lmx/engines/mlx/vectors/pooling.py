"""From hidden states to one vector a row: pooling, dense modules, normalising. Always in float32.

Knows arrays; which steps a model has is read by `modules`. Source of the kinds: the modules
`Pooling`, `Dense` and `Normalize` of sentence-transformers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from lmx.engines.mlx.curves import Curve
from lmx.engines.mlx.vectors.weights import Linear

# Below every hidden state; padding must not be a maximum.
LOWEST = -1e9
SMALLEST_NORM = 1e-12
# Whole or pooled states, and lengths of the rows, to vectors.
Step = Callable[[mx.array, mx.array], mx.array]


@dataclass(frozen=True)
class Pooling:
    """Vectors of one or more kinds, one after another.

    Attributes:
        kinds: Keys of `POOLINGS`, in order.
    """

    kinds: Sequence[str]

    def __call__(self, states: mx.array, lengths: mx.array) -> mx.array:
        """Shapes: (B, L, D), (B,) int32 -> (B, D * kinds) float32."""
        states = states.astype(mx.float32)
        vectors = [POOLINGS[kind](states, lengths) for kind in self.kinds]
        return vectors[0] if len(vectors) == 1 else mx.concatenate(vectors, axis=-1)


@dataclass(frozen=True)
class Dense:
    """A layer with an activation, such as one that makes vectors shorter."""

    layer: Linear
    activate: Curve

    def __call__(self, vectors: mx.array, lengths: mx.array) -> mx.array:
        """Shapes: (B, D), (B,) -> (B, O) float32."""
        return self.activate(self.layer(vectors))


def normalise(vectors: mx.array, lengths: mx.array) -> mx.array:
    """Scale to length 1.

    Shapes: (B, D), (B,) -> (B, D) float32.
    """
    norms = mx.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / mx.maximum(norms, SMALLEST_NORM)


def _is_token(states: mx.array, lengths: mx.array) -> mx.array:
    """(B, L, 1) bool."""
    return (mx.arange(states.shape[1])[None] < lengths[:, None])[..., None]


def _sum(states: mx.array, lengths: mx.array) -> mx.array:
    return mx.where(_is_token(states, lengths), states, 0.0).sum(axis=1)


def _mean(states: mx.array, lengths: mx.array) -> mx.array:
    return _sum(states, lengths) / lengths[:, None].astype(mx.float32)


def _mean_sqrt_len(states: mx.array, lengths: mx.array) -> mx.array:
    return _sum(states, lengths) / mx.sqrt(lengths[:, None].astype(mx.float32))


def _weighted_mean(states: mx.array, lengths: mx.array) -> mx.array:
    """Later tokens count more: the first once, the second twice, and so on."""
    places = mx.arange(1, states.shape[1] + 1)[None, :, None]
    weights = mx.where(_is_token(states, lengths), places, 0).astype(mx.float32)
    return (states * weights).sum(axis=1) / weights.sum(axis=1)


def _max(states: mx.array, lengths: mx.array) -> mx.array:
    return mx.where(_is_token(states, lengths), states, LOWEST).max(axis=1)


def _first(states: mx.array, lengths: mx.array) -> mx.array:
    return states[:, 0]


def _last(states: mx.array, lengths: mx.array) -> mx.array:
    return states[mx.arange(states.shape[0]), lengths - 1]


POOLINGS: Mapping[str, Step] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
