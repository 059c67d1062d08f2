"""Runs skills: checks, asks, waits for a place, runs by kind, and writes down that it did.

The one implementation of `lmx.skills.service.Skills`. What is run is data (`plans`), where it is
run is the box's, an MCP server's or an internal skill's business; here is what holds for them all.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import trio

from lmx.config import SkillSettings
from lmx.daemon.tables import FoldingTable
from lmx.daemon.telemetry import Telemetry
from lmx.errors import ConfigError, InvalidRequest, LmxError
from lmx.skills.arguments import digest
from lmx.skills.audit import AuditLine, AuditLog
from lmx.skills.box.plan import BoxCapability, BoxPlan, BoxResult
from lmx.skills.counts import RunCounts
from lmx.skills.library import Library
from lmx.skills.manifest import Manifest
from lmx.skills.outcome import Ending, Outcome
from lmx.skills.packaged import is_builtin
from lmx.skills.plans import BOXED_KINDS, plan_run, to_outcome
from lmx.skills.service import BrokenManifest, McpTools

# A folder of manifests that does not answer must not keep the daemon from starting.
FIRST_LOOK_S = 2.0
# Skills that are counted by name; servers may offer new names for ever.
COUNTED_SKILLS = 256

InternalSkill = Callable[[dict[str, Any]], Awaitable[Any]]


class Boxes(Protocol):
    """Where programs and functions are run: see `lmx.skills.box`."""

    async def run(self, plan: BoxPlan) -> BoxResult:
        """Run a plan to its end; cancelling ends it at once."""

    async def capability(self) -> BoxCapability:
        """What contains a run on this machine; found out when first asked."""


class Entry:
    """One call, as the audit log and subscribers hear of it.

    Attributes:
        manifest: What is called.
        arguments: As they came.
        request_id: Whose call it is.
        ending: How it ended; without an outcome it was cancelled.
    """

    def __init__(self, manifest: Manifest, arguments: Any, request_id: str) -> None:
        self.manifest = manifest
        self.arguments = arguments
        self.request_id = request_id
        self.ending: Ending = "cancelled"
        self._began_s = trio.current_time()

    @property
    def duration_ms(self) -> float:
        """Since the call."""
        return round(1000 * (trio.current_time() - self._began_s), 3)

    def end(self, outcome: Outcome, ending: Ending | None = None) -> Outcome:
        """Keep how it ended, and give the outcome back."""
        self.ending = ending or ending_of(outcome)
        return outcome

    def line(self) -> AuditLine:
        """For the audit log."""
        sha256, size = digest(self.arguments)
        return AuditLine(
            skill=self.manifest.reference,
            request_id=self.request_id,
            arguments_sha256=sha256,
            arguments_bytes=size,
            duration_ms=self.duration_ms,
            outcome=self.ending,
        )


def ending_of(outcome: Outcome) -> Ending:
    """The one word for an outcome."""
    if outcome.ok:
        return "ok"
    if outcome.requires_approval:
        return "requires_approval"
    if outcome.denied:
        return "denied"
    return "timed_out" if outcome.timed_out else "failed"


def runs_own_code(manifest: Manifest) -> bool:
    """Whether only code of LMX runs: a built-in, or the client of a configured address."""
    return is_builtin(manifest) or manifest.kind == "http"


class SkillDesk:
    """All skills, and their runs.

    Args:
        settings: Of skills.
        home: LMX's home directory.
        box: Runs programs and functions.
        telemetry: Is told of runs.
        internal: What runs in the daemon, by qualified name; raises `LmxError` for what it refuses.
        mcp: Tools of MCP servers, if there are any.

    Attributes:
        runs: What was counted, by reference.
    """

    def __init__(
        self,
        settings: SkillSettings,
        home: Path,
        *,
        box: Boxes,
        telemetry: Telemetry,
        internal: Mapping[str, InternalSkill],
        mcp: McpTools | None = None,
    ) -> None:
        self._settings = settings
        self._library = Library(settings, home, mcp=mcp)
        self._audit = AuditLog(home / "logs" / "skills.jsonl")
        self._box = box
        self._telemetry = telemetry
        self._internal = internal
        self._mcp = mcp
        self.runs = FoldingTable(RunCounts, limit=COUNTED_SKILLS)
        self._places = trio.CapacityLimiter(settings.max_running)
        self._open_count = 0  # calls that have not ended
        self._became_idle = trio.Event()

    def follow_settings(self, settings: SkillSettings) -> None:
        """Other limits for the runs to come; which skills there are is not decided anew."""
        self._settings = settings
        self._places.total_tokens = settings.max_running

    @property
    def broken(self) -> Sequence[BrokenManifest]:
        """Manifests that cannot be used."""
        return self._library.broken

    @property
    def changed_s(self) -> float:
        """When the list last changed, in seconds of the epoch."""
        return self._library.changed_s

    def list(self, *, latest_only: bool = False) -> Sequence[Manifest]:
        """See `Skills`."""
        return self._library.registry.list(latest_only=latest_only)

    def find(self, name: str) -> Manifest:
        """See `Skills`."""
        return self._library.registry.find(name)

    async def prepare(self) -> None:
        """Read the manifests for the first time; a folder that hangs is waited for briefly."""
        with trio.move_on_after(FIRST_LOOK_S):
            await self._library.refresh()

    async def run(self) -> None:
        """Follow changes of manifests and write the audit file, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._library.watch)
            nursery.start_soon(self._audit.run)

    async def wait_idle(self) -> None:
        """Wait until no call is under way."""
        while self._open_count:
            await self._became_idle.wait()

    async def call(
        self,
        manifest: Manifest,
        arguments: Any,
        *,
        approved: bool = False,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Outcome:
        """See `Skills`."""
        entry = Entry(manifest, arguments, request_id)
        limit_s = manifest.timeout_s or self._settings.timeout_s
        if timeout_s is not None:
            limit_s = min(limit_s, timeout_s)
        self._open_count += 1
        try:
            outcome = await self._settle(entry, approved=approved, timeout_s=limit_s)
        finally:
            self._open_count -= 1
            if not self._open_count:
                self._became_idle.set()
                self._became_idle = trio.Event()
            self._audit.record(entry.line())
            self.runs.of(manifest.reference).endings[entry.ending] += 1
        return msgspec.structs.replace(outcome, duration_ms=entry.duration_ms)

    async def _settle(self, entry: Entry, *, approved: bool, timeout_s: float) -> Outcome:
        """The outcome, refusals included; the entry is told how it ended."""
        manifest = entry.manifest
        try:
            arguments = self._library.registry.rules(manifest).parse(entry.arguments)
        except (ConfigError, InvalidRequest) as error:
            return entry.end(Outcome(ok=False, error=error.message), "invalid_arguments")
        refusal = await self._refusal(manifest, approved=approved)
        if refusal is None and self._has_no_place():
            reason = f"{self._settings.max_waiting} calls of skills wait already"
            refusal = Outcome(ok=False, denied=True, error=reason)
        if refusal is not None:
            return entry.end(refusal)
        async with self._places:
            with self._told(entry):
                return entry.end(await self._run(manifest, arguments, timeout_s))

    async def _refusal(self, manifest: Manifest, *, approved: bool) -> Outcome | None:
        """Why it must not run, or not yet; `None` if it may."""
        if self._needs_approval(manifest) and not approved:
            error = f"{manifest.reference} needs approval for each call"
            return Outcome(ok=False, requires_approval=True, error=error)
        if manifest.kind not in BOXED_KINDS:
            return None
        capability = await self._box.capability()
        if capability.is_contained:
            return None
        if self._settings.sandbox == "require":
            error = f"skills are not contained here: {capability.reason}"
            return Outcome(ok=False, denied=True, error=error)
        if approved or runs_own_code(manifest):
            return None
        error = f"it would run uncontained and needs approval: {capability.reason}"
        return Outcome(ok=False, requires_approval=True, error=error)

    def _needs_approval(self, manifest: Manifest) -> bool:
        """A manifest of one's own for a server's tool does not lift what the settings demand."""
        servers = self._settings.mcp_servers
        server = servers.get(manifest.mcp.server) if manifest.mcp is not None else None
        return manifest.requires_approval or (server is not None and server.requires_approval)

    def _has_no_place(self) -> bool:
        places = self._places.statistics()
        is_full = places.borrowed_tokens >= places.total_tokens
        return is_full and places.tasks_waiting >= self._settings.max_waiting

    async def _run(
        self, manifest: Manifest, arguments: dict[str, Any], timeout_s: float
    ) -> Outcome:
        if manifest.kind in BOXED_KINDS:
            try:
                plan = plan_run(manifest, arguments, self._settings, timeout_s=timeout_s)
            except InvalidRequest as error:
                return Outcome(ok=False, error=error.message)
            return to_outcome(manifest, await self._box.run(plan))
        with trio.move_on_after(timeout_s):
            try:
                return await self._run_here(manifest, arguments, timeout_s)
            except LmxError as error:
                return Outcome(ok=False, error=error.message)
        return Outcome(ok=False, timed_out=True, error=f"it took more than {timeout_s:g} s")

    async def _run_here(
        self, manifest: Manifest, arguments: dict[str, Any], timeout_s: float
    ) -> Outcome:
        """Run what is no process of ours.

        Raises:
            LmxError: It cannot be done.
        """
        if manifest.mcp is not None:
            if self._mcp is None:
                return Outcome(ok=False, error=f"there is no MCP server '{manifest.mcp.server}'")
            return await self._mcp.call(manifest.mcp, arguments, timeout_s=timeout_s)
        skill = self._internal.get(manifest.qualified_name)
        if skill is None:
            return Outcome(ok=False, error=f"{manifest.reference} does not work in this daemon")
        return Outcome(ok=True, output=await skill(arguments))

    @contextmanager
    def _told(self, entry: Entry) -> Iterator[None]:
        """Tell subscribers of a run's start and end."""
        names = {"skill": entry.manifest.reference, "request_id": entry.request_id}
        self._telemetry.publish("skill_started", **names)
        try:
            yield
        finally:
            self._telemetry.publish(
                "skill_finished", **names, outcome=entry.ending, duration_ms=entry.duration_ms
            )
