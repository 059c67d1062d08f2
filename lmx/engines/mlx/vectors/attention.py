"""Attention that looks both ways, with padding and windows. Knows no weights.

On a GPU it is MLX's fused kernel. MLX's CPU fallback spends most of its time in exp, so there it is
written out with `curves`, in blocks of queries, so that scores stay in the processor's cache and
a window is read instead of the whole row.
"""

from typing import NamedTuple

import mlx.core as mx

from lmx.engines.mlx.curves import exp_of_sixteenth
from lmx.engines.mlx.device import device_name

# Added to the scores of padding; far below any score, and finite so that differences are numbers.
FAR_BELOW = -1e9
# Scores of a block of queries, in numbers: 4 MiB.
BLOCK_SCORES = 1 << 20
# So few of them are done before the operations of `curves` have been begun: 7 us each.
FEW_SCORES = 1 << 13
# Queries of a block where the window alone would make it smaller.
SMALLEST_BLOCK = 64


class View(NamedTuple):
    """What each token of a batch may look at.

    Attributes:
        mask: (B, L) bool, true at tokens; `None` if there is no padding.
        bias: (B, 1, 1, L) float32, 0 at tokens and far below at padding; `None` likewise.
        length: L.
    """

    mask: mx.array | None
    bias: mx.array | None
    length: int


def make_view(mask: mx.array | None, length: int) -> View:
    """Prepare a mask for all layers."""
    bias = None if mask is None else mx.where(mask, 0.0, FAR_BELOW)[:, None, None, :]
    return View(mask, bias, length)


def split_heads(joined: mx.array, heads: int) -> mx.array:
    """Queries, keys and values of each head.

    Shapes: (B, L, 3 * H * E) -> (3, B, H, L, E).
    """
    batch, length, width = joined.shape
    return joined.reshape(batch, length, 3, heads, width // (3 * heads)).transpose(2, 0, 3, 1, 4)


def attend(
    queries: mx.array, keys: mx.array, values: mx.array, *, view: View, window: int | None = None
) -> mx.array:
    """Attention of queries, keys and values, each (B, H, L, E).

    Args:
        queries: Of each head.
        keys: Of each head.
        values: Of each head.
        view: Of the batch.
        window: How far a token looks to either side; `None` for the whole row.

    Shapes: -> (B, L, H * E).
    """
    if window is not None and window >= view.length - 1:
        window = None
    mix = fused if device_name() == "gpu" else in_blocks
    found = mix(queries, keys, values, view=view, window=window)
    return found.transpose(0, 2, 1, 3).reshape(found.shape[0], view.length, -1)


def fused(
    queries: mx.array, keys: mx.array, values: mx.array, *, view: View, window: int | None
) -> mx.array:
    """As GPUs do it: (B, H, L, E)."""
    mask, scale = _fused_mask(view, window), queries.shape[-1] ** -0.5
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)


def in_blocks(
    queries: mx.array, keys: mx.array, values: mx.array, *, view: View, window: int | None
) -> mx.array:
    """As a CPU does it: (B, H, L, E)."""
    batch, heads, length, width = queries.shape
    if batch * heads * length**2 <= FEW_SCORES:
        return fused(queries, keys, values, view=view, window=window)
    queries = queries * (1 / (16 * width**0.5))
    keys = keys.swapaxes(-1, -2)  # (B, H, E, L)
    if window is None:
        rows = max(1, BLOCK_SCORES // (batch * heads * length))
    else:
        # Each block sees a window more on either side: as many queries as that waste half of it.
        rows = max(SMALLEST_BLOCK, 2 * window)
    blocks = []
    for start in range(0, length, rows):
        block = range(start, min(length, start + rows))
        seen, bias = range(length), view.bias
        if window is not None:
            seen = range(max(0, block.start - window), min(length, block.stop + window))
            bias = _window_bias(view, block, seen, window=window)
        # (B, H, Q, K) sixteenths
        scores = queries[:, :, block.start : block.stop] @ keys[..., seen.start : seen.stop]
        blocks.append(_mix(scores, bias, values[:, :, seen.start : seen.stop]))
    return blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=2)


def _fused_mask(view: View, window: int | None) -> mx.array | None:
    """(B or 1, 1, L or 1, L) bool, true where a token looks; `None` for everywhere."""
    mask = None if view.mask is None else view.mask[:, None, None, :]
    if window is None:
        return mask
    places = range(view.length)
    near = _near(places, places, window)[None, None]
    # A padded token far from every real one looks at itself, or its softmax would be of nothing.
    itself = mx.eye(view.length, dtype=mx.bool_)[None, None]
    return near if mask is None else (near & mask) | itself


def _near(queries: range, keys: range, window: int) -> mx.array:
    """Whether these queries look at these keys: (Q, K) bool."""
    rows = mx.arange(queries.start, queries.stop)[:, None]
    columns = mx.arange(keys.start, keys.stop)[None, :]
    return mx.abs(rows - columns) <= window


def _window_bias(view: View, block: range, seen: range, *, window: int) -> mx.array:
    """(B or 1, 1, Q, K) float32."""
    near = mx.where(_near(block, seen, window), 0.0, FAR_BELOW)[None, None]
    return near if view.bias is None else near + view.bias[..., seen.start : seen.stop]


def _mix(scores: mx.array, bias: mx.array | None, values: mx.array) -> mx.array:
    """Softmax of sixteenths of scores, times the values: (B, H, Q, E)."""
    if bias is not None:
        scores = scores + bias
    below = scores.max(axis=-1, keepdims=True) - scores
    shares = 1.0 / exp_of_sixteenth(below)
    return (shares @ values) / shares.sum(axis=-1, keepdims=True)
