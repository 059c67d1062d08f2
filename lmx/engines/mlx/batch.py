"""The decode batch: rows, their caches and their next inputs. Knows no prompts and no clients.

`launch` submits a step and returns at once; its tokens are both the answer, read one step later,
and the next step's input, which never leaves the device. Reading one step behind the launch keeps
the device busy while Python builds the next graph.

Shapes: B rows, V vocabulary.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx

from lmx.engines.mlx.prefill import Ready
from lmx.engines.mlx.sampler import BatchSampler, Row
from lmx.engines.mlx.sequence import LiveSequence

if TYPE_CHECKING:
    from lmx.engines.mlx.caches import CacheRows


class Launched(NamedTuple):
    """A submitted step: one token id per sequence, readable when the device is done."""

    token_ids: mx.array  # (B,) uint32
    sequences: tuple[LiveSequence, ...]


class DecodeBatch:
    """Sequences that get one token per step.

    Args:
        model: An mlx-lm model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._sequences: list[LiveSequence] = []
        # All three are None iff there are no rows; the sampler is also None after a change.
        self._caches: CacheRows | None = None
        self._inputs: mx.array | None = None  # (B,) uint32
        self._sampler: BatchSampler | None = None

    def __len__(self) -> int:
        return len(self._sequences)

    def join(self, ready: Ready) -> None:
        """Add prefilled sequences; those removed in the meantime leave before the next launch."""
        last_ids = [sequence.token_ids[-1] for sequence in ready.sequences]
        inputs = mx.array(last_ids, dtype=mx.uint32)  # (B,) uint32
        if self._caches is None or self._inputs is None:
            self._caches, self._inputs = ready.caches, inputs
        else:
            self._caches.extend(ready.caches)
            self._inputs = mx.concatenate([self._inputs, inputs])
        self._sequences += ready.sequences
        self._sampler = None

    def drop_done(self) -> None:
        """Free the rows that need no further launch."""
        kept = [row for row, sequence in enumerate(self._sequences) if sequence.wants_launch]
        if len(kept) == len(self._sequences):
            return
        if not kept or self._caches is None or self._inputs is None:
            self.clear()
            return
        self._caches.keep(kept)
        self._inputs = self._inputs[mx.array(kept)]
        self._sequences = [self._sequences[row] for row in kept]
        self._sampler = None

    def clear(self) -> None:
        """Free every row."""
        self._sequences = []
        self._caches = self._inputs = self._sampler = None

    def release_model(self) -> None:
        """Let go of the weights; nothing may be submitted afterwards."""
        self._model = None

    def launch(self) -> Launched | None:
        """Submit one decode step for every row; `None` without rows."""
        if self._caches is None or self._inputs is None:
            return None
        if self._sampler is None:
            self._sampler = BatchSampler([_sampler_row(s) for s in self._sequences])
        logits = self._model(self._inputs[:, None], cache=self._caches.layers)  # (B, 1, V)
        token_ids = self._sampler.sample(logits[:, -1, :])  # (B,) uint32
        mx.async_eval(token_ids)
        self._inputs = token_ids
        for sequence in self._sequences:
            sequence.launched += 1
        return Launched(token_ids, tuple(self._sequences))


def _sampler_row(sequence: LiveSequence) -> Row:
    return Row(sequence.temperature, sequence.top_p, sequence.seed, sequence.launched)
