"""What the routes of downloads take and answer. Sizes are in bytes, times in epoch seconds.

A download that somebody cancelled is shown to whoever follows its progress as one that failed, with
the code ``cancelled``: the Opta CLI would follow any other word for ever. Lists say ``cancelled``.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from lmx.schema.admin_requests import parse_body
from lmx.schema.json_body import parse_query

DownloadStatus = Literal["pending", "downloading", "completed", "failed", "cancelled"]

RepoId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=256,
        description="Such as org/name, or org/name@Q4_K_M for one quantisation of a GGUF model.",
    ),
]
Revision = Annotated[
    str, Meta(min_length=1, max_length=256, description="A branch, tag or commit; main if absent.")
]
Pattern = Annotated[str, Meta(min_length=1, max_length=256)]
Patterns = Annotated[list[Pattern], Meta(max_length=64)]


class DownloadRequest(Struct, kw_only=True):
    """What to download. Without patterns, what a model needs of it."""

    repo_id: RepoId
    revision: Revision | None = None
    allow_patterns: Patterns | None = None
    ignore_patterns: Patterns | None = None


class ConfirmRequest(Struct, kw_only=True):
    """The token of an answer that asked for a confirmation."""

    confirmation_token: Annotated[str, Meta(min_length=1, max_length=256)]


class DownloadsQuery(Struct, kw_only=True):
    """Whether to list downloads that have ended, too."""

    include_inactive: bool = False


class DownloadPending(Struct, frozen=True, kw_only=True):
    """The model is not here: its download waits for a confirmation, or is under way.

    Attributes:
        success: It is not loaded yet.
        confirmation_token: To be sent to `confirm_url` within ten minutes.
        download_id: Of the download under way, after which the model is loaded.
    """

    success: bool = False
    status: Literal["download_required", "downloading"]
    model_id: str
    model: str
    confirmation_token: str | None = None
    download_id: str | None = None
    estimated_size_bytes: int
    estimated_size_human: str
    files_total: int
    message: str
    confirm_url: str | None = None
    progress_url: str | None = None


class DownloadStarted(Struct, frozen=True, kw_only=True):
    """A download is under way."""

    download_id: str
    repo_id: str
    status: DownloadStatus
    estimated_size_bytes: int
    estimated_size_human: str
    progress_url: str


class DownloadPreview(Struct, frozen=True, kw_only=True):
    """What a download would fetch. Nothing has begun.

    Attributes:
        download_id: Of the download, if the same is under way already; null otherwise.
        model_id: What the model is asked for by, once it is there.
        files_total: How many files it has.
    """

    download_id: str | None
    repo_id: str
    model_id: str
    files_total: int
    estimated_size_bytes: int
    estimated_size_human: str


class DownloadProgress(Struct, frozen=True, kw_only=True):
    """How far a download is.

    Attributes:
        stage: What it is at: ``wait``, ``verify`` of what is here, ``download`` or ``publish``.
        error: Why it failed.
        error_code: A code for that.
    """

    download_id: str
    repo_id: str
    model_id: str
    status: DownloadStatus
    stage: str
    progress_percent: float
    downloaded_bytes: int
    total_bytes: int
    files_completed: int
    files_total: int
    error: str | None
    error_code: str | None
    revision: str
    local_path: str
    started_at: float | None
    completed_at: float | None


class DownloadList(Struct, frozen=True, kw_only=True):
    """Downloads, the latest first."""

    downloads: list[DownloadProgress]
    count: int
    include_inactive: bool


def parse_download_request(body: bytes) -> DownloadRequest:
    """Read a body of the download route.

    Raises:
        InvalidRequest: Malformed; `param` names the field.
    """
    return parse_body(body, DownloadRequest)


def parse_confirm_request(body: bytes) -> ConfirmRequest:
    """Read a body of the confirm route.

    Raises:
        InvalidRequest: Malformed, or without a token.
    """
    return parse_body(body, ConfirmRequest)


def parse_downloads_query(values: Mapping[str, str]) -> DownloadsQuery:
    """Read a query string; keys that are not known here have no effect.

    Raises:
        InvalidRequest: The value is no boolean.
    """
    return parse_query(values, DownloadsQuery)


def human_size(size_bytes: int) -> str:
    """As a person reads it, in powers of ten: ``4.3 GB``."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"
