"""A socket stream with one queue of unsent bytes, whose writes end.

Whatever writes, Hypercorn or a task that reads worker frames, writes through `feed`: it never
blocks, and what the kernel does not take waits in order behind what came before. A peer that takes
nothing for a while is aborted: Hypercorn writes inside a shielded scope without a deadline, so a
client that stops reading would pin its handler and the shutdown. It knows no HTTP.
"""

import contextlib
import os
import socket
import struct
from math import inf

import trio

LINGER_RESET = struct.pack("ii", 1, 0)


class GuardedStream(trio.abc.HalfCloseableStream):
    """Hypercorn's transport, and the way past it for token streams.

    Args:
        inner: The accepted stream.
        write_timeout_s: Longest time without the peer taking a byte.

    Attributes:
        is_websocket: Set once it carries WebSocket frames.
    """

    def __init__(self, inner: trio.SocketStream, *, write_timeout_s: float) -> None:
        self._inner = inner
        self._write_timeout_s = write_timeout_s
        self._unsent = bytearray()
        self._is_broken = False
        self._flushing = trio.Lock()
        self._leave_within_s = inf
        self._held: bytes | None = None  # a piece that waits for the next, empty until it comes
        self.is_websocket = False
        self.socket = inner.socket  # Hypercorn reads addresses from it

    @property
    def unsent_bytes(self) -> int:
        """What waits for the peer; above 0 `flush` has something to do."""
        return len(self._unsent)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Send now what can be sent. Never blocks or raises; a dead peer shows in `flush`."""
        if self._held == b"":
            self._held = bytes(data)
            return
        if self._held is not None:
            data, self._held = self._held + data, None
        if not data:
            return  # Hypercorn says the end of a body so, where its length said it before
        sent = 0 if self._unsent or self._is_broken else self._write(data)
        if sent < len(data):
            self._unsent += data if not sent else memoryview(data)[sent:]

    def hold_next(self) -> None:
        """Send the next piece together with the one after it, which may be empty.

        An answer's head and body written apart wake the peer twice, and on few cores the writer
        waits while the peer looks at the head.
        """
        self._held = b""

    async def flush(self) -> None:
        """Send what waits.

        Raises:
            trio.BrokenResourceError: The peer is gone, or took nothing within the write deadline;
                then the connection is aborted.
            trio.ClosedResourceError: The connection was closed meanwhile.
        """
        if not self._unsent:
            return
        async with self._flushing:
            while self._unsent:
                if self._is_broken:
                    raise trio.BrokenResourceError("the peer is gone")
                await self._wait_writable()
                del self._unsent[: self._write(self._unsent)]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write everything, waiting for the peer no longer than the deadline per wait."""
        self.feed(data)
        await self.flush()

    def _write(self, data: bytes | bytearray | memoryview) -> int:
        """Hand over what the kernel takes now, possibly nothing."""
        try:
            return os.write(self.socket.fileno(), data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self._is_broken = True
            return 0

    async def _wait_writable(self) -> None:
        with trio.move_on_after(self._write_timeout_s) as scope:
            await trio.lowlevel.wait_writable(self.socket)
        if scope.cancelled_caught:
            self.abort()
            raise trio.BrokenResourceError("the peer stopped reading")

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until nothing waits, then as the wrapped stream does."""
        await self.flush()
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As the wrapped stream does; the end, once a peer that has to leave has not."""
        with trio.move_on_after(self._leave_within_s):
            return await self._inner.receive_some(max_bytes)
        return b""

    def expect_end(self, within_s: float) -> None:
        """Nothing more is wanted from the peer: every further read ends after a while."""
        self._leave_within_s = within_s

    async def send_eof(self) -> None:
        """As the wrapped stream does."""
        await self._inner.send_eof()

    async def aclose(self) -> None:
        """As the wrapped stream does."""
        await self._inner.aclose()

    def abort(self) -> None:
        """Reset the connection at once; whoever reads or writes on it wakes with an error."""
        self._is_broken = True
        with contextlib.suppress(OSError):  # already closed is what is wanted
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        self.socket.close()
