"""The desk: what is refused, what waits, what is told, and that nothing stays behind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
import trio
from trio.testing import wait_all_tasks_blocked

from lmx.config.skills import McpServerSettings, SkillSettings
from lmx.errors import NoModelLoaded
from lmx.skills.box.plan import BoxResult
from lmx.skills.library import Library
from lmx.skills.manifest import HttpCall, Manifest, McpTool
from lmx.skills.outcome import Outcome
from tests.fakes import Recorder
from tests.skill_parts import FakeBox, FakeTools, function, make_desk

SCHEMA = {"properties": {"a": {"type": "integer"}}, "required": ["a"]}
HTTP = Manifest(name="h", kind="http", http=HttpCall(url="http://x"))
PROMPT = Manifest(name="p", kind="prompt", template="x")
BUILTIN = function("echo", namespace="builtin")
TOOL = Manifest(name="t", namespace="srv", kind="mcp", mcp=McpTool(server="srv", tool="t"))


def flags(outcome: Outcome) -> str:
    """The one thing that an outcome says beside its text."""
    names = ("ok", "timed_out", "denied", "requires_approval")
    said = msgspec.structs.asdict(outcome)
    return " ".join(name for name in names if said[name]) or "failed"


async def test_a_run_is_checked_run_and_told() -> None:
    """Arguments reach the box with limits from manifest and settings; start and end are events."""
    box, telemetry = FakeBox(), Recorder()
    desk = make_desk(box, telemetry=telemetry, memory_mb=100, timeout_s=20)
    manifest = function(input_schema=SCHEMA)
    outcome = await desk.call(manifest, '{"a": 1}', request_id="req_1", timeout_s=7)
    assert (True, "out") == (outcome.ok, outcome.output)
    (plan,) = box.plans
    assert {"a": 1} == plan.arguments
    assert (7.0, 100_000_000) == (plan.limits.wall_s, plan.limits.memory_bytes)
    assert ["skill_started", "skill_finished"] == [event.type for event in telemetry.told]
    assert {"local/f@1.0.0"} == {event.fields["skill"] for event in telemetry.told}
    assert ["ok"] == telemetry.of("skill_finished", "outcome")
    assert ["req_1"] == telemetry.of("skill_finished", "request_id")


@pytest.mark.parametrize(
    ("own_s", "asked_s", "limit_s"), [(None, None, 30.0), (5.0, None, 5.0), (5.0, 9.0, 5.0)]
)
async def test_nobody_gets_more_time_than_the_manifest_says(
    own_s: float | None, asked_s: float | None, limit_s: float
) -> None:
    """A caller may ask for less time, not for more."""
    box = FakeBox()
    await make_desk(box).call(function(timeout_s=own_s), {}, timeout_s=asked_s)
    assert [limit_s] == [plan.limits.wall_s for plan in box.plans]


async def test_arguments_that_do_not_match_run_nothing() -> None:
    """The outcome says where, and no event is published."""
    box, telemetry = FakeBox(), Recorder()
    desk = make_desk(box, telemetry=telemetry)
    outcome = await desk.call(function(input_schema=SCHEMA), {"a": "x"})
    assert 'arguments.a: "x" is not of type "integer"' == outcome.error
    assert "failed" == flags(outcome)
    assert ([], []) == (box.plans, telemetry.told)


RISKY = function(requires_approval=True)
CASES: Sequence[tuple[Manifest, str, str]] = [
    (function(), "contained", "ok"),
    (function(), "bare", "requires_approval"),
    (function(), "bare approved", "ok"),
    (function(), "bare require", "denied"),
    (function(), "bare require approved", "denied"),
    (RISKY, "contained", "requires_approval"),
    (RISKY, "contained require approved", "ok"),
    (PROMPT, "bare", "requires_approval"),
    (BUILTIN, "bare", "ok"),
    (BUILTIN, "bare require", "denied"),
    (HTTP, "bare", "ok"),
    (TOOL, "bare require", "ok"),
]


@pytest.mark.parametrize(("manifest", "where", "said"), CASES)
async def test_who_may_run(manifest: Manifest, where: str, said: str) -> None:
    """Approval is the manifest's wish, or the price of running without containment."""
    box = FakeBox(is_contained="contained" in where)
    sandbox = "require" if "require" in where else "auto"
    desk = make_desk(box, tools=FakeTools(), sandbox=sandbox)
    assert said == flags(await desk.call(manifest, {}, approved="approved" in where))
    assert (said == "ok" and manifest is not TOOL) == bool(box.plans)


async def test_so_many_run_and_so_many_wait() -> None:
    """One more than may wait is denied; whoever waits runs as soon as there is a place."""
    box = FakeBox()
    box.gate = trio.Event()
    desk = make_desk(box, max_running=2, max_waiting=1)
    said: list[str] = []

    async def call() -> None:
        said.append(flags(await desk.call(function(), {})))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(call)
            await wait_all_tasks_blocked()
            assert (2, ["denied"]) == (len(box.plans), said)
            box.gate.set()
    assert ["denied", "ok", "ok", "ok"] == said


async def test_limits_follow_the_settings() -> None:
    """More may run and fewer may wait from then on, beside those that run already."""
    box = FakeBox()
    box.gate = trio.Event()
    desk = make_desk(box, max_running=1, max_waiting=3)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(desk.call, function(), {})
            await wait_all_tasks_blocked()
            assert 1 == len(box.plans)
            desk.follow_settings(SkillSettings(max_running=2, max_waiting=0))
            await wait_all_tasks_blocked()
            assert 2 == len(box.plans)
            assert "denied" == flags(await desk.call(function(), {}))
            box.gate.set()


