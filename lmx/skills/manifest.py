"""What a skill is: the typed form of a manifest (``opta.skills.manifest/v1``).

A manifest says what a skill is called, what it takes, how it is run and what it may touch. It is
data alone: reading files is `lmx.skills.folders`' work, running is `lmx.skills.desk`'s.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

SCHEMA_ID = "opta.skills.manifest/v1"
# Ends a path that may be written.
WRITABLE_SUFFIX = ":rw"
# Of variables that hold LMX's own settings, keys among them.
OWN_PREFIXES = ("LMX_", "OPTA_")

SkillKind = Literal["prompt", "entrypoint", "command", "http", "mcp", "internal"]
# A name is part of paths, of file names and of the functions that models see.
SkillName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,63}\Z")]
Version = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_][a-zA-Z0-9_.+-]{0,31}\Z")]


class Permissions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run may touch beyond its own temporary directory.

    Attributes:
        network: Whether it may open connections.
        files: Paths that it may read, and below; one that ends in ``:rw`` may be written.
        env: Names of variables that it is given from the daemon's environment.
    """

    network: bool = False
    files: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


class HttpCall(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call of kind ``http``: the arguments go as a JSON body, or as the query of a GET.

    Attributes:
        url: Where to.
        method: Of HTTP.
        headers: Beside the content type.
    """

    url: Annotated[str, Meta(pattern=r"^https?://")]
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    headers: dict[str, str] = {}


class McpTool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool of a configured MCP server."""

    server: str
    tool: str


class Manifest(Struct, frozen=True, kw_only=True):
    """One skill.

    Attributes:
        name: Unique within its namespace and version.
        namespace: Whose it is; ``builtin`` is LMX's own.
        version: Compared as numbers between dots where they are numbers.
        description: For models and people.
        kind: How it is run; each kind but ``internal`` has its field below.
        input_schema: JSON schema of its arguments, an object.
        timeout_s: How long a run may take, in seconds; `None` for the configured time.
        permissions: What a run may touch.
        risk_tags: What may go wrong, such as ``network`` or ``writes_files``; shown to people.
        requires_approval: Whether each call needs a decision of the client.
        template: Kind ``prompt``: a Jinja template of the arguments.
        entrypoint: Kind ``entrypoint``: ``module:function``, called with the arguments by name.
        path: Folder in which `entrypoint`'s module and `command`'s program are looked for.
        command: Kind ``command``: program and arguments; ``{name}`` stands for an argument, and
            all arguments come on standard input as JSON. No shell.
        http: Kind ``http``.
        mcp: Kind ``mcp``.
    """

    name: SkillName
    namespace: SkillName = "local"
    version: Version = "1.0.0"
    description: str = ""
    kind: SkillKind
    input_schema: dict[str, Any] = field(
        default_factory=lambda: {"type": "object", "properties": {}}
    )
    timeout_s: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    permissions: Permissions = Permissions()
    risk_tags: tuple[str, ...] = ()
    requires_approval: bool = False
    template: str | None = None
    entrypoint: str | None = None
    path: str | None = None
    command: tuple[str, ...] = ()
    http: HttpCall | None = None
    mcp: McpTool | None = None

    @property
    def qualified_name(self) -> str:
        """Namespace and name."""
        return f"{self.namespace}/{self.name}"

    @property
    def reference(self) -> str:
        """Namespace, name and version: exactly this skill."""
        return f"{self.qualified_name}@{self.version}"

    @property
    def permission_tags(self) -> list[str]:
        """What it may touch, as words."""
        granted = self.permissions
        tags = ["network"] if granted.network else []
        tags += [f"files:{path}" for path in granted.files]
        return tags + [f"env:{name}" for name in granted.env]
