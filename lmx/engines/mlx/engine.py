"""Continuous batching on MLX: the engine contract over a prefill queue and a decode batch.

Knows token ids and slots, nothing about text, clients or files. A step is: drop finished rows,
submit the next decode step, read the one before it, submit one prefill pass. Nothing waits for
the device but the read, and the prefill when nothing decodes. A batch with a constrained row is
submitted after the read.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx

from lmx.engines.base import (
    SHARES_FREELY,
    Choice,
    EngineFinish,
    PrefillShare,
    PrefixOutlook,
    PrefixUse,
    StepResult,
    accept_token,
    check_room,
)
from lmx.engines.mlx.batch import DecodeBatch, Launched
from lmx.engines.mlx.caches import CacheRows
from lmx.engines.mlx.device import telling_out_of_memory
from lmx.engines.mlx.groups import DecodeGroups
from lmx.engines.mlx.keeper import MlxStore, MlxTier, PrefixKeeper
from lmx.engines.mlx.passes import PrefillLimits
from lmx.engines.mlx.prefill import Prefill
from lmx.engines.mlx.sequence import LivePrompt, LiveSequence, PromptLogprobs, make_sequence
from lmx.engines.mlx.speculation import Speculation, settle
from lmx.engines.prefix.tree import make_key
from lmx.errors import InvalidRequest
from lmx.protocol.values import Kept, Memory, ModelInfo


class Savings(NamedTuple):
    """What makes an engine faster and changes no answer.

    Attributes:
        store: What is kept of prompts and answers for others; nothing if there is none.
        speculation: Drafts for a sequence that decodes alone; `None` for none.
        disk: What of the store outlives the model.
    """

    store: MlxStore | None = None
    speculation: Speculation | None = None
    disk: MlxTier | None = None


class MlxEngine:
    """Decodes up to `info.max_sequences` sequences of one model together.

    Args:
        model: An mlx-lm model, evaluated.
        info: What the daemon is told.
        end_ids: Ids that end a generation.
        limits: Bounds of one prefill pass.
        vocabulary_size: Logits per token.
        savings: What spares it work.
    """

    def __init__(
        self,
        model: Any,
        info: ModelInfo,
        *,
        end_ids: frozenset[int],
        limits: PrefillLimits,
        vocabulary_size: int,
        savings: Savings | None = None,
    ) -> None:
        savings = savings or Savings()
        self._vocabulary_size = vocabulary_size
        self._info = info
        self._end_ids = end_ids
        self._live: dict[int, LiveSequence] = {}
        self._keeper = PrefixKeeper(model, savings.store or MlxStore(0), savings.disk)
        self._prefill = Prefill(model, limits, self._keeper)
        self._batch = DecodeGroups(partial(DecodeBatch, model, sorted(end_ids), self._keep_answer))
        self._launched: list[Launched] = []
        self._speculation = savings.speculation or Speculation(is_on=False)

    @property
    def info(self) -> ModelInfo:
        """Frozen at load."""
        return self._info

    @property
    def free_slots(self) -> int:
        """How many more sequences `add` takes now."""
        return self._info.max_sequences - len(self._live)

    def add(
        self,
        choices: Sequence[Choice],
        token_ids: Sequence[int],
        *,
        wants_prompt_logprobs: bool = False,
        prefix: PrefixUse = SHARES_FREELY,
    ) -> None:
        """Reserve slots and queue the prompt.

        Raises:
            ContextTooLong: Prompt plus ``max_tokens`` exceed the context.
            InvalidRequest: The prompt is empty or holds an id the model does not know.
            NoFreeSlot: Fewer than ``len(choices)`` slots are free.
        """
        check_room(self._info, free_slots=self.free_slots, token_ids=token_ids, choices=choices)
        if not 0 <= min(token_ids) <= max(token_ids) < self._vocabulary_size:
            raise InvalidRequest(
                f"token ids of this model are 0 to {self._vocabulary_size - 1}", param="prompt"
            )
        prompt_ids = list(token_ids)
        sequences = [make_sequence(choice, prompt_ids) for choice in choices]
        prompt = LivePrompt(prompt_ids, sequences, prefix=prefix)
        if wants_prompt_logprobs:
            prompt.logprobs = PromptLogprobs(choices[0].sampling.top_logprobs or 0)
            sequences[0].prompt_logprobs = prompt.logprobs
        for sequence, choice in zip(sequences, choices, strict=True):
            self._live[sequence.sequence_id] = sequence
            if choice.sampling.speculate:
                self._speculation.watch(sequence, prompt_ids)
        self._prefill.add(prompt)
        self._keeper.wake()

    def foresee(
        self,
        token_ids: Sequence[int],
        prefix: PrefixUse,
    ) -> PrefixOutlook:
        """How much of a prompt is there already. From any thread."""
        return self._keeper.store.foresee(token_ids, prefix)

    @property
    def chunk_tokens(self) -> int:
        """Most tokens of one prefill pass."""
        return self._prefill.chunk_tokens

    def prefilling(self) -> dict[int, int]:
        """Prompts that are not computed yet, in order of arrival."""
        return self._prefill.pending()

    def step(self, shares: Sequence[PrefillShare] | None = None) -> list[StepResult]:
        """One decode step and at most one prefill pass.

        Raises:
            OutOfMemory: The device has no room. The engine's state is lost: close it.
        """
        with telling_out_of_memory():
            if not self._live:
                self._reset_if_idle()
                return []
            return self._step(shares)

    def quiesce(self) -> None:
        """Wait for the step and the prefill pass that were submitted last.

        Raises:
            OutOfMemory: The device has no room. The engine's state is lost: close it.
        """
        with telling_out_of_memory():
            mx.synchronize()

    def rest(self) -> bool:
        """Write some of what is kept to disk."""
        return self._keeper.rest()

    def interrupt(self, sequence_id: int) -> None:
        """Submitted work cannot be called back; passes are short."""

    def remove(self, sequence_id: int) -> None:
        """Free a sequence's slot now and its memory with the next step. Idempotent."""
        sequence = self._live.pop(sequence_id, None)
        if sequence is not None:
            sequence.is_live = False
            self._prefill.drop_dead()

    def shrink(self, prefix_cache_bytes: int | None = None) -> None:
        """Give what is kept of prompts and the pool of freed buffers back."""
        self._keeper.store.shrink(prefix_cache_bytes)
        if prefix_cache_bytes is None:
            self._speculation.shrink()
        mx.clear_cache()

    def memory(self) -> Memory:
        """Bytes as MLX counts them, process-wide; what is kept for others counts as cached."""
        kept = Kept(*self._keeper.store.state)
        return Memory(
            max(0, mx.get_active_memory() - kept.size_bytes),
            mx.get_cache_memory() + kept.size_bytes,
            mx.get_peak_memory(),
            kept,
        )

    def close(self) -> None:
        """Drop every sequence and the weights, and give pooled memory back. Idempotent."""
        self._live.clear()
        self._reset_if_idle()
        mx.synchronize()
        self._prefill.release_model()
        self._batch.release_model()
        self._keeper.release_model()
        self._speculation.release_model()
        mx.clear_cache()

    def _step(self, shares: Sequence[PrefillShare] | None) -> list[StepResult]:
        self._prefill.bury()
        self._batch.drop_done()
        results = self._launch_and_read()
        if not self._live:
            self._reset_if_idle()
            return results
        if not self._launched and not results:
            # Nothing decodes: wait, or a long prompt would queue all its chunks at once and
            # cancelling it would free nothing.
            mx.synchronize()
            self._prefill.note_done()
        if self._prefill.is_busy:
            self._batch.disturb()
        if self._info.device == "cpu" and any(map(self._is_first_or_last, results)):
            shares = ()  # a CPU is done with a piece before this returns: that can wait
        for ready in self._prefill.submit(shares):
            self._batch.join(ready)
        return results

    def _is_first_or_last(self, result: StepResult) -> bool:
        """Somebody's answer began, or ended."""
        sequence = self._live.get(result.sequence_id)
        return sequence is None or sequence.delivered == 1

    def _launch_and_read(self) -> list[StepResult]:
        if self._speculation.reads_first(self._launched, self._lone()):
            return self._read_and_check()
        previous, self._launched = self._launched, self._batch.launch()
        results = self._read(previous)
        self._launched += self._batch.launch_held()
        return results if previous else self._read_first_tokens()

    def _read_first_tokens(self) -> list[StepResult]:
        """Where nobody decoded before: they wait for no further step, nor for somebody's prompt.

        A CPU is all but done with a step once it is launched; a GPU would wait for the host.
        """
        sequences = [sequence for one in self._launched for sequence in one.sequences]
        if self._info.device != "cpu" or all(sequence.delivered for sequence in sequences):
            return []
        self._speculation.lose_time()
        launched, self._launched = self._launched, []
        return self._read(launched)

    def _read_and_check(self) -> list[StepResult]:
        """The other way round, because a draft continues the token that is read."""
        results = self._read(self._launched)
        self._batch.drop_done()
        self._launched = self._speculation.check(self._lone())
        if not self._launched:
            self._launched = self._batch.launch() + self._batch.launch_held()
        return results

    def _lone(self) -> DecodeBatch | None:
        """The only row's batch, unless a prompt is on its way."""
        if self._prefill.is_busy:
            self._speculation.lose_time()
            return None
        return self._batch.lone

    def _read(self, launched: list[Launched]) -> list[StepResult]:
        results: list[StepResult] = []
        found = self._batch.read(launched)
        self._speculation.note_read(launched, len(found))
        drafts = settle(launched, [token_id for _, token_id, _ in found], self._batch.lone)
        for place, (sequence, token_id, logprobs) in enumerate(found):
            if sequence.is_live:
                finish = self._finish(sequence, token_id)
                asked, sequence.prompt_logprobs = sequence.prompt_logprobs, None
                prompt_logprobs = None if asked is None else asked.read()
                results.append(
                    StepResult(
                        sequence.sequence_id,
                        token_id,
                        finish,
                        logprobs,
                        prompt_logprobs,
                        cached_tokens=sequence.told_tokens(),
                        drafted_tokens=0 if place else drafts,
                        is_drafted=drafts > 0 and place < len(found) - 1,
                    )
                )
        return results

    def _finish(self, sequence: LiveSequence, token_id: int) -> EngineFinish | None:
        sequence.delivered_ids.append(token_id)
        if sequence.watched is not None:
            sequence.watched.append(token_id)
        finish = accept_token(
            token_id,
            sequence.constraint,
            is_end=token_id in self._end_ids and not sequence.ignores_ends,
            is_full=sequence.delivered >= sequence.max_tokens,
        )
        if finish is not None:
            sequence.is_live = False
            del self._live[sequence.sequence_id]
        return finish

    def _keep_answer(self, sequence: LiveSequence, caches: CacheRows, row: int) -> None:
        """A row goes: the prompt and its answer may be the beginning of the next prompt."""
        prompt = sequence.prompt
        if prompt is None or prompt.logprobs is not None or not self._keeper.store.is_on:
            return
        ids = prompt.ids + make_key(sequence.delivered_ids)
        length = sequence.cached_tokens
        self._keeper.keep(ids, prompt.prefix.salt, caches, row=row, length=length)

    def _reset_if_idle(self) -> None:
        if not self._live:
            self._prefill.bury()
            self._batch.drop_done()
            self._batch.clear()
            self._prefill.clear()
            self._launched = []
