"""The worker's end of the pipe: blocking reads of commands, whole-frame writes of events.

It knows frames and one socket, not what they mean. Both threads write (the intake thread its
verdicts, the engine thread its steps), so a lock keeps frames whole.
"""

import socket
import threading
from collections.abc import Iterator, Sequence

from lmx.protocol.codec import command_decoder, encode_events
from lmx.protocol.messages import Command, Event

RECEIVE_BYTES = 256 * 1024


class Channel:
    """Commands in, events out, over one connected stream socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._write_lock = threading.Lock()

    def commands(self) -> Iterator[Command]:
        """Every command until the daemon closes its end.

        Raises:
            FrameError: The daemon sent something that is no command.
        """
        decoder = command_decoder()
        while data := self._receive():
            yield from decoder.feed(data)

    def send(self, events: Sequence[Event]) -> None:
        """Write events as one frame. A daemon that is gone is no error here: `commands` ends."""
        frame = encode_events(events)
        with self._write_lock:
            try:
                self._connection.sendall(frame)
            except OSError:
                return

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(RECEIVE_BYTES)
        except ConnectionError:
            return b""
