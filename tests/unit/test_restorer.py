"""The loaded set is noted as it changes and comes back after a kill."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from lmx.config import ModelSettings, Settings
from lmx.daemon.journal import Journal, journal_path, read_journal, write_journal
from lmx.daemon.model import Leaving, LoadOptions
from lmx.daemon.restorer import LOOK_S, Restorer
from lmx.errors import OutOfMemory
from tests.lifecycle import PROMPTLY, House, open_house

SIZES = {"a": 100, "b": 100}
PATIENCE = 1000


@asynccontextmanager
async def open_restorer(
    home: Path, *, restore: bool = True
) -> AsyncIterator[tuple[House, Restorer]]:
    """A house whose loaded set is noted. Leaving the block is a kill."""
    settings = Settings(home=home, models=ModelSettings(restore=restore, min_residency_s=0))
    async with open_house(SIZES, settings=settings) as (house, nursery):
        restorer = Restorer(house.loader, settings)
        nursery.start_soon(restorer.run)
        yield house, restorer
        nursery.cancel_scope.cancel()


async def wait_noted(home: Path, expected: Sequence[str]) -> None:
    """Wait until just these models are in the file."""
    for _ in range(PATIENCE):
        if [entry.spec.id for entry in noted(home).models] == [*expected]:
            return
        await wait_disk()
    pytest.fail(f"{noted(home)}")


async def wait_disk() -> None:
    """Give threads that read and write some real time; the test's clock runs on meanwhile."""
    await trio.to_thread.run_sync(time.sleep, 0.01)


async def wait_restored(house: House, *, count: int) -> None:
    """Wait until so many models are ready, and their start is noted."""
    home = house.loader.settings.home
    for _ in range(PATIENCE):
        if len(house.loader.routable) == count and noted(home).unclean_starts:
            return
        await wait_disk()
    pytest.fail(f"{house.states()}")


def noted(home: Path) -> Journal:
    """The file, if there is one."""
    return read_journal(home) or Journal()


async def test_a_killed_daemon_comes_back(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The same models with the same options, in the same order."""
    options = LoadOptions(keep_alive_s=-1.0, is_pinned=True)
    async with open_restorer(tmp_path) as (house, _):
        await house.load("b", options=options)
        await house.load("a")
        await wait_noted(tmp_path, ["b", "a"])
    async with open_restorer(tmp_path) as (house, _):
        await wait_restored(house, count=2)
        assert ["b", "a"] == list(house.loader.models)
        assert options == house.loader.models["b"].options
        assert 1 == len(noted(tmp_path).unclean_starts)


async def test_what_was_unloaded_stays_away(tmp_path: Path, autojump_clock: MockClock) -> None:
    """By hand or for memory; what is gone is noted as well."""
    async with open_restorer(tmp_path) as (house, _):
        await house.load("a", "b")
        await wait_noted(tmp_path, ["a", "b"])
        await house.unload("a", PROMPTLY)
        await wait_noted(tmp_path, ["b"])
        await house.unload("b", Leaving(reason="oom", drain_s=0, error=OutOfMemory("x")))
        await wait_noted(tmp_path, [])


async def test_after_a_clean_stop_nothing_comes_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A stop on request says so in the file, and nothing is noted after it."""
    async with open_restorer(tmp_path) as (house, restorer):
        await house.load("a")
        await wait_noted(tmp_path, ["a"])
        await restorer.close()
        await house.load("b")
        await trio.sleep(3 * LOOK_S)
        await wait_disk()
        assert noted(tmp_path).is_clean
    async with open_restorer(tmp_path) as (house, _):
        await trio.sleep(3 * LOOK_S)
        await wait_disk()
        assert {} == house.loader.models


async def test_a_stop_in_the_middle_of_the_start(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A daemon that is stopped before it has read the file leaves a clean one."""
    async with open_restorer(tmp_path) as (house, _):
        await house.load("a")
        await wait_noted(tmp_path, ["a"])
    async with open_restorer(tmp_path) as (house, restorer):
        await restorer.close()
        await trio.sleep(3 * LOOK_S)
        await wait_disk()
        assert noted(tmp_path).is_clean


async def test_it_can_be_switched_off(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Without `models.restore` nothing comes back."""
    async with open_restorer(tmp_path) as (house, _):
        await house.load("a")
        await wait_noted(tmp_path, ["a"])
    async with open_restorer(tmp_path, restore=False) as (house, _):
        await trio.sleep(3 * LOOK_S)
        await wait_disk()
        assert {} == house.loader.models


async def test_a_damaged_file_is_replaced(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It costs the memory of the loaded set and nothing else."""
    write_journal(tmp_path, Journal())
    journal_path(tmp_path).write_bytes(b"{")
    async with open_restorer(tmp_path) as (house, _):
        await house.load("a")
        await wait_noted(tmp_path, ["a"])


async def test_a_disk_that_cannot_be_written(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The daemon goes on, and notes the set as soon as the disk takes it."""
    state = tmp_path / "state"
    state.write_text("in the way")
    async with open_restorer(tmp_path) as (house, restorer):
        await house.load("a")
        await trio.sleep(3 * LOOK_S)
        await wait_disk()
        await house.ask("a")
        assert ["a"] == house.answered
        state.unlink()
        await wait_noted(tmp_path, ["a"])
        state.rename(tmp_path / "away")
        state.write_text("in the way again")
        await restorer.close()
