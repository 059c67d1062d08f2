"""``GET /admin/events``: everything that happens in the daemon, as it happens.

Theory of operation. The hub hears every event of the telemetry, encodes it once and hands the bytes
to every subscriber, whose connection is written to right there. The last events stay in a ring, so
that a client that comes back with the id of the last one it saw misses nothing that is still there,
and is told when something is not. A subscriber that does not read is dropped, and its connection
closed with it, so that it notices and comes back.
"""

import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import NoReturn

import trio

from lmx.config import Settings
from lmx.daemon.telemetry import DaemonEvent, Telemetry
from lmx.daemon.waiting import wait_first
from lmx.schema.events import FLEETING, RETRY_FRAME, encode_event
from lmx.web.exchange import EVENT_STREAM_HEADERS, Answer, Exchange
from lmx.web.pump import Listener, Pump

RING_EVENTS = 1024
# What may wait for one subscriber: minutes of a busy daemon.
MAX_PENDING_BYTES = 256 * 1024


class Subscription:
    """One client's events, from now on.

    Args:
        first: What it is sent at once.
        drop: Called when it is too far behind; closes its connection.
    """

    is_ended = False

    def __init__(self, first: bytes, drop: Callable[[], None]) -> None:
        self._pending = [first]
        self._pending_bytes = len(first)
        self._drop = drop
        self._listener: Listener | None = None

    def listen(self, listener: Listener | None) -> None:
        """See `lmx.web.pump.Source`."""
        self._listener = listener

    def take(self) -> bytes:
        """What happened since the last call."""
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        return b"".join(pending)

    def tell(self, frames: bytes) -> None:
        """Something happened. Never blocks."""
        if self.is_ended:
            return
        self._pending.append(frames)
        self._pending_bytes += len(frames)
        if self._pending_bytes > MAX_PENDING_BYTES:
            self.is_ended = True
            self._drop()
        if self._listener is not None:
            self._listener()


class EventHub:
    """Takes the daemon's events and gives them to all who listen.

    Args:
        telemetry: Where they come from.
        settings: Say how often a sign of life is sent.
    """

    def __init__(self, telemetry: Telemetry, settings: Settings) -> None:
        self._settings = settings
        self._uptime = telemetry.uptime
        # Numbers begin anew with every daemon; ids of another one must not be taken for ours.
        self._boot = secrets.token_hex(4)
        self._number = 0
        self._ring: deque[tuple[int, bytes]] = deque()
        self._forgotten = 0  # the number of the last event that left the ring
        self._subscriptions: set[Subscription] = set()
        telemetry.listen(self._take)

    @property
    def subscriber_count(self) -> int:
        """Clients that listen now."""
        return len(self._subscriptions)

    async def run(self) -> NoReturn:
        """Send signs of life for ever."""
        while True:
            await trio.sleep(self._settings.server.events_heartbeat_s)
            self._tell(self._heartbeat())

    @contextmanager
    def subscribe(self, last_id: str, drop: Callable[[], None]) -> Iterator[Subscription]:
        """A client's events while the block runs.

        Args:
            last_id: Of the last event it has seen; empty for none.
            drop: Closes its connection when it is too far behind.
        """
        first = RETRY_FRAME + self._heartbeat() + self._missed(last_id)
        subscription = Subscription(first, drop)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def _take(self, event: DaemonEvent) -> None:
        self._number += 1
        frames = encode_event(event.type, event.fields, f"{self._boot}-{self._number}")
        if event.type not in FLEETING:
            self._ring.append((self._number, frames))
            if len(self._ring) > RING_EVENTS:
                self._forgotten, _ = self._ring.popleft()
        self._tell(frames)

    def _tell(self, frames: bytes) -> None:
        for subscription in list(self._subscriptions):
            subscription.tell(frames)

    def _heartbeat(self) -> bytes:
        fields = {"uptime": self._uptime.seconds, "timestamp": round(time.time(), 3)}
        return encode_event("heartbeat", fields)

    def _missed(self, last_id: str) -> bytes:
        """What is kept of the events after this one; of another daemon's id, all that is kept."""
        boot, _, text = last_id.partition("-")
        if not text.isdecimal() or len(text) > len(str(self._number)):
            return b""
        after = int(text) if boot == self._boot else 0
        kept = [frames for number, frames in self._ring if number > after]
        has_all = after >= self._forgotten
        gap = b"" if has_all else encode_event("events_missed", {"kept": len(kept)})
        return gap + b"".join(kept)


class EventsRoute:
    """The route over a hub.

    Args:
        hub: Has the events.
        wait_stop: Returns when streams have to end, because the daemon stops.
    """

    def __init__(self, hub: EventHub, wait_stop: Callable[[], Awaitable[object]]) -> None:
        self._hub = hub
        self._wait_stop = wait_stop

    async def __call__(self, exchange: Exchange) -> Answer | None:
        """Handle one exchange, until the client leaves or the daemon stops."""
        if exchange.scope["method"] == "HEAD":
            return Answer(b"", headers=EVENT_STREAM_HEADERS)
        with self._hub.subscribe(exchange.last_event_id, exchange.abort) as subscription:
            sink = await exchange.start_stream(b"")
            pump = Pump(subscription, sink, heartbeat=b"", heartbeat_s=inf)
            await wait_first(self._wait_stop, pump.run)
        return None
