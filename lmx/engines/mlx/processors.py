"""What edits logits before a token is chosen: biases, end bans, penalties and grammar masks.

Each group is made for the rows that need it when the batch changes and does not exist otherwise.
Counts live on the device and take each sampled token there, so the host never waits for one.
Knows rows by their place in the batch, not sequences.

Shapes: B rows, R rows of one group, V vocabulary, W = ceil(V / 32) mask words.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

# Within float32, beyond any logit: masked rows are held to it, so that whatever a broken model
# gives, an allowed token beats every other one.
LARGEST_LOGIT = 1e30


@dataclass(slots=True, eq=False)
class PenaltyState:
    """One row's penalties and what they have counted.

    Attributes:
        repetition: Divides positive and multiplies negative logits of seen tokens.
        presence: Subtracted once from tokens of the answer.
        frequency: Subtracted per occurrence in the answer.
        prompt_ids: Tokens of the prompt.
        counts: (V,) float32, occurrences in the answer; `None` before the first token.
    """

    repetition: float
    presence: float
    frequency: float
    prompt_ids: Sequence[int] = ()
    counts: mx.array | None = None


class Bias:
    """Adds to single logits."""

    def __init__(self, rows: list[int], ids: list[int], values: list[float]) -> None:
        self._rows = mx.array(rows)  # (N,) int32
        self._ids = mx.array(ids)  # (N,) int32
        self._values = mx.array(values, dtype=mx.float32)  # (N,) float32

    @classmethod
    def of(cls, biases: Sequence[dict[int, float]], vocabulary_size: int) -> "Bias | None":
        """The group, or `None` if nobody is in it. Ids outside the vocabulary are dropped."""
        entries = [
            (row, token_id, value)
            for row, bias in enumerate(biases)
            for token_id, value in bias.items()
            if 0 <= token_id < vocabulary_size
        ]
        if not entries:
            return None
        rows, ids, values = zip(*entries, strict=True)
        return cls(list(rows), list(ids), list(values))

    def apply(self, logits: mx.array) -> mx.array:
        """Shapes: (B, V) -> (B, V)."""
        return logits.at[self._rows, self._ids].add(self._values.astype(logits.dtype))


class EndBan:
    """Forbids the end tokens until a row has drawn enough."""

    def __init__(self, rows: list[int], left: list[int], end_ids: list[int]) -> None:
        self._rows = mx.array(rows)[:, None]  # (R, 1) int32
        self._left = mx.array([[count] for count in left])  # (R, 1) int32
        self._end_ids = mx.array(end_ids)[None, :]  # (1, E) int32

    @classmethod
    def of(cls, left: Sequence[int], end_ids: list[int]) -> "EndBan | None":
        """The group, or `None` if nobody is in it.

        Args:
            left: Tokens each row must still draw before it may end.
            end_ids: Within the vocabulary.
        """
        rows = [row for row, count in enumerate(left) if count]
        return cls(rows, [left[row] for row in rows], end_ids) if rows and end_ids else None

    def apply(self, logits: mx.array) -> mx.array:
        """Shapes: (B, V) -> (B, V)."""
        ban = mx.where(self._left > 0, -mx.inf, 0.0).astype(logits.dtype)  # (R, 1)
        self._left = self._left - 1
        return logits.at[self._rows, self._end_ids].add(
            mx.broadcast_to(ban, (ban.shape[0], self._end_ids.shape[1]))
        )


class Penalties:
    """Repetition, presence and frequency, with counts that never leave the device."""

    def __init__(self, rows: list[int], states: list[PenaltyState], vocabulary_size: int) -> None:
        self._states = states
        self._rows = mx.array(rows)  # (R,) int32
        self._own = mx.arange(len(rows))  # (R,) int32
        none = mx.zeros((vocabulary_size,))
        # (R, V) float32
        self._counts = mx.stack([none if s.counts is None else s.counts for s in states])
        self._in_prompt = mx.array(_seen(states, vocabulary_size))  # (R, V) bool
        self._repetition = mx.array([[s.repetition] for s in states])  # (R, 1) float32
        self._presence = mx.array([[s.presence] for s in states])  # (R, 1) float32
        self._frequency = mx.array([[s.frequency] for s in states])  # (R, 1) float32

    @classmethod
    def of(cls, states: Sequence[PenaltyState | None], vocabulary_size: int) -> "Penalties | None":
        """The group, or `None` if nobody is in it."""
        found = [(row, state) for row, state in enumerate(states) if state is not None]
        if not found:
            return None
        return cls([row for row, _ in found], [state for _, state in found], vocabulary_size)

    def apply(self, logits: mx.array) -> mx.array:
        """Shapes: (B, V) -> (B, V)."""
        mine = logits[self._rows].astype(mx.float32)  # (R, V) float32
        in_answer = self._counts > 0  # (R, V) bool
        repeated = mx.where(mine > 0, mine / self._repetition, mine * self._repetition)
        mine = mx.where(in_answer | self._in_prompt, repeated, mine)
        mine = mine - self._counts * self._frequency - in_answer * self._presence
        result = mx.array(logits)
        result[self._rows] = mine.astype(logits.dtype)
        return result

    def count(self, tokens: mx.array) -> None:
        """Take the sampled tokens of all rows.

        Shapes: (B,) uint32.
        """
        self._counts = self._counts.at[self._own, tokens[self._rows]].add(1.0)

    def hand_back(self) -> None:
        """Give each row its counts."""
        for index, state in enumerate(self._states):
            state.counts = self._counts[index]


class Masks:
    """Keeps constrained rows to what their grammars allow."""

    def __init__(self, rows: list[int]) -> None:
        self._rows = mx.array(rows)  # (R,) int32
        self._shifts = mx.arange(32, dtype=mx.uint32)

    @classmethod
    def of(cls, is_constrained: Sequence[bool]) -> "Masks | None":
        """The group, or `None` if nobody is in it."""
        rows = [row for row, constrained in enumerate(is_constrained) if constrained]
        return cls(rows) if rows else None

    def apply(self, logits: mx.array, masks: mx.array) -> mx.array:
        """Bit ``i % 32`` of word ``i // 32`` allows token ``i``.

        Shapes: (B, V), (R, W) uint32 -> (B, V).
        """
        bits = (masks[:, :, None] >> self._shifts) & 1  # (R, W, 32) uint32
        allowed = bits.reshape(masks.shape[0], -1)[:, : logits.shape[-1]].astype(mx.bool_)
        mine = logits[self._rows].astype(mx.float32)  # (R, V) float32
        # A comparison with NaN is false, so this also replaces it.
        held = mx.where(mine > -LARGEST_LOGIT, mx.minimum(mine, LARGEST_LOGIT), -LARGEST_LOGIT)
        result = mx.array(logits.astype(mx.float32))
        result[self._rows] = mx.where(allowed, held, -mx.inf)
        return result


def _seen(states: list[PenaltyState], vocabulary_size: int) -> np.ndarray:
    seen = np.zeros((len(states), vocabulary_size), dtype=np.bool_)
    for row, state in enumerate(states):
        # Without a repetition penalty the prompt does not matter.
        if state.repetition != 1:
            seen[row, [i for i in state.prompt_ids if i < vocabulary_size]] = True
    return seen
