"""Prompts and token streams inside the llama.cpp engine. Knows nothing about C."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lmx.engines.base import (
    Choice,
    Constraint,
    EngineFinish,
    TokenLogprobs,
    accept_token,
    decides_end,
)
from lmx.engines.llama.sampler import RowSampler
from lmx.engines.llama.slots import Slot, common_length
from lmx.engines.llama.states import LlamaRecall
from lmx.engines.prefix.tree import TokenIds
from lmx.protocol.values import Sampling

# A prompt that shares fewer tokens with one on its way is not kept waiting for it.
MIN_AHEAD_TOKENS = 64


@dataclass(slots=True, eq=False)
class LiveSequence:
    """One answer from `add` to its end.

    What is decoding and what is prefill follows from the counts alone: a sequence computes those
    of its tokens that its slot does not hold yet. One missing token is a decode row; more are a
    prompt, or an answer that was preempted.

    Attributes:
        sequence_id: The scheduler's number.
        token_ids: Prompt and answer so far.
        slot: Where its keys and values are.
        sampler: How its tokens are chosen, and how far its draws are.
        sampling: As it was asked for.
        beginning: How it comes to what was computed before.
        constraint: What it may sample, or `None` for anything.
        delivered: Tokens that `step` has returned.
        prompt_logprobs: Gathered so far; `None` if nobody asked or they were handed out.
        leader: Who computes the prompt they share, while this one waits for that.
    """

    sequence_id: int
    token_ids: list[int]
    slot: Slot
    sampler: RowSampler
    sampling: Sampling
    beginning: "Beginning"
    constraint: Constraint | None = None
    delivered: int = 0
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    leader: "LiveSequence | None" = None

    @property
    def missing(self) -> int:
        """Tokens to compute before the next one can be sampled; at least 1."""
        return len(self.token_ids) - len(self.slot.resident)

    @property
    def is_waiting(self) -> bool:
        """Somebody else computes what it can use."""
        return self.beginning.is_waiting(self.slot)

    @property
    def top_logprobs(self) -> int | None:
        """Alternatives to report per token; `None` reports nothing."""
        return self.sampling.top_logprobs

    def inherit(self, leader: "LiveSequence") -> None:
        """Go on in place of the one that computed the prompt."""
        self.slot, leader.slot = leader.slot, self.slot
        self.beginning = leader.beginning
        self.leader = None

    def accept(self, token_id: int, end_ids: frozenset[int]) -> EngineFinish | None:
        """Note a sampled token; says whether it is the last one."""
        self.token_ids.append(token_id)
        self.delivered += 1
        return accept_token(
            token_id,
            self.constraint,
            is_end=token_id in end_ids and not self.sampling.ignore_eos,
            is_full=self.delivered >= self.sampling.max_tokens,
        )


@dataclass(slots=True, eq=False)
class Beginning:
    """How a sequence comes to what was computed before, until its first pass.

    Attributes:
        ids: Its prompt, or all it has if it lost its cells.
        boundaries: Where a pass should end for others to be able to go on from there, ascending.
        may_reuse: Tokens that were computed before may be skipped.
        skipped_tokens: Of the prompt, that were; `None` before that is known.
        ahead: Who computes the same just now, so that it is better waited for.
        ahead_tokens: How much of it.
        is_looked_up: The disk was asked for it.
        recall: What is being read of it from there.
        is_over: Its first pass is made, or being made.
    """

    ids: TokenIds
    boundaries: tuple[int, ...] = ()
    may_reuse: bool = True
    skipped_tokens: int | None = None
    ahead: LiveSequence | None = None
    ahead_tokens: int = 0
    is_looked_up: bool = False
    recall: LlamaRecall | None = None
    is_over: bool = False

    @property
    def stops(self) -> tuple[int, ...]:
        """Positions that others may go on from; the last token is always computed."""
        return (*self.boundaries, len(self.ids) - 1)

    def next_stop(self, position: int) -> int:
        """Where the pass after a position should end at the latest."""
        return min((stop for stop in self.stops if stop > position), default=position + 1)

    def is_waiting(self, slot: Slot) -> bool:
        """Somebody else's pass will give more than is there.

        Nobody who has cells waits for somebody who has none: that one may wait for these cells.
        """
        ahead = self.ahead
        if self.is_over or ahead is None:
            return False
        held = len(ahead.slot.resident)
        return held < self.ahead_tokens and (held > 0 or not slot.resident)

    def look_ahead(self, slot: Slot, others: Iterable[LiveSequence]) -> None:
        """Find whom to wait for.

        Args:
            slot: The sequence's own.
            others: Those that came before it.
        """
        self.ahead, self.ahead_tokens = None, len(slot.resident) + MIN_AHEAD_TOKENS - 1
        for other in others:
            if other.slot.salt != slot.salt or other.leader is not None or other.missing <= 1:
                continue
            shared = common_length(other.token_ids, self.ids, len(self.ids) - 1)
            if shared > max(self.ahead_tokens, len(other.slot.resident)):
                self.ahead, self.ahead_tokens = other, shared


class Part(NamedTuple):
    """What one sequence has in a pass.

    Attributes:
        sequence: The sequence.
        computed: Tokens that the pass computes for it.
        rows: Its rows of logits.
        is_last: Nothing is missing afterwards: its next token can be sampled.
        drafts: What else the pass computes for it, as if those came next.
    """

    sequence: LiveSequence
    computed: int
    rows: range
    is_last: bool
    drafts: Sequence[int] = ()


def make_sequence(
    choice: Choice,
    token_ids: list[int],
    slot: Slot,
    *,
    beginning: Beginning,
    end_ids: frozenset[int],
    vocabulary_size: int,
) -> LiveSequence:
    """A sequence that has sampled nothing yet."""
    sampling = choice.sampling
    sampler = RowSampler(
        sampling,
        token_ids,
        end_ids=sorted(end_ids),
        vocabulary_size=vocabulary_size,
        is_constrained=decides_end(choice.constraint),
    )
    return LiveSequence(
        choice.sequence_id,
        list(token_ids),
        slot,
        sampler,
        sampling,
        beginning,
        constraint=choice.constraint,
    )
