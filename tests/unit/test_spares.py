"""A worker is kept ready for the engine used last; none is left behind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.config import WorkerSettings
from lmx.daemon.restarts import DELAY_LIMIT_S, keep_running
from lmx.daemon.spares import Workshop, worker_environment
from lmx.errors import WorkerBroken
from lmx.protocol.messages import Prepare
from tests.fakes import ScriptedWorker


class Forge:
    """Starts scripted processes.

    Attributes:
        workers: All so far.
        open_count: Those there are now.
        refusals: How many more starts the system refuses.
    """

    def __init__(self) -> None:
        self.workers: list[ScriptedWorker] = []
        self.open_count = 0
        self.refusals = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ScriptedWorker]:
        """One process, until the block ends."""
        await trio.lowlevel.checkpoint()
        if self.refusals:
            self.refusals -= 1
            raise WorkerBroken("no more processes")
        worker = ScriptedWorker(len(self.workers) + 1)
        self.workers.append(worker)
        self.open_count += 1
        try:
            yield worker
        finally:
            self.open_count -= 1


@asynccontextmanager
async def open_workshop(*, has_spare: bool = True) -> AsyncIterator[tuple[Workshop, Forge]]:
    """A workshop whose spare is kept; in the end no process is left."""
    forge = Forge()
    workshop = Workshop(WorkerSettings(has_spare=has_spare), forge.open)
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await keep_running(workshop.run, name="spare worker")

        nursery.start_soon(run)
        yield workshop, forge
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert 0 == forge.open_count


async def test_a_daemon_that_loads_nothing_has_no_spare() -> None:
    """Nor does one that only loads models of engines that need none, or is told to have none."""
    async with open_workshop() as (workshop, forge):
        await wait_all_tasks_blocked()
        workshop.want_spare("fake")
        await wait_all_tasks_blocked()
        assert (None, []) == (workshop.spare_pid, forge.workers)
    async with open_workshop(has_spare=False) as (workshop, forge):
        workshop.want_spare("mlx")
        await wait_all_tasks_blocked()
        assert (None, []) == (workshop.spare_pid, forge.workers)


async def test_the_spare_is_taken_and_replaced() -> None:
    """The next load gets the prepared worker, and once it is up there is another spare."""
    async with open_workshop() as (workshop, forge):
        workshop.want_spare("mlx")
        workshop.want_spare("mlx")
        await wait_all_tasks_blocked()
        assert (1, 1) == (workshop.spare_pid, forge.open_count)
        assert [Prepare("mlx")] == forge.workers[0].commands()
        async with workshop.open("mlx", model_id="m") as worker:
            assert worker is forge.workers[0]
            assert None is workshop.spare_pid
            await wait_all_tasks_blocked()
            assert 1 == forge.open_count
            workshop.want_spare("mlx")
            await wait_all_tasks_blocked()
            assert (2, 2) == (workshop.spare_pid, forge.open_count)
        assert 1 == forge.open_count


async def test_two_loads_at_once_get_two_workers() -> None:
    """One spare is given out once."""
    async with open_workshop() as (workshop, forge):
        workshop.want_spare("mlx")
        await wait_all_tasks_blocked()
        async with (
            workshop.open("mlx", model_id="a") as one,
            workshop.open("mlx", model_id="b") as two,
        ):
            assert [one, two] == forge.workers


async def test_another_engine_gets_a_worker_of_its_own() -> None:
    """The spare stays for its engine until the other one has been used."""
    async with open_workshop() as (workshop, forge):
        workshop.want_spare("mlx")
        await wait_all_tasks_blocked()
        async with workshop.open("llama", model_id="m") as worker:
            assert worker is forge.workers[1]
            assert 1 == workshop.spare_pid
            workshop.want_spare("llama")
            await wait_all_tasks_blocked()
            assert (3, 2) == (workshop.spare_pid, forge.open_count)
            assert [Prepare("llama")] == forge.workers[2].commands()


async def test_a_spare_that_dies_is_replaced_later(autojump_clock: MockClock) -> None:
    """Nobody gets a dead worker, and one that dies over and over costs little."""
    async with open_workshop() as (workshop, forge):
        workshop.want_spare("mlx")
        await wait_all_tasks_blocked()
        forge.workers[0].finish("boom")
        async with workshop.open("mlx", model_id="m") as worker:
            assert worker is not forge.workers[0]
        await trio.sleep(1)
        assert (None, 0) == (workshop.spare_pid, forge.open_count)
        await trio.sleep(DELAY_LIMIT_S)
        assert (3, 1) == (workshop.spare_pid, forge.open_count)


async def test_a_taken_worker_that_dies_is_its_users_business() -> None:
    """Its process is kept until the user is done with it."""
    async with open_workshop() as (workshop, forge):
        workshop.want_spare("mlx")
        await wait_all_tasks_blocked()
        async with workshop.open("mlx", model_id="m") as worker:
            forge.workers[0].finish("boom")
            await wait_all_tasks_blocked()
            assert (1, "boom") == (forge.open_count, worker.ended and worker.ended.reason)
        assert 0 == forge.open_count


async def test_no_spare_for_want_of_processes(autojump_clock: MockClock) -> None:
    """The system's refusal is borne, and tried again."""
    async with open_workshop() as (workshop, forge):
        forge.refusals = 3
        workshop.want_spare("mlx")
        await trio.sleep(10)
        assert (1, 0) == (workshop.spare_pid, forge.refusals)
        forge.refusals = 1
        with pytest.raises(WorkerBroken):
            async with workshop.open("llama", model_id="m"):
                pass


async def test_a_user_that_is_cancelled_leaves_no_process() -> None:
    """The block ends when the process is gone, spare or not."""
    async with open_workshop() as (workshop, forge):
        workshop.want_spare("mlx")
        await wait_all_tasks_blocked()
        for _ in range(2):
            with trio.CancelScope() as scope:
                async with workshop.open("mlx", model_id="m"):
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
            assert 0 == forge.open_count


def test_workers_never_download() -> None:
    """What every worker starts with, whatever the daemon was started with."""
    assert "1" == worker_environment()["HF_HUB_OFFLINE"]


def test_workers_outlive_their_thousandth_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX on CUDA would end them; whoever wants that has set it."""
    name = "MLX_ENABLE_CACHE_THRASHING_CHECK"
    monkeypatch.delenv(name, raising=False)
    assert "0" == worker_environment()[name]
    monkeypatch.setenv(name, "1")
    assert "1" == worker_environment()[name]


def test_workers_know_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the daemon was told of security stays with it; other settings are passed on."""
    monkeypatch.setenv("LMX_SECURITY__ADMIN_KEY", "k")
    monkeypatch.setenv("LMX_security__inference_api_key", "k")
    monkeypatch.setenv("OPTA_LMX_ADMIN_KEY", "k")
    monkeypatch.setenv("LMX_SERVER__ADMIN_KEY", "k")
    monkeypatch.setenv("OPTA_LMX_SKILLS__MCP_SERVERS", "{a: {url: x, headers: {authorization: k}}}")
    monkeypatch.setenv("LMX_SERVER__PORT", "1")
    assert "k" not in " ".join(worker_environment().values()).split()
    assert {"LMX_SERVER__PORT"} <= set(worker_environment())
    secret = ("SECURITY", "ADMIN_KEY", "MCP_SERVERS")
    names = [name.upper() for name in worker_environment()]
    assert [] == [name for name in names if any(word in name for word in secret)]
