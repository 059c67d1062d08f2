"""Downloads whose processes die: nothing that came is fetched again, and nothing looks whole."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio

from lmx.catalog.scan import Inventory
from lmx.config import DownloadSettings, Settings
from lmx.daemon.jobs.arrivals import make_wanted
from lmx.daemon.jobs.downloads import Downloads
from lmx.daemon.jobs.record import DownloadJob
from lmx.daemon.shelf import Shelf
from lmx.errors import StorageFull
from tests.daemon_process import Daemon, open_daemon
from tests.fakes import Recorder
from tests.http.answers import post
from tests.hub_server import LoopbackHub, mlx_files, open_hub
from tests.tiny_models import build_tiny_llama

SIZE = 600_000
HALF = 262_144
WEIGHTS = "model.safetensors"
LIMIT_S = 50.0


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A hub whose weights stop coming halfway."""
    with open_hub() as opened:
        for name, value in opened.environment.items():
            monkeypatch.setenv(name, value)
        opened.add("org/name", mlx_files(SIZE))
        opened.faults.hold_after = HALF
        yield opened


@asynccontextmanager
async def open_downloads(
    home: Path, told: Recorder, settings: DownloadSettings | None = None
) -> AsyncIterator[Downloads]:
    """Running downloads without a daemon around them."""
    chosen = settings or DownloadSettings(keep_free_gb=0)
    shelf = Shelf(Settings(home=home), Inventory(home))
    downloads = Downloads(home, lambda: chosen, telemetry=told, shelf=shelf)
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(downloads.run)
            yield downloads
            nursery.cancel_scope.cancel()


async def begin(downloads: Downloads, hub: LoopbackHub) -> DownloadJob:
    """A download that has come to where the hub holds it."""
    wanted = make_wanted("org/name")
    job = await downloads.start(wanted, await downloads.plan(wanted))
    await trio.to_thread.run_sync(hub.held.wait, LIMIT_S)
    await wait_for(lambda: part_bytes(job) == HALF)
    return job


async def wait_for(is_true: Any) -> None:
    """Wait for what another process does."""
    while not is_true():  # noqa: ASYNC110  # nobody tells of a file that grows
        await trio.sleep(0.02)


def part_bytes(job: DownloadJob) -> int:
    """What is on disk of the weights."""
    part = job.partial / f"{WEIGHTS}.part"
    return part.stat().st_size if part.exists() else 0


def children(name: str, of: int | None = None) -> list[psutil.Process]:
    """Processes below ours, or another one, that run a module."""
    found = psutil.Process(of).children(recursive=True)
    return [one for one in found if name in " ".join(one.cmdline())]


def release(hub: LoopbackHub) -> None:
    """Let the weights come."""
    hub.faults.hold_after = None
    hub.may_go.set()


def resumed_bytes(hub: LoopbackHub) -> list[str | None]:
    """What was asked for of the weights."""
    return [asked.range for asked in hub.asked if asked.path == WEIGHTS]


async def test_a_killed_process_is_replaced(tmp_path: Path, hub: LoopbackHub) -> None:
    """The next one goes on at the very byte."""
    told = Recorder()
    async with open_downloads(tmp_path, told) as downloads:
        job = await begin(downloads, hub)
        [child] = children("lmx.jobs.download")
        hub.faults.hold_after = None
        child.kill()
        await downloads.wait(job)
        hub.may_go.set()
    assert ("completed", SIZE) == (job.status, (job.place / WEIGHTS).stat().st_size)
    assert [None, f"bytes={HALF}-"] == resumed_bytes(hub)
    assert not job.partial.exists()
    assert 1 == len(told.all_of("download_completed"))


