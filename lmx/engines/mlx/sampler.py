"""One vectorised sampler for all rows of a batch. Knows logits and keys, not sequences or models.

Every draw is a pure function of logits, the row's seed and how many tokens that row has drawn, so
a seeded request gets the same tokens alone and among neighbours. Rows fall into three groups
(greedy, free, nucleus) fixed when the batch changes; a group nobody is in costs nothing. All
operations are row by row on the device: nothing raises for one row, and a NaN stays in its row.

Shapes: B rows, R rows of one group, V vocabulary, K candidates.
"""

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

# Candidates of a nucleus. MLX sorts 32 rows of 49,152 logits in 176 ms on a CPU core and finds
# the 4,096 best in 14 ms. Text at temperature 1 and top_p 0.95 rarely needs 1,000 of them; a
# nucleus that would be larger is cut here. llama.cpp cuts at 40 by default.
NUCLEUS_LIMIT = 4096
# Division by less overflows float32 for ordinary logits; the result is greedy long before.
LOWEST_TEMPERATURE = 1e-4
WORD = 0xFFFF_FFFF


class Row(NamedTuple):
    """How one row chooses.

    Attributes:
        temperature: 0 is greedy.
        top_p: Nucleus mass in (0, 1].
        seed: 64 bits.
        drawn: Tokens this row has drawn so far.
    """

    temperature: float
    top_p: float
    seed: int
    drawn: int


class BatchSampler:
    """Chooses one token for each of the rows it was made for.

    Args:
        rows: In batch order. Make a new sampler when the batch changes.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        random = [index for index, row in enumerate(rows) if row.temperature > 0]
        free = [index for index in random if rows[index].top_p >= 1]
        nucleus = [index for index in random if rows[index].top_p < 1]
        self._free = _FreeGroup(rows, free) if free else None
        self._nucleus = _NucleusGroup(rows, nucleus) if nucleus else None
        self._all_free = len(free) == len(rows)

    def sample(self, logits: mx.array) -> mx.array:
        """Token ids, lazily.

        Shapes: logits (B, V) any float -> (B,) uint32.
        """
        if self._free is not None and self._all_free:
            return self._free.draw(logits.astype(mx.float32))
        tokens = mx.argmax(logits, axis=-1)  # (B,) uint32
        for group in (self._free, self._nucleus):
            if group is not None:
                tokens[group.indices] = group.draw(logits[group.indices].astype(mx.float32))
        return tokens


class _Keys:
    """A counter-based random key per row: the seed, its high word mixed with the draw number."""

    def __init__(self, rows: Sequence[Row]) -> None:
        seeds = [[row.seed >> 32 & WORD, row.seed & WORD] for row in rows]
        self._seeds = mx.array(seeds, dtype=mx.uint32)  # (R, 2) uint32
        self._drawn = mx.array([[row.drawn, 0] for row in rows], dtype=mx.uint32)  # (R, 2) uint32
        self._one = mx.array([1, 0], dtype=mx.uint32)

    def next_uniform(self, width: int) -> mx.array:
        """The next draw of every row, in [0, 1).

        Shapes: -> (R, width) float32.
        """
        keys = self._seeds ^ self._drawn  # (R, 2) uint32
        self._drawn = self._drawn + self._one
        uniform: mx.array = mx.vmap(lambda key: mx.random.uniform(shape=(width,), key=key))(keys)
        return uniform


class _FreeGroup:
    """Rows that may draw any token: the maximum of logits plus Gumbel noise."""

    def __init__(self, rows: Sequence[Row], indices: list[int]) -> None:
        self.indices = mx.array(indices)  # (R,) int32
        self._keys = _Keys([rows[index] for index in indices])
        self._temperature = _column([_divisor(rows[index]) for index in indices])

    def draw(self, logits: mx.array) -> mx.array:
        noise = _gumbel(self._keys.next_uniform(logits.shape[-1]))  # (R, V) float32
        return mx.argmax(logits / self._temperature + noise, axis=-1)


class _NucleusGroup:
    """Rows that draw from the most likely tokens whose mass reaches `top_p`.

    Noise belongs to token ids, not to ranks, so that rounding which swaps two equally likely
    candidates changes nothing else.
    """

    def __init__(self, rows: Sequence[Row], indices: list[int]) -> None:
        self.indices = mx.array(indices)  # (R,) int32
        self._keys = _Keys([rows[index] for index in indices])
        self._temperature = _column([_divisor(rows[index]) for index in indices])
        self._top_p = _column([rows[index].top_p for index in indices])

    def draw(self, logits: mx.array) -> mx.array:
        scaled = logits / self._temperature  # (R, V) float32
        candidates = _best(scaled)  # (R, K) uint32
        values = mx.take_along_axis(scaled, candidates, axis=-1)  # (R, K) float32
        mass = mx.exp(values - mx.logsumexp(scaled, axis=-1, keepdims=True))  # (R, K) float32
        mass_before = mx.cumsum(mass, axis=-1) - mass  # (R, K) float32
        # The first candidate stays even where rounding says otherwise.
        is_kept = (mass_before < self._top_p) | (mx.arange(values.shape[-1]) == 0)
        uniform = self._keys.next_uniform(logits.shape[-1])  # (R, V) float32
        noise = _gumbel(mx.take_along_axis(uniform, candidates, axis=-1))  # (R, K) float32
        choice = mx.argmax(mx.where(is_kept, values + noise, -mx.inf), axis=-1, keepdims=True)
        return mx.take_along_axis(candidates, choice, axis=-1)[:, 0]


def _best(scaled: mx.array) -> mx.array:
    """Indices of the most likely tokens, the most likely first.

    Shapes: (R, V) float32 -> (R, K) uint32.
    """
    vocabulary = scaled.shape[-1]
    negated = mx.where(mx.isnan(scaled), mx.inf, -scaled)
    if vocabulary <= NUCLEUS_LIMIT:
        return mx.argsort(negated, axis=-1)
    best = mx.argpartition(negated, NUCLEUS_LIMIT - 1, axis=-1)[:, :NUCLEUS_LIMIT]
    order = mx.argsort(mx.take_along_axis(negated, best, axis=-1), axis=-1)
    return mx.take_along_axis(best, order, axis=-1)


def _gumbel(uniform: mx.array) -> mx.array:
    return -mx.log(-mx.log(uniform))


def _divisor(row: Row) -> float:
    return max(row.temperature, LOWEST_TEMPERATURE)


def _column(values: list[float]) -> mx.array:
    return mx.array(values, dtype=mx.float32)[:, None]  # (R, 1) float32