async def test_a_cancelled_run_frees_its_place_and_is_written_down() -> None:
    """The next call runs, and the audit log has both."""
    box, telemetry = FakeBox(), Recorder()
    box.gate = trio.Event()
    desk = make_desk(box, telemetry=telemetry, max_running=1)
    with structlog.testing.capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.call, function(), {})
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        box.gate.set()
        assert (await desk.call(function(), {})).ok
    assert ["cancelled", "ok"] == telemetry.of("skill_finished", "outcome")
    assert ["cancelled", "ok"] == [line["outcome"] for line in lines]
    assert {"cancelled": 1, "ok": 1} == desk.runs.of("local/f@1.0.0").endings


async def test_the_audit_log_never_holds_arguments() -> None:
    """A line has digest and size, whatever became of the call."""
    desk = make_desk(FakeBox())
    manifest = function(input_schema=SCHEMA)
    with structlog.testing.capture_logs() as lines:
        await desk.call(manifest, {"a": 1}, request_id="r")
        await desk.call(manifest, {"a": "secret"})
        await desk.call(manifest, "secret {")
        await desk.call(function(requires_approval=True), {"key": "secret"})
    assert ["ok", "invalid_arguments", "invalid_arguments", "requires_approval"] == [
        line["outcome"] for line in lines
    ]
    assert "secret" not in str(lines)
    assert {
        "arguments_bytes": 7,
        "arguments_sha256": "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862",
        "duration_ms": lines[0]["duration_ms"],
        "event": "skill run",
        "log_level": "info",
        "outcome": "ok",
        "request_id": "r",
        "skill": "local/f@1.0.0",
    } == lines[0]


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("raised", "failed"),
        ("timed_out", "timed_out"),
        ("refused", "denied"),
        ("crashed", "failed"),
    ],
)
async def test_how_a_run_ended_is_told(end: Any, said: str) -> None:
    """Every end of a run is an outcome with its reason."""
    outcome = await make_desk(FakeBox(BoxResult(end=end, error="why"))).call(function(), {})
    assert (said, "why") == (flags(outcome), outcome.error)


def internal(name: str) -> Manifest:
    """A skill that runs in the daemon."""
    return Manifest(name=name, namespace="builtin", kind="internal")


async def test_what_runs_in_the_daemon_has_a_time_limit_too(autojump_clock: Any) -> None:
    """It is ended, and its errors are outcomes."""

    async def sleep(_arguments: dict[str, Any]) -> Any:
        await trio.sleep_forever()

    async def refuse(_arguments: dict[str, Any]) -> Any:
        await trio.lowlevel.checkpoint()
        raise NoModelLoaded("nothing is loaded")

    skills = {"builtin/sleep": sleep, "builtin/refuse": refuse}
    desk = make_desk(FakeBox(), internal=skills, timeout_s=60)
    outcome = await desk.call(internal("sleep"), {})
    assert ("timed_out", 60_000.0) == (flags(outcome), outcome.duration_ms)
    outcome = await desk.call(internal("refuse"), {})
    assert ("failed", "nothing is loaded") == (flags(outcome), outcome.error)
    assert "failed" == flags(await desk.call(internal("missing"), {}))


async def test_tools_of_servers_are_skills() -> None:
    """They are listed and called; one whose schema cannot be used is broken."""
    where = McpTool(server="srv", tool="bad")
    schema = {"$ref": "x"}
    bad = Manifest(name="bad", namespace="srv", kind="mcp", mcp=where, input_schema=schema)
    tools = FakeTools(TOOL, TOOL, bad)
    desk = make_desk(FakeBox(), tools=tools)
    assert ["srv/t@1.0.0"] == [one.reference for one in desk.list()]
    assert ["srv/t@1.0.0", "srv/bad@1.0.0", "down"] == [one.path for one in desk.broken]
    outcome = await desk.call(desk.find("t"), {"x": 1}, timeout_s=3)
    assert "from the server" == outcome.output
    assert [(McpTool(server="srv", tool="t"), {"x": 1}, 3)] == tools.calls
    tools.manifests, tools.changed_s = (), 2e12
    assert 2e12 == desk.changed_s  # whether or not somebody has looked at the list since
    assert ([], 2e12) == (desk.list(), desk.changed_s)


def test_what_has_not_changed_is_not_prepared_again(tmp_path: Path) -> None:
    """A tool's schema is compiled once, and a list of switched off skills is made once."""
    tools = FakeTools(TOOL)
    library = Library(SkillSettings(), tmp_path, mcp=tools)
    compiled = library.registry.rules(TOOL)
    tools.changed_s += 1
    assert compiled is library.registry.rules(TOOL)
    off = Library(SkillSettings(enabled=False), tmp_path, mcp=tools)
    assert off.registry is off.registry
    assert [] == off.registry.list()


async def test_the_approval_of_a_server_holds_for_every_name_of_its_tools() -> None:
    """A manifest that names the tool anew needs the decision, too."""
    server = McpServerSettings(command=("x",), requires_approval=True)
    desk = make_desk(FakeBox(), tools=FakeTools(), mcp_servers={"srv": server})
    manifest = Manifest(name="mine", kind="mcp", mcp=McpTool(server="srv", tool="t"))
    assert "requires_approval" == flags(await desk.call(manifest, {}))
    assert "ok" == flags(await desk.call(manifest, {}, approved=True))


async def test_without_servers_a_tool_fails() -> None:
    """A manifest that names a tool of no server gets one sentence."""
    assert "no MCP server 'srv'" in str((await make_desk(FakeBox()).call(TOOL, {})).error)