async def test_leaving_ends_the_process_and_a_restart_goes_on(
    tmp_path: Path, hub: LoopbackHub
) -> None:
    """As a daemon that stops does; nothing looks like a model meanwhile."""
    async with open_downloads(tmp_path, Recorder()) as downloads:
        job = await begin(downloads, hub)
    assert [] == children("lmx.jobs.download")
    assert not [row for row in Inventory(tmp_path).scan().rows if row.id.startswith("org/")]
    release(hub)
    async with open_downloads(tmp_path, Recorder()) as downloads:
        await downloads.recall()
        again = downloads.get(job.id)
        await downloads.wait(again)
    assert ("completed", 3) == (again.status, again.files_done)
    assert [None, f"bytes={HALF}-"] == resumed_bytes(hub)


async def test_a_disk_that_fills_up_ends_it(tmp_path: Path, hub: LoopbackHub) -> None:
    """While it runs, too; what came is kept."""
    release(hub)
    free = [10**12]
    chosen = DownloadSettings(keep_free_gb=1)
    shelf = Shelf(Settings(home=tmp_path), Inventory(tmp_path))
    downloads = Downloads(
        tmp_path, lambda: chosen, telemetry=Recorder(), shelf=shelf, free=lambda _: free[0]
    )
    wanted = make_wanted("org/name")
    with trio.fail_after(LIMIT_S):
        plan = await downloads.plan(wanted)
        free[0] = 10**9 + plan.total_bytes - 1
        with pytest.raises(StorageFull):
            await downloads.start(wanted, plan)
        free[0] += 1
        assert (await downloads.start(wanted, plan)).total_bytes == plan.total_bytes
        free[0] += plan.total_bytes - 1  # the first one's bytes are spoken for
        with pytest.raises(StorageFull):
            await downloads.check_space(wanted, plan)
    over = DownloadSettings(keep_free_gb=99_999)
    (tmp_path / "b").mkdir()
    downloads = Downloads(
        tmp_path / "b", lambda: over, telemetry=Recorder(), shelf=shelf, free=lambda _: 10**18
    )
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(downloads.run)
            job = await downloads.start(wanted, plan)
            await downloads.wait(job)
            nursery.cancel_scope.cancel()
    assert ("failed", "storage-full") == (job.status, job.error_code)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_daemon_comes_back_to_its_downloads(
    tmp_path: Path, hub: LoopbackHub, how: signal.Signals
) -> None:
    """However it ended: no process is left behind, the rest comes, and the model is loaded."""
    files = hub.add("org/tiny", build_tiny_llama(tmp_path / "tiny"))
    home, settings = tmp_path / "home", hub.environment
    with trio.fail_after(LIMIT_S):
        async with open_daemon(home, "fake:x", settings=settings) as daemon:
            offer = post(daemon, "/admin/models/load", model_id="org/tiny").json()
            token = {"confirmation_token": offer["confirmation_token"]}
            job_id = str(post(daemon, offer["confirm_url"], **token).json()["download_id"])
            await trio.to_thread.run_sync(hub.held.wait, LIMIT_S)
            await wait_for(lambda: progress(daemon, job_id)["downloaded_bytes"] > HALF)
            processes = children("lmx.jobs.download", daemon.pid)
            await daemon.stop(signal_number=how)
            gone, alive = psutil.wait_procs(processes, timeout=10)
            assert (1, []) == (len(gone), alive)
        release(hub)
        async with open_daemon(home, "fake:x", settings=settings) as daemon:
            await wait_for(lambda: progress(daemon, job_id)["status"] == "completed")
            await wait_for(lambda: "org/tiny" in daemon.get_json("/admin/status")[1]["models"])
    assert [None, f"bytes={HALF}-"] == resumed_bytes(hub)
    assert files[WEIGHTS] == (home / "models/org/tiny" / WEIGHTS).read_bytes()


def progress(daemon: Daemon, job_id: str) -> dict[str, Any]:
    """How far a download is."""
    status, row = daemon.get_json(f"/admin/models/download/{job_id}/progress")
    assert (200, True) == (status, isinstance(row, dict))
    return dict(row)
