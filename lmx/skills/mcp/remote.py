"""What LMX knows of a server of MCP, whoever speaks the protocol: its tools, and calls of them.

Pure, and without the SDK. A server is not trusted with anything: what it says of itself is checked,
cut and named after the name that the settings give it.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from lmx.config.skills import McpServerSettings
from lmx.skills.manifest import Manifest, McpTool, Permissions, SkillName
from lmx.skills.outcome import Outcome
from lmx.skills.service import BrokenManifest

# What one server may bring along.
TOOLS = 256
SCHEMA_BYTES = 64 * 1024
DESCRIPTION_CHARACTERS = 4096
NAME_CHARACTERS = 64
UNFIT = re.compile(r"[^a-zA-Z0-9_.-]|^[.-]")
# Names that would pass a server's tools for LMX's own.
RESERVED = frozenset({"builtin"})


class RemoteTool(Struct, frozen=True, kw_only=True):
    """A tool as its server describes it.

    Attributes:
        risks: Words on what it may do, from the server's own hints.
    """

    name: str
    description: str = ""
    schema: dict[str, Any]
    risks: tuple[str, ...] = ()


class Remote(Protocol):
    """A connected server."""

    async def list_tools(self) -> Sequence[RemoteTool]:
        """All its tools, up to one more than `TOOLS`. Raises what ends the connection."""

    async def call(self, name: str, arguments: dict[str, Any], *, timeout_s: float) -> Outcome:
        """Call a tool. Whatever the server does is an outcome."""


class Limits(Struct, frozen=True, kw_only=True):
    """What a server may do to us.

    Attributes:
        output_bytes: What one call may answer.
        connect_s: How long the greeting may take, a program's start included.
    """

    output_bytes: int
    connect_s: float = 30.0

    @property
    def message_bytes(self) -> int:
        """Of one message: an output twice, as text and as a value, and its wrapping."""
        return 3 * self.output_bytes + 64 * 1024


class Attend(Protocol):
    """Connects to a server and stays with it; `lmx.skills.mcp.client.attend` with the SDK."""

    async def __call__(
        self,
        settings: McpServerSettings,
        limits: Limits,
        *,
        asks_first: bool,
        use: Callable[[Remote], Awaitable[None]],
        on_change: Callable[[], None],
    ) -> str:
        """Connect, and run `use` as long as the connection lasts.

        Args:
            settings: Where the server is.
            limits: What it may do.
            asks_first: Ask for the newest protocol before greeting in the old way, which some
                servers take for a mistake.
            use: Returns, or is cancelled, when the connection ends.
            on_change: Called when the server says that its tools have changed.

        Returns:
            Why the connection ended or was not made, in one sentence.
        """


def check_name(name: str) -> str | None:
    """What is wrong with a server's name in the settings, or `None`."""
    if name in RESERVED:
        return f"{name!r} is the name of LMX's own skills"
    try:
        msgspec.convert(name, SkillName)
    except msgspec.ValidationError:
        return "a server's name is letters, digits, '_', '-' and '.', and at most 64 of them"
    return None


def to_manifests(
    server: str, settings: McpServerSettings, tools: Sequence[RemoteTool]
) -> tuple[list[Manifest], list[BrokenManifest]]:
    """A server's tools as skills, and those that cannot be any."""
    found: dict[str, Manifest] = {}
    broken: list[BrokenManifest] = []
    if len(tools) > TOOLS:
        broken.append(BrokenManifest(place_of(server), f"only its first {TOOLS} tools are taken"))
    for tool in tools[:TOOLS]:
        name = UNFIT.sub("_", tool.name)[:NAME_CHARACTERS]
        wrong = _wrong(tool, is_taken=name in found)
        if wrong is not None:
            broken.append(BrokenManifest(place_of(server, tool.name), wrong))
            continue
        found[name] = Manifest(
            name=name,
            namespace=server,
            description=tool.description[:DESCRIPTION_CHARACTERS],
            kind="mcp",
            input_schema=tool.schema,
            timeout_s=settings.timeout_s,
            permissions=Permissions(network=settings.url is not None),
            risk_tags=tool.risks,
            requires_approval=settings.requires_approval,
            mcp=McpTool(server=server, tool=tool.name),
        )
    return sorted(found.values(), key=lambda one: one.reference), broken


def place_of(server: str, tool: str = "") -> str:
    """What stands for a server or a tool where files have their path."""
    return f"mcp:{server}/{tool[:NAME_CHARACTERS]}" if tool else f"mcp:{server}"


def _wrong(tool: RemoteTool, *, is_taken: bool) -> str | None:
    if not tool.name:
        return "it has no name"
    if is_taken:
        return "another tool of this server has the same name"
    if tool.schema.get("type") != "object":
        return "its schema is not that of an object"
    if len(msgspec.json.encode(tool.schema)) > SCHEMA_BYTES:
        return f"its schema is over {SCHEMA_BYTES} bytes"
    return None
