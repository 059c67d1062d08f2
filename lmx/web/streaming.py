"""Token streams: from a reply's mailboxes to the client, encoded where the frame was read.

Theory of operation. `pump` is called by the link's reader after every delivery. While the client
keeps up it encodes and writes at once, without waking any task. When the client falls behind, text
merges in the mailboxes and the request's own task (`run`) waits for the socket; a client that takes
nothing within the write deadline is given up. `run` also sends the heartbeat, which is timed on
bytes written and not on tokens.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from lmx.daemon.dispatch import Reply, reply_error
from lmx.daemon.reply import ReplyStream
from lmx.errors import LmxError
from lmx.protocol.values import FinishReason, TokenLogprob, Usage
from lmx.schema.reply import SSE_COMMENT, merge_usage
from lmx.text.parts import AnswerPart
from lmx.web.sink import Sink


class Parser(Protocol):
    """Raw text of one choice to parts."""

    def feed(self, text: str) -> list[AnswerPart]:
        """Add text; return the parts that are final now."""

    def finish(self, reason: FinishReason) -> list[AnswerPart]:
        """The text is over; return what was held."""


MakeParser = Callable[[], Parser]


class StreamEncoder(Protocol):
    """A dialect's way to spell a stream."""

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


class TokenStream:
    """Moves one reply to one client.

    Args:
        reply: Where events come from.
        encoder: The dialect.
        sink: Where bytes go.
        make_parser: A fresh parser per choice.
        heartbeat_s: Silence after which a comment is sent.
    """

    def __init__(
        self,
        reply: Reply,
        encoder: StreamEncoder,
        sink: Sink,
        *,
        make_parser: MakeParser,
        heartbeat_s: float,
    ) -> None:
        self._reply = reply
        self._encoder = encoder
        self._sink = sink
        self._heartbeat_s = heartbeat_s
        self._lanes = [_Lane(i, choice, make_parser()) for i, choice in enumerate(reply.choices)]
        self._is_ended = False
        self._wake = trio.Event()
        self._last_write_s = trio.current_time()

    async def run(self) -> None:
        """Stream until the answer has ended and the client has all of it.

        Raises:
            trio.BrokenResourceError: The client is gone.
        """
        for lane in self._lanes:
            lane.choice.on_change = self.pump
        try:
            self.pump()
            while not self._is_ended:
                if self._sink.is_blocked:
                    await self._sink.flush()
                    self.pump()
                else:
                    await self._wait_or_beat()
            await self._sink.flush()
        finally:
            for lane in self._lanes:
                lane.choice.on_change = None

    def pump(self) -> None:
        """Write what the mailboxes hold, if the client keeps up. Never blocks."""
        if self._sink.is_blocked or self._is_ended:
            self._wake.set()
            return
        data = b"".join([self._drain(lane) for lane in self._lanes if not lane.is_ended])
        data += self._encode_end()
        if data:
            self._sink.feed(data)
            self._last_write_s = trio.current_time()
        if self._is_ended or self._sink.is_blocked:
            self._wake.set()

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
            self._is_ended = True
            return self._encoder.error(error)
        if not self._reply.is_over:
            return b""
        self._is_ended = True
        return self._encoder.finish(merge_usage(self._reply.usages))

    async def _wait_or_beat(self) -> None:
        with trio.move_on_at(self._last_write_s + self._heartbeat_s) as silence:
            await self._wake.wait()
        if silence.cancelled_caught and not self._sink.is_blocked:
            self._sink.feed(SSE_COMMENT)
            self._last_write_s = trio.current_time()
        else:
            self._wake = trio.Event()
