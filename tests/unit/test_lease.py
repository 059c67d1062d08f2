"""Seats at the device lease: frames, loads, and nobody next before the last one is dead."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.config import LeaseMode
from lmx.daemon.lease import Lease, LeaseSeat
from lmx.protocol.messages import (
    Command,
    LeaseEvent,
    LeaseGranted,
    LeaseReleased,
    LeaseWanted,
    LeaseWantedBack,
)
from tests.fakes import ScriptedWorker

SLICE_S = 0.05


class Table:
    """A lease in exclusive mode, and workers with seats at it."""

    def __init__(self, mode: LeaseMode = "exclusive", platform: str = "linux") -> None:
        self.waits: list[tuple[str, float]] = []
        self.lease = Lease(
            mode,
            slice_s=SLICE_S,
            platform=platform,
            on_wait=lambda name, waited_s: self.waits.append((name, waited_s)),
        )

    @asynccontextmanager
    async def place(self, name: str) -> AsyncIterator[tuple[LeaseSeat, ScriptedWorker]]:
        """A seat and a pumped link to its worker; leaving kills the worker, then ends the seat."""
        async with self.lease.seat(name) as seat:
            worker = ScriptedWorker()
            seat.connect(worker.link)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.run)
                yield seat, worker
                nursery.cancel_scope.cancel()


async def say(worker: ScriptedWorker, *events: LeaseEvent) -> list[Command]:
    """What the worker hears after it said this."""
    if events:
        worker.send(*events)
    await wait_all_tasks_blocked()
    return worker.commands()


ALONE = LeaseGranted(SLICE_S, is_wanted_back=False)
CONTENDED = LeaseGranted(SLICE_S, is_wanted_back=True)


async def test_workers_take_turns_over_their_links(autojump_clock: MockClock) -> None:
    """Wish, grant, a second wish, the asking back, release, grant: each frame once."""
    table = Table()
    async with table.place("a") as (a, worker_a), table.place("b") as (b, worker_b):
        assert [ALONE] == await say(worker_a, LeaseWanted())
        assert [] == await say(worker_b, LeaseWanted())
        assert [LeaseWantedBack()] == await say(worker_a)
        assert ("a", ["b"]) == (table.lease.holder, table.lease.waiting)
        states = (a.is_holding, a.is_waiting, b.is_holding, b.is_waiting)
        assert (True, False, False, True) == states
        await trio.sleep(1)
        assert trio.current_time() - 1 == a.asked_back_since_s == table.lease.held_since_s
        assert b.asked_back_since_s is None
        assert [] == await say(worker_a, LeaseReleased(wants_more=True))
        assert [CONTENDED] == await say(worker_b)
        assert [] == await say(worker_b, LeaseReleased(wants_more=False))
        (granted,) = await say(worker_a)
        assert isinstance(granted, LeaseGranted)
        assert not granted.is_wanted_back
    assert table.lease.holder is None


async def test_a_wish_right_behind_a_release_is_a_wish() -> None:
    """A worker that got work while its release was on its way goes to the end of the line."""
    table = Table()
    async with table.place("a") as (_, worker_a), table.place("b") as (_, worker_b):
        await say(worker_a, LeaseWanted())
        await say(worker_b, LeaseWanted())
        heard = await say(worker_a, LeaseReleased(wants_more=False), LeaseWanted())
        assert [LeaseWantedBack()] == heard
        assert [ALONE, LeaseWantedBack()] == await say(worker_b)
        assert ("b", ["a"]) == (table.lease.holder, table.lease.waiting)


async def test_nobody_computes_until_the_holder_is_dead() -> None:
    """The pipe's end frees nothing: the next one's turn comes with the end of the seat."""
    table = Table()
    async with table.place("b") as (_, worker_b):
        async with table.place("a") as (_, worker_a):
            await say(worker_a, LeaseWanted())
            await say(worker_b, LeaseWanted())
            worker_a.die()
            assert [] == await say(worker_b)
            assert "a" == table.lease.holder
        assert [ALONE] == await say(worker_b)


async def test_one_who_dies_waiting_leaves_the_line() -> None:
    """A dead wanter is never granted; the holder keeps what it was asked for or gets it anew."""
    table = Table()
    async with table.place("a") as (_, worker_a):
        await say(worker_a, LeaseWanted())
        async with table.place("b") as (_, worker_b):
            await say(worker_b, LeaseWanted())
        assert [LeaseWantedBack()] == await say(worker_a)
        assert [ALONE] == await say(worker_a, LeaseReleased(wants_more=True))


async def test_a_worker_that_claims_the_impossible_is_condemned() -> None:
    """Its link ends with a frame error; what it held goes on only with its seat."""
    table = Table()
    async with table.place("b") as (_, worker_b), table.place("a") as (_, worker_a):
        await say(worker_a, LeaseWanted())
        await say(worker_b, LeaseWanted(), LeaseReleased(wants_more=False))
        with pytest.raises(OSError, match="pipe"):
            worker_b.send(LeaseWanted())
        assert "a" == table.lease.holder


async def test_a_load_takes_its_turn_and_gives_it_back() -> None:
    """A load waits for the holder, nobody steps while it runs, and the line goes on after it."""
    table = Table()
    async with table.place("a") as (_, worker_a), table.place("b") as (b, worker_b):
        await say(worker_a, LeaseWanted())
        loading, may_end = trio.Event(), trio.Event()

        async def load() -> None:
            async with b.for_load():
                loading.set()
                await may_end.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(load)
            assert [LeaseWantedBack()] == await say(worker_a)
            assert (False, True) == (loading.is_set(), b.is_waiting)
            assert [] == await say(worker_a, LeaseReleased(wants_more=True))
            assert (True, True) == (loading.is_set(), b.is_holding)
            assert [] == worker_a.commands() == worker_b.commands()
            may_end.set()
        assert [ALONE] == await say(worker_a)
        assert not b.is_holding


async def test_a_load_that_failed_keeps_the_lease_until_its_worker_is_dead() -> None:
    """After an error or a cancellation the process may still compute."""
    table = Table()
    async with table.place("a") as (_, worker_a):
        with pytest.RaisesGroup(ValueError):
            async with table.place("b") as (b, _):
                try:
                    async with b.for_load():
                        await say(worker_a, LeaseWanted())
                        raise ValueError
                finally:
                    assert [] == worker_a.commands()
                    assert b.is_holding
        assert [ALONE] == await say(worker_a)


async def test_a_load_cancelled_while_it_waits_leaves_the_line() -> None:
    """The holder goes on; nothing remembers the load."""
    table = Table()
    async with table.place("a") as (_, worker_a), table.place("b") as (b, _):
        await say(worker_a, LeaseWanted())
        async with trio.open_nursery() as nursery:

            async def load() -> None:
                async with b.for_load():
                    pytest.fail("the lease was never free")

            nursery.start_soon(load)
            await wait_all_tasks_blocked()
            assert ["b"] == table.lease.waiting
            nursery.cancel_scope.cancel()
        assert ("a", []) == (table.lease.holder, table.lease.waiting)
        assert not b.is_waiting


@pytest.mark.parametrize(
    ("mode", "platform", "is_exclusive"),
    [
        ("auto", "darwin", True),
        ("auto", "linux", False),
        ("exclusive", "linux", True),
        ("shared", "darwin", False),
    ],
)
async def test_the_mode_decides_who_takes_turns(
    mode: LeaseMode, platform: str, *, is_exclusive: bool
) -> None:
    """Two loads at once are let through in shared mode, and only there."""
    table = Table(mode, platform)
    async with table.place("a") as (a, worker_a), table.place("b") as (b, _):
        async with a.for_load():
            with trio.move_on_after(0.01) as waited:
                async with b.for_load():
                    assert not b.is_holding
                    assert not b.is_waiting
        assert is_exclusive == waited.cancelled_caught == table.lease.is_exclusive
        assert [] == await say(worker_a)


async def test_in_shared_mode_a_claim_is_no_frame() -> None:
    """A worker that was told to take no turns has nothing to say about them."""
    async with Table("shared").place("a") as (_, worker):
        await say(worker, LeaseWanted())
        with pytest.raises(OSError, match="pipe"):
            worker.send(LeaseWanted())


async def test_every_wait_is_told_once_it_is_over(autojump_clock: MockClock) -> None:
    """Whose it was and how long: none alone, the holder's time for the next, a load's as well."""
    table = Table()
    async with table.place("a") as (_, worker_a), table.place("b") as (b, worker_b):
        await say(worker_a, LeaseWanted())
        assert [("a", 0.0)] == table.waits
        await say(worker_b, LeaseWanted())
        await trio.sleep(3)
        assert [] == table.waits[1:]
        await say(worker_a, LeaseReleased(wants_more=True))
        await trio.sleep(2)
        await say(worker_b, LeaseReleased(wants_more=False))
        assert [("b", 3.0), ("a", 2.0)] == table.waits[1:]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_load_once, b)
            await trio.sleep(1.5)
            await say(worker_a, LeaseReleased(wants_more=False))
        assert [("b", 1.5)] == table.waits[3:]


async def _load_once(seat: LeaseSeat) -> None:
    async with seat.for_load():
        pass


async def test_a_wait_that_is_given_up_is_not_told(autojump_clock: MockClock) -> None:
    """Who leaves the line had no turn, so there is nothing to measure."""
    table = Table()
    async with table.place("a") as (_, worker_a):
        await say(worker_a, LeaseWanted())
        async with table.place("b") as (_, worker_b):
            await say(worker_b, LeaseWanted())
            await trio.sleep(3)
        await say(worker_a, LeaseReleased(wants_more=False))
    assert [("a", 0.0)] == table.waits
