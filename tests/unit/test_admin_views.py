"""Rows and numbers that clients read, made of what the daemon knows."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.catalog.inventory import InventoryRow
from lmx.catalog.specs import ModelSpec
from lmx.config import ModelSettings, Settings
from lmx.daemon.compatibility import Attempt
from lmx.daemon.meter import Reading
from lmx.daemon.model import LoadOptions
from lmx.daemon.telemetry import Telemetry
from lmx.protocol.messages import Vitals
from lmx.protocol.values import Memory
from lmx.schema.admin_requests import CompatibilityQuery
from lmx.web.admin_views import (
    available_rows,
    compatibility_reply,
    inventory_rows,
    loaded_rows,
    loading_rows,
    machine_memory,
    memory_reply,
    performance_reply,
)
from tests.lifecycle import Life, ScriptedLoader, ScriptedWorkshop

FOREVER = float("inf")
READY = "org/ready"


def sent(value: Any) -> Any:
    """As a client gets it."""
    return msgspec.json.decode(msgspec.json.encode(value))


def row(model_id: str, **fields: Any) -> InventoryRow:
    """A model on disk."""
    base = InventoryRow(
        id=model_id, path=Path("/m") / model_id, format="mlx", size_bytes=7, modified_at=5.0
    )
    return msgspec.structs.replace(base, **fields)


@asynccontextmanager
async def open_house(keep_alive_s: float | None = None) -> AsyncIterator[ScriptedLoader]:
    """A loader with one model that answers, one that loads and one that crashed and comes again."""
    lives = {READY: [Life(1, FOREVER)], "slow": [Life(FOREVER)], "crashed": [Life(1)]}
    settings = Settings(home=Path("/nonexistent"), models=ModelSettings(keep_alive_s=keep_alive_s))
    sizes = {"slow": 10**9}
    workshop = ScriptedWorkshop(lives)
    loader = ScriptedLoader(settings, Telemetry(), workshop, sizes=sizes, budget_bytes=10**10)
    async with trio.open_nursery() as nursery:
        await nursery.start(loader.run)
        model = loader.load(ModelSpec(READY, "fake", ""), LoadOptions(performance={"kv": 8}))
        loader.load(ModelSpec("slow", "fake", ""))
        loader.load(ModelSpec("crashed", "fake", ""))
        await trio.sleep(1.05)
        assert model.ready is not None
        model.ready.worker.link.vitals = Vitals(Memory(active_bytes=2_500_000_000))
        model.count(tokens=100, decode_s=4.0, is_answered=True)
        yield loader
        nursery.cancel_scope.cancel()


async def test_only_models_that_answer_are_loaded(autojump_clock: MockClock) -> None:
    """A row has every client's keys, and its numbers are the model's."""
    async with open_house() as loader:
        (only,) = sent(loaded_rows(loader))
    expected = {
        "id": READY,
        "model_id": READY,
        "loaded": True,
        "memory_gb": 2.5,
        "memory_used_gb": 2.5,
        "request_count": 1,
        "context_length": 100,
        "use_batching": True,
        "backend": "fake",
        "backend_type": "fake",
        "keep_alive_sec": 0.0,
        "performance": {"kv": 8},
        "performance_overrides": {"kv": 8},
        "readiness": {"state": "routable", "reason": None, "crash_count": 0},
        "speculative": {},
    }
    assert expected == {name: only[name] for name in expected}
    assert only["loaded_at"] <= only["last_used_at"]
    assert (1, 100, 25.0) == tuple(
        only["stats"][name]
        for name in ("total_requests", "total_tokens_generated", "avg_tokens_per_second")
    )


@pytest.mark.parametrize(
    ("own", "general", "told"),
    [(None, None, 0), (None, 30.0, 30), (60.0, 30.0, 60), (-1.0, 30.0, 0)],
)
async def test_never_is_told_as_zero(
    own: float | None, general: float | None, told: float, autojump_clock: MockClock
) -> None:
    """A model's own time before the general one."""
    async with open_house(general) as loader:
        model = loader.models[READY]
        model.options = msgspec.structs.replace(model.options, keep_alive_s=own)
        assert told == loaded_rows(loader)[0].keep_alive_sec


async def test_models_on_their_way(autojump_clock: MockClock) -> None:
    """With their state, why the last attempt failed, and who waits."""
    async with open_house() as loader, trio.open_nursery() as nursery:
        nursery.start_soon(loader.models["slow"].wait_until_ready)
        await wait_all_tasks_blocked()
        slow, crashed = sent(loading_rows(loader))
        nursery.cancel_scope.cancel()
    assert ("slow", "loading", None, 1) == tuple(
        slow[name] for name in ("id", "state", "reason", "waiting")
    )
    assert slow["since"] > 1e9
    assert ("crashed", "failed", 0) == tuple(crashed[name] for name in ("id", "state", "waiting"))
    assert "as scripted" in crashed["reason"]


