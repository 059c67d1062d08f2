"""KV caches of 8-bit values that can be decoded in batches, after mlx-lm 0.32.2's two classes.

mlx-lm quantises the cache of a lone sequence and batches full-precision ones, but not both. Here
keys and values are triples (packed, scales, biases), every part with tokens on its third axis. A
token is quantised by itself, so a row's bits do not depend on its neighbours. Attention reads them
through mlx-lm, which knows them by the attribute `bits`; passes over many tokens get floats, and
no `bits`, because the product of quantised values keeps the scores of all tokens with all. Knows no
models.

Shapes: B rows, H heads, T tokens, D values of a head; packed (B, H, T, D / 4) uint32, scales and
biases (B, H, T, D / group_size) in the model's float type.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, QuantizedKVCache, dynamic_roll

BITS = 8
# Values that share a scale: the more the smaller the cache. MLX has kernels for both.
GROUP_SIZES = (64, 32)
TOKENS_AXIS = 2
# More new tokens than these are computed from floats.
MOST_QUANTISED_TOKENS = 16

Triple = tuple[mx.array, ...]
Fetched = tuple[Triple, Triple] | tuple[mx.array, mx.array]


class QuantisedCache(QuantizedKVCache):  # type: ignore[misc]
    """A lone row's.

    Args:
        group_size: Values that share a scale and a bias; divides the size of a head.
    """

    def __init__(self, group_size: int) -> None:
        super().__init__(group_size, BITS)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Fetched:
        """Add tokens; returns all there are, as attention should read them.

        Shapes: (1, H, T, D) -> triples or (1, H, T, D) with T of all.
        """
        self.bits = BITS
        found = super().update_and_fetch(keys, values)
        return _present(self, found, keys.shape[TOKENS_AXIS])

    @property
    def state(self) -> tuple[Any, Any, int]:
        """What is in it."""
        return self.keys, self.values, self.offset

    @state.setter
    def state(self, state: tuple[Any, Any, int]) -> None:
        self.keys, self.values, self.offset = state

    def size(self) -> int:
        """Tokens in it."""
        return int(self.offset)

    @classmethod
    def merge(cls, caches: Sequence["QuantisedCache"]) -> "BatchQuantisedCache":
        """The same rows as one batch, the shorter ones padded on the left; they stay as they are.

        Args:
            caches: At least one.
        """
        longest = max(cache.offset for cache in caches)
        padding = [longest - cache.offset for cache in caches]
        batch = BatchQuantisedCache(padding, caches[0].group_size)
        if longest:
            batch.keys = _stack([_Piece(c.keys, 1, c.offset) for c in caches], longest)
            batch.values = _stack([_Piece(c.values, 1, c.offset) for c in caches], longest)
            batch.fill(longest)
        return batch


class BatchQuantisedCache(BatchKVCache):  # type: ignore[misc]
    """Several rows', padded on the left.

    Args:
        left_padding: Of each row, in tokens.
        group_size: As a lone row's.
    """

    keys: Any  # a triple, or `None` as long as there are no tokens
    values: Any
    offset: Any  # (B,) int32, tokens of each row
    left_padding: Any  # (B,) int32
    _idx: int  # tokens in use, padding included
    _right_padding: Any  # (B,) int32, or `None`

    def __init__(self, left_padding: list[int], group_size: int) -> None:
        super().__init__(left_padding)
        self.group_size = group_size

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> Fetched:
        """Add tokens to every row; returns all there are, as attention should read them.

        Shapes: (B, H, T, D) -> triples or (B, H, T, D) with T of all.
        """
        start, count = self._idx, keys.shape[TOKENS_AXIS]
        new_keys, new_values = self._quantise(keys), self._quantise(values)
        if self.keys is None or start + count > self.keys[0].shape[TOKENS_AXIS]:
            room = -(-count // self.step) * self.step
            self.keys = _grow(self.keys, new_keys, tokens=start, room=room)
            self.values = _grow(self.values, new_values, tokens=start, room=room)
        self.fill(count)
        for array, part in zip((*self.keys, *self.values), (*new_keys, *new_values), strict=True):
            array[..., start : self._idx, :] = part
        return _present(self, self.keys_and_values(), count)

    def keys_and_values(self) -> tuple[Triple, Triple]:
        """The tokens of all rows, padding included."""
        return _map(self.keys, self._cut), _map(self.values, self._cut)

    def fill(self, count: int) -> None:
        """So many tokens more are in the arrays, of every row."""
        self._idx += count
        self.offset = self.offset + count

    def finalize(self) -> None:
        """Move padding on the right, which `prepare` has announced, to the left."""
        padding = self._right_padding
        if padding is not None:
            self._change(lambda part: dynamic_roll(part, padding[:, None], axis=TOKENS_AXIS))
            self.offset = self.offset - padding
            self.left_padding = self.left_padding + padding
            self._right_padding = None

    def filter(self, batch_indices: mx.array) -> None:
        """Keep these rows only. Waits for device work already submitted."""
        self._change(lambda part: part[batch_indices])
        self.offset = self.offset[batch_indices]
        self.left_padding = self.left_padding[batch_indices]
        shared = min(self.left_padding.tolist())
        if shared > 0:
            self._change(lambda part: part[..., shared:, :])
            self._idx -= shared
            self.left_padding = self.left_padding - shared

    def extend(self, other: "BatchQuantisedCache") -> None:
        """Add another batch's rows after these; `other` must not be used again."""
        longest = max(self.size(), other.size())
        if longest:
            both = (self, other)
            self.keys, self.values = (
                _stack([_Piece(c.keys, c.offset.size, c.size()) for c in both], longest),
                _stack([_Piece(c.values, c.offset.size, c.size()) for c in both], longest),
            )
        self.left_padding = mx.concatenate(
            [c.left_padding + (longest - c.size()) for c in (self, other)]
        )
        self.offset = mx.concatenate([self.offset, other.offset])
        self._idx = longest

    def extract(self, idx: int) -> QuantisedCache:
        """A copy of one row, for itself; the batch must hold something."""
        padding: int = self.left_padding.tolist()[idx]
        cache = QuantisedCache(self.group_size)

        def copy(part: mx.array) -> mx.array:
            return mx.contiguous(part[idx : idx + 1, :, padding : self._idx])

        cache.keys, cache.values = _map(self.keys, copy), _map(self.values, copy)
        cache.offset = self._idx - padding
        return cache

    @property
    def nbytes(self) -> int:
        """Of keys and values."""
        return 0 if self.keys is None else sum(x.nbytes for x in (*self.keys, *self.values))

    def _quantise(self, values: mx.array) -> Triple:
        return tuple(mx.quantize(values, group_size=self.group_size, bits=BITS))

    def _cut(self, part: mx.array) -> mx.array:
        return part[..., : self._idx, :]

    def _change(self, change: Callable[[mx.array], mx.array]) -> None:
        if self.keys is not None:
            self.keys, self.values = _map(self.keys, change), _map(self.values, change)


