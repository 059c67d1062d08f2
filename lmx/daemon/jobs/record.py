"""What is known of a job, and where that is kept: one JSON file each.

A file is replaced whole or not at all. One that cannot be read is passed over, so that a damaged
disk costs the memory of a job and not the start of the daemon. Reads and writes files, so most of
it runs off the event loop.
"""

import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from lmx.catalog.manifest import PARTIAL
from lmx.catalog.specs import ModelSpec
from lmx.config import Backend
from lmx.daemon.model import LoadOptions
from lmx.daemon.replacing import replace_file
from lmx.errors import RequestCancelled
from lmx.protocol.jobs import DownloadPlan, Stage

JobStatus = Literal["pending", "running", "completed", "failed", "cancelled"]
UNFINISHED: frozenset[JobStatus] = frozenset({"pending", "running"})
# The code of a job that somebody ended.
CANCELLED = RequestCancelled.code
SUFFIX = ".json"


class Job(Struct, kw_only=True):
    """A job of any kind.

    Attributes:
        id: Its name, unlike any other's.
        stage: What it is at, while it runs.
        created_at: Epoch seconds, as all times here.
        started_at: When it last began to run.
        completed_at: When it ended, in whatever way.
        error: Why it failed.
        error_code: The code of that; `CANCELLED` if somebody ended it.
        done_bytes: How far it is.
        total_bytes: How far that will be; 0 while unknown.
        files_done: Of its files, those that are whole.
    """

    id: str
    status: JobStatus = "pending"
    stage: Stage = "wait"
    created_at: float = msgspec.field(default_factory=time.time)
    started_at: float | None = None
    completed_at: float | None = None
    error: str | None = None
    error_code: str | None = None
    done_bytes: int = 0
    total_bytes: int = 0
    files_done: int = 0

    @property
    def is_unfinished(self) -> bool:
        """Whether it still waits or runs."""
        return self.status in UNFINISHED

    @property
    def partial(self) -> Path:
        """Where its result grows: beside its place, so that it can be moved there at once."""
        return self.place.with_name(f"{self.place.name}{PARTIAL}{self.id}")

    @property
    def place(self) -> Path:
        """The directory that it makes or fills."""
        raise NotImplementedError

    @property
    def percent(self) -> float:
        """How far it is, between 0 and 100."""
        if self.status == "completed":
            return 100.0
        return round(100 * self.done_bytes / self.total_bytes, 2) if self.total_bytes else 0.0


class LoadWish(Struct, frozen=True, kw_only=True):
    """A model to load once its files are there."""

    name: str
    backend: Backend | None = None
    options: LoadOptions = LoadOptions()


class Wanted(Struct, frozen=True, kw_only=True):
    """What somebody wants to have downloaded. Two that are equal are one download.

    Attributes:
        revision: A branch, tag or commit.
        variant: The quantisation of GGUF files, in lower case; empty for the best.
        backend: The format, where there are several.
    """

    repo_id: str
    revision: str = "main"
    variant: str = ""
    backend: Backend = "auto"
    allow_patterns: tuple[str, ...] = ()
    ignore_patterns: tuple[str, ...] = ()

    @property
    def model_id(self) -> str:
        """What it is asked for by, once it is there."""
        return f"{self.repo_id}@{self.variant}" if self.variant else self.repo_id


class DownloadJob(Job, kw_only=True):
    """A download.

    Attributes:
        plan: What is fetched.
        target: The model's directory.
        wish: What to load afterwards.
    """

    wanted: Wanted
    plan: DownloadPlan
    target: str
    wish: LoadWish | None = None

    @property
    def place(self) -> Path:
        """The model's directory."""
        return Path(self.target)


class QuantizeJob(Job, kw_only=True):
    """A quantisation.

    Attributes:
        source_model: As it was asked for.
        spec: What that means.
        source: Its directory.
        output: The directory to appear.
        bits: Per weight.
        mode: As it was asked for.
        output_size_bytes: Of what was made.
    """

    source_model: str
    spec: ModelSpec
    source: str
    output: str
    bits: int
    group_size: int
    mode: str
    output_size_bytes: int | None = None

    @property
    def place(self) -> Path:
        """The directory to appear."""
        return Path(self.output)


J = TypeVar("J", bound=Job)


def new_id(prefix: str) -> str:
    """An id for a job."""
    return f"{prefix}_{secrets.token_hex(8)}"


def read_jobs(folder: Path, kind: type[J]) -> list[J]:
    """All jobs of a folder, the oldest first."""
    jobs = []
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(OSError, msgspec.DecodeError):
            jobs.append(msgspec.json.decode(path.read_bytes(), type=kind))
    return sorted(jobs, key=lambda job: (job.created_at, job.id))


def write_job(folder: Path, job_id: str, encoded: bytes) -> None:
    """Note a job, given as JSON.

    Raises:
        OSError: It cannot be written; what was noted before stays.
    """
    replace_file(folder / f"{job_id}{SUFFIX}", encoded)


def forget_job(folder: Path, job: Job) -> None:
    """Remove what is noted of a job, and what it has left unfinished."""
    with suppress(OSError):
        (folder / f"{job.id}{SUFFIX}").unlink(missing_ok=True)
    shutil.rmtree(job.partial, ignore_errors=True)
