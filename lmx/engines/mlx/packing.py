"""MLX's payloads as named arrays of bytes, and back. Knows leaves' arrays, no tokens and no files.

An array's name is its leaf and its place there. Evaluated arrays are looked at, not copied.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from lmx.engines.mlx.leaves import TOKEN_AXIS, KvSegment, LeafState, RowState, can_cut
from lmx.engines.prefix.disk.records import Array

DTYPES: Mapping[str, Any] = {
    str(dtype): dtype
    for dtype in (
        mx.float32,
        mx.float16,
        mx.bfloat16,
        mx.int8,
        mx.uint8,
        mx.int32,
        mx.uint32,
        mx.bool_,
    )
}


class MlxPacker:
    """Packs what one model's caches hold.

    Args:
        leaves: Empty ones, as the model makes them.
    """

    def __init__(self, leaves: list[Any]) -> None:
        self._cut_count = sum(can_cut(leaf) for leaf in leaves)
        # Arrays of each leaf that cannot be cut.
        self._state_sizes = [
            len(getattr(leaf, "cache", ("keys", "values"))) for leaf in leaves if not can_cut(leaf)
        ]

    def pack(self, segment: KvSegment) -> dict[str, Array]:
        """A segment's arrays."""
        return {
            f"{leaf}.{place}": _pack(part)
            for leaf, parts in enumerate(segment.leaves)
            for place, part in enumerate(parts)
        }

    def pack_state(self, state: RowState) -> dict[str, Array]:
        """A snapshot's arrays; those that are not set are left out."""
        return {
            f"{leaf}.{place}": _pack(part)
            for leaf, one in enumerate(state.leaves)
            for place, part in enumerate(one.arrays)
            if part is not None
        }

    def unpack(self, arrays: Mapping[str, Array]) -> KvSegment:
        """The segment.

        Raises:
            LookupError, ValueError: The arrays are not such ones.
        """
        leaves: list[list[mx.array]] = [[] for _ in range(self._cut_count)]
        for name in sorted(arrays, key=_place):
            leaf, place = _place(name)
            if place != len(leaves[leaf]):
                raise LookupError(f"{leaf}.{len(leaves[leaf])} is missing")
            leaves[leaf].append(_unpack(arrays[name]))
        return KvSegment([tuple(parts) for parts in leaves])

    def unpack_state(self, arrays: Mapping[str, Array], tokens: int) -> RowState:
        """The snapshot that is valid after so many tokens.

        Raises:
            LookupError, ValueError: The arrays are not such ones.
        """
        leaves: list[list[mx.array | None]] = [[None] * size for size in self._state_sizes]
        for name, array in arrays.items():
            leaf, place = _place(name)
            leaves[leaf][place] = _unpack(array)
        return RowState([LeafState(tuple(parts), tokens) for parts in leaves])

    def join(self, segments: list[KvSegment]) -> KvSegment:
        """Consecutive segments as one."""
        rows = zip(*(segment.leaves for segment in segments), strict=True)
        return KvSegment(
            [
                tuple(
                    mx.concatenate(list(parts), axis=TOKEN_AXIS) for parts in zip(*row, strict=True)
                )
                for row in rows
            ]
        )


def _place(name: str) -> tuple[int, int]:
    leaf, _, place = name.partition(".")
    return int(leaf), int(place)


def _pack(array: mx.array) -> Array:
    # NumPy knows no bfloat16, so it is shown bytes.
    data = np.frombuffer(array, dtype=np.uint8)  # type: ignore[call-overload]
    return Array(str(array.dtype), tuple(array.shape), memoryview(data))


def _unpack(array: Array) -> mx.array:
    data = mx.array(np.frombuffer(array.data, dtype=np.uint8))
    return data.view(DTYPES[array.dtype]).reshape(array.shape)
