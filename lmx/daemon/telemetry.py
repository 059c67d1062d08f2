"""Counts what happens and tells whoever subscribed, once a second and never waiting for anyone.

Conservation holds at every reading: admitted = completed + failed + cancelled + in flight. Items
are states, not a log: a subscriber that falls behind is dropped and its channel closed, so that it
reconnects to a fresh state instead of reading the past.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio
from msgspec import Struct

BROADCAST_PERIOD_S = 1.0
SUBSCRIBER_BUFFER = 16


class Statistics(Struct, frozen=True, kw_only=True):
    """A reading of every counter since start. `tokens_per_second` is of the last whole period."""

    admitted: int
    completed: int
    failed: int
    cancelled: int
    in_flight: int
    prompt_tokens: int
    completion_tokens: int
    tokens_per_second: float


class DaemonEvent(Struct, frozen=True):
    """Something that happened; `fields` is JSON-ready."""

    type: str
    fields: dict[str, Any]


class Telemetry:
    """Counters and the broadcast of events."""

    def __init__(self) -> None:
        self.admitted = 0
        self.completed = 0
        self.failed = 0
        self.cancelled = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._tokens_per_second = 0.0
        self._subscribers: list[trio.MemorySendChannel[DaemonEvent]] = []
        self._listeners: list[Callable[[DaemonEvent], None]] = []

    async def run(self) -> None:
        """Publish the throughput of each period in which anything ran. Never returns."""
        while True:
            before = self._completion_tokens
            await trio.sleep(BROADCAST_PERIOD_S)
            was_busy = self._tokens_per_second > 0
            self._tokens_per_second = (self._completion_tokens - before) / BROADCAST_PERIOD_S
            now = self.statistics()
            if now.in_flight or now.tokens_per_second or was_busy:
                self.publish(
                    "throughput",
                    tokens_per_second=now.tokens_per_second,
                    active_requests=now.in_flight,
                )

    def count_tokens(self, *, prompt: int, completion: int) -> None:
        """Add the usage of a request that ended."""
        self._prompt_tokens += prompt
        self._completion_tokens += completion

    def statistics(self) -> Statistics:
        """All counters now."""
        ended = self.completed + self.failed + self.cancelled
        return Statistics(
            admitted=self.admitted,
            completed=self.completed,
            failed=self.failed,
            cancelled=self.cancelled,
            in_flight=self.admitted - ended,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            tokens_per_second=self._tokens_per_second,
        )

    def publish(self, event_type: str, **fields: Any) -> None:
        """Tell every listener and subscriber; drop subscribers that are full."""
        event = DaemonEvent(event_type, fields)
        for listener in self._listeners:
            listener(event)
        for channel in list(self._subscribers):
            try:
                channel.send_nowait(event)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._subscribers.remove(channel)
                channel.close()

    def listen(self, listener: Callable[[DaemonEvent], None]) -> None:
        """Have every event given to `listener`, which must neither block nor raise, for good."""
        self._listeners.append(listener)

    @contextmanager
    def subscribe(self) -> Iterator[trio.MemoryReceiveChannel[DaemonEvent]]:
        """Receive events while the block runs; the channel ends when the subscriber is too slow."""
        send, receive = trio.open_memory_channel[DaemonEvent](SUBSCRIBER_BUFFER)
        self._subscribers.append(send)
        try:
            with send, receive:
                yield receive
        finally:
            if send in self._subscribers:
                self._subscribers.remove(send)
