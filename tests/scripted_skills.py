"""A handful of skills without processes: what they answer is scripted, and calls are counted."""

import time
from collections.abc import Callable
from typing import Any

import trio

from lmx.errors import SkillNotFound
from lmx.skills.manifest import Manifest, Permissions
from lmx.skills.outcome import Outcome
from lmx.skills.service import BrokenManifest

NUMBERS = {
    "type": "object",
    "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
    "required": ["a", "b"],
}
TEXT = {"type": "object", "properties": {"text": {"type": "string", "description": "Any."}}}
GREETING = {
    "type": "object",
    "properties": {
        "who": {"type": "string", "description": "A name."},
        "times": {"type": "integer"},
    },
    "required": ["who"],
}

Script = Callable[[dict[str, Any]], Any]


def manifest(name: str, **fields: Any) -> Manifest:
    """A skill of LMX's own."""
    given = {"namespace": "builtin", "kind": "internal", "description": f"Does {name}.", **fields}
    return Manifest(name=name, **given)


class ScriptedSkills:
    """See `lmx.skills.service.Skills`.

    Attributes:
        started: Calls of `sleep` that began.
        ended: Calls of `sleep` that were cancelled.
        calls: What was called, with what.
        runs: What the daemon counts of skills.
    """

    runs: Any = None

    def __init__(self) -> None:
        self.broken = [BrokenManifest("/skills/bad.yaml", "`kind` is missing")]
        self.changed_s = time.time()
        self.started = trio.Event()
        self.ended = trio.Event()
        self.calls: list[tuple[str, Any, bool]] = []
        self._scripts: dict[str, Script] = {
            "add": lambda given: {"sum": given["a"] + given["b"]},
            "echo": lambda given: given.get("text", ""),
            "delete": lambda given: "deleted",
            "greet": lambda given: " ".join(["Hello", given["who"]] * given.get("times", 1)),
        }
        self.manifests = [
            manifest("add", input_schema=NUMBERS),
            manifest("delete", requires_approval=True, risk_tags=("destructive",)),
            manifest("echo", input_schema=TEXT, version="1.0.0"),
            manifest("echo", input_schema=TEXT, version="2.0.0", timeout_s=5.0),
            manifest("fail"),
            manifest("sleep", permissions=Permissions(network=True, files=("/data",))),
            manifest("greet", namespace="local", kind="prompt", input_schema=GREETING),
        ]

    def add(self, new: Manifest, script: Script) -> None:
        """One skill more, from now on."""
        self.manifests.append(new)
        self._scripts[new.name] = script
        self.changed_s += 1

    def list(self, *, latest_only: bool = False) -> list[Manifest]:
        listed = sorted(self.manifests, key=lambda one: one.reference)
        if not latest_only:
            return listed
        return list({one.qualified_name: one for one in listed}.values())

    def find(self, name: str) -> Manifest:
        for one in reversed(self.list()):
            if name in {one.name, one.qualified_name, one.reference}:
                return one
        raise SkillNotFound(f"There is no skill {name!r}", param="name")

    async def call(
        self,
        manifest: Manifest,
        arguments: Any,
        *,
        approved: bool = False,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> Outcome:
        await trio.lowlevel.checkpoint()
        self.calls.append((manifest.reference, arguments, approved))
        if manifest.requires_approval and not approved:
            return Outcome(ok=False, error="needs approval", denied=True, requires_approval=True)
        if manifest.name == "sleep":
            await self._sleep()
        if manifest.name == "fail":
            return Outcome(ok=False, error="it failed", duration_ms=1.5)
        missing = [key for key in manifest.input_schema.get("required", ()) if key not in arguments]
        if missing:
            return Outcome(ok=False, error=f"arguments: {missing[0]!r} is missing", denied=True)
        return Outcome(ok=True, output=self._scripts[manifest.name](arguments), duration_ms=2.0)

    async def _sleep(self) -> None:
        self.started.set()
        try:
            await trio.sleep_forever()
        finally:
            self.ended.set()
