"""A reply as a source of bytes: text from the mailboxes to parts, parts to a dialect's frames.

It knows neither sockets nor clients; `lmx.web.pump` takes what it gives.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from lmx.daemon.dispatch import Reply, reply_error
from lmx.daemon.reply import ReplyStream
from lmx.errors import LmxError
from lmx.protocol.values import FinishReason, TokenLogprob, Usage
from lmx.schema.reply import merge_usage
from lmx.text.parts import AnswerPart
from lmx.web.pump import Listener


class Parser(Protocol):
    """Raw text of one choice to parts."""

    def feed(self, text: str) -> list[AnswerPart]:
        """Add text; return the parts that are final now."""

    def finish(self, reason: FinishReason) -> list[AnswerPart]:
        """The text is over; return what was held."""


MakeParser = Callable[[], Parser]


class StreamEncoder(Protocol):
    """A dialect's way to spell a stream."""

    @property
    def heartbeat(self) -> bytes:
        """A sign of life that says nothing."""

    def opening(self, choice_count: int) -> bytes:
        """What comes before any text; may be nothing."""

    def parts(self, index: int, parts: Sequence[AnswerPart], logprobs: list[TokenLogprob]) -> bytes:
        """New parts of one choice."""

    def finish_choice(self, index: int, reason: FinishReason) -> bytes:
        """The end of one choice that ended well."""

    def finish(self, usage: Usage) -> bytes:
        """The end of an answer all of whose choices ended well."""

    def error(self, error: LmxError) -> bytes:
        """The end of one that did not."""


class _Lane:
    """One choice on its way to the client."""

    __slots__ = ("choice", "index", "is_ended", "parser")

    def __init__(self, index: int, choice: ReplyStream, parser: Parser) -> None:
        self.index = index
        self.choice = choice
        self.parser = parser
        self.is_ended = False


class ReplySource:
    """One reply, spelled in a dialect.

    Args:
        reply: Where events come from.
        encoder: The dialect.
        make_parser: A fresh parser per choice.

    Attributes:
        is_ended: Whether the last frame was given.
    """

    def __init__(self, reply: Reply, encoder: StreamEncoder, *, make_parser: MakeParser) -> None:
        self._reply = reply
        self._encoder = encoder
        self._lanes = [_Lane(i, choice, make_parser()) for i, choice in enumerate(reply.choices)]
        self.is_ended = False

    def listen(self, listener: Listener | None) -> None:
        """See `lmx.web.pump.Source`."""
        for lane in self._lanes:
            lane.choice.on_change = listener

    def take(self) -> bytes:
        """What the mailboxes hold, and the end once it is there."""
        data = b"".join([self._drain(lane) for lane in self._lanes if not lane.is_ended])
        return data + self._encode_end()

    def _drain(self, lane: _Lane) -> bytes:
        """What one choice has to say now, its own end included."""
        choice = lane.choice
        text, logprobs = choice.take_text(), choice.take_logprobs()
        parts = lane.parser.feed(text) if text else []
        end = choice.end
        if end is None or end.reason == "error":
            return self._encoder.parts(lane.index, parts, logprobs) if parts or logprobs else b""
        lane.is_ended = True
        parts += lane.parser.finish(end.reason)
        shown = self._encoder.parts(lane.index, parts, logprobs) if parts or logprobs else b""
        return shown + self._encoder.finish_choice(lane.index, end.reason)

    def _encode_end(self) -> bytes:
        """The end of the stream, once there is nothing more to come."""
        errors = (reply_error(choice) for choice in self._reply.choices)
        error = next((error for error in errors if error is not None), None)
        if error is not None:
            self.is_ended = True
            return self._encoder.error(error)
        if not self._reply.is_over:
            return b""
        self.is_ended = True
        return self._encoder.finish(merge_usage(self._reply.usages))
