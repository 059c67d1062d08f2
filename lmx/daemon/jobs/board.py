"""Jobs of one kind: noted on disk, done so many at a time, in the order they came.

Theory of operation. A job is a record with a status; the board is the only one who changes it. It
runs in the daemon's own nursery, so that no client's leaving ends a job. What runs when the daemon
ends, cleanly or not, stays noted as running and waits in line at the next start. A disk that takes
no notes costs the memory of jobs over a restart and nothing else.
"""

import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Generic, Literal, NoReturn, TypeVar

import msgspec
import structlog
import trio

from lmx.daemon.jobs.record import (
    Job,
    forget_job,
    read_jobs,
    write_job,
)
from lmx.errors import JobNotFound, LmxError, RequestCancelled
from lmx.protocol.jobs import JobProgress

J = TypeVar("J", bound=Job)

# Between two notes of how far a job is, and between two words to who listens.
NOTE_PERIOD_S = 2.0
TELL_PERIOD_S = 0.5
# Finished ones that are remembered.
KEPT = 200

Change = Literal["progress", "completed", "failed", "cancelled"]

WAS_CANCELLED = RequestCancelled("it was cancelled")

log = structlog.get_logger("lmx.jobs")


class Board(Generic[J]):
    """Keeps and runs jobs.

    Args:
        folder: Where they are noted.
        kind: Their type.
        work: Does one; raises `LmxError` if it cannot be done. What it changes in the job is noted.
        limit: How many run at a time.
        tell: Told of every change, at most twice a second of progress.
    """

    def __init__(
        self,
        folder: Path,
        kind: type[J],
        work: Callable[[J], Awaitable[None]],
        *,
        limit: Callable[[], int],
        tell: Callable[[Change, J], None],
    ) -> None:
        self._folder = folder
        self._kind = kind
        self._work = work
        self._limit = limit
        self._tell = tell
        self._jobs: dict[str, J] = {}
        self._running: dict[str, trio.CancelScope] = {}
        self._told_at_s: dict[str, float] = {}
        self._changed = trio.Event()
        self._noting = trio.Lock()
        self._can_note = True
        self._is_read = False

    @property
    def jobs(self) -> list[J]:
        """All that are known, the oldest first."""
        return list(self._jobs.values())

    def get(self, job_id: str) -> J:
        """One job.

        Raises:
            JobNotFound: There is none of that id.
        """
        if job_id not in self._jobs:
            raise JobNotFound(f"there is no job {job_id!r}", param="id")
        return self._jobs[job_id]

    async def recall(self) -> None:
        """Know the jobs of before; those that had not ended wait in line again."""
        if self._is_read:
            return
        read = partial(read_jobs, self._folder, self._kind)
        for job in await trio.to_thread.run_sync(read):
            if job.is_unfinished:
                job.status = "pending"
            self._jobs.setdefault(job.id, job)
        self._is_read = True

    async def run(self) -> NoReturn:
        """Do jobs for ever."""
        await self.recall()
        async with trio.open_nursery() as nursery:
            while True:
                changed = self._changed
                for job in self._next():
                    self._running[job.id] = trio.CancelScope()
                    nursery.start_soon(self._do, job, self._running[job.id])
                await changed.wait()

    def look_again(self) -> None:
        """Begin what may begin now, because the limit may have changed. Never blocks."""
        self._notify()

    async def add(self, job: J) -> None:
        """Take on a job, or take one up again that had ended."""
        job.status = "pending"
        job.stage = "wait"
        job.error = job.error_code = job.completed_at = None
        self._jobs[job.id] = job
        self._notify()
        await self.note(job)
        finished = [job for job in self._jobs.values() if not job.is_unfinished]
        for old in finished[: max(0, len(finished) - KEPT)]:
            await self.forget(old)

    async def cancel(self, job_id: str) -> J:
        """End a job and wait until nothing of it runs; one that has ended stays as it is.

        Raises:
            JobNotFound: There is none of that id.
        """
        job = self.get(job_id)
        if scope := self._running.get(job_id):
            scope.cancel()
            await self.wait(job_id)
        elif job.status == "pending":
            await self._end(job, "cancelled", WAS_CANCELLED)
        return job

    async def wait(self, job_id: str) -> J:
        """Wait until a job has ended, in whatever way."""
        job = self.get(job_id)
        while job.is_unfinished or job_id in self._running:
            await self._changed.wait()
        return job

    async def forget(self, job: J) -> None:
        """Drop a job that has ended, and what it has left unfinished."""
        self._jobs.pop(job.id, None)
        await trio.to_thread.run_sync(forget_job, self._folder, job)

    def advance(self, job: J, progress: JobProgress) -> None:
        """Take over how far a running job is."""
        if progress.stage != "wait":
            job.done_bytes, job.files_done = progress.done_bytes, progress.files_done
            job.total_bytes = progress.total_bytes
        job.stage = progress.stage
        now_s = trio.current_time()
        if now_s - self._told_at_s.get(job.id, -TELL_PERIOD_S) >= TELL_PERIOD_S:
            self._told_at_s[job.id] = now_s
            self._tell("progress", job)

    def _next(self) -> list[J]:
        """What may begin now."""
        room = max(0, self._limit() - len(self._running))
        waiting = [
            job for job in self._jobs.values() if job.is_unfinished and job.id not in self._running
        ]
        return waiting[:room]

    async def _do(self, job: J, scope: trio.CancelScope) -> None:
        job.status, job.started_at = "running", time.time()
        try:
            with scope:
                await self.note(job)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._note_often, job)
                    error = await self._attempt(job)
                    nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                if scope.cancelled_caught:
                    await self._end(job, "cancelled", WAS_CANCELLED)
                elif error is None:
                    await self._end(job, "completed", None)
                else:
                    await self._end(job, "failed", error)
        finally:
            self._running.pop(job.id, None)
            self._told_at_s.pop(job.id, None)
            self._notify()

    async def _attempt(self, job: J) -> LmxError | None:
        try:
            await self._work(job)
        except LmxError as error:
            return error
        return None

    async def _end(
        self, job: J, status: Literal["completed", "failed", "cancelled"], error: LmxError | None
    ) -> None:
        job.status, job.completed_at = status, time.time()
        job.error = None if error is None else error.message
        job.error_code = None if error is None else error.code
        log.info("job ended", job=job.id, status=status, code=job.error_code, reason=job.error)
        self._notify()
        self._tell(status, job)
        await self.note(job)

    async def _note_often(self, job: J) -> None:
        """So that a restart begins with a number that is nearly right."""
        noted = job.done_bytes
        while True:
            await trio.sleep(NOTE_PERIOD_S)
            if job.done_bytes != noted:
                noted = job.done_bytes
                await self.note(job)

    async def note(self, job: J) -> None:
        """Have what is known of a job now on disk."""
        async with self._noting:  # so that an older state is never noted after a newer one
            note = partial(write_job, self._folder, job.id, msgspec.json.encode(job))
            try:
                await trio.to_thread.run_sync(note)
            except OSError as error:
                if self._can_note:
                    log.warning("jobs cannot be noted", reason=str(error))
                self._can_note = False
            else:
                self._can_note = True

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def newest_first(jobs: Iterable[J]) -> list[J]:
    """As lists show them."""
    return sorted(jobs, key=lambda job: job.created_at, reverse=True)
