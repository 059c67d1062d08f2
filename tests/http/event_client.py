"""A client of ``/admin/events`` that reads frame by frame, for tests that look at a live daemon."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.http.wire import Connection, encode_request


class Told(NamedTuple):
    """One frame.

    Attributes:
        name: Its event name, empty for an unnamed one.
        id: Its id, if it has one.
        data: Its payload.
    """

    name: str
    id: str
    data: dict[str, Any]


class EventClient:
    """One subscription on a connection of its own.

    Args:
        connection: Fresh.
        last_id: Of the last event that was seen.
        headers: Further request headers.
    """

    def __init__(
        self, connection: Connection, *, last_id: str = "", headers: dict[str, str] | None = None
    ) -> None:
        own = {"last-event-id": last_id} if last_id else {}
        connection.send(encode_request("GET", "/admin/events", headers={**own, **(headers or {})}))
        self.head = connection.read_head()
        self._chunks = connection.iterate_chunks()
        self._held = b""

    def next(self) -> Told:
        """The next frame that carries data."""
        while True:
            while b"\n\n" not in self._held:
                self._held += next(self._chunks)
            block, _, self._held = self._held.partition(b"\n\n")
            fields = dict(line.split(": ", 1) for line in block.decode().split("\n"))
            if "data" in fields:
                data = json.loads(fields["data"])
                return Told(fields.get("event", ""), fields.get("id", ""), data)

    def until(self, is_last: Callable[[Told], bool]) -> list[Told]:
        """Every frame up to and with the first that is the last."""
        found = [self.next()]
        while not is_last(found[-1]):
            found.append(self.next())
        return found

    def until_type(self, event_type: str) -> list[Told]:
        """Every frame up to and with the first of a type."""
        return self.until(lambda told: told.data["type"] == event_type)

    def read_to_end(self) -> None:
        """Read until the server ends the stream in an orderly way."""
        for _ in self._chunks:
            pass
