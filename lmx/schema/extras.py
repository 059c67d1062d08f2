"""What the dashboard and the CLI ask beside models: roles, habits, helpers and past sessions."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType


class StackRole(Struct, frozen=True):
    """A name that stands for one of several models.

    Attributes:
        preferences: The models it may mean, best first.
        resolved_model: The one that would answer now, or `None`.
        loaded: Whether that one answers without being loaded first.
    """

    preferences: list[str]
    resolved_model: str | None
    loaded: bool


class StackReply(Struct, frozen=True, kw_only=True):
    """Which names stand for which models; other machines that would help there are none of."""

    roles: dict[str, StackRole]
    helper_nodes: dict[str, Any] = {}
    loaded_models: list[str]
    default_model: str | None


class PredictorReply(Struct, frozen=True, kw_only=True):
    """How often models were asked. Nothing is predicted, so there is no prediction."""

    predicted_next: None = None
    total_accesses: int
    unique_models: int
    history_size: int
    top_models: list[list[str | int]]
    transition_count: int = 0


class HelpersReply(Struct, frozen=True, kw_only=True):
    """Other machines that answer for this one: there are none."""

    helpers: dict[str, Any] = {}
    live_checks: dict[str, Any] = {}
    configured_count: int = 0
    all_healthy: bool = True


class SessionRow(Struct, frozen=True, kw_only=True):
    """A conversation that the CLI keeps in a file; dates are ISO strings."""

    id: str
    title: str
    model: str
    tags: list[str]
    created: str
    updated: str
    created_at: str
    updated_at: str
    message_count: int
    first_user_message: str


class SessionList(Struct, frozen=True):
    """Sessions, newest first; `total` is how many match."""

    sessions: list[SessionRow]
    total: int
    limit: int
    offset: int


class SessionMessage(Struct, frozen=True, kw_only=True):
    """A turn, as far as it says these."""

    role: str
    content: Any = None
    tool_calls: list[Any] | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET


class SessionDocument(SessionRow, frozen=True, kw_only=True):
    """A whole session."""

    cwd: str
    messages: list[SessionMessage]
    tool_call_count: int
    compacted: bool


class SessionDeleted(Struct, frozen=True):
    """Whether there was one."""

    deleted: bool


class SessionQuery(Struct, kw_only=True):
    """Which sessions to list; what is absent restricts nothing."""

    limit: int | UnsetType = UNSET
    offset: int | UnsetType = UNSET
    model: str | UnsetType = UNSET
    tag: str | UnsetType = UNSET
    since: str | UnsetType = UNSET


class SessionSearch(Struct, kw_only=True):
    """What to look for."""

    q: str | UnsetType = UNSET
    limit: int | UnsetType = UNSET
