"""Counts what happens and tells whoever subscribed, never waiting for anyone.

Conservation holds at every reading: received = refused + waiting + admitted, and admitted =
completed + failed + cancelled + in flight. Items are states, not a log: a subscriber that falls
behind is dropped and its channel closed, so that it reconnects to a fresh state instead of reading
the past.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import trio
from msgspec import Struct

from lmx.daemon.clients import ClientCounts
from lmx.daemon.measures import ModelMeasures
from lmx.daemon.recent import RecentPast
from lmx.daemon.tables import FoldingTable
from lmx.daemon.uptime import Uptime

# Requests that come together are told of in one turn of the loop, before anybody can listen.
SUBSCRIBER_BUFFER = 256
MODEL_LIMIT = 256
CLIENT_LIMIT = 256
# Where errors of requests count for which no model was found.
NO_MODEL = "(none)"


class Statistics(Struct, frozen=True, kw_only=True):
    """A reading of every counter since start. `tokens_per_second` is of the last whole period."""

    received: int
    refused: int
    waiting: int
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
    """Counters and the broadcast of events.

    Attributes:
        received: Requests that asked for a model.
        refused: Of these, those that ended before they were admitted.
        admitted: Of these, those that a model took on.
        completed: Of the admitted, those that were answered.
        failed: Those that ended with an error.
        cancelled: Those that somebody ended, such as by hanging up.
        tokens_per_second: Generated in the last whole period.
        uptime: Since when.
        models: What was measured, by model.
        clients: What was counted, by client.
        recent: The last requests and errors.
    """

    def __init__(self) -> None:
        self.received = 0
        self.refused = 0
        self.admitted = 0
        self.completed = 0
        self.failed = 0
        self.cancelled = 0
        self.tokens_per_second = 0.0
        self.uptime = Uptime()
        self.models = FoldingTable(ModelMeasures, limit=MODEL_LIMIT)
        self.clients = FoldingTable(ClientCounts, limit=CLIENT_LIMIT)
        self.recent = RecentPast()
        self._listeners: list[Callable[[DaemonEvent], None]] = []

    def statistics(self) -> Statistics:
        """All counters now."""
        ended = self.completed + self.failed + self.cancelled
        totals = [measures.totals for measures in self.models.values()]
        return Statistics(
            received=self.received,
            refused=self.refused,
            waiting=self.received - self.refused - self.admitted,
            admitted=self.admitted,
            completed=self.completed,
            failed=self.failed,
            cancelled=self.cancelled,
            in_flight=self.admitted - ended,
            prompt_tokens=sum(one.prompt_tokens for one in totals),
            completion_tokens=sum(one.generated_tokens for one in totals),
            tokens_per_second=self.tokens_per_second,
        )

    def publish(self, event_type: str, **fields: Any) -> None:
        """Tell everybody who listens."""
        event = DaemonEvent(event_type, fields)
        for listener in list(self._listeners):
            listener(event)

    def listen(self, listener: Callable[[DaemonEvent], None]) -> None:
        """Have every event given to `listener`, which must neither block nor raise, for good."""
        self._listeners.append(listener)

    @contextmanager
    def subscribe(
        self, types: Collection[str] | None = None
    ) -> Iterator[trio.MemoryReceiveChannel[DaemonEvent]]:
        """Receive events while the block runs; the channel ends when the subscriber is too slow.

        Args:
            types: Which events; `None` for all.
        """
        send, receive = trio.open_memory_channel[DaemonEvent](SUBSCRIBER_BUFFER)

        def pass_on(event: DaemonEvent) -> None:
            if types is not None and event.type not in types:
                return
            try:
                send.send_nowait(event)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._listeners.remove(pass_on)
                send.close()

        self._listeners.append(pass_on)
        try:
            with send, receive:
                yield receive
        finally:
            if pass_on in self._listeners:
                self._listeners.remove(pass_on)
