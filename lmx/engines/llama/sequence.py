"""Prompts and token streams inside the llama.cpp engine. Knows nothing about C."""

from collections.abc import Sequence
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
from lmx.engines.llama.slots import Slot


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
        max_tokens: Most tokens to sample.
        ignores_ends: End tokens do not end it.
        constraint: What it may sample, or `None` for anything.
        top_logprobs: Alternatives to report per token; `None` reports nothing.
        delivered: Tokens that `step` has returned.
        prompt_logprobs: Gathered so far; `None` if nobody asked or they were handed out.
        leader: Who computes the prompt they share, while this one waits for that.
        skipped_tokens: Of the prompt, that its slot held when it was taken.
    """

    sequence_id: int
    token_ids: list[int]
    slot: Slot
    sampler: RowSampler
    max_tokens: int
    ignores_ends: bool = False
    constraint: Constraint | None = None
    top_logprobs: int | None = None
    delivered: int = 0
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    leader: "LiveSequence | None" = None
    skipped_tokens: int = 0

    @property
    def missing(self) -> int:
        """Tokens to compute before the next one can be sampled; at least 1."""
        return len(self.token_ids) - len(self.slot.resident)

    def accept(self, token_id: int, end_ids: frozenset[int]) -> EngineFinish | None:
        """Note a sampled token; says whether it is the last one."""
        self.token_ids.append(token_id)
        self.delivered += 1
        return accept_token(
            token_id,
            self.constraint,
            is_end=token_id in end_ids and not self.ignores_ends,
            is_full=self.delivered >= self.max_tokens,
        )


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
        sampling.max_tokens,
        ignores_ends=sampling.ignore_eos,
        constraint=choice.constraint,
        top_logprobs=sampling.top_logprobs,
    )
