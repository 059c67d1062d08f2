"""The engine contract: what a worker needs from any engine, and nothing about text protocols.

An engine knows token ids, not requests, clients or stop strings. One thread, the one that loaded
it, calls every method of `Engine` but `interrupt`; that one, `Tokenizer` and `GrammarCompiler`
alone may be used from the intake thread. The checks in `tests/conformance` are this contract in
executable form.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from lmx.errors import ContextTooLong, InvalidRequest, NoFreeSlot
from lmx.protocol.messages import ChatPrompt
from lmx.protocol.values import Grammar, Memory, ModelInfo, Sampling

if TYPE_CHECKING:  # the worker's own modules load no engine package
    import numpy as np
    from numpy.typing import NDArray

EngineFinish = Literal["stop", "complete", "length"]


class TokenLogprobs(NamedTuple):
    """Log-softmax of the model's own distribution at one position, before any sampling setting.

    Attributes:
        logprob: Of the token that was chosen, or that stands in the prompt.
        top: The most likely ids with their log-probabilities, best first; as many as asked for.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


class StepResult(NamedTuple):
    """One sampled token.

    Attributes:
        sequence_id: The sequence it belongs to.
        token_id: The sampled id; with ``finish == "stop"`` an end-of-generation id.
        finish: `None` while the sequence goes on; ``complete`` if this token is the last one its
            constraint allows. A finished sequence is already removed.
        logprobs: Set iff the sequence asked for log-probabilities.
        prompt_logprobs: With a sequence's first token, if asked for: one entry per prompt token,
            `None` for the first, which nothing predicts.
        cached_tokens: With a sequence's first token: tokens of its prompt whose prefill was
            skipped.
        drafted_tokens: With the first token of a pass that checked a draft: how long that was.
        is_drafted: The draft foretold this token.
    """

    sequence_id: int
    token_id: int
    finish: EngineFinish | None
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    cached_tokens: int = 0
    drafted_tokens: int = 0
    is_drafted: bool = False


class PrefillShare(NamedTuple):
    """How much of one prompt a step may compute.

    Attributes:
        sequence_id: The prompt's name, as `Engine.prefilling` gives it.
        tokens: Most tokens of it, at least 1.
    """

    sequence_id: int
    tokens: int


class PrefixUse(NamedTuple):
    """How a prompt may share what was computed for others.

    Attributes:
        salt: Only prompts of the same salt share anything.
        boundaries: Where the prompt may come to part from others, such as ends of its messages, in
            tokens from its start, ascending. A hint: what is remembered there can be found again.
        turn_start: Where its last turn begins; it is new by nature. 0 if that is not known.
    """

    salt: str = ""
    boundaries: tuple[int, ...] = ()
    turn_start: int = 0


SHARES_FREELY = PrefixUse()


class PrefixOutlook(NamedTuple):
    """What of a prompt is there already.

    Attributes:
        cached_tokens: Leading tokens whose prefill would be skipped now.
        reason: Why not more, in a word: ``full`` and ``new`` if all is used that is known of it,
            ``evicted``, ``diverged`` where it parts from what is known, ``no-entry``, ``short`` if
            it is too short for reuse, or ``off``.
        known_tokens: Leading tokens that are known, whether or not they can be skipped.
        continues: Where it diverged, the tokens that are known in place of its own.
    """

    cached_tokens: int
    reason: str
    known_tokens: int = 0
    continues: tuple[int, ...] = ()


class Constraint(Protocol):
    """Says which tokens one sequence may sample next. Engine thread only; never raises."""

    def fill_mask(self, mask: "NDArray[np.int32]") -> bool:
        """Write the allowed tokens of the next position.

        Args:
            mask: Bit ``i % 32`` of word ``i // 32`` allows token ``i``; at least the vocabulary.

        Returns:
            False if every token is allowed; the mask is then not touched.
        """

    def consume(self, token_id: int) -> None:
        """The token that was sampled under the last mask."""

    @property
    def is_finished(self) -> bool:
        """Nothing may follow: the sequence is ``complete`` with the token just consumed."""

    @property
    def is_binding(self) -> bool:
        """The next mask may depend on the token before.

        False as long as every token is allowed whatever is sampled; an engine may then sample ahead
        of what was consumed. May change between steps.
        """

    @property
    def decides_end(self) -> bool:
        """It says when the answer may end, so that a least number of tokens does not."""


