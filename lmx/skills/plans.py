"""A skill and its arguments made a plan for the box, and what came of it made an outcome. Pure.

Kinds ``prompt`` and ``http`` run in the box like the others: a template may loop for ever, and what
a server sends is read in a process that can be ended, not in the daemon.
"""

import re
from typing import Any

import msgspec

from lmx.config import SkillSettings
from lmx.errors import InvalidRequest
from lmx.skills.box.plan import BoxPlan, BoxResult, Limits
from lmx.skills.manifest import Manifest
from lmx.skills.outcome import Outcome
from lmx.skills.packaged import extra_arguments, is_builtin
from lmx.skills.reading import PLACEHOLDER

RENDER = "lmx.skills.builtin.templates:render"
CALL_HTTP = "lmx.skills.builtin.web:call_http"
BOXED_KINDS = frozenset({"prompt", "entrypoint", "command", "http"})
SHOWN_STDERR = 1000


def plan_run(
    manifest: Manifest, arguments: dict[str, Any], settings: SkillSettings, *, timeout_s: float
) -> BoxPlan:
    """What to run for a call of a boxed kind.

    Args:
        manifest: Of `BOXED_KINDS`.
        arguments: As the schema has them.
        settings: Limits.
        timeout_s: How long it may take.

    Raises:
        InvalidRequest: An argument cannot stand on a command line.
    """
    plan = BoxPlan(permissions=manifest.permissions, limits=_limits(settings, timeout_s))
    match manifest.kind:
        case "prompt":
            return _function(plan, RENDER, {"template": manifest.template, "arguments": arguments})
        case "http":
            given: dict[str, Any] = {
                "call": msgspec.to_builtins(manifest.http),
                "arguments": arguments,
                "max_bytes": settings.max_output_bytes,
                "timeout_s": timeout_s,
            }
            return _function(plan, CALL_HTTP, given)
        case "command":
            return msgspec.structs.replace(
                plan,
                argv=fill_command(manifest, arguments),
                folder=manifest.path,
                stdin=msgspec.json.encode(arguments) + b"\n",
            )
        case _ if is_builtin(manifest):
            given = {**arguments, **extra_arguments(manifest, settings, timeout_s)}
            return _function(plan, manifest.entrypoint, given)
        case _:
            return msgspec.structs.replace(
                plan,
                entrypoint=manifest.entrypoint,
                folder=manifest.path,
                arguments=arguments,
            )


def _function(plan: BoxPlan, entrypoint: str | None, arguments: dict[str, Any]) -> BoxPlan:
    """With a function of LMX's own to call; the box always has LMX's modules."""
    return msgspec.structs.replace(plan, entrypoint=entrypoint, arguments=arguments)


def _limits(settings: SkillSettings, timeout_s: float) -> Limits:
    return Limits(
        wall_s=timeout_s,
        cpu_s=timeout_s,
        memory_bytes=settings.memory_mb * 1_000_000,
        output_bytes=settings.max_output_bytes,
    )


def fill_command(manifest: Manifest, arguments: dict[str, Any]) -> tuple[str, ...]:
    """A command with the arguments in their places.

    An element that is one place alone is left out when there is no such argument; within other text
    it is empty then.

    Raises:
        InvalidRequest: An argument holds a NUL.
    """

    def fill(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        return _word(match[1], arguments.get(match[1]))

    filled = []
    for element in manifest.command:
        only = PLACEHOLDER.fullmatch(element)
        if only and only[1] and arguments.get(only[1]) is None:
            continue
        filled.append(PLACEHOLDER.sub(fill, element))
    return tuple(filled)


def _word(name: str, value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if "\0" in text:
        raise InvalidRequest(f"arguments.{name}: holds a NUL", param=f"arguments.{name}")
    return text


def to_outcome(manifest: Manifest, result: BoxResult) -> Outcome:
    """What is told of a run; its duration is the caller's to add."""
    if not result.is_good:
        return Outcome(
            ok=False,
            error=_error(result),
            timed_out=result.end == "timed_out",
            denied=result.end == "refused",
        )
    if manifest.kind == "command":
        return Outcome(ok=True, output=_parsed(result.stdout))
    return Outcome(ok=True, output=result.value)


def _error(result: BoxResult) -> str:
    error = (result.error or f"it ended: {result.end}").removeprefix("ValueError: ")
    if result.end == "done" and (
        tail := result.stderr[-SHOWN_STDERR:].decode(errors="replace").strip()
    ):
        error = f"{error}: {tail}"
    return error


def _parsed(stdout: bytes) -> Any:
    """A program's output as JSON if it is that, else as text."""
    try:
        return msgspec.json.decode(stdout)
    except (ValueError, RecursionError):
        return stdout.decode(errors="replace")