async def test_memory_of_the_machine(autojump_clock: MockClock) -> None:
    """The last reading; before the first, the models' own budget."""
    async with open_house() as loader:
        before = machine_memory(loader)
        reading = Reading(
            used_bytes=60 * 10**9, total_bytes=80 * 10**9, daemon_bytes=1, worker_bytes={}
        )
        loader.gauge.reading = reading
        assert (10.0, 1.0) == (before.total_gb, before.used_gb)
        assert {
            "total_gb": 80.0,
            "used_gb": 60.0,
            "available_gb": 20.0,
            "usage_percent": 75.0,
            "used_percent": 75.0,
            "threshold_percent": 90.0,
        } == sent(machine_memory(loader))


async def test_memory_of_the_models(autojump_clock: MockClock) -> None:
    """What loaded ones take, what coming ones have reserved, and the budget of all."""
    async with open_house() as loader:
        reply = sent(memory_reply(loader))
    assert {
        READY: {"memory_gb": 2.5, "loaded": True},
        "slow": {"memory_gb": 1.0, "loaded": False},
        "crashed": {"memory_gb": 0.0, "loaded": False},
    } == reply["models"]
    assert [{"model_id": READY, "memory_gb": 2.5, "backend": "fake"}] == reply["per_model"]
    assert {"budget_gb": 10.0, "reserved_gb": 1.0, "free_gb": 9.0} == reply["budget"]
    assert reply["total_unified_memory_gb"] == reply["total_gb"]


async def test_the_inventory_knows_what_is_loaded(autojump_clock: MockClock) -> None:
    """Short names where they are unique, and loaded models that are on no disk."""
    rows = [row("a/same"), row("b/same", status="incomplete", reason="torn"), row("c/alone")]
    async with open_house() as loader:
        listed = sent(inventory_rows(rows, loader))
        on_disk = sent(inventory_rows([row(READY)], loader))
    assert ["a/same", "b/same", "alone", "ready"] == [one["id"] for one in listed]
    assert ["a/same", "b/same", "c/alone", READY] == [one["path"] for one in listed]
    assert ("incomplete", "torn") == (listed[1]["status"], listed[1]["reason"])
    assert [(False, None)] * 3 + [(True, 2.5)] == [(x["loaded"], x["vram_gb"]) for x in listed]
    assert [("ready", True, "mlx")] == [(x["id"], x["loaded"], x["format"]) for x in on_disk]


def test_only_what_is_not_complete_has_a_status() -> None:
    """Clients single out words that they find there."""
    rows = [
        row("a"),
        row("b", status="downloading", reason="2 of 3 files"),
        row("c", format="gguf", quantisation="Q4_K_M"),
    ]
    complete, growing, gguf = sent(available_rows(rows))
    assert {
        "repo_id": "a",
        "local_path": "/m/a",
        "size_bytes": 7,
        "downloaded_at": 5.0,
        "backend": "mlx",
        "format": "mlx",
        "quantization": None,
    } == complete
    assert ("downloading", "2 of 3 files") == (growing["status"], growing["reason"])
    assert ("gguf", "gguf", "Q4_K_M") == (gguf["backend"], gguf["format"], gguf["quantization"])


async def test_performance_of_a_model(autojump_clock: MockClock) -> None:
    """Its own row, and what holds where it has no own."""
    async with open_house(30.0) as loader:
        model = loader.models[READY]
        assert model.ready is not None
        reply = sent(performance_reply(model, model.ready, loader.settings))
        loaded = sent(loaded_rows(loader))[0]
    assert ({"kv": 8}, 30.0) == (reply["performance"], reply["global_defaults"]["keep_alive_sec"])
    shared = reply.keys() & loaded.keys()
    assert {name: loaded[name] for name in shared} == {name: reply[name] for name in shared}


ATTEMPTS = [
    Attempt(ts=3.0, model_id="a", backend="mlx", backend_version="1", outcome="pass"),
    Attempt(ts=2.0, model_id="a", backend="gguf", backend_version="1", outcome="fail", reason="x"),
    Attempt(ts=1.0, model_id="b", backend="mlx", backend_version="1", outcome="unknown"),
]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, [3, 2, 1]),
        ({"model_id": "a"}, [3, 2]),
        ({"backend": "mlx"}, [3, 1]),
        ({"outcome": "fail"}, [2]),
        ({"since_ts": 2.0}, [3, 2]),
        ({"since_ts": 2.0, "backend": "mlx"}, [3]),
        ({"model_id": "nobody"}, []),
    ],
)
def test_attempts_are_found(query: dict[str, Any], found: list[float]) -> None:
    """By every condition, and by all together."""
    reply = compatibility_reply(ATTEMPTS, CompatibilityQuery(**query))
    assert (found, len(found), None) == ([one.ts for one in reply.rows], reply.total, reply.summary)


def test_attempts_are_counted_beyond_the_limit() -> None:
    """Total and summary are of all that was found."""
    reply = compatibility_reply(ATTEMPTS, CompatibilityQuery(limit=1, include_summary=True))
    assert (3, [3.0]) == (reply.total, [one.ts for one in reply.rows])
    assert {
        "outcomes": {"pass": 1, "fail": 1, "unknown": 1},
        "backends": {"mlx": {"pass": 1, "unknown": 1}, "gguf": {"fail": 1}},
    } == sent(reply.summary)
