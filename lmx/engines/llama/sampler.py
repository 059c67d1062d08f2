"""How one sequence chooses its tokens, on the host. Knows logits and settings, not llama.cpp.

The steps and their order are those of the MLX engine's sampler: bias, end ban, penalties, mask;
then the largest, or temperature, filters and a draw. llama.cpp keeps a row's logits in a buffer
that is read again for log-probabilities, so nothing here writes to a row it was given. Whatever
a broken model puts there, a valid id comes out.

Shapes: V vocabulary, N candidates of one row, W = ceil(V / 32) mask words.
"""

import hashlib
import math
import secrets
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmx.engines.llama.thresholds import (
    Floats,
    kth_largest,
    nucleus_edge,
    running_place,
    running_sums,
)
from lmx.protocol.values import Sampling

SEED_BITS = 64
SEED_AND_COUNT = struct.Struct("<QQ")
# One hash is that many numbers of 64 bits, of which a float64 in [0, 1) holds the upper 53.
UNIFORMS = struct.Struct("<8Q")
UNIFORM_BITS = 53
# Division by less overflows float32 for ordinary logits; the result is greedy long before.
LOWEST_TEMPERATURE = 1e-4
# Within float32 even when divided by the lowest temperature, and beyond any logit of a model
# that works: what stands for infinities and NaN.
LARGEST_LOGIT = np.float32(1e30)


