"""Prompts on their way to the decode batch. Knows tokens and caches, not sampling.

Everything but a prompt's last token is prefilled; the last one is the sequence's first decode
input, so its first new token comes out of the ordinary decode step and joining costs no forward
pass. Neighbours in the queue share one padded pass while that is cheap; a long prompt goes alone,
chunk by chunk, because plain caches need no mask and cancelling takes effect between chunks.
"""

from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import mlx.core as mx

from lmx.engines.mlx.caches import CacheRows
from lmx.engines.mlx.logprobs import gather
from lmx.engines.mlx.sequence import LivePrompt, LiveSequence

# Log-probabilities need every position's logits in float32: 256 of a vocabulary of 150,000 are
# 150 MiB.
LOGPROBS_CHUNK_TOKENS = 256


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
    last_ids: list[int]
    caches: CacheRows

    @classmethod
    def of(cls, prompts: list[LivePrompt], caches: CacheRows) -> "Ready":
        """Give every choice of every prompt a row of its own."""
        pairs = [(row, s) for row, prompt in enumerate(prompts) for s in prompt.live_sequences]
        caches.replicate([row for row, _ in pairs])
        last_ids = [prompts[row].token_ids[-1] for row, _ in pairs]
        return cls([sequence for _, sequence in pairs], last_ids, caches)


class _Long(NamedTuple):
    prompt: LivePrompt
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
        self._waiting: deque[LivePrompt] = deque()
        self._long: _Long | None = None

    def add(self, prompt: LivePrompt) -> None:
        """Queue a prompt behind the others."""
        self._waiting.append(prompt)

    def clear(self) -> None:
        """Forget every prompt and free its cache."""
        self._waiting.clear()
        self._long = None

    def release_model(self) -> None:
        """Let go of the weights; nothing may be submitted afterwards."""
        self._model = None

    def drop_dead(self) -> None:
        """Forget prompts whose sequences were all removed."""
        if not all(prompt.is_live for prompt in self._waiting):
            self._waiting = deque(prompt for prompt in self._waiting if prompt.is_live)
        if self._long is not None and not self._long.prompt.is_live:
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
        silent = list(takewhile(lambda prompt: prompt.logprobs is None, self._waiting))
        lengths = [len(prompt.token_ids) - 1 for prompt in silent]
        # A prompt whose own log-probabilities are wanted goes alone.
        count = plan_group(lengths, self._limits) if lengths else 1
        group = [self._waiting.popleft() for _ in range(count)]
        if count == 1:
            return self._submit_chunk(_Long(group[0], CacheRows.single(self._model), 0))
        return self._submit_group(group)

    def _submit_chunk(self, long: _Long) -> Ready | None:
        prompt, caches, done = long
        prompt_tokens = len(prompt.token_ids) - 1
        chunk_tokens = self._limits.chunk_tokens
        if prompt.logprobs is not None:
            chunk_tokens = min(chunk_tokens, LOGPROBS_CHUNK_TOKENS)
        end = min(done + chunk_tokens, prompt_tokens)
        if end > done:
            logits = self._forward(mx.array([prompt.token_ids[done:end]]), caches)
            _gather(prompt, logits, done)
        if end < prompt_tokens:
            self._long = _Long(prompt, caches, end)
            return None
        self._long = None
        return Ready.of([prompt], caches)

    def _submit_group(self, group: list[LivePrompt]) -> Ready:
        prompts = [prompt.token_ids[:-1] for prompt in group]
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        caches = CacheRows.batched(self._model, len(group))
        if longest:
            padded = [prompt + [0] * (longest - len(prompt)) for prompt in prompts]
            caches.pad_right(lengths)
            self._forward(mx.array(padded), caches)  # (B, longest) int32
            caches.finalize()
        return Ready.of(group, caches)

    def _forward(self, token_ids: mx.array, caches: CacheRows) -> mx.array:
        # Unless somebody evaluates the logits, the output layer costs nothing here.
        logits: mx.array = self._model(token_ids, cache=caches.layers)  # (B, T, V)
        mx.async_eval(caches.states())
        return logits


def _gather(prompt: LivePrompt, logits: mx.array, done_tokens: int) -> None:
    """Keep what one chunk says about the tokens after its own.

    Shapes: logits (1, T, V).
    """
    if prompt.logprobs is not None:
        following = prompt.token_ids[done_tokens + 1 : done_tokens + 1 + logits.shape[1]]
        chunk = gather(logits[0], mx.array(following), prompt.logprobs.top_count)
        mx.async_eval(*chunk)
        prompt.logprobs.chunks.append(chunk)
