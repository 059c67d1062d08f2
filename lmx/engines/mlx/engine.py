"""Continuous batching on MLX: the engine contract over a prefill queue and a decode batch.

Knows token ids and slots, nothing about text, clients or files. A step is: drop finished rows,
submit the next decode step, read the one before it, submit one prefill pass. Nothing waits for
the device but the read, and the prefill when nothing decodes.
"""

import secrets
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from lmx.engines.base import EngineFinish, StepResult, check_room
from lmx.engines.mlx.batch import DecodeBatch, Launched
from lmx.engines.mlx.prefill import Prefill, PrefillLimits
from lmx.engines.mlx.sequence import LiveSequence
from lmx.errors import OutOfMemory
from lmx.protocol.values import Memory, ModelInfo, Sampling

SEED_BITS = 64
# How the device's out-of-memory texts begin in mlx 0.32: "[METAL] Command buffer execution
# failed", "[metal::malloc] ...", "[malloc] Unable to allocate", "[malloc_or_wait] ...", and
# "cudaMallocAsync" or "out of memory" on CUDA.
OUT_OF_MEMORY_MARKS = ("[metal", "malloc", "out of memory")


class MlxEngine:
    """Decodes up to `info.max_sequences` sequences of one model together.

    Args:
        model: An mlx-lm model, evaluated.
        info: What the daemon is told.
        end_ids: Ids that end a generation.
        limits: Bounds of one prefill pass.
    """

    def __init__(
        self, model: Any, info: ModelInfo, *, end_ids: frozenset[int], limits: PrefillLimits
    ) -> None:
        self._info = info
        self._end_ids = end_ids
        self._live: dict[int, LiveSequence] = {}
        self._prefill = Prefill(model, limits)
        self._batch = DecodeBatch(model)
        self._launched: Launched | None = None

    @property
    def info(self) -> ModelInfo:
        """Frozen at load."""
        return self._info

    @property
    def free_slots(self) -> int:
        """How many more sequences `add` takes now."""
        return self._info.max_sequences - len(self._live)

    def add(self, sequence_id: int, token_ids: Sequence[int], sampling: Sampling) -> int:
        """Reserve a slot and queue the prompt. Nothing is cached across requests: returns 0.

        Raises:
            ContextTooLong: Prompt plus ``max_tokens`` exceed the context.
            InvalidRequest: The prompt is empty.
            NoFreeSlot: ``free_slots`` is 0.
        """
        check_room(self._info, free_slots=self.free_slots, token_ids=token_ids, sampling=sampling)
        seed = secrets.randbits(SEED_BITS) if sampling.seed is None else sampling.seed
        sequence = LiveSequence(
            sequence_id=sequence_id,
            token_ids=list(token_ids),
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=seed % (1 << SEED_BITS),
        )
        self._live[sequence_id] = sequence
        self._prefill.add(sequence)
        return 0

    def step(self) -> list[StepResult]:
        """One decode step and at most one prefill pass.

        Raises:
            OutOfMemory: The device has no room. The engine's state is lost: close it.
        """
        if not self._live:
            return []
        try:
            return self._step()
        except RuntimeError as error:
            if any(mark in str(error).lower() for mark in OUT_OF_MEMORY_MARKS):
                raise OutOfMemory(f"the device ran out of memory: {error}") from error
            raise

    def remove(self, sequence_id: int) -> None:
        """Free a sequence's slot now and its memory before the next launch. Idempotent."""
        sequence = self._live.pop(sequence_id, None)
        if sequence is not None:
            sequence.is_live = False
            self._prefill.drop_dead()
            self._reset_if_idle()

    def memory(self) -> Memory:
        """Bytes as MLX counts them, process-wide."""
        return Memory(mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())

    def close(self) -> None:
        """Drop every sequence and the weights, and give pooled memory back. Idempotent."""
        self._live.clear()
        self._reset_if_idle()
        mx.synchronize()
        self._prefill.release_model()
        self._batch.release_model()
        mx.clear_cache()

    def _step(self) -> list[StepResult]:
        self._batch.drop_done()
        previous, self._launched = self._launched, self._batch.launch()
        results = self._read(previous) if previous is not None else []
        if not self._live:
            self._reset_if_idle()
            return results
        if self._launched is None and not results:
            # Nothing decodes: wait, or a long prompt would queue all its chunks at once and
            # cancelling it would free nothing.
            mx.synchronize()
        ready = self._prefill.submit()
        if ready is not None:
            self._batch.join(ready)
        return results

    def _read(self, launched: Launched) -> list[StepResult]:
        results = []
        token_ids: list[int] = launched.token_ids.tolist()  # type: ignore[assignment]
        for sequence, token_id in zip(launched.sequences, token_ids, strict=True):
            if sequence.is_live:
                finish = self._finish(sequence, token_id)
                results.append(StepResult(sequence.sequence_id, token_id, finish))
        return results

    def _finish(self, sequence: LiveSequence, token_id: int) -> EngineFinish | None:
        sequence.delivered += 1
        finish: EngineFinish | None = None
        if token_id in self._end_ids:
            finish = "stop"
        elif sequence.delivered >= sequence.max_tokens:
            finish = "length"
        if finish is not None:
            sequence.is_live = False
            del self._live[sequence.sequence_id]
        return finish

    def _reset_if_idle(self) -> None:
        if not self._live:
            self._batch.clear()
            self._prefill.clear()
            self._launched = None