class RowSampler:
    """How one sequence chooses its tokens.

    Every draw is a pure function of logits, settings, seed and how many tokens were chosen before,
    so a seeded request gets the same tokens alone, among neighbours and after a preemption.
    llama.cpp's logits differ in their last bits with the batch, so a uniform number walks the
    candidates in the order of their ids: rounding moves the borders there by as little, while in
    the order of ranks two nearly equal candidates may swap. For the same reason it walks them all
    and draws again if it ends on one that the filters drop: a candidate that rounding moves across
    a cut then matters to the draws that end on it and to no others.

    Args:
        sampling: The request's settings; a fresh seed is made if there is none.
        prompt_ids: What the repetition penalty has seen before the answer; not kept.
        end_ids: What `min_tokens` forbids.
        vocabulary_size: Logits per row. Other ids in settings and prompt are ignored.
        is_constrained: A grammar decides when the answer may end, so `min_tokens` does not.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt_ids: Sequence[int],
        *,
        end_ids: Sequence[int],
        vocabulary_size: int,
        is_constrained: bool,
    ) -> None:
        seed = secrets.randbits(SEED_BITS) if sampling.seed is None else sampling.seed
        self._seed = seed % (1 << SEED_BITS)
        self._drawn = 0
        self._temperature = sampling.temperature
        self._top_k = sampling.top_k if sampling.top_k < vocabulary_size else 0
        self._top_p = sampling.top_p
        self._log_min_p = math.log(sampling.min_p) if sampling.min_p > 0 else -math.inf
        bias = {i: v for i, v in sampling.logit_bias.items() if 0 <= i < vocabulary_size}
        self._bias_ids = np.array(list(bias), dtype=np.intp)  # (B,)
        self._bias_values = np.array(list(bias.values()), dtype=np.float32)  # (B,)
        self._end_ids = [i for i in end_ids if 0 <= i < vocabulary_size]
        self._min_tokens = 0 if is_constrained or not self._end_ids else sampling.min_tokens
        self._penalties = _Penalties.of(sampling, prompt_ids, vocabulary_size)

    def choose(self, logits: Floats, mask: NDArray[np.int32] | None = None) -> int:
        """The next token.

        Args:
            logits: Only read, and not kept.
            mask: Allowed ids, as `Constraint.fill_mask` writes them; `None` allows every id.

        Returns:
            An id of the vocabulary, and one the mask allows if it allows any. Otherwise an end
            id, since nothing may follow; without end ids the most likely id.

        Shapes: logits (V,), mask (W,).
        """
        # Rows with infinities or NaN are expected from broken models and have their own path.
        with np.errstate(all="ignore"):
            token_id = self._choose(self._process(logits), mask)
        self._drawn += 1
        if self._penalties is not None:
            self._penalties.count(token_id)
        return token_id

    def _process(self, logits: Floats) -> Floats:
        is_banned = self._drawn < self._min_tokens
        if not (self._bias_ids.size or is_banned or self._penalties is not None):
            return logits
        row = logits.copy()  # (V,) float32
        row[self._bias_ids] += self._bias_values
        if is_banned:
            row[self._end_ids] = -np.inf
        if self._penalties is not None:
            self._penalties.apply(row)
        return row

    def _choose(self, row: Floats, mask: NDArray[np.int32] | None) -> int:
        if mask is None:
            return self._pick(row)
        bits = np.unpackbits(
            mask.astype("<i4", copy=False).view(np.uint8), count=row.size, bitorder="little"
        )  # (V,) uint8, 0 or 1; ids beyond a short mask are not allowed
        allowed = np.flatnonzero(bits.view(np.bool_))  # (N,) intp
        if allowed.size:
            return int(allowed[self._pick(row[allowed])])
        return self._end_ids[0] if self._end_ids else _best(row)

    def _pick(self, row: Floats) -> int:
        """The place of one candidate. Shapes: (N,)."""
        if self._temperature <= 0:
            return _best(row)
        scaled = _scale(row, max(self._temperature, LOWEST_TEMPERATURE))  # (N,) float32
        weights = scaled - scaled.max()  # (N,) float32
        np.exp(weights, out=weights)  # in [0, 1]
        edge = self._edge(scaled, weights)
        sums = running_sums(weights)
        *tries, last = _uniforms(self._seed, self._drawn)
        for uniform in tries:
            place = running_place(weights, sums, uniform * float(sums[-1]))
            if scaled[place] >= edge:
                return place
        kept = np.flatnonzero(scaled >= edge)
        weights = weights[kept]
        sums = running_sums(weights)
        return int(kept[running_place(weights, sums, last * float(sums[-1]))])

    def _edge(self, scaled: Floats, weights: Floats) -> np.float32:
        """The least one that stays; each filter sees what the ones before have left."""
        edge = np.float32(-np.inf)
        floor: np.float32 = scaled.max() + np.float32(self._log_min_p)  # all keep the largest
        if self._top_k > 0:
            edge = kth_largest(scaled, self._top_k)
        if self._top_p < 1:
            if self._top_k > 0:
                kept = np.flatnonzero(scaled >= edge)
                scaled, weights = scaled[kept], weights[kept]
            edge = nucleus_edge(scaled, weights, self._top_p)
        return max(edge, floor)


class _Penalties:
    """Repetition, presence and frequency over the ids seen so far."""

    def __init__(self, sampling: Sampling, prompt_ids: Sequence[int], vocabulary_size: int) -> None:
        self._repetition = sampling.repetition_penalty
        self._presence = sampling.presence_penalty
        self._frequency = sampling.frequency_penalty
        # Without a repetition penalty the prompt does not matter.
        ids = np.unique(np.array(prompt_ids if self._repetition != 1 else (), dtype=np.intp))
        self._ids = ids[(ids >= 0) & (ids < vocabulary_size)]  # (S,), each once
        self._counts = np.zeros(self._ids.size, dtype=np.float32)  # (S,), in the answer
        self._places = {token_id: place for place, token_id in enumerate(self._ids.tolist())}

    @classmethod
    def of(
        cls, sampling: Sampling, prompt_ids: Sequence[int], vocabulary_size: int
    ) -> "_Penalties | None":
        """`None` if the settings have none."""
        nothing = (1, 0, 0)
        settings = (
            sampling.repetition_penalty,
            sampling.presence_penalty,
            sampling.frequency_penalty,
        )
        return None if settings == nothing else cls(sampling, prompt_ids, vocabulary_size)

    def apply(self, row: Floats) -> None:
        """Edit a row in place. Shapes: (V,)."""
        mine = row[self._ids]  # (S,) float32
        mine = np.where(mine > 0, mine / self._repetition, mine * self._repetition)
        mine -= self._counts * self._frequency
        mine -= (self._counts > 0) * np.float32(self._presence)
        row[self._ids] = mine

    def count(self, token_id: int) -> None:
        """Take a chosen token."""
        place = self._places.setdefault(token_id, self._ids.size)
        if place == self._ids.size:
            self._ids = np.append(self._ids, token_id)
            self._counts = np.append(self._counts, np.float32(0))
        self._counts[place] += 1


def _held(row: Floats) -> Floats:
    """A row without infinities and NaN."""
    # A comparison with NaN is false, so this also replaces it.
    return np.where(row > -LARGEST_LOGIT, np.minimum(row, LARGEST_LOGIT), -LARGEST_LOGIT)


def _best(row: Floats) -> int:
    place = int(row.argmax())  # of the first NaN if there is one
    return place if math.isfinite(row[place]) else int(_held(row).argmax())


def _scale(row: Floats, temperature: float) -> Floats:
    """Divided by the temperature; the largest is finite. Shapes: (N,) -> (N,)."""
    scaled = row / np.float32(temperature)
    if math.isfinite(scaled.max()):  # which is NaN if there is one
        return scaled
    return _held(row) / np.float32(temperature)


def _uniforms(seed: int, drawn: int) -> list[float]:
    """Numbers in [0, 1) for each seed and count; all are as if independent.

    A hash is a counter-based generator without a state to set up, which takes numpy's Philox ten
    times as long.
    """
    digest = hashlib.blake2b(SEED_AND_COUNT.pack(seed, drawn)).digest()
    words = UNIFORMS.unpack(digest)
    return [math.ldexp(word >> (SEED_BITS - UNIFORM_BITS), -UNIFORM_BITS) for word in words]
