"""Log-probabilities of the model's own distribution, before any sampling setting touches it.

Everything is computed on the device beside the token and read together with it, so asking costs
no extra wait. Knows logits and ids, not sequences.

Shapes: N positions, V vocabulary, K alternatives.
"""

from typing import NamedTuple

import mlx.core as mx

from lmx.engines.base import TokenLogprobs

# What a NaN or an impossible token is reported as; JSON has no infinities. OpenAI's own value.
FLOOR = -9999.0


class DeviceLogprobs(NamedTuple):
    """Not yet read from the device."""

    chosen: mx.array  # (N,) float32
    top_ids: mx.array  # (N, K) uint32, best first
    top_values: mx.array  # (N, K) float32


def gather(logits: mx.array, token_ids: mx.array, top_count: int) -> DeviceLogprobs:
    """Log-softmax at the chosen ids and at the most likely ones, lazily.

    Shapes: logits (N, V) any float, token_ids (N,) -> (N,), (N, K), (N, K).
    """
    wide = logits.astype(mx.float32)  # (N, V)
    total = mx.logsumexp(wide, axis=-1, keepdims=True)  # (N, 1)
    chosen = mx.take_along_axis(wide, token_ids[:, None].astype(mx.uint32), axis=-1) - total
    count = min(top_count, wide.shape[-1])
    if not count:
        empty = mx.zeros((wide.shape[0], 0))
        return DeviceLogprobs(chosen[:, 0], empty.astype(mx.uint32), empty)
    best = mx.argpartition(-wide, count - 1, axis=-1)[:, :count]  # (N, K) uint32
    values = mx.take_along_axis(wide, best, axis=-1)  # (N, K) float32
    order = mx.argsort(-values, axis=-1)
    return DeviceLogprobs(
        chosen[:, 0],
        mx.take_along_axis(best, order, axis=-1),
        mx.take_along_axis(values, order, axis=-1) - total,
    )


def read(found: DeviceLogprobs, top_counts: list[int]) -> list[TokenLogprobs]:
    """Wait for the device.

    Args:
        found: Of N positions.
        top_counts: Alternatives each position asked for, at most K.
    """
    chosen: list[float] = found.chosen.tolist()  # type: ignore[assignment]
    ids: list[list[int]] = found.top_ids.tolist()  # type: ignore[assignment]
    values: list[list[float]] = found.top_values.tolist()  # type: ignore[assignment]
    return [
        TokenLogprobs(
            _finite(chosen[row]),
            tuple((i, _finite(v)) for i, v in zip(ids[row][:count], values[row], strict=False)),
        )
        for row, count in enumerate(top_counts)
    ]


def _finite(value: float) -> float:
    return max(FLOOR, value)  # In this order NaN loses.
