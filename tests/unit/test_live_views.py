"""What the monitoring routes show, from a house of models in each of its moods."""

import msgspec
import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.daemon.meter import Reading
from lmx.protocol.messages import Vitals
from lmx.protocol.values import Memory
from lmx.web.live_views import (
    device_memory,
    diagnostics_reply,
    health_reply,
    judge,
    metrics_reply,
    running_reply,
)
from tests.lifecycle import FOREVER, House, Life, open_house

SIZES = {"a": 2_000_000_000, "b": 1_000_000_000}
ROOMY = 10_000_000_000


def read(percent: float) -> Reading:
    """Memory of which so much is used."""
    used = int(10_000_000 * percent)
    return Reading(used_bytes=used, total_bytes=10**9, daemon_bytes=1, worker_bytes={})


def level(house: House) -> str:
    """How bad it is."""
    return judge(house.loader, house.dispatch).level


async def test_an_idle_daemon_is_healthy(autojump_clock: MockClock) -> None:
    """Having nothing loaded is no fault: models come when they are asked for."""
    async with open_house(SIZES) as (house, _):
        house.loader.gauge.reading = read(10)
        health = health_reply(house.loader, house.dispatch)
        assert ("ok", None, 0, 0) == (
            health.status,
            health.reason,
            health.models_loaded,
            health.in_flight_requests,
        )
        assert (10.0, None) == (health.memory_usage_percent, health.metal)


@pytest.mark.parametrize(
    ("percent", "expected"), [(10, "healthy"), (86, "degraded"), (96, "critical")]
)
async def test_memory_is_judged_by_the_settings(
    percent: float, expected: str, autojump_clock: MockClock
) -> None:
    """Over the warning level it is degraded, over the critical one critical."""
    async with open_house(SIZES) as (house, _):
        house.loader.gauge.reading = read(percent)
        assert expected == level(house)


async def test_a_shortage_is_critical(autojump_clock: MockClock) -> None:
    """While requests are refused for want of memory, nothing else counts."""
    async with open_house(SIZES) as (house, _):
        house.loader.gauge.reading = read(10)
        house.dispatch.set_admitting(is_admitting=False)
        assert "critical" == level(house)
        assert "degraded" == health_reply(house.loader, house.dispatch).status


async def test_a_stopping_server_is_degraded(autojump_clock: MockClock) -> None:
    """It answers what it has and takes nothing new."""
    async with open_house(SIZES) as (house, _):
        house.loader.gauge.reading = read(10)
        house.dispatch.drain()
        assert ("degraded", "the server is stopping") == judge(house.loader, house.dispatch)


async def test_a_model_that_failed_is_named(autojump_clock: MockClock) -> None:
    """Which one and why."""
    async with open_house(SIZES, budget_bytes=ROOMY) as (house, _):
        house.loader.gauge.reading = read(10)
        await house.load("a")
        house.worker("a").finish("boom", "signal")
        await wait_all_tasks_blocked()
        verdict = judge(house.loader, house.dispatch)
        assert ("degraded", True) == (verdict.level, "a has failed: " in (verdict.reason or ""))


async def test_device_memory_is_of_workers_on_a_gpu(autojump_clock: MockClock) -> None:
    """The sum of what they last said; those on the CPU have none to show."""
    async with open_house(SIZES, budget_bytes=ROOMY) as (house, _):
        await house.load("a", "b")
        assert device_memory(house.loader) is None
        ready = house.loader.models["b"].ready
        assert ready is not None
        info = msgspec.structs.replace(ready.loaded.info, device="gpu")
        ready.loaded = msgspec.structs.replace(ready.loaded, info=info)
        ready.worker.link.vitals = Vitals(Memory(3 * 10**9, 2 * 10**9, 4 * 10**9))
        shown = device_memory(house.loader)
        assert shown is not None
        assert (3.0, 4.0, 2.0) == (
            shown.active_memory_gb,
            shown.peak_memory_gb,
            shown.cache_memory_gb,
        )


async def test_metrics_are_flat_and_nested(autojump_clock: MockClock) -> None:
    """The dashboard's numbers, the command line's, and the same by kind, model and client."""
    async with open_house(SIZES, budget_bytes=ROOMY) as (house, _):
        await house.load("a")
        for model in ("a", "a", "b"):
            await house.ask(model)
        reply = msgspec.to_builtins(metrics_reply(house.telemetry))
        flat = {name: reply[name] for name in ("total_requests", "error_count", "error_rate")}
        assert {"total_requests": 3, "error_count": 1, "error_rate": 0.3333} == flat
        assert (3, 8, 0.3333) == (
            reply["totalRequests"],
            reply["totalTokens"],
            reply["errorRate"],
        )
        assert (8, 6, 14) == (
            reply["tokens"]["completion"],
            reply["tokens"]["prompt"],
            reply["tokens"]["total"],
        )
        requests = reply["requests"]
        assert (3, 1, 2, 2) == (
            requests["total"],
            requests["refused"],
            requests["admitted"],
            requests["completed"],
        )
        assert (["a"], 2, 1) == (
            list(reply["per_model"]),
            reply["per_model"]["a"]["requests"],
            reply["per_model"]["a"]["loads"],
        )
        assert 3 == sum(client["requests"] for client in reply["per_client"].values())
        assert reply["avg_total_time_ms"] > 0
        assert 3 == reply["requests_per_minute"]


async def test_diagnostics_have_what_the_page_reads(autojump_clock: MockClock) -> None:
    """Verdict, memory, models, metrics and the last errors, the latest first."""
    async with open_house(SIZES, usual=Life(1, FOREVER), budget_bytes=ROOMY) as (house, _):
        house.loader.gauge.reading = read(10)
        await house.load("a")
        for model in ("a", "b", "c"):
            await house.ask(model)
        shown = diagnostics_reply(house.telemetry, house.loader, house.dispatch)
        assert ("healthy", None, 3) == (shown.verdict, shown.reason, shown.metrics.total_requests)
        (model,) = shown.models
        assert ("a", "fake", 2.0, 1) == (
            model.model_id,
            model.backend,
            model.memory_gb,
            model.requests,
        )
        errors = [(error.category, error.model) for error in shown.recent_errors]
        assert [("model-not-found", "c"), ("model-not-found", "b")] == errors
        assert (10.0, 1.0) == (shown.memory.used_percent, shown.memory.total_gb)


async def test_nothing_running_is_an_empty_list(autojump_clock: MockClock) -> None:
    """The count is of the rows."""
    async with open_house(SIZES) as (house, _):
        reply = running_reply(house.dispatch)
        assert ([], 0) == (reply.requests, reply.count)
