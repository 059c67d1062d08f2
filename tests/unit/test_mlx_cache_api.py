"""The parts of mlx-lm's cache classes LMX builds on; a new mlx-lm must pass before it ships."""

from importlib.metadata import version
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
)

from lmx.engines.mlx.caches import CacheRows, can_batch, can_copy, can_pad

HEADS, WIDTH = 2, 4


def filled(length: int, start: float = 1.0, kind: Any = KVCache) -> Any:
    """A cache of one row whose keys count up from `start`."""
    cache = kind()
    if length:
        values = mx.arange(length)[None, None, :, None] + start
        keys = mx.broadcast_to(values, (1, HEADS, length, WIDTH)).astype(mx.float32)
        cache.update_and_fetch(keys, -keys)
    return cache


def row(cache: Any, index: int) -> list[float]:
    """What row `index` holds, oldest first."""
    extracted = cache.extract(index)
    keys = extracted.keys[0, 0, : extracted.offset, 0]
    return [float(value) for value in keys.tolist()]


def test_the_version_is_the_one_this_was_read_from() -> None:
    """mlx-lm moves these classes between minor versions, so it is pinned."""
    assert "0.32.2" == version("mlx-lm")


def test_merge_and_extract_are_inverse() -> None:
    """Rows of different lengths, an empty one among them, come back exactly."""
    caches = [filled(3), filled(0), filled(5, 10.0)]
    merged = KVCache.merge(caches)
    assert isinstance(merged, BatchKVCache)
    assert [[1, 2, 3], [], [10, 11, 12, 13, 14]] == [row(merged, index) for index in range(3)]


def test_extend_appends_rows_of_any_length() -> None:
    """The shorter side is padded on the left; an empty side is no special case."""
    batch = KVCache.merge([filled(3)])
    batch.extend(KVCache.merge([filled(5, 10.0)]))
    batch.extend(KVCache.merge([filled(0)]))
    batch.extend(KVCache.merge([filled(1, 7.0)]))
    assert [[1, 2, 3], [10, 11, 12, 13, 14], [], [7]] == [row(batch, index) for index in range(4)]


def test_filter_keeps_rows_in_order() -> None:
    """Rows are kept by an index array, and padding all of them share is cut off."""
    batch = KVCache.merge([filled(3), filled(9, 10.0), filled(2, 30.0)])
    batch.filter(mx.array([0, 2]))
    assert [[1, 2, 3], [30, 31]] == [row(batch, 0), row(batch, 1)]
    assert 3 == batch.size()


def test_padding_on_the_right_moves_to_the_left() -> None:
    """`prepare` before and `finalize` after a padded pass leave only the real tokens."""
    batch = KVCache.merge([KVCache(), KVCache()])
    batch.prepare(lengths=[3, 1], right_padding=[0, 2])
    keys = mx.broadcast_to(mx.arange(1.0, 4.0)[None, None, :, None], (2, HEADS, 3, WIDTH))
    batch.update_and_fetch(keys, keys)
    batch.finalize()
    assert [[1, 2, 3], [1]] == [row(batch, 0), row(batch, 1)]
    assert [3, 1] == batch.offset.tolist()


def test_finalize_without_padding_does_nothing() -> None:
    """Groups of equal lengths call it too."""
    batch = KVCache.merge([filled(2), filled(2)])
    batch.finalize()
    assert [1, 2] == row(batch, 0)


def test_rotating_caches_have_the_same_interface() -> None:
    """Sliding windows merge, extend, filter and extract like the others."""
    window = 4

    def make() -> RotatingKVCache:
        return RotatingKVCache(max_size=window)

    batch = RotatingKVCache.merge([filled(3, kind=make)])
    assert isinstance(batch, BatchRotatingKVCache)
    batch.extend(RotatingKVCache.merge([filled(2, 10.0, kind=make)]))
    batch.filter(mx.array([1]))
    assert [10, 11] == row(batch, 0)


def test_a_list_of_caches_passes_everything_on() -> None:
    """Hybrid layers hold several caches in one."""
    batch = CacheList.merge([CacheList(filled(2), filled(1)), CacheList(filled(3), filled(4))])
    batch.extend(CacheList.merge([CacheList(filled(1), filled(1))]))
    batch.filter(mx.array([1, 2]))
    batch.finalize()
    assert [[1, 2, 3], [1]] == [row(batch.caches[0], 0), row(batch.caches[0], 1)]


