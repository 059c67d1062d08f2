"""llama.cpp's payloads as named arrays of bytes, and back. Knows blocks, no prompts and no files.

The name of an array says which tokens it is of: those of its segment, and those of the block.
"""

from collections.abc import Mapping

import numpy as np

from lmx.engines.llama.states import Block, StateSegment, StateSnapshot
from lmx.engines.llama.transfer import StateBytes
from lmx.engines.prefix.disk.records import Array

DTYPE = "uint8"
WHOLE = "whole"


class StatePacker:
    """Packs what one model's cache gave."""

    def pack(self, segment: StateSegment) -> dict[str, Array]:
        """A segment's blocks, or a name alone if it has none."""
        blocks = segment.blocks or (Block(segment.start, segment.end, np.empty(0, np.uint8)),)
        prefix = f"{segment.start}.{segment.end}"
        return {f"{prefix}.{block.start}.{block.end}": _pack(block.data) for block in blocks}

    def pack_state(self, state: StateSnapshot) -> dict[str, Array]:
        """A snapshot's one array."""
        return {WHOLE: _pack(state.data)}

    def unpack(self, arrays: Mapping[str, Array]) -> StateSegment:
        """The segment.

        Raises:
            LookupError, ValueError: The arrays are not such ones.
        """
        found = sorted(_parse(name) for name in arrays)
        start, end = found[0][:2]
        if any(place[:2] != (start, end) for place in found):
            raise ValueError("the blocks are of several segments")
        blocks = (
            Block(place[2], place[3], _unpack(arrays[".".join(map(str, place))])) for place in found
        )
        return StateSegment(start, end, tuple(block for block in blocks if block.data.size))

    def unpack_state(self, arrays: Mapping[str, Array], tokens: int) -> StateSnapshot:
        """The snapshot that is valid after so many tokens.

        Raises:
            LookupError: There is none.
        """
        del tokens  # llama.cpp's bytes say themselves where they belong
        return StateSnapshot(_unpack(arrays[WHOLE]))

    def join(self, segments: list[StateSegment]) -> StateSegment:
        """Consecutive segments as one."""
        blocks = tuple(block for segment in segments for block in segment.blocks)
        return StateSegment(segments[0].start, segments[-1].end, blocks)


def _parse(name: str) -> tuple[int, int, int, int]:
    start, end, first, last = map(int, name.split("."))
    return start, end, first, last


def _pack(data: StateBytes) -> Array:
    return Array(DTYPE, data.shape, data.data)


def _unpack(array: Array) -> StateBytes:
    # Blocks of one file leave memory one by one, so none may be a view of all.
    return np.frombuffer(array.data, dtype=np.uint8).copy()
