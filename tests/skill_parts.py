"""What tests of skills are made of: a box that runs nothing, and tools of no server."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import trio

from lmx.config import SkillSettings
from lmx.skills.box.plan import BoxCapability, BoxPlan, BoxResult
from lmx.skills.desk import SkillDesk
from lmx.skills.manifest import Manifest, McpTool
from lmx.skills.outcome import Outcome
from lmx.skills.service import BrokenManifest
from tests.fakes import Recorder

HOME = Path("/nowhere")
DONE = BoxResult(end="done", value="out")


def function(name: str = "f", **fields: Any) -> Manifest:
    """A skill that is a Python function."""
    return Manifest(name=name, kind="entrypoint", entrypoint="m:f", path="/skills", **fields)


class FakeBox:
    """Keeps plans and answers each with a result.

    Attributes:
        plans: What was to be run.
        result: How every run ends.
        gate: Runs wait for it.
    """

    def __init__(self, result: BoxResult = DONE, *, is_contained: bool = True) -> None:
        self.plans: list[BoxPlan] = []
        self.result = result
        self.gate = trio.Event()
        self.gate.set()
        self._capability = BoxCapability(is_contained=is_contained, reason="Nothing here.")

    async def capability(self) -> BoxCapability:
        return self._capability

    async def run(self, plan: BoxPlan) -> BoxResult:
        self.plans.append(plan)
        await self.gate.wait()
        return self.result


class FakeTools:
    """Tools of MCP servers, set by the test.

    Attributes:
        manifests: What there is; `changed_s` has to change with it.
        calls: What was called.
    """

    def __init__(self, *manifests: Manifest) -> None:
        self.manifests: Sequence[Manifest] = manifests
        self.broken = [BrokenManifest("down", "it does not answer")]
        self.changed_s = 1e12
        self.calls: list[tuple[McpTool, dict[str, Any], float | None]] = []

    def tools(self) -> Sequence[Manifest]:
        return self.manifests

    async def call(
        self, tool: McpTool, arguments: dict[str, Any], *, timeout_s: float | None = None
    ) -> Outcome:
        self.calls.append((tool, arguments, timeout_s))
        return Outcome(ok=True, output="from the server")


def make_desk(
    box: FakeBox,
    *,
    home: Path = HOME,
    telemetry: Recorder | None = None,
    tools: FakeTools | None = None,
    internal: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] | None = None,
    **settings: Any,
) -> SkillDesk:
    """A desk with such settings."""
    return SkillDesk(
        SkillSettings(**settings),
        home,
        box=box,
        telemetry=telemetry or Recorder(),
        internal=internal or {},
        mcp=tools,
    )
