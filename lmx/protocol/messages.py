"""The whole vocabulary between daemon and worker, on one screen.

Down go commands, one per frame. Up go lists of events: all events of one engine step travel in
one frame. Per request the grammar is ``Rejected`` or ``Started Delta* Finished``; `lmx.daemon.link`
checks it. Tags are small integers because they are on every token's path.
"""

from typing import Any

from msgspec import Struct

from lmx.protocol.values import FinishReason, Memory, ModelInfo, Sampling, Timings, Usage


class Load(Struct, frozen=True, array_like=True, tag=0):
    """First frame of every worker: bring this model up.

    Attributes:
        engine: ``mlx`` or ``fake``.
        source: Model directory, or the query string of a fake model.
        max_sequences: Upper bound of sequences decoded together.
        context_tokens: Upper bound of the context, or `None` for the model's own.
    """

    engine: str
    source: str
    max_sequences: int
    context_tokens: int | None = None


class Generate(Struct, frozen=True, array_like=True, tag=1):
    """Answer a chat.

    Attributes:
        sequence: Number unique on this pipe; every event about the request carries it.
        messages: Conversation as the chat template takes it.
        sampling: How tokens are chosen. ``max_tokens`` is clamped to the context by the worker.
        stop: Strings that end the text and never appear in it.
    """

    sequence: int
    messages: list[dict[str, Any]]
    sampling: Sampling
    stop: list[str]


class Cancel(Struct, frozen=True, array_like=True, tag=2):
    """Free the slot of a request before the next step. Unknown sequences are ignored."""

    sequence: int


class Shutdown(Struct, frozen=True, array_like=True, tag=3):
    """Close the engine and exit with status 0."""


Command = Load | Generate | Cancel | Shutdown


class Loaded(Struct, frozen=True, array_like=True, tag=0):
    """The model answers. `notes` are sentences the daemon logs, such as missing libraries."""

    info: ModelInfo
    memory: Memory
    notes: list[str]


class LoadFailed(Struct, frozen=True, array_like=True, tag=1):
    """The model cannot be brought up; the worker exits after this."""

    code: str
    message: str


class Started(Struct, frozen=True, array_like=True, tag=2):
    """Tokenised and within the context; prefill has not begun."""

    sequence: int
    prompt_tokens: int


class Rejected(Struct, frozen=True, array_like=True, tag=3):
    """Refused before any device work; terminal."""

    sequence: int
    code: str
    message: str
    param: str | None = None


class Delta(Struct, frozen=True, array_like=True, tag=4):
    """Text that will not be taken back, and how many tokens made it."""

    sequence: int
    text: str
    token_count: int


class Finished(Struct, frozen=True, array_like=True, tag=5):
    """The end of a started request; terminal. `code` and `message` say why for ``error``."""

    sequence: int
    reason: FinishReason
    usage: Usage
    timings: Timings
    code: str | None = None
    message: str | None = None


Event = Loaded | LoadFailed | Started | Rejected | Delta | Finished
RequestEvent = Started | Rejected | Delta | Finished
