"""WebSocket frames written straight to the connection, between those that Hypercorn writes.

Hypercorn accepts and closes the socket and reads it; what it sends goes through the same queue, so
frames never mix. A server's frames are not masked, and one without the compression bit is allowed
whatever extension was agreed. Source: RFC 6455, sections 5.2 and 5.5; RFC 7692, section 6.
"""

import struct

from lmx.web.guarded import GuardedStream

FINAL_TEXT = 0x81
FINAL_PING = 0x89
# Longer payloads say their length in 2 or in 8 bytes more.
SHORT, MEDIUM = 125, 0xFFFF
MEDIUM_MARK, LONG_MARK = 126, 127

PING = struct.pack("!BB", FINAL_PING, 0)


def text_frame(payload: bytes) -> bytes:
    """One whole text message."""
    size = len(payload)
    if size <= SHORT:
        return struct.pack("!BB", FINAL_TEXT, size) + payload
    if size <= MEDIUM:
        return struct.pack("!BBH", FINAL_TEXT, MEDIUM_MARK, size) + payload
    return struct.pack("!BBQ", FINAL_TEXT, LONG_MARK, size) + payload


class SocketMessages:
    """A sink that makes a frame of each line it is fed.

    Args:
        stream: The connection, whose handshake is over.
    """

    def __init__(self, stream: GuardedStream) -> None:
        self._stream = stream

    @property
    def is_blocked(self) -> bool:
        """Whether bytes wait for the client."""
        return self._stream.unsent_bytes > 0

    def feed(self, data: bytes) -> None:
        """Send whole lines as messages. Never blocks or raises."""
        self._stream.feed(b"".join([text_frame(line) for line in data.split(b"\n")[:-1]]))

    def ping(self) -> None:
        """Ask the client's side for a sign of life, unless bytes wait for it already."""
        if not self.is_blocked:
            self._stream.feed(PING)

    async def flush(self) -> None:
        """Send what waits, bounded by the stream's write deadline."""
        await self._stream.flush()