class Choice(NamedTuple):
    """One of the answers to a prompt.

    Attributes:
        sequence_id: Unique among live sequences.
        sampling: How its tokens are chosen.
        constraint: What it may sample, or `None` for anything.
    """

    sequence_id: int
    sampling: Sampling
    constraint: Constraint | None = None


def decides_end(constraint: Constraint | None) -> bool:
    """Whether a sequence's constraint, if it has one, says when the answer may end."""
    return constraint is not None and constraint.decides_end


def accept_token(
    token_id: int, constraint: Constraint | None, *, is_end: bool, is_full: bool
) -> EngineFinish | None:
    """Advance the constraint, and say whether this token is its sequence's last.

    Args:
        token_id: Just sampled.
        constraint: The sequence's.
        is_end: It is an end token, and those count.
        is_full: As many tokens as were asked for are there.
    """
    if constraint is not None:
        constraint.consume(token_id)
    if is_end:
        return "stop"
    if constraint is not None and constraint.is_finished:
        return "complete"
    return "length" if is_full else None


class Detokenizer(Protocol):
    """Ids of one sequence to text, never cutting a UTF-8 character. Engine thread only."""

    def feed(self, token_id: int) -> str:
        """Text that became final with this id; may be empty."""

    def flush(self) -> str:
        """What is still held, with U+FFFD for incomplete bytes."""


