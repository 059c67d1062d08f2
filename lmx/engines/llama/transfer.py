"""The state of a sequence in llama.cpp's cache as bytes, taken out and put back. No token ids.

Bytes fit only the library version, the model and the types of keys and values that made them. A
range of tokens goes by way of a spare sequence: sharing cells copies nothing and keeps positions.
Source: llama.h of the llama.cpp that llama-cpp-python 0.3.36 carries.
"""

import ctypes

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from lmx.engines.llama.library import LlamaContext

StateBytes = NDArray[np.uint8]


class StateTransfer:
    """Copies between one context and host memory. Engine thread only.

    Args:
        context: Stays open as long as this is used.
        spare: A sequence number that nobody else uses; empty between calls.
    """

    def __init__(self, context: LlamaContext, spare: int) -> None:
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context.pointer)
        self._spare = spare

    def first(self, sequence: int) -> int:
        """The first position of a sequence that every layer still has.

        More than 0 where layers with a sliding window gave up cells behind it.
        """
        position: int = llama_cpp.llama_memory_seq_pos_min(self._memory, sequence)
        return max(0, position)

    def length(self, sequence: int) -> int:
        """How many tokens of a sequence the cache holds."""
        return self._context.length(sequence)

    def drop(self, sequence: int) -> None:
        """Forget a sequence."""
        self._context.cut(sequence, 0)

    def take(self, sequence: int) -> StateBytes:
        """All of a sequence's state; good only after exactly its tokens."""
        pointer = self._context.pointer
        size: int = llama_cpp.llama_state_seq_get_size(pointer, sequence)
        data = np.empty(size, dtype=np.uint8)
        written: int = llama_cpp.llama_state_seq_get_data(pointer, _address(data), size, sequence)
        if written != size:
            raise RuntimeError(f"llama.cpp gave {written} bytes of a state of {size}")
        return data

    def put(self, data: StateBytes, sequence: int) -> bool:
        """Give a sequence this state instead of its own; False leaves it empty.

        Args:
            data: What `take` gave.
            sequence: Whose state it becomes.

        Returns:
            False if there are too few free cells, or the bytes fit another context.
        """
        size = len(data)
        pointer = self._context.pointer
        read: int = llama_cpp.llama_state_seq_set_data(pointer, _address(data), size, sequence)
        if read != size:
            self._context.cut(sequence, 0)
        return read == size

    def take_range(self, sequence: int, start: int, end: int) -> StateBytes:
        """The state of a sequence's tokens `start` to `end`, for `put_range`."""
        llama_cpp.llama_memory_seq_cp(self._memory, sequence, self._spare, start, end)
        try:
            return self.take(self._spare)
        finally:
            self._context.cut(self._spare, 0)

    def put_range(self, data: StateBytes, sequence: int, *, start: int, end: int) -> bool:
        """Add tokens to a sequence that holds those before them.

        Args:
            data: What `take_range` gave, of these tokens or more.
            sequence: Whose they become.
            start: The first one wanted.
            end: One past the last one wanted.

        Returns:
            False if there are too few free cells, or the bytes fit another context; nothing has
            changed then.
        """
        if not self.put(data, self._spare):
            return False
        llama_cpp.llama_memory_seq_cp(self._memory, self._spare, sequence, start, end)
        self._context.cut(self._spare, 0)
        return True


def _address(data: StateBytes) -> "ctypes._Pointer[ctypes.c_uint8]":
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
