"""One vectorised sampler for all rows of a batch. Knows logits and keys, not sequences or models.

Every draw is a pure function of logits, the row's settings and how many tokens that row has drawn,
so a seeded request gets the same tokens alone and among neighbours. Rows are grouped by what they
need when the batch changes; a group nobody is in costs nothing. All operations are row by row on
the device: nothing raises for one row, and a NaN stays in its row.

Shapes: B rows, R rows of one group, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from lmx.engines.mlx.processors import Bias, EndBan, Masks, Penalties, PenaltyState
from lmx.engines.mlx.thresholds import kth_largest, nucleus_edge

# Division by less overflows float32 for ordinary logits; the result is greedy long before.
LOWEST_TEMPERATURE = 1e-4
# The uniform draw may be 0 and its logarithm infinite; a token that is allowed must stay above
# one that is not. Larger exponentials than 17 come from no other float32 draw.
LARGEST_EXPONENTIAL = 100.0
WORD = 0xFFFF_FFFF
# From scaled logits (R, V) to the least one that stays (R, 1).
Filter = Callable[[mx.array], mx.array]


@dataclass(slots=True, eq=False)
class Row:
    """How one row chooses, and what it carries from one batch to the next.

    Attributes:
        temperature: 0 is greedy.
        top_p: Nucleus mass in (0, 1].
        top_k: Most likely tokens to keep; 0 keeps all.
        min_p: Least weight relative to the most likely token's.
        seed: 64 bits.
        bias: Added to the logits of these ids.
        penalties: Set iff the row has any.
        min_tokens: End tokens cannot be drawn before so many.
        is_constrained: `sample` is given a mask for it.
        top_logprobs: Alternatives to report; `None` reports nothing.
        drawn: Tokens this row has drawn so far.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    drawn: int = 0
    top_k: int = 0
    min_p: float = 0.0
    bias: dict[int, float] = field(default_factory=dict)
    penalties: PenaltyState | None = None
    min_tokens: int = 0
    is_constrained: bool = False
    top_logprobs: int | None = None


class BatchSampler:
    """Chooses one token for each of the rows it was made for.

    Args:
        rows: In batch order. Make a new sampler when the batch changes, after `hand_back`.
        vocabulary_size: Logits per row.
        end_ids: What `min_tokens` forbids.
    """

    def __init__(
        self, rows: Sequence[Row], vocabulary_size: int, end_ids: Sequence[int] = ()
    ) -> None:
        self._rows = rows
        self._size = len(rows)
        self._bias = Bias.of([row.bias for row in rows], vocabulary_size)
        left = [max(0, r.min_tokens - r.drawn) for r in rows]
        self._ban = EndBan.of(left, [i for i in end_ids if i < vocabulary_size])
        self._penalties = Penalties.of([row.penalties for row in rows], vocabulary_size)
        self._masks = Masks.of([row.is_constrained for row in rows])
        random = [index for index, row in enumerate(rows) if row.temperature > 0]
        self._random = _RandomGroup([rows[i] for i in random], vocabulary_size) if random else None
        # `None` iff every row draws, which saves copying the logits.
        self._indices = None if len(random) == len(rows) else mx.array(random)  # (R,) int32

    def sample(self, logits: mx.array, masks: mx.array | None = None) -> mx.array:
        """Token ids, lazily.

        Args:
            logits: Of every row.
            masks: Allowed ids of the constrained rows, in order, as `Masks` has them.

        Shapes: logits (B, V) any float, masks (R, W) uint32 -> (B,) uint32.
        """
        tokens = self._choose(self._process(logits, masks))  # (B,) uint32
        if self._penalties is not None:
            self._penalties.count(tokens)
        return tokens

    def hand_back(self) -> None:
        """Give what was counted on the device back to the rows, for their next sampler."""
        if self._penalties is not None:
            self._penalties.hand_back()

    def _process(self, logits: mx.array, masks: mx.array | None) -> mx.array:
        if self._bias is not None:
            logits = self._bias.apply(logits)
        if self._ban is not None:
            logits = self._ban.apply(logits)
        if self._penalties is not None:
            logits = self._penalties.apply(logits)
        if self._masks is not None and masks is not None:
            logits = self._masks.apply(logits, masks)
        return logits

    def _choose(self, logits: mx.array) -> mx.array:
        if self._random is None:
            return mx.argmax(logits, axis=-1)
        if self._indices is None:
            return self._random.draw(logits.astype(mx.float32))
        tokens = mx.argmax(logits, axis=-1)  # (B,) uint32
        tokens[self._indices] = self._random.draw(logits[self._indices].astype(mx.float32))
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


class _RandomGroup:
    """Rows that draw: the maximum of filtered logits plus Gumbel noise.

    Noise belongs to token ids, not to ranks, so that rounding which swaps two equally likely
    candidates changes nothing else.
    """

    def __init__(self, rows: Sequence[Row], vocabulary_size: int) -> None:
        self._keys = _Keys(rows)
        self._temperature = _column([max(row.temperature, LOWEST_TEMPERATURE) for row in rows])
        top_k = [i for i, row in enumerate(rows) if 0 < row.top_k < vocabulary_size]
        top_p = [i for i, row in enumerate(rows) if row.top_p < 1]
        min_p = [i for i, row in enumerate(rows) if row.min_p > 0]
        counts = mx.array([[rows[i].top_k] for i in top_k])  # (R, 1) int32
        shares = _column([rows[i].top_p for i in top_p])
        floors = _column([math.log(rows[i].min_p) for i in min_p])
        filters: list[tuple[list[int], Filter]] = [
            (top_k, lambda scaled: kth_largest(scaled, counts)),
            (top_p, lambda scaled: nucleus_edge(scaled, shares)),
            (min_p, lambda scaled: mx.max(scaled, axis=-1, keepdims=True) + floors),
        ]
        # In the order they apply; each sees what the ones before have left.
        self._filters = [(mx.array(indices), find) for indices, find in filters if indices]

    def draw(self, logits: mx.array) -> mx.array:
        """One token per row.

        Shapes: logits (R, V) float32 -> (R,) uint32.
        """
        scaled = logits / self._temperature  # (R, V) float32
        for indices, find_edge in self._filters:
            mine = scaled[indices]  # (R', V) float32
            scaled[indices] = mx.where(mine >= find_edge(mine), mine, -mx.inf)
        exponential = -mx.log(self._keys.next_uniform(logits.shape[-1]))  # (R, V) float32
        noise = mx.log(mx.minimum(exponential, LARGEST_EXPONENTIAL))
        return mx.argmax(scaled - noise, axis=-1)


def _column(values: list[float]) -> mx.array:
    return mx.array(values, dtype=mx.float32)[:, None]  # (R, 1) float32
