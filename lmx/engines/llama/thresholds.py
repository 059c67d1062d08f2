"""Where `top_k` and `top_p` cut, and where a running sum of weights passes a value.

A cut is the least value that stays; equal values stay together. Exact for any row, and quick
because few tokens are ever sorted. Knows rows of numbers, not settings or sequences.

Shapes: N candidates of one row.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Rows are cut into groups of so many for a first guess at a rank; 32 to 128 take the same time.
GROUP = 64
# Weights are summed in blocks of so many before one block is looked at token by token.
BLOCK = 512
# A nucleus is looked for above the first, then the next; few distributions have one that reaches
# down to the last.
FLOORS = (1e-3, 1e-5, 0.0)


def kth_largest(row: Floats, count: int) -> np.float32:
    """The value of this rank; minus infinity if there are fewer.

    Args:
        row: No NaN.
        count: At least 1.

    Shapes: (N,).
    """
    if count > row.size:
        return np.float32(-np.inf)
    width = row.size // GROUP
    if count <= width:
        # Every group that reaches this has a member that does, so at least `count` do.
        floor = _of_rank(row[: width * GROUP].reshape(GROUP, width).max(axis=0), count)
        row = row[np.flatnonzero(row >= floor)]
    return _of_rank(row, count)


def nucleus_edge(scaled: Floats, weights: Floats, share: float) -> np.float32:
    """The least of the smallest set of largest ones with this share of the mass.

    Args:
        scaled: Logits divided by the temperature.
        weights: Their exponentials up to a factor, at most 1, the largest about 1; no NaN.
        share: In (0, 1].

    Shapes: (N,), (N,).
    """
    total = float(weights.sum(dtype=np.float64))
    wanted = share * total
    # All that lie below this together have less than `1 - share`, so the cut is not among them;
    # halved against rounding.
    lowest = (1 - share) * total / (2 * weights.size)
    for floor in FLOORS:
        likely = np.flatnonzero(weights >= max(floor, lowest))
        values = weights[likely]  # (L,) float32
        if float(values.sum(dtype=np.float64)) >= wanted:
            break
    ordered = np.sort(values)[::-1]
    last = running_place(ordered, running_sums(ordered), wanted, side="left")
    # Back from weights to logits through the tokens themselves, so that no rounding moves the cut.
    edge: np.float32 = scaled[likely[np.flatnonzero(values >= ordered[last])]].min()
    return edge


def running_sums(weights: Floats) -> NDArray[np.float64]:
    """Of whole blocks only: over single tokens they would take as long as everything else.

    Shapes: (N,) -> (ceil(N / BLOCK),).
    """
    return np.cumsum(np.add.reduceat(weights, np.arange(0, weights.size, BLOCK)), dtype=np.float64)


def running_place(
    weights: Floats,
    sums: NDArray[np.float64],
    wanted: float,
    *,
    side: Literal["left", "right"] = "right",
) -> int:
    """Where the running sum of weights passes a value; where it ends if it stays below.

    Args:
        weights: Not negative, at least one positive.
        sums: Their `running_sums`.
        wanted: At least 0.
        side: To pass is to exceed ("right") or to reach ("left"). What is passed by exceeding
            has a positive weight.

    Shapes: (N,).
    """
    wanted = min(wanted, math.nextafter(float(sums[-1]), 0))  # so that some block passes it
    block = int(np.searchsorted(sums, wanted, side=side))
    before = float(sums[block - 1]) if block else 0.0
    start = block * BLOCK
    own = weights[start : start + BLOCK].astype(np.float64)
    place = int(np.searchsorted(np.cumsum(own), wanted - before, side=side))
    # The block's sum was rounded differently, and its own running sum may end below it.
    return start + min(place, int(np.flatnonzero(own)[-1]))


def _of_rank(values: Floats, count: int) -> np.float32:
    rank = values.size - count
    value: np.float32 = np.partition(values, rank)[rank]
    return value
