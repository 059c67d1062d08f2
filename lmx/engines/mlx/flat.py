"""Quantised layers that multiply all rows of a batch as one matrix.

On CUDA MLX 0.32.4 takes a batch of rows with one token each for as many products, one after the
other, so that 32 rows take 15 times as long as one. As one matrix they go through the weights once.
Metal's and the CPU's kernels see to that themselves. Knows layers, no models.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.nn.layers.quantized import QuantizedEmbedding, QuantizedLinear

# From so many rows on they are multiplied as a matrix, before that one by one.
MATRIX_ROWS = 8
# So many take as long one by one as a whole matrix.
LEAST_PADDED = 4


def flatten_quantised(model: Any) -> None:
    """Make every quantised layer of a model such a one, in place; its weights stay."""
    for module in model.modules():
        if type(module) is QuantizedLinear:
            module.__class__ = FlatLinear
        elif type(module) is QuantizedEmbedding:
            module.__class__ = FlatEmbedding


class FlatLinear(QuantizedLinear):
    """The same product, of one matrix."""

    def __call__(self, x: mx.array) -> mx.array:
        """Shapes: (..., input dimensions) to (..., output dimensions)."""
        return _as_matrix(super().__call__, x)


class FlatEmbedding(QuantizedEmbedding):
    """The same embedding, whose use as an output layer is a product of one matrix."""

    def as_linear(self, x: mx.array) -> mx.array:
        """Shapes: (..., dimensions) to (..., vocabulary)."""
        return _as_matrix(super().as_linear, x)


def _as_matrix(multiply: Callable[[mx.array], Any], x: mx.array) -> mx.array:
    rows = x.reshape(-1, x.shape[-1])
    count = rows.shape[0]
    if LEAST_PADDED <= count < MATRIX_ROWS:
        rows = mx.pad(rows, [(0, MATRIX_ROWS - count), (0, 0)])
    found: mx.array = multiply(rows)
    return found[:count].reshape(*x.shape[:-1], -1)
