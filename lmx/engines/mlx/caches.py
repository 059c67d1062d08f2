"""The KV caches of one group of rows, as mlx-lm 0.32.2 has them. Knows no tokens and no models.

mlx-lm's cache classes move between versions, so every use of them is in this file and in
`quantised`, and a contract test holds it. A lone row keeps the plain classes, which need no mask;
`merge` turns them into the batched ones when a second row joins.
"""

import copy
import sys
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import (
    BatchKVCache,
    CacheList,
    KVCache,
    RotatingKVCache,
    make_prompt_cache,
)

from lmx.engines.mlx.quantised import (
    GROUP_SIZES,
    TOKENS_AXIS,
    BatchQuantisedCache,
    QuantisedCache,
)
from lmx.errors import UnsupportedModel

NOT_QUANTISED = "models.kv_bits is set for this model, but {}"


class CacheRows:
    """One cache per layer, each holding the same rows.

    Args:
        layers: mlx-lm cache objects.
        is_batched: They are of the batched classes.
    """

    def __init__(self, layers: list[Any], *, is_batched: bool) -> None:
        self.layers = layers
        self._is_batched = is_batched

    @classmethod
    def single(cls, model: Any) -> "CacheRows":
        """Empty caches for one row."""
        return cls(make_prompt_cache(model), is_batched=False)

    @classmethod
    def merged(cls, rows: Sequence["CacheRows"]) -> "CacheRows":
        """Several lone rows as one group of them, in this order; they stay as they are."""
        layers = zip(*(row.layers for row in rows), strict=True)
        return cls([layer[0].merge(list(layer)) for layer in layers], is_batched=True)

    def pad_right(self, lengths: list[int], width: int) -> None:
        """Announce that the next forward pass has rows of these lengths, padded on the right.

        Args:
            lengths: Tokens of each row.
            width: What they are padded to, at least the longest.
        """
        padding = [width - length for length in lengths]
        if max(padding):
            for layer in self.layers:
                layer.prepare(lengths=lengths, right_padding=padding)

    def finalize(self, row_count: int) -> None:
        """Move the padding to the left after that pass, and go on with the first rows of it."""
        for layer in self.layers:
            layer.finalize()
        for leaf in _leaves(self.layers):
            for name, value in vars(leaf).items():
                setattr(leaf, name, _first_rows(value, row_count))

    def extend(self, other: "CacheRows") -> None:
        """Add another group's rows after these; `other` must not be used again."""
        self.become_batched()
        other.become_batched()
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.extend(theirs)

    def keep(self, rows: list[int]) -> None:
        """Drop every row not listed. Waits for device work already submitted."""
        if self._is_batched:
            indices = mx.array(rows)
            for layer in self.layers:
                layer.filter(indices)

    def some(self, rows: list[int]) -> "CacheRows":
        """New caches with a copy of some of several rows, which stay as they are."""
        is_filled = not any(leaf.empty() for leaf in _leaves(self.layers))
        if len(rows) == 1 and is_filled:
            # Plain classes, which need no mask.
            return CacheRows([layer.extract(rows[0]) for layer in self.layers], is_batched=False)
        found = CacheRows([_shallow(layer) for layer in self.layers], is_batched=True)
        found.keep(rows)
        return found

    def replicate(self, rows: list[int]) -> None:
        """Make the rows listed, in this order, the new rows; one may be listed several times.

        Args:
            rows: At least each present row once, in order.
        """
        if rows != list(range(len(rows))):
            self.become_batched()
            self.keep(rows)

    def copies(self, row_count: int) -> "CacheRows":
        """So many rows that begin as this lone row does, which stays as it is; see `can_copy`."""
        copied = []
        for layer in self.layers:
            copy = KVCache()
            copy.state = (
                *(_repeat(part, row_count) for part in layer.keys_and_values()),
                layer.offset,
            )
            copied.append(copy)
        return CacheRows(copied, is_batched=False)

    @property
    def rewindable_tokens(self) -> int:
        """So many tokens may be added in one pass and taken away again; 0 if none can."""
        return min(_rewindable(layer) for layer in self.layers)

    @property
    def is_always_rewindable(self) -> bool:
        """Any number of tokens can be taken away at any time."""
        return self.rewindable_tokens == sys.maxsize

    def rewind(self, tokens: int) -> None:
        """Take the last tokens away; at most `rewindable_tokens` before they were added."""
        for layer in self.layers:
            layer.trim(tokens)

    def states(self) -> list[Any]:
        """What to evaluate so that the caches hold no pending work."""
        return [layer.state for layer in self.layers]

    def become_batched(self) -> None:
        """Turn plain caches into batched ones of one row; nothing if they are already."""
        if not self._is_batched:
            self.layers = [layer.merge([layer]) for layer in self.layers]
            self._is_batched = True


