"""One turn of a model within an answer of several: its text as parts, its calls kept aside."""

from collections.abc import Callable
from typing import Protocol

import trio
from msgspec import Struct

from lmx.daemon.dispatch import Reply, reply_error
from lmx.protocol.values import FinishReason, TokenLogprob, Usage
from lmx.schema.reply import merge_usage
from lmx.text.parts import AnswerPart, ReasoningPart, TextPart, ToolCallPart

Listener = Callable[[], None]


class Parser(Protocol):
    """Raw text of one turn to parts."""

    def feed(self, text: str) -> list[AnswerPart]:
        """Add text; return the parts that are final now."""

    def finish(self, reason: FinishReason) -> list[AnswerPart]:
        """The text is over; return what was held."""


class Spoken(Struct, frozen=True):
    """What a turn has said since it was last asked.

    Attributes:
        parts: Text and reasoning; never a call.
        logprobs: Of all tokens that came.
    """

    parts: list[AnswerPart]
    logprobs: list[TokenLogprob]


class Turn:
    """One reply of one choice, while it is open.

    Args:
        reply: What the worker says.
        parser: A fresh one.
        on_change: Told of everything that comes, from the task that reads the worker's frames.
        separator: Shown before its text, if it says any.

    Attributes:
        calls: Calls so far, in order.
        reason: Why it has ended, once it has; `None` also if it was cut off.
    """

    def __init__(
        self, reply: Reply, parser: Parser, on_change: Listener, *, separator: str = ""
    ) -> None:
        self.calls: list[ToolCallPart] = []
        self.reason: FinishReason | None = None
        self._reply = reply
        self._parser = parser
        self._on_change = on_change
        self._separator = separator
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._has_all = trio.Event()
        (self._choice,) = reply.choices
        self._choice.on_change = self._hear

    @property
    def text(self) -> str:
        """What it has said."""
        return "".join(self._texts)

    @property
    def reasoning(self) -> str:
        """What it has thought."""
        return "".join(self._thoughts)

    @property
    def usage(self) -> Usage:
        """Token counts so far."""
        if self._choice.end is not None:
            return merge_usage([self._choice.end.usage])
        tally = self._choice.tally
        return Usage(self._reply.started.prompt_tokens, tally.token_count if tally else 0)

    def stop_thinking(self) -> None:
        """End its reasoning and go on with its answer."""
        self._reply.stop_thinking()

    def take(self) -> Spoken | None:
        """What came since the last call."""
        text, logprobs = self._choice.take_text(), self._choice.take_logprobs()
        return self._sort(self._parser.feed(text) if text else [], logprobs)

    async def wait_end(self) -> None:
        """Wait until it has ended, whether or not anybody takes what it says.

        Raises:
            LmxError: It ended badly.
        """
        self._hear()
        await self._has_all.wait()
        if error := reply_error(self._choice):
            raise error

    def finish(self) -> list[Spoken]:
        """All that was not taken yet. Nobody is told of changes any more; to be called once."""
        self._choice.on_change = None
        end = self._choice.end
        self.reason = None if end is None else end.reason
        rest = [self.take(), self._sort(self._parser.finish(self.reason or "length"), [])]
        return [spoken for spoken in rest if spoken is not None]

    def _sort(self, parts: list[AnswerPart], logprobs: list[TokenLogprob]) -> Spoken | None:
        shown: list[AnswerPart] = []
        for part in parts:
            match part:
                case ToolCallPart():
                    self.calls.append(part)
                case TextPart(text):
                    shown.append(part if self._texts else TextPart(self._separator + text))
                    self._texts.append(text)
                case ReasoningPart(text):
                    shown.append(part)
                    self._thoughts.append(text)
        return Spoken(shown, logprobs) if shown or logprobs else None

    def _hear(self) -> None:
        if self._choice.is_over:
            self._has_all.set()
        self._on_change()
