"""Prompts on their way to the decode batch. Knows tokens and caches, not sampling.

Everything but a prompt's last token is prefilled; the last one is the sequence's first decode
input, so its first new token comes out of the ordinary decode step and joining costs no forward
pass. Whose turn it is, and for how many tokens, the scheduler says. Short prompts that are next to
each other share one padded pass while that is cheap; a long prompt goes alone, chunk by chunk,
because plain caches need no mask and cancelling takes effect between chunks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

import mlx.core as mx

from lmx.engines.base import PrefillShare
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


@dataclass(slots=True, eq=False)
class Partial:
    """A prompt that is not computed yet.

    Attributes:
        prompt: The prompt.
        caches: What is computed; `None` before its first pass.
        done_tokens: Of the prompt, in the caches.
    """

    prompt: LivePrompt
    caches: CacheRows | None = None
    done_tokens: int = 0

    @property
    def left_tokens(self) -> int:
        """To prefill; the prompt's last token is not."""
        return len(self.prompt.token_ids) - 1 - self.done_tokens


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
    """Prompts on their way, each as far as it has come.

    Args:
        model: An mlx-lm model.
        limits: Bounds of one pass.
    """

    def __init__(self, model: Any, limits: PrefillLimits) -> None:
        self._model = model
        self._limits = limits
        self._partials: list[Partial] = []  # in order of arrival

    @property
    def chunk_tokens(self) -> int:
        """Most tokens of one pass."""
        return self._limits.chunk_tokens

    def add(self, prompt: LivePrompt) -> None:
        """Queue a prompt behind the others."""
        self._partials.append(Partial(prompt))

    def clear(self) -> None:
        """Forget every prompt and free its cache."""
        self._partials.clear()

    def release_model(self) -> None:
        """Let go of the weights; nothing may be submitted afterwards."""
        self._model = None

    def drop_dead(self) -> None:
        """Forget prompts whose sequences were all removed."""
        self._partials = [partial for partial in self._partials if partial.prompt.is_live]

    def pending(self) -> dict[int, int]:
        """Each prompt's name and the tokens it lacks, at least 1; see `Engine.prefilling`."""
        return {partial.prompt.name: max(1, partial.left_tokens) for partial in self._partials}

    def submit(self, shares: Sequence[PrefillShare] | None) -> Ready | None:
        """Hand one pass to the device without waiting for it.

        Args:
            shares: As `Engine.step` takes them.

        Returns:
            The sequences that may decode from now on, or `None` if a prompt is still unfinished
            or nothing is to be done.
        """
        chosen = self._choose(shares)
        if not chosen:
            return None
        group = list(takewhile(_may_share, chosen))
        lengths = [partial.left_tokens for partial, _ in group]
        count = plan_group(lengths, self._limits) if group else 1
        if count == 1:
            return self._submit_chunk(*chosen[0])
        return self._submit_group([partial for partial, _ in group[:count]])

    def _choose(self, shares: Sequence[PrefillShare] | None) -> list[tuple[Partial, int]]:
        """Prompts with the tokens each may have, at most a pass's."""
        most = self._limits.chunk_tokens
        if shares is None:
            return [(partial, most) for partial in self._partials]
        by_name = {partial.prompt.name: partial for partial in self._partials}
        known = [(by_name.get(share.sequence_id), share.tokens) for share in shares]
        return [(partial, min(tokens, most)) for partial, tokens in known if partial is not None]

    def _submit_chunk(self, partial: Partial, tokens: int) -> Ready | None:
        prompt = partial.prompt
        caches = partial.caches or CacheRows.single(self._model)
        if prompt.logprobs is not None:
            tokens = min(tokens, LOGPROBS_CHUNK_TOKENS)
        done = partial.done_tokens
        end = done + min(tokens, partial.left_tokens)
        if end > done:
            logits = self._forward(mx.array([prompt.token_ids[done:end]]), caches)
            _gather(prompt, logits, done)
        partial.caches, partial.done_tokens = caches, end
        if partial.left_tokens:
            return None
        self._partials.remove(partial)
        return Ready.of([prompt], caches)

    def _submit_group(self, group: list[Partial]) -> Ready:
        self._partials = [partial for partial in self._partials if partial not in group]
        prompts = [partial.prompt.token_ids[:-1] for partial in group]
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        caches = CacheRows.batched(self._model, len(group))
        if longest:
            padded = [prompt + [0] * (longest - len(prompt)) for prompt in prompts]
            caches.pad_right(lengths)
            self._forward(mx.array(padded), caches)  # (B, longest) int32
            caches.finalize()
        return Ready.of([partial.prompt for partial in group], caches)

    def _forward(self, token_ids: mx.array, caches: CacheRows) -> mx.array:
        # Unless somebody evaluates the logits, the output layer costs nothing here.
        logits: mx.array = self._model(token_ids, cache=caches.layers)  # (B, T, V)
        mx.async_eval(caches.states())
        return logits


def _may_share(chosen: tuple[Partial, int]) -> bool:
    """It can be computed whole in a pass with others.

    A prompt whose own log-probabilities are wanted goes alone.
    """
    partial, tokens = chosen
    is_whole = partial.caches is None and tokens >= partial.left_tokens
    return is_whole and partial.prompt.logprobs is None


def _gather(prompt: LivePrompt, logits: mx.array, done_tokens: int) -> None:
    """Keep what one chunk says about the tokens after its own.

    Shapes: logits (1, T, V).
    """
    if prompt.logprobs is not None:
        following = prompt.token_ids[done_tokens + 1 : done_tokens + 1 + logits.shape[1]]
        chunk = gather(logits[0], mx.array(following), prompt.logprobs.top_count)
        mx.async_eval(*chunk)
        prompt.logprobs.chunks.append(chunk)