class Tokenizer(Protocol):
    """The model's vocabulary and chat template. Safe for the intake thread."""

    @property
    def template_source(self) -> str:
        """The chat template's text; empty if the model has none."""

    @property
    def special_tokens(self) -> frozenset[str]:
        """Texts of the special tokens."""

    def render(self, prompt: ChatPrompt) -> str:
        """Apply the chat template, ready for the assistant's turn.

        Raises:
            InvalidRequest: The template refuses this conversation.
        """

    def encode(self, text: str, *, add_beginning: bool = False) -> list[int]:
        """Token ids of a text; special tokens in it count as such.

        Args:
            text: A rendered prompt or plain text.
            add_beginning: Put the beginning token first where the model's tokenizer does.
        """

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; special tokens as their text, unknown ids as nothing."""

    def new_detokenizer(self, visible: frozenset[str] = frozenset()) -> Detokenizer:
        """A fresh detokenizer for one sequence.

        Args:
            visible: Texts of special tokens to keep, such as the markers of tool calls; all other
                special tokens read as nothing.
        """


class Engine(Protocol):
    """Continuous batching over token ids."""

    @property
    def info(self) -> ModelInfo:
        """Frozen at load."""

    @property
    def free_slots(self) -> int:
        """How many more sequences `add` takes now."""

    def add(
        self,
        choices: Sequence[Choice],
        token_ids: Sequence[int],
        *,
        wants_prompt_logprobs: bool = False,
        prefix: PrefixUse = SHARES_FREELY,
    ) -> None:
        """Reserve a slot per choice and queue the prompt for one prefill that all share.

        How much of it can be skipped is decided when its prefill begins, because another prompt
        may compute the same until then; the first result says it.

        Args:
            choices: At least one.
            token_ids: At least one; with each choice's ``max_tokens`` within the context.
            wants_prompt_logprobs: Report the prompt's own log-probabilities, with as many
                alternatives as the first choice's ``top_logprobs``, in the first result of the
                first choice.
            prefix: What it may share with other prompts.

        Raises:
            ContextTooLong: Prompt plus ``max_tokens`` exceed the context.
            NoFreeSlot: Fewer than ``len(choices)`` slots are free.
            OutOfMemory: The device has no room; nothing was reserved.
        """

    def foresee(self, token_ids: Sequence[int], prefix: PrefixUse) -> PrefixOutlook:
        """How much of a prompt could be skipped now. From any thread; reserves nothing.

        Args:
            token_ids: The prompt.
            prefix: What it may share with other prompts.
        """

    @property
    def chunk_tokens(self) -> int:
        """Most prompt tokens that one step computes."""

    def prefilling(self) -> dict[int, int]:
        """Prompts that are not computed yet and can go on now, in order of arrival.

        Returns:
            Each prompt's name, which is the number of its first live choice, and the tokens that
            are missing, at least 1.
        """

    def step(self, shares: Sequence[PrefillShare] | None = None) -> list[StepResult]:
        """One bounded unit of device work.

        One token for every decoding sequence, or for those whose turn it is where fewer at a time
        give more tokens, and something of the prompts named. A sequence that decodes alone may get
        several at once, in order, if the engine drafted them; none follows the one that finishes
        it. Cancel latency is one step. With no sequence there it does what removed ones have left
        to do, such as giving their memory back, and returns an empty list.

        Args:
            shares: Which prompts to go on with, the most urgent first. The first one gets on, if
                the device has room; what does not fit into one pass is left for the next step.
                Unknown names are ignored. `None` means all, in order of arrival, as much as fits.
        """

    def quiesce(self) -> None:
        """Wait until the device has nothing of this engine left to do. Changes no result.

        The next `step` goes on as if nothing had happened. `remove` gives the device no work.

        Raises:
            OutOfMemory: The device ran out in what was left of the last step.
        """

    def rest(self) -> bool:
        """Do a piece of what can wait, such as writing to disk; at most some 20 ms.

        Called only when there is nothing to step; gives the device no work.

        Returns:
            Whether there will be more of it soon.
        """

    def interrupt(self, sequence_id: int) -> None:
        """A hint from any thread: the sequence is about to be removed.

        A running step may end early for it, with no results; nothing of others is lost. Unknown
        ids are ignored.
        """

    def remove(self, sequence_id: int) -> None:
        """Free a sequence's slot at once, its memory with the next step. Idempotent.

        Unknown ids are ignored.
        """

    def shrink(self, prefix_cache_bytes: int | None = None) -> None:
        """Give back memory that is only kept for speed. Running sequences are not touched.

        Args:
            prefix_cache_bytes: Only cut what is kept of prompts to so many bytes, for good.
        """

    def memory(self) -> Memory:
        """Bytes as the device library counts them."""

    def close(self) -> None:
        """Free everything. Idempotent; no other method may be called after it."""


class GrammarCompiler(Protocol):
    """Turns grammars into constraints for one vocabulary. Safe for the intake thread."""

    def compile(self, grammar: Grammar) -> Constraint:
        """A fresh constraint at the grammar's beginning.

        Raises:
            InvalidRequest: The grammar is malformed, unsupported or over the limits; the message
                says why and `param` names the request field.
        """


def check_room(
    info: ModelInfo, *, free_slots: int, token_ids: Sequence[int], choices: Sequence[Choice]
) -> None:
    """What every engine's `add` refuses, in this order.

    Raises:
        InvalidRequest: The prompt is empty.
        ContextTooLong: Prompt plus ``max_tokens`` exceed the context.
        NoFreeSlot: Fewer than ``len(choices)`` slots are free.
    """
    if not token_ids:
        raise InvalidRequest("the prompt has no tokens", param="messages")
    max_tokens = max(choice.sampling.max_tokens for choice in choices)
    if len(token_ids) + max_tokens > info.context_tokens:
        raise ContextTooLong(
            f"{len(token_ids)} prompt tokens and {max_tokens} to generate exceed the "
            f"context of {info.context_tokens}"
        )
    if free_slots < len(choices):
        raise NoFreeSlot(f"{free_slots} of {info.max_sequences} slots are free")


class LoadedEngine(NamedTuple):
    """What loading gives: an engine that has answered once, its vocabulary, and remarks.

    Attributes:
        grammars: Compiles constraints for this vocabulary.
        notes: Sentences worth a line in the daemon's log.
        pass_samples: Prompt tokens of some passes and the seconds they took.
    """

    engine: Engine
    tokenizer: Tokenizer
    grammars: GrammarCompiler
    notes: list[str]
    pass_samples: tuple[tuple[int, float], ...] = ()
