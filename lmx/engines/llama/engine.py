"""Continuous batching on llama.cpp: the engine contract over slots of one unified cache.

Knows token ids and slots, nothing about text, clients or files. A step is one pass: a row for each
sequence that lacks one token, then prompts, oldest first, until the pass is full. When the cache is
full, idle prefixes go first, then the youngest sequence gives up its cells and comes back to its
tokens later; the oldest always goes on, so every sequence ends.
"""

from collections.abc import Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from lmx.engines.base import (
    SHARES_FREELY,
    Choice,
    PrefillShare,
    PrefixOutlook,
    PrefixUse,
    StepResult,
    check_room,
)
from lmx.engines.llama.batch import RowBatch
from lmx.engines.llama.cells import Cells
from lmx.engines.llama.interrupts import Interrupts
from lmx.engines.llama.library import ABORTED, NO_FREE_CELLS, LlamaContext, LlamaModel
from lmx.engines.llama.logprobs import describe, describe_rows
from lmx.engines.llama.prompts import PromptQueue
from lmx.engines.llama.sequence import Beginning, LiveSequence, Part, make_sequence
from lmx.engines.llama.speculation import Speculation
from lmx.engines.prefix.tree import make_key
from lmx.errors import InvalidRequest, OutOfMemory
from lmx.protocol.values import Memory, ModelInfo

# While others decode, a prompt may hold them up by this share of a full pass.
BUSY_SHARE = 2
# Logits of a whole prompt, for its log-probabilities, are vocabulary-sized rows: in small pieces.
SCORED_CHUNK_TOKENS = 64
# Prompts of fewer tokens do not tell how long computing takes; it is held against reading.
MEASURED_TOKENS = 32
# No token has this id: nothing was foretold after the last token of a draft.
NO_DRAFT = -1


