"""The rows of one llama.cpp pass in numpy arrays. Knows token ids and slot numbers.

llama.cpp's own `llama_batch_init` makes arrays that ctypes can only fill element by element; these
are filled by slices and handed over as they are.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np

# Attention on a CPU goes over tiles of so many rows, and over a pass that ends with a part of one
# row by row: 129 rows deep in a prompt take a third longer than 128.
TILE_ROWS = 64


class RowBatch:
    """Up to `capacity` rows: a token, its position, its slot, and whether its logits are wanted.

    Args:
        capacity: Most rows.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._count = 0
        self._outputs = 0
        self._tokens = np.zeros(capacity, dtype=np.int32)
        self._positions = np.zeros(capacity, dtype=np.int32)
        self._slots = np.zeros(capacity, dtype=np.int32)
        self._wanted = np.zeros(capacity, dtype=np.int8)
        # Each row is in exactly one slot: a count of 1 and a pointer to it.
        self._slot_counts = np.ones(capacity, dtype=np.int32)
        first = self._slots.ctypes.data
        self._slot_pointers = np.arange(first, first + 4 * capacity, 4, dtype=np.uintp)
        self._struct = llama_cpp.llama_batch(
            n_tokens=0,
            token=_pointer(self._tokens, ctypes.c_int32),
            embd=None,
            pos=_pointer(self._positions, ctypes.c_int32),
            n_seq_id=_pointer(self._slot_counts, ctypes.c_int32),
            seq_id=_pointer(self._slot_pointers, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(self._wanted, ctypes.c_int8),
        )

    def __len__(self) -> int:
        return self._count

    @property
    def room(self) -> int:
        """Rows that still fit."""
        return self.capacity - self._count

    @property
    def outputs(self) -> int:
        """Rows whose logits are wanted."""
        return self._outputs

    def whole_tiles(self, count: int) -> int:
        """How many of so many more rows end the pass with a whole tile; all if none is filled."""
        over = (self._count + count) % TILE_ROWS
        return count - over if over < count else count

    def clear(self) -> None:
        """Begin a new pass."""
        self._count = self._outputs = 0

    def append(
        self, slot: int, token_ids: Sequence[int], position: int, *, wanted_from: int
    ) -> range:
        """Add neighbouring tokens of one slot.

        Args:
            slot: Whose.
            token_ids: At most `room`.
            position: Of the first.
            wanted_from: Logits are wanted of this token of `token_ids` and all after it.

        Returns:
            Which of the pass's logits rows belong to them.
        """
        start, end = self._count, self._count + len(token_ids)
        self._tokens[start:end] = token_ids
        self._positions[start:end] = range(position, position + len(token_ids))
        self._slots[start:end] = slot
        self._wanted[start:end] = 0
        self._wanted[start + wanted_from : end] = 1
        self._count = end
        first = self._outputs
        self._outputs += len(token_ids) - wanted_from
        return range(first, self._outputs)

    def struct(self) -> Any:
        """As llama.cpp takes it; valid while this object lives."""
        self._struct.n_tokens = self._count
        return self._struct


def _pointer(array: Any, element: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(element))
