"""Prompts and token streams inside the MLX engine. Knows nothing about caches or forward passes."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from lmx.engines.base import (
    SHARES_FREELY,
    Choice,
    Constraint,
    PrefixUse,
    TokenLogprobs,
    decides_end,
)
from lmx.engines.mlx.logprobs import DeviceLogprobs, read
from lmx.engines.mlx.processors import PenaltyState
from lmx.engines.mlx.sampler import Row
from lmx.engines.prefix.tree import TokenIds, make_key
from lmx.engines.speculation.drafter import Watched
from lmx.protocol.values import Sampling

SEED_BITS = 64


@dataclass(slots=True, eq=False)
class LiveSequence:
    """What the engine remembers about a sequence from `add` to its end.

    Attributes:
        sequence_id: The scheduler's number.
        row: How its tokens are chosen, and how far its random draws are.
        max_tokens: Most tokens to sample.
        prompt_tokens: What it begins with.
        ignores_ends: End tokens do not end it.
        constraint: What it may sample, or `None` for anything.
        prompt_logprobs: What to report with the first token, or `None` for nothing.
        watched: What is told of each token for its drafts; `None` if it gets none.
        launched: Tokens whose sampling was submitted to the device.
        delivered_ids: Tokens that `step` has returned.
        is_live: False once finished or removed; its row leaves before the next launch.
        prompt: What it answers, set by the prompt itself.
    """

    sequence_id: int
    row: Row
    max_tokens: int
    prompt_tokens: int = 0
    ignores_ends: bool = False
    constraint: Constraint | None = None
    prompt_logprobs: "PromptLogprobs | None" = None
    watched: Watched | None = None
    launched: int = 0
    delivered_ids: list[int] = field(default_factory=list)
    is_live: bool = True
    prompt: "LivePrompt | None" = None

    @property
    def delivered(self) -> int:
        """Tokens that `step` has returned."""
        return len(self.delivered_ids)

    def told_tokens(self) -> int:
        """What its next result says of skipped tokens: all with the first, then nothing."""
        return 0 if self.prompt is None or self.delivered != 1 else self.prompt.skipped_tokens

    @property
    def wants_launch(self) -> bool:
        """Another token of this sequence is of use."""
        return self.is_live and self.launched < self.max_tokens

    @property
    def cached_tokens(self) -> int:
        """What its row of the caches holds; the last token is only the next input."""
        return self.prompt_tokens + self.launched - 1

    @property
    def length_tokens(self) -> int:
        """What its next token is computed from."""
        return self.prompt_tokens + self.launched

    @property
    def left_tokens(self) -> int:
        """Tokens still to be launched, if it runs to its limit."""
        return self.max_tokens - self.launched


@dataclass(slots=True, eq=False)
class PromptLogprobs:
    """A prompt's log-probabilities, gathered on the device chunk by chunk.

    Attributes:
        top_count: Alternatives per token.
        chunks: Of the tokens after each prefilled one, in order.
    """

    top_count: int
    chunks: list[DeviceLogprobs] = field(default_factory=list)

    def read(self) -> tuple[TokenLogprobs | None, ...]:
        """One entry per prompt token, `None` for the first; waits for the device."""
        found: list[TokenLogprobs | None] = [None]
        for chunk in self.chunks:
            found += read(chunk, [self.top_count] * chunk.chosen.shape[0])
        return tuple(found)


@dataclass(slots=True, eq=False)
class LivePrompt:
    """One prompt on its way to the decode batch, and the sequences that will answer it.

    Attributes:
        token_ids: Never empty.
        sequences: One per choice.
        logprobs: Where its own log-probabilities go, or `None` if nobody asked.
        prefix: What it may share with others.
        skipped_tokens: Those whose prefill was skipped; final once it decodes.
        ids: `token_ids` as they are compared.
    """

    token_ids: list[int]
    sequences: list[LiveSequence]
    logprobs: PromptLogprobs | None = None
    prefix: PrefixUse = SHARES_FREELY
    skipped_tokens: int = 0
    ids: TokenIds = field(init=False)

    def __post_init__(self) -> None:
        self.ids = make_key(self.token_ids)
        for sequence in self.sequences:
            sequence.prompt = self

    @property
    def name(self) -> int:
        """The number of its first live choice; it must be live."""
        return self.live_sequences[0].sequence_id

    @property
    def live_sequences(self) -> list[LiveSequence]:
        """Those that were not removed."""
        return [sequence for sequence in self.sequences if sequence.is_live]

    @property
    def is_live(self) -> bool:
        """Somebody still waits for it."""
        return any(sequence.is_live for sequence in self.sequences)


def make_sequence(choice: Choice, prompt_ids: Sequence[int]) -> LiveSequence:
    """A sequence that has sampled nothing yet; without a seed it gets a fresh one."""
    sampling = choice.sampling
    seed = secrets.randbits(SEED_BITS) if sampling.seed is None else sampling.seed
    row = Row(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=seed % (1 << SEED_BITS),
        bias=sampling.logit_bias,
        penalties=_penalties(sampling, prompt_ids),
        min_tokens=0 if decides_end(choice.constraint) else sampling.min_tokens,
        is_constrained=choice.constraint is not None,
        top_logprobs=sampling.top_logprobs,
    )
    return LiveSequence(
        choice.sequence_id,
        row,
        sampling.max_tokens,
        prompt_tokens=len(prompt_ids),
        ignores_ends=sampling.ignore_eos,
        constraint=choice.constraint,
    )


def _penalties(sampling: Sampling, prompt_ids: Sequence[int]) -> PenaltyState | None:
    repetition, presence = sampling.repetition_penalty, sampling.presence_penalty
    frequency = sampling.frequency_penalty
    if repetition == 1 and presence == 0 and frequency == 0:
        return None
    return PenaltyState(repetition, presence, frequency, prompt_ids)
