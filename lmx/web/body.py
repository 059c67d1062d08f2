"""A request's body as it arrives, held up to a limit. Knows bytes, not HTTP."""

import trio

from lmx.errors import BodyTimeout, BodyTooLarge


class RequestBody:
    """Collects a body, and lets others wait for it.

    Args:
        declared_bytes: What the client says it will send, so that too much is refused before it is.
    """

    def __init__(self, declared_bytes: int) -> None:
        self._count = 0
        self._declared_bytes = declared_bytes
        self._limit = 0
        self._chunks: list[bytes] = []
        self._arrived = trio.Event()  # complete, or over the limit
        self._ended = trio.Event()  # nothing more of it comes

    def begin(self, limit: int) -> None:
        """Take so many bytes; what is over the limit is dropped."""
        self._limit = limit
        if self._declared_bytes > limit:
            self._count = self._declared_bytes
            self._arrived.set()

    def take(self, data: bytes, *, is_last: bool) -> None:
        """The next bytes."""
        if is_last:
            self._ended.set()
        self._count += len(data)
        if self._count > self._limit:
            self._chunks.clear()
            self._arrived.set()
            return
        self._chunks.append(data)
        if is_last:
            self._arrived.set()

    async def read(self, *, timeout_s: float) -> bytes:
        """The whole body.

        Raises:
            BodyTooLarge: It is longer than the limit.
            BodyTimeout: It did not arrive in time.
        """
        with trio.move_on_after(timeout_s):
            await self._arrived.wait()
        if self._count > self._limit:
            raise BodyTooLarge(f"the request body is over {self._limit} bytes", param="body")
        if not self._arrived.is_set():
            raise BodyTimeout(f"the request body did not arrive within {timeout_s:g} s")
        return b"".join(self._chunks)

    async def drop(self, *, timeout_s: float) -> None:
        """Wait until the client has sent it whole, which is thrown away beyond the limit.

        A connection that is answered earlier closes over unread bytes. That resets it, and the
        client may lose the answer.
        """
        with trio.move_on_after(timeout_s):
            await self._ended.wait()