def test_rows_are_replicated_in_order() -> None:
    """One prefilled row becomes the rows of several answers, which go on apart."""
    rows = CacheRows([filled(2)], is_batched=False)
    rows.replicate([0])
    assert isinstance(rows.layers[0], KVCache)
    rows.replicate([0, 0, 0])
    assert [[1, 2]] * 3 == [row(rows.layers[0], index) for index in range(3)]
    pair = CacheRows([KVCache.merge([filled(2), filled(3, 5.0)])], is_batched=True)
    pair.replicate([0, 0, 1])
    more = mx.arange(1.0, 4.0)[:, None, None, None] * mx.ones((3, HEADS, 1, WIDTH))
    pair.layers[0].update_and_fetch(more, more)
    expected = [[1, 2, 1], [1, 2, 2], [5, 6, 7, 3]]
    assert expected == [row(pair.layers[0], index) for index in range(3)]


class Layers:
    """A model as far as its caches go."""

    def __init__(self, *caches: Any) -> None:
        self._caches = caches

    def make_cache(self) -> list[Any]:
        return list(self._caches)


@pytest.mark.parametrize(
    ("caches", "batches", "pads"),
    [
        ([KVCache(), RotatingKVCache(max_size=8)], True, True),
        ([KVCache(), ArraysCache(2)], True, False),
        ([CacheList(KVCache(), ArraysCache(2))], True, False),
        ([QuantizedKVCache()], False, False),
        ([CacheList(KVCache(), QuantizedKVCache())], False, False),
    ],
)
def test_what_each_kind_of_model_can_do(caches: list[Any], *, batches: bool, pads: bool) -> None:
    """Attention caches share padded passes, state-space ones only batches, others neither."""
    assert (batches, pads) == (can_batch(Layers(*caches)), can_pad(Layers(*caches)))


def test_lone_rows_become_a_batch_when_a_second_joins() -> None:
    """Plain caches of one row and of another end up as two rows."""
    lone = CacheRows([filled(2)], is_batched=False)
    lone.extend(CacheRows([filled(1, 9.0)], is_batched=False))
    assert [[1, 2], [9]] == [row(lone.layers[0], 0), row(lone.layers[0], 1)]
    lone.keep([1])
    assert [9] == row(lone.layers[0], 0)


def test_copies_go_on_by_themselves() -> None:
    """Rows that begin as another one add their own tokens to it, and it keeps its own."""
    original = filled(3)
    copies = CacheRows([original], is_batched=False).copies(2)
    more = mx.array([[7.0, 8.0], [9.0, 10.0]])[:, None, :, None]
    keys = mx.broadcast_to(more, (2, HEADS, 2, WIDTH))
    found, _ = copies.layers[0].update_and_fetch(keys, -keys)
    assert [[1, 2, 3, 7, 8], [1, 2, 3, 9, 10]] == found[:, 0, :, 0].tolist()
    assert (3, 5) == (original.offset, copies.layers[0].offset)
    original.update_and_fetch(keys[:1], keys[:1])
    assert [1, 2, 3, 7, 8] == original.keys_and_values()[0][0, 0, :, 0].tolist()


@pytest.mark.parametrize(("kinds", "expected"), [([KVCache], True), ([KVCache, "rotating"], False)])
def test_only_whole_caches_are_copied(kinds: list[Any], *, expected: bool) -> None:
    """A cache that forgets its first tokens may not be shared."""

    class Layered:
        def make_cache(self) -> list[Any]:
            return [RotatingKVCache(8) if kind == "rotating" else kind() for kind in kinds]

    assert expected == can_copy(Layered())


def test_some_rows_are_copied_out() -> None:
    """Rows taken out go on apart from those that stay, a lone one in the plain class."""
    rows = CacheRows([KVCache.merge([filled(2), filled(3, 5.0), filled(1, 9.0)])], is_batched=True)
    pair, lone = rows.some([2, 0]), rows.some([1])
    more = mx.ones((2, HEADS, 1, WIDTH))
    pair.layers[0].update_and_fetch(more, more)
    assert [[9, 1], [1, 2, 1]] == [row(pair.layers[0], index) for index in range(2)]
    assert isinstance(lone.layers[0], KVCache)
    assert [5, 6, 7] == lone.layers[0].keys_and_values()[0][0, 0, :, 0].tolist()
    assert [[1, 2], [5, 6, 7], [9]] == [row(rows.layers[0], index) for index in range(3)]


def test_some_rows_of_an_empty_list_of_caches() -> None:
    """Rows that hold nothing yet can be taken out of any kind of cache."""
    empty = CacheList.merge([CacheList(ArraysCache(1), KVCache()) for _ in range(3)])
    rows = CacheRows([empty], is_batched=True)
    assert [1, 2] == [
        rows.some([1]).layers[0].caches[1].offset.size,
        len(rows.some([0, 1]).layers[0].caches),
    ]
    assert 3 == rows.layers[0].caches[1].offset.size
