"""Cutting rows out of mlx-lm 0.32.2's caches and putting them together again. Knows no tokens.

A leaf is a cache that holds no other caches. Leaves that keep every token can be cut along them;
what the others hold is valid at one position only. Rows are right-aligned in batched caches, so
where a row begins follows from its length, without asking the device. Caches write into the very
array objects they hold, so what is kept is never one of these, and what is given never a kept one.

Shapes: H heads, T tokens, E values per head.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    KVCache,
    RotatingKVCache,
)

from lmx.engines.mlx.quantised import BatchQuantisedCache, QuantisedCache

TOKEN_AXIS = 2
# mlx-lm's caches grow by so many tokens; room for the next ones saves a copy.
GROWTH_TOKENS = 256


class KvSegment:
    """Keys and values of consecutive tokens, of every leaf that can be cut.

    Attributes:
        leaves: Per leaf its arrays, (1, H, T, E) each, in memory of their own.
        size_bytes: Of all arrays.
    """

    __slots__ = ("leaves", "size_bytes")

    def __init__(self, leaves: list[tuple[mx.array, ...]]) -> None:
        self.leaves = leaves
        self.size_bytes = sum(part.nbytes for part in self.arrays())

    def arrays(self) -> list[mx.array]:
        """All arrays, in order."""
        return [part for parts in self.leaves for part in parts]

    def split(self, tokens: int) -> tuple["KvSegment", "KvSegment"]:
        """The first so many tokens, and the rest, copied."""
        halves = (self._copy(0, tokens), self._copy(tokens, None))
        mx.async_eval(halves[0].arrays(), halves[1].arrays())
        return halves

    def _copy(self, start: int, end: int | None) -> "KvSegment":
        return KvSegment(
            [tuple(mx.contiguous(p[:, :, start:end]) for p in parts) for parts in self.leaves]
        )


class LeafState(NamedTuple):
    """What a leaf that cannot be cut holds of one row.

    Attributes:
        arrays: Oldest token first where there are tokens; `None` for what is not set yet.
        offset: Tokens that the row has gone through.
    """

    arrays: tuple[mx.array | None, ...]
    offset: int


class RowState:
    """The states of every leaf that cannot be cut, in order.

    Attributes:
        leaves: One for each.
        size_bytes: Of all arrays.
    """

    __slots__ = ("leaves", "size_bytes")

    def __init__(self, leaves: list[LeafState]) -> None:
        self.leaves = leaves
        self.size_bytes = sum(part.nbytes for part in self.arrays())

    def arrays(self) -> list[mx.array]:
        """All arrays that are set."""
        return [part for leaf in self.leaves for part in leaf.arrays if part is not None]


def leaves_of(layers: Sequence[Any]) -> list[Any]:
    """The caches inside these that hold no other caches, in order."""
    leaves: list[Any] = []
    for layer in layers:
        leaves += leaves_of(layer.caches) if isinstance(layer, CacheList) else [layer]
    return leaves


def can_cut(leaf: Any) -> bool:
    """It keeps every token, on an axis."""
    return type(leaf) in {KVCache, BatchKVCache, QuantisedCache, BatchQuantisedCache}


def can_keep(leaf: Any) -> bool:
    """Its rows can be cut or copied.

    A window that never lets go of its first tokens is no run of tokens, and batching loses them.
    """
    if type(leaf) is RotatingKVCache:
        return bool(leaf.keep == 0)
    return can_cut(leaf) or type(leaf) in {BatchRotatingKVCache, ArraysCache}


def cut(leaves: Sequence[Any], row: int, *, length: int, start: int, end: int) -> KvSegment | None:
    """Copies of some of a row's tokens; lazy.

    Args:
        leaves: Of one group of rows.
        row: Which.
        length: Tokens that the row has in them.
        start: First token wanted.
        end: One past the last, at most `length`.

    Returns:
        `None` if the leaves do not all hold the same tokens.
    """
    found = [leaf for leaf in leaves if can_cut(leaf)]
    filled = [leaf for leaf in found if not leaf.empty()]
    if len({leaf.size() for leaf in filled}) > 1:
        return None
    at = _first_column(filled[0], row, length) if filled else 0
    wanted = (slice(row, row + 1), slice(None), slice(at + start, at + end))
    return KvSegment(
        [tuple(mx.contiguous(part[wanted]) for part in _token_arrays(leaf)) for leaf in found]
    )


def token_bytes(leaves: Sequence[Any]) -> int:
    """What one token of one row takes in the leaves that can be cut."""
    parts = [part for leaf in leaves if can_cut(leaf) for part in _token_arrays(leaf)]
    return sum(part.shape[1] * part.shape[3] * part.itemsize for part in parts)


def copy_state(leaves: Sequence[Any], row: int, *, length: int) -> RowState | None:
    """What leaves that cannot be cut hold of a row after its `length` tokens; lazy.

    Returns:
        `None` if a window has gone through other tokens than that.
    """
    states = []
    for leaf in leaves:
        if type(leaf) is RotatingKVCache and leaf.offset != length:
            return None
        if isinstance(leaf, ArraysCache):
            arrays = [None if a is None else mx.contiguous(a[row : row + 1]) for a in leaf.cache]
            states.append(LeafState(tuple(arrays), length))
        elif not can_cut(leaf):
            states.append(LeafState(_window(leaf, row, length), length))
    return RowState(states)


def fill(
    leaves: Sequence[Any],
    pieces: Sequence[tuple[KvSegment, int]],
    state: RowState | None,
    *,
    room_tokens: int,
) -> None:
    """Put a row together in empty leaves.

    Args:
        leaves: Fresh ones of one row.
        pieces: Segments in order, each with how many of its tokens to take.
        state: For the leaves that cannot be cut, valid after these tokens.
        room_tokens: How many tokens the row is going to have.
    """
    states = iter([] if state is None else state.leaves)
    index = 0
    for leaf in leaves:
        if can_cut(leaf):
            parts = [(segment.leaves[index], count) for segment, count in pieces]
            _set_tokens(leaf, parts, room_tokens)
            index += 1
        elif isinstance(leaf, ArraysCache):
            arrays = next(states).arrays
            leaf.cache = [None if array is None else mx.contiguous(array) for array in arrays]
        else:
            found: Any = next(states)
            keys, values = (mx.contiguous(array) for array in found.arrays)
            leaf.state = (
                keys,
                values,
                found.offset,
                leaf.keep,
                leaf.max_size,
                keys.shape[TOKEN_AXIS],
            )


def _first_column(leaf: Any, row: int, length: int) -> int:
    """Where a row of a group begins, which is the same in all its leaves."""
    if type(leaf) in {KVCache, QuantisedCache}:
        return 0
    if len(leaf.left_padding) == 1:
        # A draft that is being checked makes a lone row longer than what is known of it.
        return int(leaf.left_padding.item())
    return int(leaf.size()) - length


def _token_arrays(leaf: Any) -> list[mx.array]:
    """Of a leaf that the model never fills, none; keys first, values last, and as many of each."""
    if leaf.empty():
        return []
    return [*leaf.keys, *leaf.values] if _is_quantised(leaf) else [leaf.keys, leaf.values]


def _is_quantised(leaf: Any) -> bool:
    return isinstance(leaf, QuantisedCache | BatchQuantisedCache)


def _set_tokens(
    leaf: Any, parts: Sequence[tuple[tuple[mx.array, ...], int]], room_tokens: int
) -> None:
    count = sum(tokens for _, tokens in parts)
    spare = -(-room_tokens // GROWTH_TOKENS) * GROWTH_TOKENS - count
    columns = []
    for column in range(len(parts[0][0])):
        found = [arrays[column][:, :, :tokens] for arrays, tokens in parts]
        batch, heads, _, width = found[0].shape
        room = mx.zeros((batch, heads, spare, width), dtype=found[0].dtype)
        columns.append(mx.concatenate([*found, room], axis=TOKEN_AXIS))
    if not columns:
        return
    half = len(columns) // 2
    if _is_quantised(leaf):
        leaf.keys, leaf.values = tuple(columns[:half]), tuple(columns[half:])
    else:
        leaf.keys, leaf.values = columns
    leaf.offset = count


def _window(leaf: Any, row: int, length: int) -> tuple[mx.array, ...]:
    """The last tokens of a sliding window, the oldest first."""
    keys, values, *rest = leaf.state
    if type(leaf) is RotatingKVCache:
        offset, _, size, at = rest
        is_wrapped = at < offset and at < keys.shape[TOKEN_AXIS]
    else:
        _, _, size, _, at, is_wrapped = rest
    kept = min(length, size)
    found = []
    for part in (keys[row : row + 1], values[row : row + 1]):
        ordered = mx.roll(part, -at, TOKEN_AXIS) if is_wrapped else part[:, :, :at]
        found.append(mx.contiguous(ordered[:, :, ordered.shape[TOKEN_AXIS] - kept :]))
    return tuple(found)
