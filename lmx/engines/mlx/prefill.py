"""Prompts on their way to the decode batch. Knows tokens and caches, not sampling.

Everything but a prompt's last token is prefilled; the last one is the sequence's first decode
input, so its first new token comes out of the ordinary decode step and joining costs no forward
pass. Neighbours in the queue share one padded pass while that is cheap; a long prompt goes alone,
chunk by chunk, because plain caches need no mask and cancelling takes effect between chunks.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from lmx.engines.mlx.caches import CacheRows
from lmx.engines.mlx.sequence import LiveSequence


class PrefillLimits(NamedTuple):
    """What one prefill pass may hold.

    Attributes:
        chunk_tokens: Most tokens of a pass, padding included.
        max_rows: Most prompts in a pass.
    """

    chunk_tokens: int
    max_rows: int


class Ready(NamedTuple):
    """Sequences whose prompts are in the caches but for the last token; rows match."""

    sequences: list[LiveSequence]
    caches: CacheRows


class _Long(NamedTuple):
    sequence: LiveSequence
    caches: CacheRows
    done_tokens: int


def plan_group(lengths: Sequence[int], limits: PrefillLimits) -> int:
    """How many prompts from the head of the queue go into the next pass.

    Args:
        lengths: Tokens to prefill of each waiting prompt, in queue order, at least one entry.
        limits: Bounds of the pass.

    Returns:
        At least 1. Padding never exceeds the real tokens, and count times longest stays within
        the chunk.
    """
    longest = real = 0
    for count, length in enumerate(lengths):
        longest = max(longest, length)
        real += length
        padded = (count + 1) * longest
        is_over = padded > limits.chunk_tokens or padded > 2 * real
        if count and (is_over or count == limits.max_rows):
            return count
    return len(lengths)


class Prefill:
    """The queue of prompts and the one being worked on.

    Args:
        model: An mlx-lm model.
        limits: Bounds of one pass.
    """

    def __init__(self, model: Any, limits: PrefillLimits) -> None:
        self._model = model
        self._limits = limits
        self._waiting: deque[LiveSequence] = deque()
        self._long: _Long | None = None

    def add(self, sequence: LiveSequence) -> None:
        """Queue a prompt behind the others."""
        self._waiting.append(sequence)

    def clear(self) -> None:
        """Forget every prompt and free its cache."""
        self._waiting.clear()
        self._long = None

    def release_model(self) -> None:
        """Let go of the weights; nothing may be submitted afterwards."""
        self._model = None

    def drop_dead(self) -> None:
        """Forget prompts of removed sequences."""
        if not all(sequence.is_live for sequence in self._waiting):
            self._waiting = deque(s for s in self._waiting if s.is_live)
        if self._long is not None and not self._long.sequence.is_live:
            self._long = None

    def submit(self) -> Ready | None:
        """Hand one pass to the device without waiting for it.

        Returns:
            The sequences that may decode from now on, or `None` if a prompt is still unfinished
            or none waits.
        """
        if self._long is not None:
            return self._submit_chunk(self._long)
        if not self._waiting:
            return None
        count = plan_group([len(s.token_ids) - 1 for s in self._waiting], self._limits)
        group = [self._waiting.popleft() for _ in range(count)]
        if count == 1:
            return self._submit_chunk(_Long(group[0], CacheRows.single(self._model), 0))
        return self._submit_group(group)

    def _submit_chunk(self, long: _Long) -> Ready | None:
        sequence, caches, done = long
        prompt_tokens = len(sequence.token_ids) - 1
        end = min(done + self._limits.chunk_tokens, prompt_tokens)
        if end > done:
            self._forward(mx.array([sequence.token_ids[done:end]]), caches)
        if end < prompt_tokens:
            self._long = _Long(sequence, caches, end)
            return None
        self._long = None
        return Ready([sequence], caches)

    def _submit_group(self, group: list[LiveSequence]) -> Ready:
        prompts = [sequence.token_ids[:-1] for sequence in group]
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        caches = CacheRows.batched(self._model, len(group))
        if longest:
            padded = [prompt + [0] * (longest - len(prompt)) for prompt in prompts]
            caches.pad_right(lengths)
            self._forward(mx.array(padded), caches)  # (B, longest) int32
            caches.finalize()
        return Ready(group, caches)

    def _forward(self, token_ids: mx.array, caches: CacheRows) -> None:
        # The logits are never evaluated, so the output layer costs nothing here.
        self._model(token_ids, cache=caches.layers)
        mx.async_eval(caches.states())
