"""The engine the scheduler drives: batches cut into groups of like length, computed side by side.

Knows rows, bytes and the device; what a net computes is its own business. On a CPU MLX runs one
operation of a stream at a time, so groups are spread over as many streams as there are cores.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from lmx.engines.mlx.blas import Blas
from lmx.engines.mlx.device import telling_out_of_memory
from lmx.engines.mlx.vectors.heads import Net
from lmx.engines.mlx.vectors.rows import plan_groups
from lmx.engines.vectors import TokenRow
from lmx.errors import InvalidRequest
from lmx.protocol.values import Memory, ModelInfo


class BatchLimits(NamedTuple):
    """How batches are computed.

    Attributes:
        batch_tokens: Of one call, padding included.
        group_tokens: Of rows that are padded together.
        streams: How many groups are computed side by side; 0 for the device's own stream.
        blas: Whose products these are; one that has nothing to compute beside it gets the threads.
    """

    batch_tokens: int
    group_tokens: int
    streams: int = 0
    blas: Blas = Blas(is_fast=True, notes=[])


class MlxVectorEngine:
    """Vectors or scores of one model.

    Args:
        net: The model, evaluated.
        info: What the daemon is told.
        vocabulary_size: Token ids are below this.
        limits: Sizes of batches.
    """

    def __init__(
        self, net: Net, info: ModelInfo, *, vocabulary_size: int, limits: BatchLimits
    ) -> None:
        self._net: Net | None = net
        self._info = info
        self._vocabulary_size = vocabulary_size
        self._limits = limits
        self._streams = [mx.new_stream(mx.cpu) for _ in range(limits.streams)]

    @property
    def info(self) -> ModelInfo:
        """Frozen at load."""
        return self._info

    @property
    def batch_tokens(self) -> int:
        """Most tokens of a call, padding included."""
        return self._limits.batch_tokens

    def compute(self, rows: Sequence[TokenRow]) -> NDArray[np.float32]:
        """The numbers of each row.

        Shapes: -> (N, D) float32.

        Raises:
            InvalidRequest: A row is empty, or has an id the model does not know.
            OutOfMemory: The device has no room.
        """
        self._check(rows)
        net = self._net
        assert net is not None, "closed"  # noqa: S101 - the caller's mistake
        lengths = [len(row.ids) for row in rows]
        groups = plan_groups(lengths, self._limits.group_tokens, self._parallel)
        found: list[mx.array] = []
        with telling_out_of_memory():
            # MLX submits one graph after the other, so a round is as many as run side by side.
            for start in range(0, len(groups), self._parallel):
                found += self._compute_round(
                    net, [[rows[i] for i in group] for group in groups[start:][: self._parallel]]
                )
        return _in_order(groups, found)

    def quiesce(self) -> None:
        """Nothing is computed outside of `compute`, which waits for its results."""
        mx.synchronize()

    def shrink(self) -> None:
        """Give the pool of freed buffers back, and what the net keeps for speed."""
        if self._net is not None:
            self._net.shrink()
        mx.clear_cache()

    def memory(self) -> Memory:
        """Bytes as MLX counts them, process-wide."""
        return Memory(mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())

    def close(self) -> None:
        """Drop the weights and give pooled memory back. Idempotent."""
        mx.synchronize()
        self._net = None
        mx.clear_cache()

    def _check(self, rows: Sequence[TokenRow]) -> None:
        for row in rows:
            if not row.ids:
                raise InvalidRequest("a row needs at least one token", param="input")
            if not 0 <= min(row.ids) <= max(row.ids) < self._vocabulary_size:
                raise InvalidRequest(
                    f"token ids of this model are 0 to {self._vocabulary_size - 1}", param="input"
                )

    @property
    def _parallel(self) -> int:
        return max(1, len(self._streams))

    def _compute_round(self, net: Net, groups: Sequence[Sequence[TokenRow]]) -> list[mx.array]:
        blas = self._limits.blas
        blas.use_threads(blas.threads if len(groups) == 1 else 1)
        found = []
        for index, group in enumerate(groups):
            with self._stream(index):
                found.append(net(group))  # (B, D) float32
        mx.eval(found)
        return found

    def _stream(self, index: int) -> AbstractContextManager[object]:
        if not self._streams:
            return nullcontext()
        return mx.stream(self._streams[index])


def _in_order(groups: Sequence[Sequence[int]], found: Sequence[mx.array]) -> NDArray[np.float32]:
    """Results of groups in the order of the rows: (N, D) float32."""
    count = sum(len(group) for group in groups)
    result = np.empty((count, found[0].shape[-1]), np.float32)
    for group, values in zip(groups, found, strict=True):
        result[group] = np.array(values, copy=False)
    return result
