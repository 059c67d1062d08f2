"""Once a second subscribers hear how fast the daemon is, from live counts, while anything runs."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.daemon.broadcaster import Broadcaster
from lmx.daemon.meter import Reading
from lmx.protocol.messages import Started
from tests.fakes import Bench, Recorder, delta, finished, open_bench

if TYPE_CHECKING:
    from lmx.daemon.running import RunningRequest

READING = Reading(
    used_bytes=3_000_000_000, total_bytes=4_000_000_000, daemon_bytes=0, worker_bytes={}
)


class Scene:
    """What the broadcaster sees; the test changes it."""

    def __init__(self) -> None:
        self.telemetry = Recorder()
        self.requests: list[RunningRequest] = []
        self.reading: Reading | None = READING
        self.is_loading = False

    def broadcaster(self) -> Broadcaster:
        return Broadcaster(
            self.telemetry,
            running=lambda: self.requests,
            reading=lambda: self.reading,
            is_loading=lambda: self.is_loading,
        )

    def types(self) -> list[str]:
        """Of all events so far."""
        return [event.type for event in self.telemetry.told]


@asynccontextmanager
async def on_air(scene: Scene) -> AsyncIterator[None]:
    """The broadcaster at work, half a period ahead of the test."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.broadcaster().run)
        await trio.sleep(0.5)
        yield
        nursery.cancel_scope.cancel()


async def test_an_idle_daemon_is_silent(autojump_clock: MockClock) -> None:
    """Nothing runs, nothing is said."""
    scene = Scene()
    async with on_air(scene):
        await trio.sleep(10)
    assert [] == scene.types()


async def test_tokens_are_told_as_they_come(autojump_clock: MockClock) -> None:
    """Each busy second has its own count and the first idle one a last event with zeros."""
    scene = Scene()
    async with on_air(scene):
        totals = scene.telemetry.models.of("m").totals
        for count in (30, 0, 12):
            totals.generated_tokens += count
            await trio.sleep(1)
        await trio.sleep(5)
    assert [30.0, 0.0, 12.0, 0.0] == scene.telemetry.of("throughput", "tokens_per_second")
    assert [30.0, 0.0, 12.0, 0.0] == scene.telemetry.of("throughput", "tokens_per_sec")
    assert 0.0 == scene.telemetry.tokens_per_second


async def test_memory_is_told_while_a_model_loads(autojump_clock: MockClock) -> None:
    """A load has no throughput, but its memory is watched."""
    scene = Scene()
    async with on_air(scene):
        scene.is_loading = True
        await trio.sleep(1)
        scene.is_loading = False
        await trio.sleep(3)
    assert ["memory"] == scene.types()
    assert [
        {
            "vram_used_gb": 3.0,
            "vram_total_gb": 4.0,
            "pct": 75.0,
            "vram": {"used_gb": 3.0, "total_gb": 4.0},
        }
    ] == scene.telemetry.all_of("memory")


async def test_memory_that_was_never_read_is_not_told(autojump_clock: MockClock) -> None:
    """Before the first reading there is nothing to say."""
    scene = Scene()
    scene.reading = None
    async with on_air(scene):
        scene.is_loading = True
        await trio.sleep(2)
    assert [] == scene.types()


async def play(bench: Bench, requests: trio.Nursery) -> None:
    """Two requests: one waits two seconds to start, speaks thrice and ends; one never starts."""
    for _ in range(2):
        requests.start_soon(bench.ask)
        await wait_all_tasks_blocked()
    await trio.sleep(2)
    bench.worker.send(Started(1, 3))
    for _ in range(3):
        await trio.sleep(0.1)
        bench.worker.send(delta(1, "x"))
    await trio.sleep(0.1)
    bench.worker.send(finished(1))
    await wait_all_tasks_blocked()


async def test_means_are_of_the_second(autojump_clock: MockClock) -> None:
    """TTFT, ITL and queue are means over what the second saw, in milliseconds, or null."""
    async with open_bench() as (bench, requests):
        broadcaster = Broadcaster(
            bench.telemetry,
            running=lambda: bench.dispatch.running,
            reading=lambda: None,
            is_loading=lambda: False,
        )
        requests.start_soon(broadcaster.run)
        await trio.sleep(0.5)
        await play(bench, requests)
        await trio.sleep(0.2)
        told: list[dict[str, Any]] = bench.telemetry.all_of("throughput")
        requests.cancel_scope.cancel()
    silent = {"ttft_ms": None, "itl_ms": None, "queue_ms": None}
    waiting = {"active_requests": 0, "waiting_requests": 2, "model": "m"}
    speed = {"tokens_per_second": 0.0, "tokens_per_sec": 0.0}
    assert [{**speed, **waiting, **silent}] * 2 == told[:2]
    # The end token left no text, and is counted at the end.
    assert [
        {
            "tokens_per_second": 4.0,
            "tokens_per_sec": 4.0,
            "active_requests": 0,
            "waiting_requests": 1,
            "model": "m",
            "ttft_ms": 2100.0,
            "itl_ms": 100.0,
            "queue_ms": 2000.0,
        }
    ] == told[2:]
