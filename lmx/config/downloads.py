"""Settings of downloads: whether models may be fetched, from where, and how many at a time."""

from typing import Annotated

from msgspec import Meta, Struct


class DownloadSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fetching models from a hub of Hugging Face's kind.

    Attributes:
        enabled: Whether requests may fetch models. Without an admin key, only those from this
            machine may, unless `security.open_admin` says otherwise.
        endpoint: Address of the hub; `None` for what ``HF_ENDPOINT`` says, else the public one.
        token_env: Name of the environment variable that holds the token for it. The token itself
            never stands in a file of settings.
        max_parallel: Most downloads that run at a time; others wait.
        stall_s: Time without a byte after which a connection is given up and tried again.
        keep_free_gb: Disk space that a download must leave, in 10^9 bytes.
    """

    enabled: bool = True
    endpoint: Annotated[str, Meta(pattern="^https?://")] | None = None
    token_env: Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_]*$")] = "HF_TOKEN"  # noqa: S105  # a variable's name
    max_parallel: Annotated[int, Meta(ge=1, le=16)] = 2
    stall_s: Annotated[float, Meta(gt=0)] = 30.0
    keep_free_gb: Annotated[float, Meta(ge=0, le=100_000)] = 2.0
