"""Downloads: planned on request, fetched in the background, taken up again after anything.

A process of its own talks to the hub, so that neither its client library nor hashing is in the
daemon. What is asked for twice is one download; one that failed or was cancelled is taken up where
it was. How far each is can be read at any time and is told to whoever listens.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import structlog
import trio
from msgspec import structs

from lmx.catalog.inventory import InventoryRow
from lmx.catalog.manifest import models_directory
from lmx.config import DownloadSettings
from lmx.daemon.jobs.board import Board, Change
from lmx.daemon.jobs.child import run_job
from lmx.daemon.jobs.record import DownloadJob, LoadWish, Wanted, new_id
from lmx.daemon.jobs.space import FreeBytes, check_space, free_bytes
from lmx.daemon.shelf import Shelf
from lmx.daemon.telemetry import Telemetry
from lmx.errors import DownloadsDisabled, HubUnreachable, JobCrashed
from lmx.protocol.jobs import DownloadPlan, FetchOrder, Planned, PlanOrder

MODULE = "lmx.jobs.download"
# Clients give a load ten seconds for its first answer.
PLAN_LIMIT_S = 20.0
# How often a process that died is started again, and after which pause.
STARTS = 3
RESTART_PAUSE_S = 0.5

log = structlog.get_logger("lmx.downloads")


class Downloads:
    """All downloads of the daemon.

    Args:
        home: ``LMX_HOME``.
        settings: What is allowed now.
        telemetry: Told how downloads go.
        shelf: Looks again once a model is there.
        free: Tells what is free on the disk of a path.
    """

    def __init__(
        self,
        home: Path,
        settings: Callable[[], DownloadSettings],
        *,
        telemetry: Telemetry,
        shelf: Shelf,
        free: FreeBytes = free_bytes,
    ) -> None:
        self._home = home
        self._settings = settings
        self._telemetry = telemetry
        self._shelf = shelf
        self._free = free
        self._listeners: list[Callable[[DownloadJob], None]] = []
        self._board = Board(
            home / "state" / "downloads",
            DownloadJob,
            self._fetch,
            limit=lambda: settings().max_parallel,
            tell=self._tell,
        )

    @property
    def jobs(self) -> list[DownloadJob]:
        """All that are known, the oldest first."""
        return self._board.jobs

    @property
    def is_enabled(self) -> bool:
        """Whether settings allow downloads."""
        return self._settings().enabled

    async def recall(self) -> None:
        """Know the downloads of before."""
        await self._board.recall()

    async def run(self) -> NoReturn:
        """Fetch for ever. Cancelling it keeps what came so far."""
        await self._board.run()

    def follow_settings(self) -> None:
        """Begin what new settings allow. Never blocks."""
        self._board.look_again()

    def on_completed(self, listener: Callable[[DownloadJob], None]) -> None:
        """Have `listener`, which must neither block nor raise, told of every complete download."""
        self._listeners.append(listener)

    def get(self, job_id: str) -> DownloadJob:
        """One download.

        Raises:
            JobNotFound: There is none of that id.
        """
        return self._board.get(job_id)

    async def plan(self, wanted: Wanted) -> DownloadPlan:
        """Ask the hub what a download would fetch.

        Raises:
            DownloadsDisabled: Settings forbid it.
            HubUnreachable: It does not answer, or not in time.
            LmxError: See `lmx.jobs.hub.make_plan`.

        Cancellation:
            Nothing is left of it.
        """
        self._check_enabled()
        order = PlanOrder(**structs.asdict(wanted))
        with trio.move_on_after(PLAN_LIMIT_S):
            result = await run_job(MODULE, order, lambda _: None, environment=self._environment())
            if isinstance(result, Planned):
                return result.plan
        raise HubUnreachable(f"the hub did not say within {PLAN_LIMIT_S:.0f} s what is there")

    async def start(
        self, wanted: Wanted, plan: DownloadPlan, wish: LoadWish | None = None
    ) -> DownloadJob:
        """Have a model downloaded. One that is on its way is joined.

        Args:
            wanted: What was asked for.
            plan: What the hub said to that.
            wish: What to load afterwards.

        Raises:
            DownloadsDisabled: Settings forbid it.
            StorageFull: There is no room for it.
        """
        self._check_enabled()
        if other := await self.join(wanted, wish):
            return other
        await self.check_space(wanted, plan)
        if other := await self.join(wanted, wish):  # somebody was quicker
            return other
        target = models_directory(self._home) / plan.repo_id
        job = self._resumable(wanted, plan) or DownloadJob(
            id=new_id("dl"), wanted=wanted, plan=plan, target=str(target)
        )
        job.wish = wish
        job.total_bytes = plan.total_bytes
        await self._board.add(job)
        log.info("download", job=job.id, model=wanted.model_id, bytes=job.total_bytes)
        return job

    async def join(self, wanted: Wanted, wish: LoadWish | None = None) -> DownloadJob | None:
        """The unfinished download of what is wanted, if there is one; what to load then is noted.

        Args:
            wanted: What was asked for.
            wish: What to load afterwards, unless somebody has said that before.
        """
        for job in self.jobs:
            if job.is_unfinished and job.wanted == wanted:
                if job.wish is None and wish is not None:
                    job.wish = wish
                    await self._board.note(job)
                return job
        return None

    async def check_space(self, wanted: Wanted, plan: DownloadPlan) -> None:
        """Refuse a download for which there is no room beside those that are coming.

        Raises:
            StorageFull: What is still missing of it does not fit.
        """
        coming = [job for job in self.jobs if job.is_unfinished]
        others = sum(max(0, job.total_bytes - job.done_bytes) for job in coming)
        begun = self._resumable(wanted, plan)
        done = begun.done_bytes if begun else 0
        await check_space(
            models_directory(self._home),
            max(0, plan.total_bytes - done) + others,
            reserve_bytes=self._reserve_bytes,
            free=self._free,
        )

    async def cancel(self, job_id: str) -> DownloadJob:
        """End a download; what came stays for when it is asked for again.

        Raises:
            JobNotFound: There is none of that id.
        """
        return await self._board.cancel(job_id)

    async def wait(self, job: DownloadJob) -> None:
        """Wait until it has ended."""
        await self._board.wait(job.id)

    async def forget(self, job: DownloadJob) -> None:
        """Drop a download that has ended, with what it has brought so far."""
        await self._board.forget(job)

    def _check_enabled(self) -> None:
        """Refuse where settings forbid downloads.

        Raises:
            DownloadsDisabled: They do.
        """
        if not self.is_enabled:
            raise DownloadsDisabled(
                "downloads are switched off; `downloads.enabled: true` allows them"
            )

    @property
    def _reserve_bytes(self) -> int:
        return round(self._settings().keep_free_gb * 1e9)

    def _resumable(self, wanted: Wanted, plan: DownloadPlan) -> DownloadJob | None:
        """A download of the same files that ended before they were there."""
        for job in reversed(self.jobs):
            if job.wanted == wanted and job.status in {"failed", "cancelled"} and job.plan == plan:
                return job
        return None

    async def _fetch(self, job: DownloadJob) -> None:
        """Fetch one, with another process if one dies."""
        self._check_enabled()
        order = FetchOrder(
            plan=job.plan,
            target=job.target,
            partial=str(job.partial),
            stall_s=self._settings().stall_s,
            reserve_bytes=self._reserve_bytes,
        )
        for start in range(1, STARTS + 1):
            try:
                await run_job(
                    MODULE,
                    order,
                    lambda progress: self._board.advance(job, progress),
                    environment=self._environment(),
                )
                break
            except JobCrashed as error:
                if start == STARTS:
                    raise
                log.warning("a download's process died", job=job.id, reason=error.message)
            await trio.sleep(RESTART_PAUSE_S)
        job.done_bytes, job.files_done = job.total_bytes, len(job.plan.files)
        await self._shelf.rows(is_fresh=True)

    def _environment(self) -> dict[str, str]:
        """What huggingface_hub reads of our settings."""
        settings = self._settings()
        changed = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        if settings.endpoint is not None:
            changed["HF_ENDPOINT"] = settings.endpoint
        if token := os.environ.get(settings.token_env):
            changed["HF_TOKEN"] = token
        return changed

    def _tell(self, change: Change, job: DownloadJob) -> None:
        fields = event_fields(job)
        self._telemetry.publish(f"download_{change}", **fields)
        if change == "cancelled":  # for those who know only how downloads end well and badly
            self._telemetry.publish("download_failed", **fields)
        if change == "completed":
            for listener in self._listeners:
                listener(job)


def coming_rows(jobs: Iterable[DownloadJob]) -> list[InventoryRow]:
    """What is on its way or was given up, as the inventory shows it."""
    return [
        InventoryRow(
            id=job.wanted.model_id,
            path=job.place,
            format=job.plan.stored_as,
            size_bytes=job.done_bytes,
            modified_at=job.completed_at or job.started_at or job.created_at,
            status="downloading" if job.is_unfinished else "incomplete",
            reason=_reason(job),
        )
        for job in jobs
        if job.status != "completed" and (job.is_unfinished or job.done_bytes)
    ]


def event_fields(job: DownloadJob) -> dict[str, Any]:
    """What events say of a download."""
    return {
        "download_id": job.id,
        "repo_id": job.wanted.repo_id,
        "model_id": job.wanted.model_id,
        "status": "downloading" if job.status == "running" else job.status,
        "progress_percent": job.percent,
        "downloaded_bytes": job.done_bytes,
        "total_bytes": job.total_bytes,
        "files_completed": job.files_done,
        "files_total": len(job.plan.files),
        "error": job.error,
        "error_code": job.error_code,
    }


def _reason(job: DownloadJob) -> str:
    if job.is_unfinished:
        return f"{job.percent:g} % of it are here"
    return f"its download has ended before it was whole: {job.error}"
