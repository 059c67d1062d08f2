"""Moving a source's bytes to one client: at once while it keeps up, waiting for it when not.

Theory of operation. `pump` is called by whoever has something new, from the task that has it. While
the client keeps up the bytes are written right there, and no task is woken. When it falls behind,
the source keeps (and merges) what it has, and the request's own task (`run`) waits for the socket;
a client that takes nothing within the write deadline is given up. `run` also sends the heartbeat,
which is timed on bytes written and not on what the source says.
"""

from collections.abc import Callable
from typing import Protocol

import trio

from lmx.web.sink import Sink

Listener = Callable[[], None]


class Source(Protocol):
    """Something to be sent, piece by piece."""

    @property
    def is_ended(self) -> bool:
        """Whether `take` has given the last bytes."""

    def take(self) -> bytes:
        """Everything there is to be sent now. Never blocks."""

    def listen(self, listener: Listener | None) -> None:
        """Have `listener` called after every change, synchronously; `None` for nobody any more."""


class Pump:
    """Moves one source to one client.

    Args:
        source: Where bytes come from.
        sink: Where bytes go.
        heartbeat: Sent after each silence; empty for none.
        heartbeat_s: How long a silence is.
    """

    def __init__(self, source: Source, sink: Sink, *, heartbeat: bytes, heartbeat_s: float) -> None:
        self._source = source
        self._sink = sink
        self._heartbeat = heartbeat
        self._heartbeat_s = heartbeat_s
        self._wake = trio.Event()
        self._last_write_s = trio.current_time()

    async def run(self) -> None:
        """Send until the source has ended and the client has all of it.

        Raises:
            trio.BrokenResourceError: The client is gone.
        """
        self._source.listen(self.pump)
        try:
            self.pump()
            while not self._source.is_ended:
                if self._sink.is_blocked:
                    await self._sink.flush()
                    self.pump()
                else:
                    await self._wait_or_beat()
            await self._sink.flush()
        finally:
            self._source.listen(None)

    def pump(self) -> None:
        """Write what the source has, if the client keeps up. Never blocks."""
        if self._sink.is_blocked or self._source.is_ended:
            self._wake.set()
            return
        if data := self._source.take():
            self._sink.feed(data)
            self._last_write_s = trio.current_time()
        if self._source.is_ended or self._sink.is_blocked:
            self._wake.set()

    async def _wait_or_beat(self) -> None:
        with trio.move_on_at(self._last_write_s + self._heartbeat_s) as silence:
            await self._wake.wait()
        if silence.cancelled_caught and not self._sink.is_blocked:
            if self._heartbeat:
                self._sink.feed(self._heartbeat)
            self._last_write_s = trio.current_time()
        else:
            self._wake = trio.Event()
