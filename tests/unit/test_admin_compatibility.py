"""The list of attempts: fed by events, kept on disk, bounded, and hard to harm."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import asdict
from trio.testing import wait_all_tasks_blocked

from lmx.daemon.compatibility import (
    FILE_ROW_LIMIT,
    ROW_LIMIT,
    Attempt,
    Compatibility,
    read_attempts,
    write_attempts,
)
from lmx.daemon.telemetry import Telemetry

LOADED = {"memory_gb": 1.5, "duration_sec": 2.0}


def attempt(number: int) -> Attempt:
    """Any attempt."""
    return Attempt(ts=number, model_id="m", backend="mlx", backend_version="1", outcome="pass")


def file_of(home: Path) -> Path:
    """Where the list is kept."""
    return home / "state" / "compatibility.jsonl"


@asynccontextmanager
async def running(home: Path) -> AsyncIterator[tuple[Compatibility, Telemetry]]:
    """A list that listens."""
    telemetry = Telemetry()
    compatibility = Compatibility(home, telemetry, backend_of=lambda model_id: f"of-{model_id}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compatibility.run)
        await wait_all_tasks_blocked()
        yield compatibility, telemetry
        nursery.cancel_scope.cancel()


async def wait_true(is_true: Callable[[], bool]) -> None:
    """Wait for what a thread does."""
    with trio.fail_after(10):
        while True:
            if is_true():
                return
            await trio.sleep(0.01)


async def wait_written(home: Path, count: int) -> list[Attempt]:
    """The file's attempts, once there are so many."""
    await wait_true(lambda: len(read_attempts(file_of(home))[0]) >= count)
    return list(read_attempts(file_of(home))[0])


async def test_loads_and_failures_are_noted(tmp_path: Path) -> None:
    """A load that worked is a pass, one that did not a fail, and short memory says nothing."""
    async with running(tmp_path) as (compatibility, telemetry):
        telemetry.publish("model_loaded", model_id="a", **LOADED)
        telemetry.publish("model_failed", model_id="b", code="corrupt-model", reason="torn")
        telemetry.publish("model_failed", model_id="c", code="insufficient_memory", reason="big")
        telemetry.publish("model_failed", model_id="d", code="model-not-found", reason="nowhere")
        telemetry.publish("throughput", tokens_per_second=1)
        await wait_all_tasks_blocked()
        found = [
            (one.model_id, one.backend, one.outcome, one.reason, one.metadata)
            for one in compatibility.attempts()
        ]
        assert [
            ("c", "of-c", "unknown", "big", {"code": "insufficient_memory"}),
            ("b", "of-b", "fail", "torn", {"code": "corrupt-model"}),
            ("a", "of-a", "pass", None, LOADED),
        ] == found


async def test_what_was_noted_outlives_the_daemon(tmp_path: Path) -> None:
    """The next daemon knows it, and adds to it."""
    for number in (1, 2):
        async with running(tmp_path) as (compatibility, _):
            compatibility.record(f"m{number}", "mlx", "pass")
            await wait_written(tmp_path, number)
    async with running(tmp_path) as (compatibility, _):
        await wait_true(lambda: len(compatibility.attempts()) == 2)
        assert ["m2", "m1"] == [one.model_id for one in compatibility.attempts()]


async def test_a_subscriber_that_fell_behind_starts_again(tmp_path: Path) -> None:
    """More events in one go than a channel holds cost some of them, and nothing afterwards."""
    async with running(tmp_path) as (compatibility, telemetry):
        for _ in range(100):
            telemetry.publish("model_loaded", model_id="flood", **LOADED)
        await wait_all_tasks_blocked()
        telemetry.publish("model_loaded", model_id="after", **LOADED)
        await wait_all_tasks_blocked()
        assert "after" == compatibility.attempts()[0].model_id


async def test_the_list_is_bounded(tmp_path: Path) -> None:
    """In memory and on disk the latest are kept."""
    async with running(tmp_path) as (compatibility, _):
        for number in range(FILE_ROW_LIMIT + 500):
            compatibility.record(str(number), "mlx", "pass")
            if number % 100 == 0:
                await trio.sleep(0.001)
        assert ROW_LIMIT == len(compatibility.attempts())
        last = str(FILE_ROW_LIMIT + 499)
        await wait_true(lambda: read_attempts(file_of(tmp_path))[0][-1].model_id == last)
    assert file_of(tmp_path).read_bytes().count(b"\n") <= FILE_ROW_LIMIT


async def test_a_disk_that_refuses_costs_the_file_only(tmp_path: Path) -> None:
    """The list goes on in memory, and is written once the disk takes it."""
    blocked = tmp_path / "state"
    blocked.write_text("a file where the directory has to be")
    async with running(tmp_path) as (compatibility, _):
        compatibility.record("a", "mlx", "pass")
        await trio.sleep(0.1)
        assert ["a"] == [one.model_id for one in compatibility.attempts()]
        blocked.unlink()
        compatibility.record("b", "mlx", "pass")
        assert ["a", "b"] == [one.model_id for one in await wait_written(tmp_path, 2)]


@pytest.mark.parametrize(
    "damage", [b"\x00\xff\n", b'{"ts": 1}\n', b"{\n", b'"x"\n', b'{"ts":2,"model_id":"m"', b"\n"]
)
async def test_damage_is_skipped_and_mended(tmp_path: Path, damage: bytes) -> None:
    """Lines that are none, and a last one that a crash cut short."""
    path = file_of(tmp_path)
    write_attempts(path, [attempt(1)], is_whole=True)
    path.write_bytes(path.read_bytes() + damage)
    async with running(tmp_path) as (compatibility, _):
        compatibility.record("new", "mlx", "pass")
        attempts = await wait_written(tmp_path, 2)
    assert ["m", "new"] == [one.model_id for one in attempts]
    assert 2 == path.read_bytes().count(b"\n")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Appended and rewritten alike."""
    path = file_of(tmp_path)
    write_attempts(path, [attempt(1)], is_whole=True)
    write_attempts(path, [attempt(2)], is_whole=False)
    assert ([attempt(1), attempt(2)], 2) == read_attempts(path)


def test_no_file_is_an_empty_list(tmp_path: Path) -> None:
    """A first start."""
    assert ((), 0) == read_attempts(file_of(tmp_path))


def test_a_long_reason_is_cut(tmp_path: Path) -> None:
    """So that a thousand of them have a bound, too."""
    compatibility = Compatibility(tmp_path, Telemetry(), backend_of=str)
    details: dict[str, Any] = {"code": "x"}
    compatibility.record("m", "fake", "fail", reason="y" * 10_000, **details)
    (only,) = compatibility.attempts()
    assert 1000 == len(only.reason or "")
    assert details == asdict(only)["metadata"]
