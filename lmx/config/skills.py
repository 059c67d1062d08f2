"""Settings of agent skills: which there are, what they may do, and how far a loop may go."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from lmx.config.values import Count, ModelArgument

PositiveSeconds = Annotated[float, Meta(gt=0, le=86_400)]


class McpServerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An MCP server whose tools become skills: a program to start, or an address.

    Attributes:
        command: Program and arguments of a server that speaks on its standard streams.
        url: Address of one that speaks streamable HTTP.
        headers: Sent with every request to `url`.
        env: Names of variables that the program is given from the daemon's environment.
        requires_approval: Whether each call of its tools needs a decision.
        timeout_s: How long one call may take.
    """

    command: tuple[str, ...] = ()
    url: str | None = None
    headers: dict[str, str] = {}
    env: tuple[str, ...] = ()
    requires_approval: bool = False
    timeout_s: PositiveSeconds = 30.0

    def __post_init__(self) -> None:
        if bool(self.command) == (self.url is not None):
            raise ValueError("an MCP server needs either `command` or `url`")

    def __repr__(self) -> str:
        return f"McpServerSettings({self.command[:1] or self.url})"  # headers may hold keys


class SkillSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Agent skills: functions that models call and LMX runs.

    Attributes:
        enabled: Whether there are any.
        folders: Further folders of manifests, beside ``skills`` in the home directory.
        fetch_url: Whether the built-in skill of that name exists; it reads web pages.
        read_folders: What `read_file` may read, and below; none means that it reads nothing.
        search_folder: The folder whose texts `search_documents` searches, or `None`.
        search_model: The embedding model of that search; `None` for `models.embedding_model`.
        mcp_servers: MCP servers whose tools are skills, by the name that becomes their namespace.
        max_running: Most skills that run at a time; others wait.
        max_waiting: Most that wait.
        timeout_s: How long a skill may run whose manifest does not say.
        memory_mb: Memory of one run, in 10^6 bytes.
        max_output_bytes: What one run may answer.
        max_steps: Most turns of the model within one request.
        max_loop_s: Longest time one request with skills may take, in seconds.
        sandbox: ``require`` refuses to run skills where nothing contains them; ``auto`` asks for
            approval there.
    """

    enabled: bool = True
    folders: tuple[str, ...] = ()
    fetch_url: bool = False
    read_folders: tuple[str, ...] = ()
    search_folder: str | None = None
    search_model: ModelArgument | None = None
    mcp_servers: dict[str, McpServerSettings] = {}
    max_running: Count = 4
    max_waiting: Annotated[int, Meta(ge=0)] = 64
    timeout_s: PositiveSeconds = 30.0
    memory_mb: Annotated[int, Meta(ge=64)] = 512
    max_output_bytes: Annotated[int, Meta(ge=1024)] = 1_000_000
    max_steps: Annotated[int, Meta(ge=1, le=100)] = 8
    max_loop_s: PositiveSeconds = 600.0
    sandbox: Literal["auto", "require"] = "auto"
