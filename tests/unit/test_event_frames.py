"""How events are spelled on the wire, and that nobody who comes back misses one silently."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lmx.config import Settings
from lmx.daemon.telemetry import Telemetry
from lmx.schema.events import encode_event
from lmx.web.events import MAX_PENDING_BYTES, RING_EVENTS, EventHub, Subscription


class Frame:
    """One frame of a stream.

    Attributes:
        name: Its event name, empty for an unnamed one.
        id: Its id, if it has one.
        data: Its decoded payload.
    """

    def __init__(self, block: str) -> None:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        self.name = fields.get("event", "")
        self.id = fields.get("id", "")
        self.data: Any = json.loads(fields["data"]) if "data" in fields else None


def frames(stream: bytes) -> list[Frame]:
    """The frames that carry data."""
    *blocks, rest = stream.decode().split("\n\n")
    assert "" == rest
    return [frame for frame in map(Frame, blocks) if frame.data is not None]


@pytest.mark.parametrize(
    ("event_type", "names"),
    [
        ("model_loaded", ["model_loaded"]),
        ("request_completed", ["request_completed"]),
        ("worker_exited", ["worker_exited"]),
        ("throughput", [""]),
        ("memory", [""]),
        ("model_event", [""]),
        ("heartbeat", ["heartbeat", ""]),
        ("memory_warning", ["memory_warning", ""]),
        ("memory_critical", ["memory_critical", ""]),
    ],
)
def test_each_type_goes_out_as_its_readers_listen(event_type: str, names: list[str]) -> None:
    """Named, unnamed or both; the payload always holds the type, its fields and the time."""
    shown = frames(encode_event(event_type, {"a": 1}, "x-7"))
    assert names == [frame.name for frame in shown]
    for frame in shown:
        assert {"type": event_type, "a": 1} == {k: frame.data[k] for k in ("type", "a")}
        assert frame.data["ts"] > 1e9
    assert ["x-7"] == [frame.id for frame in shown if frame.id]
    assert "x-7" == shown[-1].id


class Listening:
    """A hub, what is published to it, and clients that come and go."""

    def __init__(self, stack: ExitStack) -> None:
        self.telemetry = Telemetry()
        self.hub = EventHub(self.telemetry, Settings(home=Path("/nowhere")))
        self.dropped = 0
        self._stack = stack

    def come(self, last_id: str = "") -> Subscription:
        """A client that stays to the end of the test."""
        return self._stack.enter_context(self.hub.subscribe(last_id, self._drop))

    def numbers(self, subscription: Subscription) -> list[int]:
        """The numbers of the events that a client has not read yet."""
        return [f.data["n"] for f in frames(subscription.take()) if "n" in f.data]

    def publish(self, *numbers: int, event_type: str = "a") -> None:
        """One event per number."""
        for number in numbers:
            self.telemetry.publish(event_type, n=number)

    def _drop(self) -> None:
        self.dropped += 1


@pytest.fixture
def listening() -> Iterator[Listening]:
    """A hub without clients."""
    with ExitStack() as stack:
        yield Listening(stack)


def test_a_client_hears_what_happens_from_then_on(listening: Listening) -> None:
    """First a sign of life, named and unnamed, then every event in order."""
    listening.publish(1)
    client = listening.come()
    first = client.take()
    assert first.startswith(b"retry: ")
    assert ["heartbeat", ""] == [frame.name for frame in frames(first)]
    listening.publish(2, 3)
    assert [2, 3] == listening.numbers(client)
    assert 1 == listening.hub.subscriber_count


def test_a_client_that_comes_back_misses_nothing(listening: Listening) -> None:
    """It names the last event it has and gets those after it, byte for byte."""
    watching = listening.come()
    watching.take()
    listening.publish(1, 2, 3)
    live = watching.take()
    first_id = frames(live)[0].id
    again = listening.come(first_id).take()
    assert again.endswith(live[live.index(b"\n\n") + 2 :])
    assert [2, 3] == [f.data["n"] for f in frames(again) if "n" in f.data]


def test_states_are_not_told_again(listening: Listening) -> None:
    """Throughput and memory of a moment are worth nothing later, and would push others out."""
    first_id = _id_of_next(listening)
    listening.publish(1, event_type="throughput")
    listening.publish(2)
    listening.publish(3, event_type="memory")
    assert [2] == listening.numbers(listening.come(first_id))


def _id_of_next(listening: Listening) -> str:
    watching = listening.come()
    watching.take()
    listening.publish(0)
    return frames(watching.take())[-1].id


@pytest.mark.parametrize("last_id", ["deadbeef-1", "deadbeef-0"])
def test_an_id_of_another_daemon_gets_all_that_is_kept(listening: Listening, last_id: str) -> None:
    """Numbers begin anew at a start; what they count is not the same."""
    listening.publish(1, 2)
    assert [1, 2] == listening.numbers(listening.come(last_id))


@pytest.mark.parametrize("last_id", ["", "7", "nonsense", "-", "a-b", "a-" + "9" * 400, "\udcff-²"])
def test_an_id_that_is_none_gets_nothing_old(listening: Listening, last_id: str) -> None:
    """It is no error: the client hears what happens from then on."""
    listening.publish(1)
    assert [] == listening.numbers(listening.come(last_id))


def test_who_stays_away_too_long_is_told_of_the_gap(listening: Listening) -> None:
    """The ring has an end; what left it is announced and not silently skipped."""
    first_id = _id_of_next(listening)
    listening.publish(*range(RING_EVENTS))
    whole = listening.come(first_id).take()
    assert "events_missed" not in [frame.name for frame in frames(whole)]
    listening.publish(RING_EVENTS)
    shown = frames(listening.come(first_id).take())
    names = [frame.name for frame in shown]
    assert 1 == names.count("events_missed")
    numbers = [frame.data["n"] for frame in shown if "n" in frame.data]
    assert list(range(1, RING_EVENTS + 1)) == numbers


def test_a_client_that_does_not_read_is_dropped(listening: Listening) -> None:
    """Its connection is closed, its memory bounded, and the others hear everything."""
    slow, quick = listening.come(), listening.come()
    quick.take()
    count = 0
    while not listening.dropped:
        listening.telemetry.publish("a", n=count, text="x" * 1000)
        assert [count] == listening.numbers(quick)
        count += 1
    assert count < 2 * MAX_PENDING_BYTES / 1000
    assert (True, False) == (slow.is_ended, quick.is_ended)
