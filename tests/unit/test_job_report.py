"""What job processes write: reports in order, and refusals of the system with a code."""

import errno
import io
import json
import threading
from pathlib import Path

import pytest

from lmx.errors import JobFailed, LmxError, StorageFull
from lmx.jobs.download import Progress
from lmx.jobs.report import Reporter, explain
from lmx.protocol.jobs import Done, DownloadPlan, FetchOrder, JobProgress, PlannedFile


def order(tmp_path: Path, reserve_bytes: int = 0) -> FetchOrder:
    """What is fetched: one file of a hundred bytes."""
    plan = DownloadPlan(
        repo_id="o/n", commit="c" * 40, stored_as="mlx", files=(PlannedFile("a.json", 100),)
    )
    place = str(tmp_path)
    return FetchOrder(
        plan=plan, target=place, partial=place, stall_s=1.0, reserve_bytes=reserve_bytes
    )


class Lines(io.BytesIO):
    """A sink that says when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def flush(self) -> None:
        self.written.set()

    @property
    def types(self) -> list[str]:
        """The kinds of reports so far."""
        return [json.loads(line)["type"] for line in self.getvalue().splitlines()]


def test_the_last_progress_comes_before_the_end() -> None:
    """However often it was noted, it is written once, and never after the result."""
    sink = Lines()
    reporter = Reporter(sink)
    for number in range(5):
        reporter.progress(JobProgress(stage="download", done_bytes=number, total_bytes=4))
    reporter.send(Done(4))
    assert ["progress", "done"] == sink.types
    assert 4 == json.loads(sink.getvalue().splitlines()[0])["done_bytes"]


def test_progress_is_told_before_a_silence() -> None:
    """Nothing else has to happen for it."""
    sink = Lines()
    reporter = Reporter(sink)
    reporter.start()
    reporter.progress(JobProgress(stage="download", done_bytes=1, total_bytes=4))
    assert sink.written.wait(10)
    assert ["progress"] == sink.types


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EACCES, JobFailed)],
)
def test_the_system_refuses_with_a_code(number: int, kind: type[LmxError]) -> None:
    """A full disk and a full quota are the same to who asks; the file is named."""
    error = explain(OSError(number, "no", "/models/x"))
    assert kind is type(error)
    assert "/models/x" in error.message


def test_a_download_stops_before_the_disk_is_full(tmp_path: Path) -> None:
    """It looks once a second, and only while it fetches."""
    now, free = [0.0], [1000]
    progress = Progress(
        order(tmp_path, reserve_bytes=500),
        Reporter(Lines()),
        free_bytes=lambda: free[0],
        clock=lambda: now[0],
    )
    progress.stage = "download"
    progress.grow(10)
    free[0] = 499
    progress.grow(10)
    now[0] = 1.0
    with pytest.raises(StorageFull):
        progress.grow(10)
    assert 30 == progress.done_bytes
    progress.stage = "verify"
    progress.grow(10)
