"""Every configured server of MCP, kept connected, and its tools as skills.

A server that cannot be reached, or leaves, is tried again for ever, in growing distances; until
then its tools are gone and the reason stands among what is broken. Calls run in a task beside the
connection, so that nobody who leaves waits until a server has been told.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import structlog
import trio

from lmx.config.skills import McpServerSettings, SkillSettings
from lmx.daemon.restarts import keep_running, restart_delay_s
from lmx.skills.manifest import Manifest, McpTool
from lmx.skills.mcp import load_client
from lmx.skills.mcp.remote import Attend, Limits, Remote, check_name, place_of, to_manifests
from lmx.skills.outcome import Outcome
from lmx.skills.service import BrokenManifest

# Tools are listed again this often, for servers that do not say when they change, and to notice
# those that no longer answer.
REFRESH_S = 60.0
# However often a server says so, its tools are not listed more often than this.
REFRESH_PAUSE_S = 0.5
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 60.0
# A connection that held for this long was a good one; what follows is tried soon again.
STEADY_S = 60.0
REASON_CHARACTERS = 500

log = structlog.get_logger("lmx.mcp")


class McpClients:
    """See `lmx.skills.service.McpTools`.

    Args:
        settings: Which servers there are, and what they may answer.
        load: Gives what speaks MCP; blocks.
    """

    def __init__(
        self, settings: SkillSettings, *, load: Callable[[], Attend] = load_client
    ) -> None:
        limits = Limits(output_bytes=settings.max_output_bytes)
        servers = settings.mcp_servers if settings.enabled else {}
        self._load = load
        self._misnamed = [
            BrokenManifest(place_of(name), wrong)
            for name in servers
            if (wrong := check_name(name)) is not None
        ]
        self._links: Mapping[str, ServerLink] = {
            name: ServerLink(name, server, limits)
            for name, server in sorted(servers.items())
            if check_name(name) is None
        }

    @property
    def broken(self) -> Sequence[BrokenManifest]:
        """See the protocol."""
        return [*self._misnamed, *chain.from_iterable(x.broken for x in self._links.values())]

    @property
    def changed_s(self) -> float:
        """See the protocol."""
        return max((link.changed_s for link in self._links.values()), default=0.0)

    def tools(self) -> Sequence[Manifest]:
        """See the protocol."""
        return list(chain.from_iterable(link.manifests for link in self._links.values()))

    async def call(
        self, tool: McpTool, arguments: dict[str, Any], *, timeout_s: float | None = None
    ) -> Outcome:
        """See the protocol."""
        link = self._links.get(tool.server)
        if link is None:
            return Outcome(ok=False, error=f"There is no MCP server {tool.server!r}")
        return await link.call(tool.tool, arguments, timeout_s=timeout_s)

    async def run(self) -> None:
        """Keep every server connected; returns at once if there are none.

        Cancellation:
            Ends the connections, and the programs among the servers with all they started.
        """
        if not self._links:
            return
        attend = await trio.to_thread.run_sync(self._load)
        async with trio.open_nursery() as nursery:
            for name, link in self._links.items():
                keep = partial(keep_running, partial(link.run, attend), name=f"MCP server {name}")
                nursery.start_soon(keep)


class ServerLink:
    """One server.

    Args:
        name: In the settings.
        settings: Where it is.
        limits: What it may do.

    Attributes:
        manifests: Its tools; empty iff it is not connected or has none.
        broken: Why it is not connected, or which of its tools cannot be used.
        changed_s: When these last changed, in seconds of the epoch.
    """

    def __init__(self, name: str, settings: McpServerSettings, limits: Limits) -> None:
        self.name = name
        self.settings = settings
        self.manifests: Sequence[Manifest] = ()
        self.broken: Sequence[BrokenManifest] = ()
        self.changed_s = time.time()
        self._limits = limits
        self._remote: Remote | None = None
        self._calls: trio.Nursery | None = None
        self._has_changed = trio.Event()
        self._asks_first = False
        self._lose("it is not connected yet")

    async def run(self, attend: Attend) -> None:
        """Connect, and again whenever the connection ends, for ever."""
        failures = 0
        while True:
            began_s = trio.current_time()
            try:
                reason = await self._attend(attend)
            finally:
                was_connected = self._remote is not None
                self._lose("the connection failed; the log says how")
            self._lose(reason)
            if not was_connected:
                self._asks_first = not self._asks_first
            is_steady = was_connected and trio.current_time() - began_s > STEADY_S
            failures = 1 if is_steady else failures + 1
            pause_s = restart_delay_s(failures, first_s=FIRST_RETRY_S, limit_s=LAST_RETRY_S)
            log.warning(
                "MCP server lost" if was_connected else "MCP server not reached",
                server=self.name,
                reason=reason[:REASON_CHARACTERS],
                retry_s=round(pause_s, 1),
            )
            await trio.sleep(pause_s)

    async def call(
        self, tool: str, arguments: dict[str, Any], *, timeout_s: float | None
    ) -> Outcome:
        """Call a tool; see `lmx.skills.service.McpTools`."""
        remote, calls = self._remote, self._calls
        if remote is None or calls is None:
            return Outcome(ok=False, error=f"MCP server {self.name}: {self.broken[0].error}")
        limit_s = min(timeout_s or self.settings.timeout_s, self.settings.timeout_s)
        call = _Call()
        calls.start_soon(call.run, partial(remote.call, tool, arguments, timeout_s=limit_s))
        try:
            await call.is_over.wait()
        finally:
            call.scope.cancel()
        lost = Outcome(ok=False, error=f"MCP server {self.name} was lost during the call")
        return call.outcome or lost

    async def _attend(self, attend: Attend) -> str:
        async with trio.open_nursery() as calls:
            self._calls = calls
            reason = await attend(
                self.settings,
                self._limits,
                asks_first=self._asks_first,
                use=self._use,
                on_change=self._note_change,
            )
            calls.cancel_scope.cancel()
        return reason

    async def _use(self, remote: Remote) -> None:
        while True:
            self._has_changed = trio.Event()
            tools = await remote.list_tools()
            manifests, broken = to_manifests(self.name, self.settings, tools)
            if self._remote is None:
                log.info("MCP server connected", server=self.name, tools=len(manifests))
            self._remote = remote
            self._show(manifests, broken)
            await trio.sleep(REFRESH_PAUSE_S)
            with trio.move_on_after(REFRESH_S):
                await self._has_changed.wait()

    def _note_change(self) -> None:
        self._has_changed.set()

    def _lose(self, reason: str) -> None:
        self._remote = self._calls = None
        self._show([], [BrokenManifest(place_of(self.name), reason[:REASON_CHARACTERS])])

    def _show(self, manifests: Sequence[Manifest], broken: Sequence[BrokenManifest]) -> None:
        if (manifests, broken) != (self.manifests, self.broken):
            self.manifests, self.broken = manifests, broken
            self.changed_s = time.time()


class _Call:
    """One call under way.

    Attributes:
        outcome: Of the call, once it is over; `None` if the connection ended first.
    """

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.is_over = trio.Event()
        self.outcome: Outcome | None = None

    async def run(self, call: Callable[[], Any]) -> None:
        try:
            with self.scope:
                self.outcome = await call()
        finally:
            self.is_over.set()