def quantise(model: Any) -> None:
    """From now on caches of this model keep 8-bit values.

    Raises:
        UnsupportedModel: It has caches, or an attention, that cannot.
    """
    caches = make_prompt_cache(model)
    if not all(type(cache) is KVCache for cache in caches):
        kinds = sorted({type(leaf).__name__ for leaf in _leaves(caches)} - {KVCache.__name__})
        raise UnsupportedModel(NOT_QUANTISED.format(f"it has caches of the kind {kinds[0]}"))
    model(mx.array([[0]]), cache=caches)
    sizes = {part.shape[-1] for cache in caches for part in _sides(cache)}
    group_size = next((g for g in GROUP_SIZES if not any(size % g for size in sizes)), None)
    if group_size is None:
        reason = f"its heads have {min(sizes)} values, which is no multiple of {min(GROUP_SIZES)}"
        raise UnsupportedModel(NOT_QUANTISED.format(reason))
    model.make_cache = lambda: [QuantisedCache(group_size) for _ in caches]
    try:
        mx.eval(model(mx.array([[0, 0]]), cache=make_prompt_cache(model)))
    except (AttributeError, TypeError, ValueError) as error:
        reason = f"its attention does not read quantised values: {error}"
        raise UnsupportedModel(NOT_QUANTISED.format(reason)) from error


def can_batch(model: Any) -> bool:
    """Several sequences of this model can be decoded together."""
    return all(hasattr(leaf, "merge") for leaf in _leaves(make_prompt_cache(model)))


def can_pad(model: Any) -> bool:
    """Prompts of different lengths may share a prefill pass.

    Only attention caches skip padding for certain; state-space caches carry it into the state.
    """
    return all(
        type(leaf) in {KVCache, RotatingKVCache, QuantisedCache}
        for leaf in _leaves(make_prompt_cache(model))
    )


def can_copy(model: Any) -> bool:
    """The caches keep every token, so that rows can go on from a copy."""
    return all(type(layer) is KVCache for layer in make_prompt_cache(model))


def kv_bytes_per_token(model: Any) -> int:
    """KV growth per token, measured by a forward pass over one token."""
    caches = CacheRows.single(model)
    model(mx.array([[0]]), cache=caches.layers)
    mx.eval(caches.states())
    total = 0
    for leaf in _leaves(caches.layers):
        if isinstance(leaf, KVCache | RotatingKVCache):
            total += leaf.nbytes // leaf.keys.shape[TOKENS_AXIS]
        elif isinstance(leaf, QuantisedCache):
            total += leaf.nbytes // leaf.keys[0].shape[TOKENS_AXIS]
    return total


def _rewindable(layer: Any) -> int:
    if type(layer) in {KVCache, BatchKVCache, QuantisedCache, BatchQuantisedCache}:
        return sys.maxsize
    if type(layer) is RotatingKVCache:  # once it wraps, what it overwrites is gone
        return max(0, int(layer.max_size) - int(layer.offset))
    return 0


def _leaves(layers: list[Any]) -> list[Any]:
    leaves: list[Any] = []
    for layer in layers:
        leaves += _leaves(list(layer.caches)) if isinstance(layer, CacheList) else [layer]
    return leaves


def _sides(cache: Any) -> tuple[mx.array, ...]:
    return () if cache.empty() else cache.keys_and_values()


def _first_rows(value: Any, count: int) -> Any:
    """Of an array of a batched cache, or of several; anything else says nothing of rows."""
    if isinstance(value, tuple):
        return tuple(_first_rows(part, count) for part in value)
    has_more = isinstance(value, mx.array) and value.shape[0] > count
    return value[:count] if has_more else value


def _shallow(layer: Any) -> Any:
    """A cache object of its own over the same arrays, whose operations make new ones."""
    if isinstance(layer, CacheList):
        return CacheList(*(_shallow(leaf) for leaf in layer.caches))
    return copy.copy(layer)


def _repeat(part: mx.array, row_count: int) -> mx.array:
    """(1, H, T, E) to (row_count, H, T, E)."""
    return mx.broadcast_to(part, (row_count, *part.shape[1:]))
