"""A socket stream whose writes end: a peer that takes nothing for a while is aborted.

Hypercorn writes inside a shielded scope without a deadline, so a client that stops reading would
pin its handler and the shutdown. The deadline here sits inside that shield. It knows no HTTP.
"""

import contextlib
import os
import socket
import struct

import trio

LINGER_RESET = struct.pack("ii", 1, 0)


class GuardedStream(trio.abc.HalfCloseableStream):
    """Hypercorn's transport: non-blocking fast path, write deadline, abort.

    Args:
        inner: The accepted stream.
        write_timeout_s: Longest time without the peer taking a byte.
    """

    def __init__(self, inner: trio.SocketStream, *, write_timeout_s: float) -> None:
        self._inner = inner
        self._write_timeout_s = write_timeout_s
        self.socket = inner.socket  # Hypercorn reads addresses from it

    def try_send(self, data: bytes | bytearray | memoryview) -> int:
        """Write what the kernel takes now, possibly nothing.

        Raises:
            trio.BrokenResourceError: The peer is gone.
        """
        try:
            return os.write(self.socket.fileno(), data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def wait_writable(self) -> None:
        """Block until the kernel takes more.

        Raises:
            trio.BrokenResourceError: Nothing was taken within the write deadline; the connection
                is aborted.
            trio.ClosedResourceError: The connection was closed meanwhile.
        """
        with trio.move_on_after(self._write_timeout_s) as scope:
            await trio.lowlevel.wait_writable(self.socket)
        if scope.cancelled_caught:
            self.abort()
            raise trio.BrokenResourceError("the peer stopped reading")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write everything, waiting for the peer no longer than the deadline per wait."""
        view = memoryview(data)
        view = view[self.try_send(view) :] if view else view
        while view:
            await self.wait_writable()
            view = view[self.try_send(view) :]

    async def wait_send_all_might_not_block(self) -> None:
        """As the wrapped stream does."""
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As the wrapped stream does."""
        return await self._inner.receive_some(max_bytes)

    async def send_eof(self) -> None:
        """As the wrapped stream does."""
        await self._inner.send_eof()

    async def aclose(self) -> None:
        """As the wrapped stream does."""
        await self._inner.aclose()

    def abort(self) -> None:
        """Reset the connection at once; whoever reads or writes on it wakes with an error."""
        with contextlib.suppress(OSError):  # already closed is what is wanted
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        self.socket.close()
