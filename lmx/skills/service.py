"""What routes and the loop of calls ask of the skills.

An interface, so that both can be tested with a few lines in place of processes.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct

from lmx.skills.manifest import Manifest, McpTool
from lmx.skills.outcome import Outcome


class BrokenManifest(Struct, frozen=True):
    """A manifest that cannot be used.

    Attributes:
        path: Its file.
        error: One sentence on what is wrong, with the field.
    """

    path: str
    error: str


class Skills(Protocol):
    """All skills there are."""

    @property
    def broken(self) -> Sequence[BrokenManifest]:
        """Manifests that cannot be used."""

    @property
    def changed_s(self) -> float:
        """When the list last changed, in seconds of the epoch."""

    def list(self, *, latest_only: bool = False) -> Sequence[Manifest]:
        """Every skill in order of its reference; of each only the latest version if asked."""

    def find(self, name: str) -> Manifest:
        """The skill of a name, a qualified name or a reference; without version the latest.

        Raises:
            SkillNotFound: There is none, or the bare name is that of several.
        """

    async def call(
        self,
        manifest: Manifest,
        arguments: Any,
        *,
        approved: bool = False,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Outcome:
        """Check the arguments, run the skill, and say how it went.

        Args:
            manifest: As `find` gave it.
            arguments: An object, or its JSON text.
            approved: Somebody has allowed this very call.
            timeout_s: Less time than the manifest allows.
            request_id: Whose call it is, for the audit log.

        Cancellation:
            Ends the run at once, with every process it started.
        """


class McpTools(Protocol):
    """The tools of the configured MCP servers, as skills of kind ``mcp``."""

    @property
    def broken(self) -> Sequence[BrokenManifest]:
        """Servers that cannot be used now, and tools that cannot be described, by `path`."""

    @property
    def changed_s(self) -> float:
        """When the list last changed, in seconds of the epoch."""

    def tools(self) -> Sequence[Manifest]:
        """Every tool of every server that is connected, in order of its reference."""

    async def call(
        self, tool: McpTool, arguments: dict[str, Any], *, timeout_s: float | None = None
    ) -> Outcome:
        """Call a tool; whatever its server does is an outcome.

        Args:
            tool: As its manifest names it.
            arguments: As its schema wants them; the server checks them too.
            timeout_s: Less time than the server's setting allows.

        Cancellation:
            Tells the server that nobody waits any more, and does not wait for it.
        """
