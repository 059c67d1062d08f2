"""Where `top_k` and `top_p` cut: exact for any size, without sorting a vocabulary.

A cut is the largest logit whose upper set is large enough. Floats order as integers made of their
bits do, so halving the range of those integers ends at that very float; equal logits stay
together. For 8 rows of 49,152 on a CPU core this takes 7 ms for `top_k` and 25 ms for `top_p`,
where sorting takes 36 ms. Knows logits, not settings.

Shapes: R rows, V vocabulary. A row with NaN gets some number.
"""

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

SIGN_FREE = 0x7FFF_FFFF
# The bits just above those of 1.0, the largest weight; halving down to one value takes 30 turns.
BEYOND_ONE = 0x3F80_0001
WEIGHT_HALVINGS = 30
# The whole range of int32 takes 32.
LOWEST_KEY, HIGHEST_KEY = -(1 << 31), (1 << 31) - 1
KEY_HALVINGS = 32


def kth_largest(logits: mx.array, count: mx.array) -> mx.array:
    """The logit of rank `count`.

    Shapes: (R, V) float32, (R, 1) int32 -> (R, 1) float32.
    """
    bits = logits.view(mx.int32)  # (R, V)
    keys = mx.where(bits < 0, bits ^ SIGN_FREE, bits)  # (R, V) int32, ordered as the logits

    def is_enough(edge: mx.array) -> mx.array:
        return mx.sum(keys >= edge, axis=-1, keepdims=True) >= count

    found = _largest(is_enough, _Range(LOWEST_KEY, HIGHEST_KEY, KEY_HALVINGS), logits.shape[0])
    return mx.where(found < 0, found ^ SIGN_FREE, found).view(mx.float32)


def nucleus_edge(logits: mx.array, share: mx.array) -> mx.array:
    """The least logit of the smallest set of largest ones with this share of the mass.

    Shapes: (R, V) float32, (R, 1) float32 -> (R, 1) float32.
    """
    weights = mx.exp(logits - mx.max(logits, axis=-1, keepdims=True))  # (R, V) in [0, 1]
    ones = mx.ones((logits.shape[-1], 1))  # (V, 1): a product with it is a faster sum
    wanted = (weights @ ones) * share  # (R, 1) float32

    def is_enough(edge: mx.array) -> mx.array:
        kept = weights * (weights >= edge.view(mx.float32))  # (R, V) float32
        return kept @ ones >= wanted

    found = _largest(is_enough, _Range(0, BEYOND_ONE, WEIGHT_HALVINGS), logits.shape[0])
    # Back from weights to logits through the tokens themselves, so that no rounding moves the cut.
    is_kept = weights >= found.view(mx.float32)
    return mx.min(mx.where(is_kept, logits, mx.inf), axis=-1, keepdims=True)


class _Range(NamedTuple):
    low: int
    high: int
    halvings: int


def _largest(is_enough: Callable[[mx.array], mx.array], within: _Range, rows: int) -> mx.array:
    """The largest integer below `high` for which `is_enough`, which holds for `low`, holds."""
    low = mx.full((rows, 1), within.low, dtype=mx.int32)
    high = mx.full((rows, 1), within.high, dtype=mx.int32)
    for _ in range(within.halvings):
        # The mean without overflow.
        middle = (low & high) + ((low ^ high) >> 1)
        holds = is_enough(middle)  # (R, 1) bool
        low, high = mx.where(holds, middle, low), mx.where(holds, high, middle)
    return low
