"""Log-probabilities of the model's own distribution, before any sampling setting touches it.

Rows are taken one by one, so that a prompt's logits are never copied whole. Knows logits and ids,
not sequences.

Shapes: N positions, V vocabulary.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmx.engines.base import TokenLogprobs
from lmx.engines.llama.thresholds import kth_largest

# What a NaN or an impossible token is reported as; JSON has no infinities. OpenAI's own value.
FLOOR = -9999.0


def describe(logits: NDArray[np.float32], token_id: int, top_count: int) -> TokenLogprobs:
    """Log-softmax at one id and at the most likely ones; of equals the lower ids come first.

    A row with NaN, or with infinities where its largest should be, says `FLOOR` of every id.

    Args:
        logits: Only read.
        token_id: Within the vocabulary.
        top_count: Alternatives to report, 0 or more; no more than the vocabulary has.

    Shapes: logits (V,).
    """
    with np.errstate(all="ignore"):
        peak = float(logits.max())  # NaN if there is one
        is_sound = math.isfinite(peak)
        total = peak + math.log(np.exp(logits - np.float32(peak)).sum()) if is_sound else math.nan
        top = _most_likely(logits if is_sound else _without_nan(logits), top_count)
    values = logits[top].tolist()
    return TokenLogprobs(
        _finite(float(logits[token_id]) - total),
        tuple((i, _finite(v - total)) for i, v in zip(top.tolist(), values, strict=True)),
    )


def describe_rows(
    logits: NDArray[np.float32], token_ids: Sequence[int], top_count: int
) -> list[TokenLogprobs]:
    """`describe` for each position and its id.

    Shapes: logits (N, V), token_ids (N,).
    """
    return [describe(row, i, top_count) for row, i in zip(logits, token_ids, strict=True)]


def _most_likely(row: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Best first. Shapes: (V,) -> (K,)."""
    if count <= 0:
        return np.empty(0, dtype=np.intp)
    places = np.flatnonzero(row >= kth_largest(row, count))
    return places[np.argsort(-row[places], kind="stable")[:count]]


def _without_nan(row: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.isnan(row), np.float32(-np.inf), row)


def _finite(value: float) -> float:
    return max(FLOOR, value)  # In this order NaN loses.
