"""The download process: plan a download, or fetch what was planned.

Files grow in a directory beside the model's, which the inventory passes over; once every one of
them has the digest that the hub announced, they take their place. Killed at any moment, it goes on
next time where it was.
"""

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lmx.errors import StorageFull
from lmx.jobs.fetch import Source, fetch_file
from lmx.jobs.hub import Hub
from lmx.jobs.parts import PartFile, is_in_place, is_whole, publish
from lmx.jobs.report import Reporter, run_job
from lmx.protocol.jobs import (
    Done,
    DownloadOrder,
    FetchOrder,
    JobProgress,
    Planned,
    PlannedFile,
    PlanOrder,
    Stage,
)

SPACE_PERIOD_S = 1.0


class Progress:
    """Counts bytes and files, reports them, and stops before the disk is full.

    Args:
        order: What is fetched.
        reporter: Told.
        free_bytes: Of the disk.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        order: FetchOrder,
        reporter: Reporter,
        *,
        free_bytes: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._order = order
        self._reporter = reporter
        self._free_bytes = free_bytes
        self._clock = clock
        self._look_at_s = clock()
        self.stage: Stage = "verify"
        self.done_bytes = 0
        self.files_done = 0

    def grow(self, count: int) -> None:
        """So many bytes more, or fewer.

        Raises:
            StorageFull: Less is left on the disk than must be.
        """
        self.done_bytes += count
        now_s = self._clock()
        if self.stage == "download" and now_s >= self._look_at_s:
            self._look_at_s = now_s + SPACE_PERIOD_S
            if self._free_bytes() < self._order.reserve_bytes:
                raise StorageFull("the disk is nearly full; what came so far is kept")
        self.tell()

    def finish_file(self, size_bytes: int = 0) -> None:
        """One file more is whole, of which so many bytes were not counted yet."""
        self.done_bytes += size_bytes
        self.files_done += 1
        self.tell()

    def tell(self) -> None:
        """Report."""
        self._reporter.progress(
            JobProgress(
                stage=self.stage,
                done_bytes=self.done_bytes,
                total_bytes=self._order.plan.total_bytes,
                files_done=self.files_done,
            )
        )


def fetch(order: FetchOrder, reporter: Reporter, hub: Hub) -> Done:
    """Fetch everything, verify it and put it in its place.

    Raises:
        LmxError: See `lmx.jobs.fetch.fetch_file`; what came stays for the next try.
        OSError: The disk refuses.
    """
    target, partial = Path(order.target), Path(order.partial)
    with _only_one(partial, reporter):
        progress = Progress(
            order, reporter, free_bytes=lambda: shutil.disk_usage(partial.parent).free
        )
        missing = [file for file in order.plan.files if not _is_there(target, file, progress)]
        for file in missing:
            _make_whole(order, file, hub, progress=progress)
        progress.stage = "publish"
        progress.tell()
        if missing:
            publish(partial, target, missing, weights=set(order.plan.weights))
    shutil.rmtree(partial, ignore_errors=True)
    return Done(order.plan.total_bytes)


def _is_there(target: Path, file: PlannedFile, progress: Progress) -> bool:
    before = progress.done_bytes
    if is_in_place(target, file, progress.grow):
        progress.finish_file()
        return True
    progress.done_bytes = before
    return False


def _make_whole(order: FetchOrder, file: PlannedFile, hub: Hub, *, progress: Progress) -> None:
    partial = Path(order.partial)
    if is_whole(partial, file):
        progress.finish_file(file.size_bytes)
        return
    part = PartFile(partial, file)
    progress.stage = "verify"
    try:
        part.open(progress.grow)
        progress.stage = "download"
        url = hub.url(order.plan, file.path)
        source = Source(hub.client, url, hub.headers, order.stall_s)
        fetch_file(source, part, progress.grow)
    finally:
        part.close()
    progress.finish_file()


@contextmanager
def _only_one(partial: Path, reporter: Reporter) -> Iterator[None]:
    """Hold the directory; a process that a killed daemon left behind is about to end."""
    partial.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reporter.send(JobProgress(stage="wait", done_bytes=0, total_bytes=0))
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def work(order: DownloadOrder, reporter: Reporter) -> Planned | Done:
    """Do what is ordered."""
    if isinstance(order, PlanOrder):
        return Planned(Hub().plan(order))
    return fetch(order, reporter, Hub())


if __name__ == "__main__":
    sys.exit(run_job(DownloadOrder, work))
