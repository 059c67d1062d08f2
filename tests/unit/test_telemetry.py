"""Counters conserve, and no subscriber can hold the daemon up."""

import pytest
import trio

from lmx.daemon.telemetry import SUBSCRIBER_BUFFER, DaemonEvent, Telemetry


def test_in_flight_is_what_has_not_ended() -> None:
    """Admitted is always completed plus failed plus cancelled plus in flight."""
    telemetry = Telemetry()
    telemetry.admitted, telemetry.completed, telemetry.failed, telemetry.cancelled = 10, 4, 2, 1
    assert 3 == telemetry.statistics().in_flight


def test_tokens_add_up() -> None:
    """Tokens are summed over all models."""
    telemetry = Telemetry()
    for name, prompt, generated in (("a", 3, 4), ("b", 5, 6)):
        telemetry.models.of(name).totals.prompt_tokens += prompt
        telemetry.models.of(name).totals.generated_tokens += generated
    now = telemetry.statistics()
    assert (8, 10) == (now.prompt_tokens, now.completion_tokens)


def test_waiting_is_what_is_neither_refused_nor_admitted() -> None:
    """Received is always refused plus waiting plus admitted."""
    telemetry = Telemetry()
    telemetry.received, telemetry.refused, telemetry.admitted = 10, 3, 5
    assert 2 == telemetry.statistics().waiting


def test_a_reading_is_a_snapshot() -> None:
    """Counting on does not change what was read before."""
    telemetry = Telemetry()
    before = telemetry.statistics()
    telemetry.admitted += 1
    assert (0, 1) == (before.admitted, telemetry.statistics().admitted)


def test_every_subscriber_hears_every_event() -> None:
    """Events reach all who listen, in order."""
    telemetry = Telemetry()
    with telemetry.subscribe() as one, telemetry.subscribe() as two:
        telemetry.publish("a", n=1)
        telemetry.publish("b")
        for channel in (one, two):
            assert DaemonEvent("a", {"n": 1}) == channel.receive_nowait()
            assert DaemonEvent("b", {}) == channel.receive_nowait()
            with pytest.raises(trio.WouldBlock):
                channel.receive_nowait()


def test_publishing_to_nobody_is_fine() -> None:
    """Nobody needs to listen."""
    Telemetry().publish("a")


async def test_a_slow_subscriber_is_dropped_and_told() -> None:
    """A full subscriber gets what was queued and then the end; the others lose nothing."""
    telemetry = Telemetry()
    with telemetry.subscribe() as slow, telemetry.subscribe() as quick:
        heard = []
        for number in range(SUBSCRIBER_BUFFER + 2):
            telemetry.publish("a", n=number)
            heard.append(quick.receive_nowait().fields["n"])
        assert list(range(SUBSCRIBER_BUFFER + 2)) == heard
        assert list(range(SUBSCRIBER_BUFFER)) == [event.fields["n"] async for event in slow]


def test_leaving_unsubscribes() -> None:
    """After the block nothing is kept for a subscriber, and publishing works on."""
    telemetry = Telemetry()
    with telemetry.subscribe():
        pass
    telemetry.publish("a")


async def test_a_cancelled_subscriber_unsubscribes() -> None:
    """A subscriber that ends by cancellation, as all do at a disconnect, leaves no trace."""
    telemetry = Telemetry()
    with trio.CancelScope() as scope, telemetry.subscribe() as events:
        scope.cancel()
        await events.receive()
    telemetry.publish("a")


def test_a_subscriber_that_fails_unsubscribes() -> None:
    """So does one that ends by an error."""
    telemetry = Telemetry()
    with pytest.raises(ValueError, match="mine"), telemetry.subscribe():
        raise ValueError("mine")
    telemetry.publish("a")


def test_a_subscriber_that_closed_its_end_is_dropped() -> None:
    """A closed channel is no reason to fail."""
    telemetry = Telemetry()
    with telemetry.subscribe() as events:
        events.close()
        telemetry.publish("a")
        telemetry.publish("b")


def test_a_subscriber_may_choose() -> None:
    """One that wants some types is not filled, and so not dropped, by all the others."""
    telemetry = Telemetry()
    with telemetry.subscribe({"b"}) as events:
        for _ in range(2 * SUBSCRIBER_BUFFER):
            telemetry.publish("a")
        telemetry.publish("b", n=1)
        assert DaemonEvent("b", {"n": 1}) == events.receive_nowait()
        with pytest.raises(trio.WouldBlock):
            events.receive_nowait()
