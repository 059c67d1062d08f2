"""Token streams: from a reply's mailbox to the client, encoded where the frame was read.

Theory of operation. `pump` is called by the link's reader after every delivery. While the client
keeps up it encodes and writes at once, without waking any task. When the client falls behind, text
merges in the mailbox and the request's own task (`run`) waits for the socket; a client that takes
nothing within the write deadline is given up. `run` also sends the heartbeat, which is timed on
bytes written and not on tokens.
"""

from typing import Protocol

import trio

from lmx.daemon.dispatch import reply_error
from lmx.daemon.reply import ReplyStream
from lmx.errors import LmxError
from lmx.protocol.values import FinishReason, Usage
from lmx.schema.chat_reply import SSE_COMMENT
from lmx.text.parts import OutputParser, Part
from lmx.web.sink import Sink


class StreamEncoder(Protocol):
    """A dialect's way to spell a stream."""

    def parts(self, parts: list[Part]) -> bytes:
        """New parts."""

    def finish(self, reason: FinishReason, usage: Usage) -> bytes:
        """The end of an answer that ended well."""

    def error(self, error: LmxError) -> bytes:
        """The end of one that did not."""


class TokenStream:
    """Moves one reply to one client.

    Args:
        reply: Where events come from.
        encoder: The dialect.
        sink: Where bytes go.
        heartbeat_s: Silence after which a comment is sent.
    """

    def __init__(
        self, reply: ReplyStream, encoder: StreamEncoder, sink: Sink, *, heartbeat_s: float
    ) -> None:
        self._reply = reply
        self._encoder = encoder
        self._sink = sink
        self._heartbeat_s = heartbeat_s
        self._parser = OutputParser()
        self._is_ended = False
        self._wake = trio.Event()
        self._last_write_s = trio.current_time()

    async def run(self) -> None:
        """Stream until the answer has ended and the client has all of it.

        Raises:
            trio.BrokenResourceError: The client is gone.
        """
        self._reply.on_change = self.pump
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
            self._reply.on_change = None

    def pump(self) -> None:
        """Write what the mailbox holds, if the client keeps up. Never blocks."""
        if self._sink.is_blocked or self._is_ended:
            self._wake.set()
            return
        text = self._reply.take_text()
        data = self._encoder.parts(self._parser.feed(text)) if text else b""
        if self._reply.is_over:
            data += self._encode_end()
            self._is_ended = True
            self._wake.set()
        if data:
            self._sink.feed(data)
            self._last_write_s = trio.current_time()
            if self._sink.is_blocked:
                self._wake.set()

    def _encode_end(self) -> bytes:
        error, end = reply_error(self._reply), self._reply.end
        if error is not None or end is None:
            return self._encoder.error(error or LmxError("the generation failed"))
        return self._encoder.finish(end.reason, end.usage)

    async def _wait_or_beat(self) -> None:
        with trio.move_on_at(self._last_write_s + self._heartbeat_s) as silence:
            await self._wake.wait()
        if silence.cancelled_caught and not self._sink.is_blocked:
            self._sink.feed(SSE_COMMENT)
            self._last_write_s = trio.current_time()
        else:
            self._wake = trio.Event()
