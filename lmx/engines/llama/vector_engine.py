"""Rows of tokens to vectors or scores on llama.cpp: the engine contract over passes of many rows.

Knows ids and numbers, no text and no files. Rows of one pass are sequences of their own and need no
padding. A row longer than a pass goes in several, where the model can be read so.

Shapes: N rows, W numbers that llama.cpp makes of a row, D numbers of a result.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lmx.engines.llama.batch import RowBatch
from lmx.engines.llama.library import LlamaModel, VectorContext
from lmx.engines.vectors import TokenRow
from lmx.errors import InvalidRequest
from lmx.protocol.values import Memory, ModelInfo

# Vectors shorter than this are as good as nothing, and stay so.
LEAST_LENGTH = 1e-12

Array = NDArray[np.float32]
Finish = Callable[[Array], Array]


class LlamaVectorEngine:
    """Computes rows of one model.

    Args:
        model: Closed with the engine.
        context: Closed with the engine.
        info: What the daemon is told.
        batch_tokens: Tokens of a usual pass; a longer row may take up to the context's.
        finish: Makes results of what llama.cpp gives: (N, W) float32 -> (N, D) float32.
        fixed_bytes: What weights, cache and work space take; it does not change.
    """

    def __init__(
        self,
        model: LlamaModel,
        context: VectorContext,
        info: ModelInfo,
        *,
        batch_tokens: int,
        finish: Finish,
        fixed_bytes: int,
    ) -> None:
        self._model = model
        self._context = context
        self._info = info
        self._batch_tokens = batch_tokens
        self._finish = finish
        self._memory = Memory(fixed_bytes, 0, fixed_bytes)
        self._batch = RowBatch(context.size.batch_tokens)
        self._raw_width = info.width or len(model.labels)

    @property
    def info(self) -> ModelInfo:
        """Frozen at load."""
        return self._info

    @property
    def batch_tokens(self) -> int:
        """How many tokens one call of `compute` is best given at most."""
        return self._batch_tokens

    def compute(self, rows: Sequence[TokenRow]) -> Array:
        """The numbers of each row; segments are not read, llama.cpp has all tokens of the first.

        Args:
            rows: At least one, each within the longest row.

        Shapes: -> (N, D) float32.

        Raises:
            InvalidRequest: A row is empty, too long or holds an id the model does not know; nothing
                was computed.
            OutOfMemory: The device has no room; fewer rows may fit.
        """
        for row in rows:
            self._check(row.ids)
        raw = np.empty((len(rows), self._raw_width), dtype=np.float32)  # (N, W) float32
        for part in self._passes(rows):
            self._run([rows[index].ids for index in part])
            self._context.read(raw[part.start : part.stop])
        return self._finish(raw)

    def quiesce(self) -> None:
        """Wait for a pass whose numbers nobody read, as after an error."""
        self._context.synchronise()

    def shrink(self) -> None:
        """All memory was allocated at load and goes with the worker."""

    def memory(self) -> Memory:
        """What was allocated at load, and what the largest pass adds."""
        return self._memory

    def close(self) -> None:
        """Free context and model. Idempotent."""
        self._context.close()
        self._model.close()

    def _check(self, ids: list[int]) -> None:
        """Refuse what llama.cpp would end the process for."""
        size, longest = self._model.vocabulary_size, self._info.context_tokens
        if not 0 < len(ids) <= longest:
            raise InvalidRequest(f"rows of this model have 1 to {longest} tokens", param="input")
        if not 0 <= min(ids) <= max(ids) < size:
            raise InvalidRequest(f"token ids of this model are 0 to {size - 1}", param="input")

    def _passes(self, rows: Sequence[TokenRow]) -> Iterator[range]:
        """Neighbours that go together: as many as there are sequences, or fill a usual pass."""
        start, tokens = 0, 0
        for index, row in enumerate(rows):
            is_full = tokens + len(row.ids) > self._batch_tokens
            if index > start and (is_full or index - start == self._context.size.sequences):
                yield range(start, index)
                start, tokens = index, 0
            tokens += len(row.ids)
        yield range(start, len(rows))

    def _run(self, rows: list[list[int]]) -> None:
        """One pass for these rows, or several for a single one that is longer than a pass."""
        self._context.forget()
        step = self._batch.capacity
        for position in range(0, max(map(len, rows)), step):
            self._batch.clear()
            for sequence, ids in enumerate(rows):
                part = ids[position : position + step]
                self._batch.append(sequence, part, position, wanted_from=0)
            self._context.run(self._batch)


def normalise(raw: Array) -> Array:
    """Vectors of length 1. Shapes: (N, D) float32 -> the same."""
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)  # (N, 1) float32
    scaled: Array = raw / np.maximum(lengths, np.float32(LEAST_LENGTH))
    return scaled


def squash(raw: Array) -> Array:
    """The sigmoid of one logit each. Shapes: (N, 1) float32 -> the same."""
    # By way of tanh, which overflows for no logit.
    scores: Array = np.float32(0.5) * (np.float32(1.0) + np.tanh(np.float32(0.5) * raw))
    return scores


def softmax_of(label: int) -> Finish:
    """What gives the share of one label among all. Shapes: (N, W) float32 -> (N, 1) float32."""

    def finish(raw: Array) -> Array:
        raised = np.exp(raw - raw.max(axis=1, keepdims=True))  # (N, W) float32
        share: Array = raised[:, label : label + 1] / raised.sum(axis=1, keepdims=True)
        return share

    return finish


def share_of(label: int) -> Finish:
    """The same of shares that llama.cpp has computed. Shapes: (N, W) float32 -> (N, 1) float32."""

    def finish(raw: Array) -> Array:
        share: Array = np.clip(raw[:, label : label + 1], 0, 1)
        return share

    return finish
