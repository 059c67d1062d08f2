"""The engine contract: what a worker needs from any engine, and nothing about text protocols.

An engine knows token ids, not requests, clients or stop strings. One thread, the one that loaded
it, calls every method of `Engine`; `Tokenizer` alone may be used from the intake thread. The
checks in `tests/conformance` are this contract in executable form.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from lmx.errors import ContextTooLong, InvalidRequest, NoFreeSlot
from lmx.protocol.values import Memory, ModelInfo, Sampling

EngineFinish = Literal["stop", "length"]


class StepResult(NamedTuple):
    """One sampled token.

    Attributes:
        sequence_id: The sequence it belongs to.
        token_id: The sampled id; with ``finish == "stop"`` an end-of-generation id.
        finish: `None` while the sequence goes on. A finished sequence is already removed.
    """

    sequence_id: int
    token_id: int
    finish: EngineFinish | None


class Detokenizer(Protocol):
    """Ids of one sequence to text, never cutting a UTF-8 character. Engine thread only."""

    def feed(self, token_id: int) -> str:
        """Text that became final with this id; may be empty."""

    def flush(self) -> str:
        """What is still held, with U+FFFD for incomplete bytes."""


class Tokenizer(Protocol):
    """The model's vocabulary and chat template. Safe for the intake thread."""

    def render(self, messages: list[dict[str, Any]]) -> str:
        """Apply the chat template, ready for the assistant's turn.

        Raises:
            InvalidRequest: The template refuses this conversation.
        """

    def encode(self, text: str) -> list[int]:
        """Token ids of a rendered prompt; adds no special tokens of its own."""

    def new_detokenizer(self) -> Detokenizer:
        """A fresh detokenizer for one sequence."""


class Engine(Protocol):
    """Continuous batching over token ids."""

    @property
    def info(self) -> ModelInfo:
        """Frozen at load."""

    @property
    def free_slots(self) -> int:
        """How many more sequences `add` takes now."""

    def add(self, sequence_id: int, token_ids: Sequence[int], sampling: Sampling) -> int:
        """Reserve a slot and queue the prompt for prefill.

        Args:
            sequence_id: Unique among live sequences.
            token_ids: At least one; with ``sampling.max_tokens`` within the context.
            sampling: How tokens are chosen.

        Returns:
            Leading prompt tokens whose prefill is skipped.

        Raises:
            ContextTooLong: Prompt plus ``max_tokens`` exceed the context.
            NoFreeSlot: ``free_slots`` is 0.
            OutOfMemory: The device has no room; nothing was reserved.
        """

    def step(self) -> list[StepResult]:
        """One bounded unit of device work.

        At most one token for every decoding sequence and one prefill chunk. Cancel latency is one
        step. With no sequence added it returns an empty list at once.
        """

    def remove(self, sequence_id: int) -> None:
        """Free a sequence's slot and memory. Idempotent; unknown ids are ignored."""

    def memory(self) -> Memory:
        """Bytes as the device library counts them."""

    def close(self) -> None:
        """Free everything. Idempotent; no other method may be called after it."""


def check_room(
    info: ModelInfo, *, free_slots: int, token_ids: Sequence[int], sampling: Sampling
) -> None:
    """What every engine's `add` refuses, in this order.

    Raises:
        InvalidRequest: The prompt is empty.
        ContextTooLong: Prompt plus ``max_tokens`` exceed the context.
        NoFreeSlot: ``free_slots`` is 0.
    """
    if not token_ids:
        raise InvalidRequest("the prompt has no tokens", param="messages")
    if len(token_ids) + sampling.max_tokens > info.context_tokens:
        raise ContextTooLong(
            f"{len(token_ids)} prompt tokens and {sampling.max_tokens} to generate exceed the "
            f"context of {info.context_tokens}"
        )
    if not free_slots:
        raise NoFreeSlot(f"all {info.max_sequences} slots are taken")


class LoadedEngine(NamedTuple):
    """What loading gives: an engine that has answered once, its vocabulary, and remarks.

    Attributes:
        notes: Sentences worth a line in the daemon's log.
    """

    engine: Engine
    tokenizer: Tokenizer
    notes: list[str]
