"""Loads, exits and waits for the device are counted by model, and told as clients read them."""

import trio
from trio.testing import MockClock

from lmx.daemon.lease import LeaseSeat
from lmx.daemon.model import Leaving
from tests.lifecycle import FOREVER, PROMPTLY, Life, open_house

SIZES = {"a": 2_000_000_000}
ROOMY = 10_000_000_000


async def test_a_load_is_told_and_counted(autojump_clock: MockClock) -> None:
    """The named event says format, memory and time; the unnamed one the same in other words."""
    async with open_house(SIZES, usual=Life(3, FOREVER), budget_bytes=ROOMY) as (house, _):
        await house.load("a")
        loaded = {"model_id": "a", "format": "fake", "memory_gb": 2.0, "duration_sec": 3.0}
        assert [loaded] == house.telemetry.all_of("model_loaded")
        event = {"action": "loaded", "model": "a", "vram_gb": 2.0, "load_time_ms": 3000.0}
        assert [event] == house.telemetry.all_of("model_event")
        measures = house.telemetry.models.of("a")
        totals = measures.totals
        assert (1, 3.0, 3.0) == (totals.load_count, totals.load_s, totals.last_load_s)
        assert measures.is_loaded


async def test_an_unload_is_told(autojump_clock: MockClock) -> None:
    """What was freed and why; from then on the model's counters may be folded away."""
    async with open_house(SIZES, budget_bytes=ROOMY) as (house, _):
        await house.load("a")
        await house.unload("a", PROMPTLY)
        unloaded = {"model_id": "a", "memory_freed_gb": 2.0, "reason": "manual"}
        assert [unloaded] == house.telemetry.all_of("model_unloaded")
        event = {"action": "unloaded", "model": "a", "vram_gb": 2.0, "load_time_ms": 0.0}
        assert [event] == house.telemetry.all_of("model_event")[1:]
        assert not house.telemetry.models.of("a").is_loaded


async def test_an_exit_is_told_and_counted(autojump_clock: MockClock) -> None:
    """Which process, how and why; and the next load counts beside the first."""
    async with open_house(SIZES, budget_bytes=ROOMY) as (house, _):
        await house.load("a")
        worker = house.worker("a")
        worker.finish("boom", "signal")
        await trio.sleep(100)
        exited = {"model_id": "a", "kind": "signal", "reason": "boom", "pid": worker.pid}
        assert [exited] == house.telemetry.all_of("worker_exited")
        measures = house.telemetry.models.of("a")
        assert ({"signal": 1}, 2) == (measures.exits, measures.totals.load_count)
        assert measures.is_loaded


async def test_a_model_that_failed_is_at_rest(autojump_clock: MockClock) -> None:
    """A model whose loads fail holds no place among the counters."""
    async with open_house(SIZES, usual=Life(1), budget_bytes=ROOMY) as (house, _):
        house.want("a")
        await trio.sleep(2)
        assert house.telemetry.models.of("a").is_at_rest
        house.loader.unload(house.loader.models["a"], Leaving(reason="manual", drain_s=0.0))


async def test_long_waits_for_the_device_are_told(autojump_clock: MockClock) -> None:
    """Every wait is counted; one of more than a second is an event, too."""
    async with open_house(SIZES, budget_bytes=ROOMY) as (house, _):
        lease = house.loader.lease
        lease.is_exclusive = True
        async with lease.seat("a") as one, lease.seat("b") as two:
            for hold_s in (0.5, 2.5):
                async with trio.open_nursery() as nursery:
                    await nursery.start(_hold, one, hold_s)
                    nursery.start_soon(_take, two)
        told = [{"model_id": "b", "waited_ms": 2500.0}]
        assert told == house.telemetry.all_of("lease_wait")
        waits = {name: one.latencies.lease for name, one in house.telemetry.models.items()}
        assert {"a": (2, 0.0), "b": (2, 3.0)} == {
            name: (wait.count, wait.total) for name, wait in waits.items()
        }


async def _hold(
    seat: LeaseSeat, hold_s: float, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    async with seat.for_load():
        task_status.started()
        await trio.sleep(hold_s)


async def _take(seat: LeaseSeat) -> None:
    async with seat.for_load():
        pass