class _Piece(NamedTuple):
    """Some rows' keys or values, `None` without tokens."""

    side: Triple | None
    rows: int
    tokens: int


def _present(cache: Any, sides: tuple[Triple, Triple], new_tokens: int) -> Fetched:
    """Keys and values for a pass over so many new tokens, which `bits` says how to read."""
    if new_tokens <= MOST_QUANTISED_TOKENS:
        cache.bits = BITS
        return sides
    vars(cache).pop("bits", None)
    keys, values = (_floats(side, cache.group_size) for side in sides)
    return keys, values


def _floats(side: Triple, group_size: int) -> mx.array:
    packed, scales, biases = side
    return mx.dequantize(packed, scales, biases, group_size=group_size, bits=BITS)


def _map(side: Triple, change: Callable[[mx.array], mx.array]) -> Triple:
    return tuple(change(part) for part in side)


def _stack(pieces: Sequence[_Piece], tokens: int) -> Triple:
    """One piece's rows after another's, all with their last token in the same place.

    Args:
        pieces: One has tokens at least.
        tokens: Of the longest.
    """
    like = next(piece.side for piece in pieces if piece.side is not None)
    return tuple(
        mx.concatenate([_justified(piece, index, like=part, tokens=tokens) for piece in pieces])
        for index, part in enumerate(like)
    )


def _justified(piece: _Piece, index: int, *, like: mx.array, tokens: int) -> mx.array:
    """A part of a piece with so many tokens, zeros first."""
    if piece.side is None:
        return mx.zeros((piece.rows, like.shape[1], tokens, like.shape[3]), dtype=like.dtype)
    held = piece.side[index][..., : piece.tokens, :]
    return mx.pad(held, [(0, 0), (0, 0), (tokens - piece.tokens, 0), (0, 0)])


def _grow(side: Triple | None, like: Triple, *, tokens: int, room: int) -> Triple:
    """Arrays with these tokens and room for more."""

    def empty(part: mx.array) -> mx.array:
        return mx.zeros((*part.shape[:TOKENS_AXIS], room, part.shape[-1]), dtype=part.dtype)

    if side is None:
        return _map(like, empty)
    return tuple(
        mx.concatenate([old[..., :tokens, :], empty(new)], axis=TOKENS_AXIS)
        for old, new in zip(side, like, strict=True)
    )