class LlamaEngine:
    """Decodes up to `info.max_sequences` sequences of one model together.

    Args:
        model: Closed with the engine.
        context: Closed with the engine.
        info: What the daemon is told.
        cells: What the context holds, and the store behind it.
        end_ids: Ids that end a generation.
        speculation: Drafts for a sequence that runs alone; `None` for none.

    Attributes:
        preemption_count: How often a sequence gave up its cells so far.
    """

    def __init__(
        self,
        model: LlamaModel,
        context: LlamaContext,
        info: ModelInfo,
        *,
        cells: Cells,
        end_ids: frozenset[int],
        speculation: Speculation | None = None,
    ) -> None:
        self._model = model
        self._context = context
        self._info = info
        self._end_ids = end_ids
        self._cells = cells
        self._live: dict[int, LiveSequence] = {}  # in order of arrival
        self._prompts = PromptQueue(
            self._live, cells, cell_count=context.size.cells, can_rewind=model.can_rewind
        )
        self._batch = RowBatch(context.size.batch_tokens)
        words = (model.vocabulary_size + 31) // 32
        self._mask: NDArray[np.int32] = np.empty(words, dtype=np.int32)
        self._interrupts = Interrupts()
        self._speculation = speculation or Speculation(is_on=False)
        self.preemption_count = 0

    @property
    def info(self) -> ModelInfo:
        """Frozen at load."""
        return self._info

    @property
    def free_slots(self) -> int:
        """How many more sequences `add` takes now."""
        return self._cells.slots.free_count

    def add(
        self,
        choices: Sequence[Choice],
        token_ids: Sequence[int],
        *,
        wants_prompt_logprobs: bool = False,
        prefix: PrefixUse = SHARES_FREELY,
    ) -> None:
        """Reserve slots, and skip what some slot has computed already.

        Raises:
            ContextTooLong: Prompt plus ``max_tokens`` exceed the context.
            InvalidRequest: The prompt is empty or holds an id the model does not know.
            NoFreeSlot: Fewer than ``len(choices)`` slots are free.
        """
        check_room(self._info, free_slots=self.free_slots, token_ids=token_ids, choices=choices)
        size = self._model.vocabulary_size
        if not 0 <= min(token_ids) <= max(token_ids) < size:
            raise InvalidRequest(f"token ids of this model are 0 to {size - 1}", param="prompt")
        prompt_ids = list(token_ids)
        beginning = Beginning(
            make_key(prompt_ids), prefix.boundaries, may_reuse=not wants_prompt_logprobs
        )
        if self._cells.kept.disk is not None:
            self._cells.kept.disk.wake()
        leader = self._admit(choices[0], prompt_ids, prefix.salt, beginning=beginning)
        if wants_prompt_logprobs:
            leader.prompt_logprobs = [None]
        self._prompts.look_ahead(leader)
        for choice in choices[1:]:
            self._admit(choice, prompt_ids, prefix.salt, beginning=beginning, leader=leader)

    def foresee(
        self,
        token_ids: Sequence[int],
        prefix: PrefixUse,
    ) -> PrefixOutlook:
        """What slots and the store hold of a prompt now. From any thread."""
        return self._cells.foresee(token_ids, prefix)

    @property
    def chunk_tokens(self) -> int:
        """Rows of one pass."""
        return self._batch.capacity

    def prefilling(self) -> dict[int, int]:
        """Prompts that are not computed yet, and answers that have to be computed again."""
        return {s.sequence_id: self._prompts.missing(s) for s in self._prompts.ready()}

    def step(self, shares: Sequence[PrefillShare] | None = None) -> list[StepResult]:
        """One pass.

        Raises:
            OutOfMemory: The device has no room. The engine's state is lost: close it.
        """
        if not self._live:
            return []
        parts = self._run_pass(shares)
        logits = self._context.logits(self._batch.outputs) if self._batch.outputs else None
        for part in parts:
            self._prompts.note_computed(part.sequence, part.computed)
        results: list[StepResult] = []
        for part in parts:
            if logits is not None and part.rows:
                results += self._read(part, logits[part.rows.start : part.rows.stop])
        lone = parts[0].sequence if len(parts) == 1 and parts[0].computed == 1 else None
        drafted = len(parts[0].drafts) if parts else 0
        self._speculation.note_read(lone, drafted=drafted, tokens=len(results))
        self._cells.settle()
        return results

    def quiesce(self) -> None:
        """Wait for a pass whose logits nobody read."""
        self._context.synchronise()

    def rest(self) -> bool:
        """Keep some of what ended answers left, then write some of what is kept to disk."""
        return self._cells.rest()

    def interrupt(self, sequence_id: int) -> None:
        """End the running pass if it computes a prompt nobody else waits for. From any thread."""
        if sequence_id in self._live:
            self._interrupts.add(sequence_id)
            if self._interrupts.is_pass_unwanted:
                self._context.abort()

    def remove(self, sequence_id: int) -> None:
        """Free a sequence's slot; the tokens in it stay for a prompt that begins alike."""
        sequence = self._live.pop(sequence_id, None)
        self._interrupts.discard(sequence_id)
        self._speculation.forget(sequence_id)
        if sequence is None:
            return
        followers = self._followers(sequence)
        if followers:
            heir = followers[0]
            heir.inherit(sequence)
            for follower in followers[1:]:
                follower.leader = heir
        self._cells.slots.give_back(sequence.slot)
        self._prompts.note_removed(sequence)

    def shrink(self, prefix_cache_bytes: int | None = None) -> None:
        """Empty or cut the store. The cache was allocated at load and goes with the worker."""
        self._cells.kept.store.shrink(prefix_cache_bytes)

    def memory(self) -> Memory:
        """What was allocated at load, and what the store holds besides."""
        return self._cells.memory()

    def close(self) -> None:
        """Free context and model. Idempotent."""
        self._live.clear()
        self._cells.close()
        self._context.close()
        self._model.close()

    def _admit(
        self,
        choice: Choice,
        prompt_ids: list[int],
        salt: str,
        *,
        beginning: Beginning,
        leader: LiveSequence | None = None,
    ) -> LiveSequence:
        slot = self._cells.take(prompt_ids, salt, may_reuse=beginning.may_reuse and not leader)
        sequence = make_sequence(
            choice,
            prompt_ids,
            slot,
            beginning=beginning,
            end_ids=self._end_ids,
            vocabulary_size=self._model.vocabulary_size,
        )
        sequence.leader = leader
        may_speculate = choice.sampling.speculate and self._model.can_rewind
        self._speculation.watch(sequence, may_speculate=may_speculate)
        self._live[choice.sequence_id] = sequence
        return sequence

    def _followers(self, leader: LiveSequence) -> list[LiveSequence]:
        return [sequence for sequence in self._live.values() if sequence.leader is leader]

    def _run_pass(self, shares: Sequence[PrefillShare] | None) -> list[Part]:
        """Compute what fits; an interrupted pass has no parts."""
        while True:
            parts = self._plan(shares)
            if not parts:
                return []
            self._context.allow()
            self._interrupts.begin(
                frozenset({s.sequence_id, *(f.sequence_id for f in self._followers(s))})
                for s, count, *_ in parts
                if count > 1
            )
            # Whoever interrupted before this line was not heard; after it, the pass ends early.
            is_unwanted = self._interrupts.is_pass_unwanted
            code = ABORTED if is_unwanted else self._decode(parts)
            self._interrupts.end()
            if code == NO_FREE_CELLS:
                self._make_room()
                continue
            if code == ABORTED:
                for part in parts:
                    self._cells.cut(part.sequence.slot, len(part.sequence.slot.resident))
                self._batch.clear()
                return []
            return parts

    def _decode(self, parts: list[Part]) -> int:
        began_s = perf_counter()
        code = self._context.decode(self._batch)
        tokens = sum(part.computed for part in parts if part.computed > 1)
        disk = self._cells.kept.disk
        if code == 0 and tokens >= MEASURED_TOKENS and disk is not None:
            self._context.synchronise()
            disk.note_computed(tokens, perf_counter() - began_s)
        return code

    def _plan(self, shares: Sequence[PrefillShare] | None) -> list[Part]:
        """Fill the batch: decode rows first, so that nobody who runs ever waits for a prompt."""
        self._batch.clear()
        able = [sequence for sequence in self._prompts.able() if sequence.missing == 1]
        decoding = [sequence for sequence in able if self._prompts.begin(sequence)]
        drafts = self._speculation.propose(list(self._live.values()))
        parts = [self._append(sequence, 1, drafts) for sequence in decoding]
        prompts = {sequence.sequence_id: sequence for sequence in self._prompts.ready()}
        if shares is None:
            room = self._batch.capacity // BUSY_SHARE if parts else self._batch.capacity
            shares = [PrefillShare(name, room) for name in prompts]
        chosen: set[int] = set()
        for name, tokens in shares:
            limit = min(tokens, self._batch.room)
            if name not in prompts or not limit:
                continue
            sequence = self._prompts.in_front(prompts[name])
            if sequence.sequence_id not in chosen and self._prompts.begin(sequence):
                chosen.add(sequence.sequence_id)
                parts.append(self._append_prompt(sequence, limit))
        return parts

    def _append_prompt(self, sequence: LiveSequence, limit: int) -> Part:
        if sequence.prompt_logprobs is not None:
            limit = min(limit, SCORED_CHUNK_TOKENS)
        most = self._prompts.limit(sequence)
        return self._append(sequence, most if most <= limit else self._batch.whole_tiles(limit))

    def _append(self, sequence: LiveSequence, count: int, drafts: Sequence[int] = ()) -> Part:
        start = len(sequence.slot.resident)
        is_last = count == sequence.missing
        wanted_from = count - is_last if sequence.prompt_logprobs is None else 0
        rows = self._batch.append(
            sequence.slot.number,
            [*sequence.token_ids[start : start + count], *drafts],
            start,
            wanted_from=wanted_from,
        )
        return Part(sequence, count, rows, is_last, drafts)

    def _make_room(self) -> None:
        if self._cells.free_idle():
            return
        running = [s for s in self._live.values() if s.slot.resident]
        if len(running) < 2:  # noqa: PLR2004  # the context was made for one sequence at least
            raise OutOfMemory("llama.cpp has no cells for a single sequence")
        self._prompts.put_off(running[-1])
        self.preemption_count += 1

    def _read(self, part: Part, logits: NDArray[np.float32]) -> list[StepResult]:
        """What a part's rows mean. Shapes: logits (rows of the part, V)."""
        leader = part.sequence
        if leader.prompt_logprobs is not None:
            self._score(part, logits)
        if not part.is_last:
            return []
        followers = self._followers(leader)
        for follower in followers:
            self._cells.copy(leader.slot, follower.slot)
            follower.leader = None
        if part.drafts:
            return self._check(part, logits)
        return [self._sample(sequence, logits[-1]) for sequence in (leader, *followers)]

    def _check(self, part: Part, logits: NDArray[np.float32]) -> list[StepResult]:
        """Sample as long as the draft foretold it, once more, and forget the rest of the draft."""
        sequence, slot = part.sequence, part.sequence.slot
        results: list[StepResult] = []
        for row, draft in zip(logits, (*part.drafts, NO_DRAFT), strict=True):
            result = self._sample(sequence, row)
            is_drafted = result.token_id == draft
            results.append(result._replace(is_drafted=is_drafted))
            if result.finish is not None or not is_drafted:
                break
            slot.resident.append(draft)
        self._cells.cut(slot, len(slot.resident))
        results[0] = results[0]._replace(drafted_tokens=len(part.drafts))
        return results

    def _score(self, part: Part, logits: NDArray[np.float32]) -> None:
        sequence = part.sequence
        end = len(sequence.slot.resident)
        following = sequence.token_ids[end - part.computed + 1 : end + 1]
        found = describe_rows(logits[: len(following)], following, sequence.top_logprobs or 0)
        sequence.prompt_logprobs = [*(sequence.prompt_logprobs or [None]), *found]

    def _sample(self, sequence: LiveSequence, logits: NDArray[np.float32]) -> StepResult:
        mask = None
        if sequence.constraint is not None and sequence.constraint.fill_mask(self._mask):
            mask = self._mask
        token_id = sequence.sampler.choose(logits, mask)
        logprobs = None
        if sequence.top_logprobs is not None:
            logprobs = describe(logits, token_id, sequence.top_logprobs)
        finish = sequence.accept(token_id, self._end_ids)
        self._speculation.append(sequence.sequence_id, token_id)
        prompt_logprobs, sequence.prompt_logprobs = sequence.prompt_logprobs, None
        if finish is not None:
            self.remove(sequence.sequence_id)
        return StepResult(
            sequence.sequence_id,
            token_id,
            finish,
            logprobs,
            None if prompt_logprobs is None else tuple(prompt_logprobs),
            cached_tokens=sequence.beginning.skipped_tokens or 0 if sequence.delivered == 1 else 0,
        )
