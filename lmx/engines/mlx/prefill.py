"""Prompts on their way to the decode batch. Knows tokens and caches, not sampling.

Everything but a prompt's last token is prefilled; the last one is the sequence's first decode
input, so its first new token comes out of the ordinary decode step and joining costs no forward
pass. Whose turn it is, and for how many tokens, the scheduler says. Short prompts that are next to
each other share one padded pass while that is cheap; a long prompt goes alone, chunk by chunk,
because plain caches need no mask and cancelling takes effect between chunks.

What a prompt shares with one computed before it is taken from the prefix store, at its first pass
and at any later one at which much more is there: of prompts that come together one computes what
they share, whichever it is, if that saves more than a pass costs.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import mlx.core as mx

from lmx.engines.base import PrefillShare
from lmx.engines.mlx.caches import CacheRows
from lmx.engines.mlx.keeper import MlxRecall, PrefixKeeper
from lmx.engines.mlx.logprobs import gather
from lmx.engines.mlx.passes import PrefillLimits, plan_group
from lmx.engines.mlx.sequence import LivePrompt, LiveSequence
from lmx.engines.prefix.tree import common_length

# Log-probabilities need every position's logits in float32: 256 of a vocabulary of 150,000 are
# 150 MiB.
LOGPROBS_CHUNK_TOKENS = 256
# A prompt under way is kept in pieces of at least so many tokens, or of a whole pass where that has
# more, whatever a pass may have just now: going on from many small ones takes longer.
PIECE_TOKENS = 256
# Where only ends of passes can be gone on from: so many of a prompt besides its boundaries, and no
# two closer than so many tokens.
MAX_STOPS, STOP_TOKENS = 8, 1024


class Ready(NamedTuple):
    """Sequences whose prompts are in the caches but for the last token.

    Attributes:
        sequences: All of them.
        last_ids: The last token of each one's prompt.
        caches: A row for every prompt.
        cache_rows: Of each sequence, ascending; choices of one prompt have the same.
    """

    sequences: list[LiveSequence]
    last_ids: list[int]
    caches: CacheRows
    cache_rows: list[int]

    @classmethod
    def of(cls, prompts: list[LivePrompt], caches: CacheRows) -> "Ready":
        """Every choice that is still wanted of every prompt."""
        pairs = [(row, s) for row, prompt in enumerate(prompts) for s in prompt.live_sequences]
        cache_rows = [row for row, _ in pairs]
        last_ids = [prompts[row].token_ids[-1] for row in cache_rows]
        return cls([sequence for _, sequence in pairs], last_ids, caches, cache_rows)


@dataclass(slots=True, eq=False)
class Partial:
    """A prompt that is not computed yet.

    Attributes:
        prompt: The prompt.
        caches: What is computed; `None` before its first pass.
        done_tokens: Of the prompt, in the caches.
        computed_tokens: Of these, computed for this prompt.
        kept_tokens: Leading tokens that were offered to the prefix store, or came from it.
        is_looked_up: The disk was asked for it.
        recall: What is being read of it from disk.
    """

    prompt: LivePrompt
    caches: CacheRows | None = None
    done_tokens: int = 0
    computed_tokens: int = 0
    kept_tokens: int = 0
    is_looked_up: bool = False
    recall: MlxRecall | None = None

    @property
    def left_tokens(self) -> int:
        """To prefill; the prompt's last token is not."""
        return len(self.prompt.token_ids) - 1 - self.done_tokens

    def next_stop(self) -> int:
        """Where the pass after this position should end for its end to be of use to others."""
        last = len(self.prompt.token_ids) - 1
        gap = max(STOP_TOKENS, -(-last // MAX_STOPS))
        stops = [self.done_tokens // gap * gap + gap, last, *self.prompt.prefix.boundaries]
        return min(stop for stop in stops if self.done_tokens < stop)


class Prefill:
    """Prompts on their way, each as far as it has come.

    Args:
        model: An mlx-lm model.
        limits: Bounds of one pass.
        keeper: What was computed for others.
    """

    def __init__(self, model: Any, limits: PrefillLimits, keeper: PrefixKeeper) -> None:
        self._model = model
        self._limits = limits
        self._keeper = keeper
        self._partials: list[Partial] = []  # in order of arrival
        self._dead: list[Partial] = []  # their caches go with the next step
        self._chunk: tuple[int, float] | None = None  # tokens of the pass under way, and since when

    @property
    def chunk_tokens(self) -> int:
        """Most tokens of one pass."""
        return self._limits.chunk_tokens

    @property
    def is_busy(self) -> bool:
        """There are prompts on their way."""
        return bool(self._partials)

    def add(self, prompt: LivePrompt) -> None:
        """Queue a prompt behind the others."""
        self._partials.append(Partial(prompt))

    def clear(self) -> None:
        """Forget every prompt and free its cache."""
        self._partials.clear()
        self._dead.clear()

    def release_model(self) -> None:
        """Let go of the weights; nothing may be submitted afterwards."""
        self._model = None

    def drop_dead(self) -> None:
        """Let go of prompts whose sequences were all removed, without work for the device."""
        self._dead += [partial for partial in self._partials if not partial.prompt.is_live]
        self._partials = [partial for partial in self._partials if partial.prompt.is_live]

    def bury(self) -> None:
        """Keep what was computed of prompts that were let go: clients that give up ask again."""
        for partial in self._dead:
            if partial.caches is not None and partial.done_tokens > partial.kept_tokens:
                self._keep(partial, partial.caches)
        self._dead.clear()

    def pending(self) -> dict[int, int]:
        """Each prompt's name and the tokens it lacks, at least 1; see `Engine.prefilling`."""
        return {partial.prompt.name: self._missing(partial) for partial in self._partials}

    def note_done(self) -> None:
        """The device has nothing left to do, and has done nothing but the last pass."""
        if self._chunk is not None:
            tokens, began_s = self._chunk
            self._keeper.note_computed(tokens, perf_counter() - began_s)

    def submit(self, shares: Sequence[PrefillShare] | None) -> list[Ready]:
        """Hand at most one pass to the device without waiting for it.

        Args:
            shares: As `Engine.step` takes them.

        Returns:
            The sequences that may decode from now on; none if a prompt is still unfinished or
            nothing is to be done.
        """
        self._chunk = None
        ready: list[Ready] = []
        group: list[Partial] = []
        first_tokens = 0
        for partial, tokens in self._choose(shares):
            if not self._is_recalled(partial, may_read=not group):
                if not group:
                    return ready  # reading goes on, a moment in every step
                continue
            if self._has_sooner(partial, group):
                continue
            self._resume(partial)
            if not partial.left_tokens:
                ready.append(self._finish(partial))
                continue
            is_whole = tokens >= partial.left_tokens and partial.prompt.logprobs is None
            if is_whole or not group:
                first_tokens = first_tokens or tokens
                group.append(partial)
            if not is_whole or len(group) == self._limits.max_rows:
                break
        if not group:
            return ready
        count, shape = self._fitting(group)
        if count > 1:
            return [*ready, self._submit_group(group[:count], *shape)]
        found = self._submit_chunk(group[0], first_tokens)
        return ready if found is None else [*ready, found]

    def _choose(self, shares: Sequence[PrefillShare] | None) -> list[tuple[Partial, int]]:
        """Prompts with the tokens each may have, at most a pass's."""
        most = self._limits.chunk_tokens
        if shares is None:
            return [(partial, most) for partial in self._partials]
        by_name = {partial.prompt.name: partial for partial in self._partials}
        known = [(by_name.get(share.sequence_id), share.tokens) for share in shares]
        return [(partial, min(tokens, most)) for partial, tokens in known if partial is not None]

    def _missing(self, partial: Partial) -> int:
        left = partial.left_tokens
        if partial.caches is None:
            left -= self._usable_tokens(partial.prompt)
        return max(1, left)

    def _usable_tokens(self, prompt: LivePrompt) -> int:
        """What is kept of a prompt, as far as it is gone on from: whole grains, or all of it."""
        if prompt.logprobs is not None:
            return 0
        return self._whole_grains(
            prompt, self._keeper.usable_tokens(prompt.ids, prompt.prefix.salt)
        )

    def _whole_grains(self, prompt: LivePrompt, tokens: int) -> int:
        is_all = tokens >= len(prompt.token_ids) - 1
        return (
            tokens
            if is_all or self._keeper.needs_stops
            else tokens - tokens % self._limits.grain_tokens
        )

    def _is_recalled(self, partial: Partial, *, may_read: bool) -> bool:
        """The disk was asked for it, once, and what it has of it was read."""
        prompt = partial.prompt
        if not partial.is_looked_up and prompt.logprobs is None:
            partial.recall = self._keeper.look_up(prompt.ids, prompt.prefix.salt)
        partial.is_looked_up = True
        if partial.recall is None or (may_read and self._keeper.recall(partial.recall)):
            partial.recall = None
        return partial.recall is None

    def _resume(self, partial: Partial) -> None:
        """Take what is there by now instead of computing it."""
        prompt, done = partial.prompt, partial.done_tokens
        if prompt.logprobs is not None:
            return
        if self._limits.is_grainy and self._usable_tokens(prompt) <= done:
            return  # what is there ends within a grain: it is not worth its copy
        found = self._keeper.resume(prompt.ids, prompt.prefix.salt, beyond=done)
        if found is not None:
            partial.caches, tokens = found
            usable = self._whole_grains(prompt, tokens)
            if tokens > usable:
                partial.caches.rewind(tokens - usable)
            partial.done_tokens = partial.kept_tokens = usable

    def _fitting(self, group: Sequence[Partial]) -> tuple[int, tuple[int, int]]:
        """How many from the head of a group are computed in one pass, and its rows and length.

        They go into one rectangle of what they had before, too; see `plan_group`.
        """
        unbounded = self._limits._replace(chunk_tokens=sys.maxsize)
        lengths = [self._limits.round_up(partial.left_tokens) for partial in group]
        totals = [len(partial.prompt.token_ids) - 1 for partial in group]
        count = min(plan_group(lengths, self._limits), plan_group(totals, unbounded))
        length = max(lengths[:count])
        count, rows = self._limits.row_count(count, length)
        return count, (rows, length)

    def _has_sooner(self, partial: Partial, group: Sequence[Partial]) -> bool:
        """Much of this prompt will be there once the group is computed: it waits for that.

        Computing it again for each costs more than a pass.
        """
        if not group or not self._keeper.store.is_on or partial.prompt.logprobs is not None:
            return False
        ids, salt = partial.prompt.ids, partial.prompt.prefix.salt
        others = [other.prompt.ids for other in group if other.prompt.prefix.salt == salt]
        shared = max((common_length(other, ids, 0) for other in others), default=0)
        gain = shared - max(partial.done_tokens, self._usable_tokens(partial.prompt))
        return gain * len(group) > self._limits.pass_tokens

    def _submit_chunk(self, partial: Partial, tokens: int) -> Ready | None:
        prompt = partial.prompt
        caches = partial.caches or CacheRows.single(self._model)
        if prompt.logprobs is not None:
            tokens = min(tokens, LOGPROBS_CHUNK_TOKENS)
        done, is_end = partial.done_tokens, tokens >= partial.left_tokens
        end = done + (partial.left_tokens if is_end else self._limits.round_down(tokens))
        stop = partial.next_stop() if self._keeper.needs_stops else None
        end = end if stop is None else min(end, stop)
        padding = self._padding(prompt, caches, end - done)
        began_s = perf_counter()  # a CPU is all but done when this comes back
        logits = self._forward(mx.array([[*prompt.token_ids[done:end], *[0] * padding]]), caches)
        if padding:
            caches.rewind(padding)
        _gather(prompt, logits, done)
        partial.caches, partial.done_tokens = caches, end
        partial.computed_tokens += end - done
        self._chunk = end - done, began_s
        piece_tokens = max(PIECE_TOKENS, self._limits.chunk_tokens)
        is_piece = end - partial.kept_tokens >= piece_tokens or not partial.left_tokens
        if is_piece if stop is None else end == stop:
            self._keep(partial, caches)
        return None if partial.left_tokens else self._finish(partial)

    def _padding(self, prompt: LivePrompt, caches: CacheRows, tokens: int) -> int:
        """What a lone prompt's pass is filled up with; it is taken out of the caches again."""
        can_pad = caches.is_always_rewindable and prompt.logprobs is None
        return self._limits.round_up(tokens) - tokens if can_pad else 0

    def _keep(self, partial: Partial, caches: CacheRows, row: int = 0) -> None:
        """Let others have what is computed of a prompt."""
        prompt, done = partial.prompt, partial.done_tokens
        if prompt.logprobs is None:
            partial.kept_tokens = done
            self._keeper.keep(prompt.ids[:done], prompt.prefix.salt, caches, row=row, length=done)

    def _finish(self, partial: Partial) -> Ready:
        self._leave(partial)
        return Ready.of([partial.prompt], partial.caches or CacheRows.single(self._model))

    def _leave(self, partial: Partial) -> None:
        """It is computed."""
        prompt = partial.prompt
        self._partials.remove(partial)
        prompt.skipped_tokens = len(prompt.token_ids) - 1 - partial.computed_tokens

    def _submit_group(self, group: list[Partial], row_count: int, length: int) -> Ready:
        """One pass over what is left of several prompts.

        Args:
            group: Two at least.
            row_count: Rows of the pass; those beyond the prompts are empty.
            length: Tokens of each row, padding included.
        """
        lengths = [partial.left_tokens for partial in group]
        padded = [
            [*partial.prompt.token_ids[partial.done_tokens : -1], *[0] * (length - left)]
            for partial, left in zip(group, lengths, strict=True)
        ]
        empty = row_count - len(group)
        rows = [partial.caches or CacheRows.single(self._model) for partial in group]
        caches = CacheRows.merged([*rows, *(CacheRows.single(self._model) for _ in range(empty))])
        caches.pad_right([*lengths, *[length] * empty], length)
        token_ids = mx.array([*padded, *[[0] * length] * empty])  # (row_count, length) int32
        self._forward(token_ids, caches)
        caches.finalize(len(group))
        for row, partial in enumerate(group):
            partial.done_tokens += lengths[row]
            partial.computed_tokens += lengths[row]
            self._keep(partial, caches, row)
            self._leave(partial)
        return Ready.of([partial.prompt for partial in group], caches)

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
