"""The skills there are now: manifests in folders and tools of MCP servers, kept up to date.

Folders are looked at once a second, in a thread. A change replaces the registry as a whole, so a
call that has found its skill goes on with it whatever happens to the file.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import structlog
import trio

from lmx.config import SkillSettings
from lmx.errors import ConfigError
from lmx.skills.arguments import ArgumentRules
from lmx.skills.folders import Found, ManifestFolders
from lmx.skills.manifest import Manifest
from lmx.skills.packaged import grant
from lmx.skills.registry import Registry
from lmx.skills.service import BrokenManifest, McpTools

PERIOD_S = 1.0
TAKEN = "name: there is a skill with this reference already"

log = structlog.get_logger("lmx.skills")


class Library:
    """All skills.

    Args:
        settings: Where they are, and which.
        home: Its ``skills`` folder is looked at first.
        mcp: Tools of MCP servers, if there are any.
    """

    def __init__(self, settings: SkillSettings, home: Path, *, mcp: McpTools | None = None) -> None:
        self._settings = settings
        extra = [Path(folder).expanduser().absolute() for folder in settings.folders]
        self._folders = ManifestFolders([home / "skills", *extra])
        self._found = Found((), ())
        self._found_s = time.time()
        self._mcp = mcp
        self._mcp_changed_s: float | None = None
        self._registry = Registry()
        self._broken: tuple[BrokenManifest, ...] = ()

    @property
    def registry(self) -> Registry:
        """The skills as they are now."""
        self._merge_tools()
        return self._registry

    @property
    def broken(self) -> Sequence[BrokenManifest]:
        """Manifests and servers that cannot be used."""
        self._merge_tools()
        servers = self._mcp.broken if self._mcp is not None else ()
        return [*self._broken, *servers]

    @property
    def changed_s(self) -> float:
        """When the list last changed, in seconds of the epoch."""
        return max(self._found_s, self._mcp.changed_s if self._mcp is not None else 0.0)

    async def watch(self) -> None:
        """Follow the folders; return at once if skills are switched off."""
        while self._settings.enabled:
            await self.refresh()
            await trio.sleep(PERIOD_S)

    async def refresh(self) -> None:
        """Look at the folders now.

        Cancellation:
            Returns at once; a folder that does not answer is left to its thread.
        """
        if not self._settings.enabled:
            return
        found = await trio.to_thread.run_sync(self._folders.read, abandon_on_cancel=True)
        if found == self._found:
            return
        known = {(one.path, one.error) for one in self._found.broken}
        self._found, self._found_s = found, time.time()
        self._rebuild()
        log.info("skills changed", skills=len(found.manifests), broken=len(found.broken))
        for one in found.broken:
            if (one.path, one.error) not in known:
                log.warning("skill cannot be used", path=one.path, error=one.error)

    def _merge_tools(self) -> None:
        if self._mcp is not None and self._mcp.changed_s != self._mcp_changed_s:
            self._rebuild()

    def _rebuild(self) -> None:
        manifests = grant(self._found.manifests, self._settings)
        broken = list(self._found.broken)
        rules: dict[str, ArgumentRules] = {}
        if self._mcp is not None:
            self._mcp_changed_s = self._mcp.changed_s
            if self._settings.enabled:
                tools = self._mcp.tools()
                manifests += self._usable_tools(tools, manifests, broken=broken, rules=rules)
        self._registry = Registry(manifests, rules)
        self._broken = tuple(broken)

    def _usable_tools(
        self,
        tools: Iterable[Manifest],
        manifests: Iterable[Manifest],
        *,
        broken: list[BrokenManifest],
        rules: dict[str, ArgumentRules],
    ) -> list[Manifest]:
        """The tools whose schema can be used and whose name is free, and their rules."""
        taken = {one.reference for one in manifests}
        usable = []
        for tool in tools:
            if tool.reference in taken:
                broken.append(BrokenManifest(tool.reference, TAKEN))
                continue
            try:
                # Those of a tool that has not changed are compiled already.
                rules[tool.reference] = self._registry.rules(tool)
            except ConfigError as error:
                broken.append(BrokenManifest(tool.reference, error.message))
                continue
            taken.add(tool.reference)
            usable.append(tool)
        return usable
