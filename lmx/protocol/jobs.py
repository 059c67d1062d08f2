"""What the daemon and a process that does one job say to each other: lines of JSON. Pure.

The daemon writes one order to the child's standard input, which it then keeps open for as long as
it wants the job done; the child writes reports to its standard output, the last of them `Planned`,
`Done` or `Failed`.
"""

from typing import Literal

from msgspec import Struct

from lmx.config import Backend

Stage = Literal["wait", "verify", "download", "publish", "quantize"]
StoredAs = Literal["mlx", "gguf"]


class PlannedFile(Struct, frozen=True):
    """A file of a repository.

    Attributes:
        path: In the repository; relative, with slashes.
        size_bytes: Its length.
        sha256: Of its content; empty if the hub names only the other one.
        git_sha1: Of its content as a git blob.
    """

    path: str
    size_bytes: int
    sha256: str = ""
    git_sha1: str = ""


class DownloadPlan(Struct, frozen=True, kw_only=True):
    """What a download fetches.

    Attributes:
        repo_id: The repository, as the hub spells it.
        commit: The revision that all files are of.
        stored_as: The format of its weights.
        files: What is fetched.
        weights: All MLX weight files of this revision, fetched or not.
    """

    repo_id: str
    commit: str
    stored_as: StoredAs
    files: tuple[PlannedFile, ...]
    weights: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(file.size_bytes for file in self.files)


class PlanOrder(Struct, frozen=True, kw_only=True, tag="plan"):
    """Ask the hub what a download would fetch.

    Attributes:
        revision: A branch, tag or commit.
        variant: The quantisation of GGUF files, in lower case; empty for the best.
        allow_patterns: Which files, as globs; none for what a model needs.
        ignore_patterns: Which files not.
    """

    repo_id: str
    revision: str = "main"
    variant: str = ""
    backend: Backend = "auto"
    allow_patterns: tuple[str, ...] = ()
    ignore_patterns: tuple[str, ...] = ()


class FetchOrder(Struct, frozen=True, kw_only=True, tag="fetch"):
    """Fetch what was planned.

    Attributes:
        target: Where the files are to appear once all of them are whole.
        partial: Where they grow until then; what is there already counts.
        stall_s: Silence after which a connection is given up.
        reserve_bytes: What must stay free on the disk.
    """

    plan: DownloadPlan
    target: str
    partial: str
    stall_s: float
    reserve_bytes: int


class QuantizeOrder(Struct, frozen=True, kw_only=True, tag="quantize"):
    """Write a model again with smaller weights.

    Attributes:
        source: An MLX directory.
        target: The directory to appear.
        partial: Where it is written until it is whole; what is there is litter.
        bits: Per weight.
        group_size: Weights that share a scale.
    """

    source: str
    target: str
    partial: str
    bits: int
    group_size: int


class Planned(Struct, frozen=True, tag="planned"):
    """The answer to a `PlanOrder`."""

    plan: DownloadPlan


class JobProgress(Struct, frozen=True, kw_only=True, tag="progress"):
    """How far it is, of all files together."""

    stage: Stage
    done_bytes: int
    total_bytes: int
    files_done: int = 0


class Done(Struct, frozen=True, tag="done"):
    """The result is in its place.

    Attributes:
        size_bytes: Of all its files.
    """

    size_bytes: int


class Failed(Struct, frozen=True, tag="failed"):
    """Why not: the code of an error, its sentence and the field at fault."""

    code: str
    message: str
    param: str | None = None


DownloadOrder = PlanOrder | FetchOrder
Report = Planned | JobProgress | Done | Failed
