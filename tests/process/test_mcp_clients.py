"""LMX as a client of MCP: real servers on the official SDK, and servers that misbehave.

Whatever a server does, its tools are either there or reported broken with a reason, a call ends
within its time, and nothing it started is left behind.
"""

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from lmx.config.skills import McpServerSettings, SkillSettings
from lmx.skills.manifest import McpTool
from lmx.skills.mcp import load_client
from lmx.skills.mcp.clients import McpClients
from lmx.skills.mcp.remote import Limits
from lmx.skills.mcp.stdio import server_environment
from lmx.skills.outcome import Outcome
from tests.http.skill_app import open_app
from tests.scripted_skills import manifest

PROGRAM = Path(__file__).parent.parent / "mcp_program.py"
LIMIT_S = 30
OUTPUT_BYTES = 100_000


def program(kind: str, *arguments: str, **fields: Any) -> McpServerSettings:
    """A server that is a program of ours."""
    command = (sys.executable, str(PROGRAM), kind, *arguments)
    return McpServerSettings(command=command, **fields)


@asynccontextmanager
async def open_clients(**servers: McpServerSettings) -> AsyncIterator[McpClients]:
    """Clients of these servers, at work."""
    clients = McpClients(SkillSettings(mcp_servers=servers, max_output_bytes=OUTPUT_BYTES))
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clients.run)
            yield clients
            nursery.cancel_scope.cancel()


async def wait_until(is_true: Callable[[], object]) -> None:
    """Look at what children do until it is so; the caller bounds it."""
    for _ in range(10_000):
        if is_true():
            return
        await trio.sleep(0.01)


async def wait_tools(clients: McpClients) -> list[str]:
    """The tools' names, once there are any."""
    await wait_until(clients.tools)
    return [one.qualified_name for one in clients.tools()]


async def wait_reason(clients: McpClients) -> str:
    """Why a server is not there, once it was tried."""
    await wait_until(lambda: "not connected yet" not in clients.broken[0].error)
    return clients.broken[0].error


async def call(
    clients: McpClients, tool: str, timeout_s: float | None = None, **given: Any
) -> Outcome:
    """Call a tool of the server `srv`."""
    return await clients.call(McpTool(server="srv", tool=tool), given, timeout_s=timeout_s)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_server_on_the_sdk_has_its_tools_here(tmp_path: Path) -> None:
    """Listed as skills of its name, called, and answered in their own shapes."""
    note = str(tmp_path / "note")
    async with open_clients(srv=program("good", note, requires_approval=True)) as clients:
        names = await wait_tools(clients)
        assert {"srv/add", "srv/greet", "srv/fail"} <= set(names)
        assert [] == list(clients.broken)
        tools = {one.name: one for one in clients.tools()}
        added = await call(clients, "add", a=1, b=2)
        greeted = await call(clients, "greet", who="Bo")
        mixed = await call(clients, "mixed")
        failed = await call(clients, "fail")
        unknown = await call(clients, "nothing")
        wrong = await call(clients, "add", a="x")
    add = tools["add"]
    assert ("mcp", "Adds.", 30.0, True) == (
        add.kind, add.description, add.timeout_s, add.requires_approval,
    )  # fmt: skip
    assert {"a", "b"} == set(add.input_schema["properties"])
    assert (("destructive",), ()) == (tools["fail"].risk_tags, add.risk_tags)
    assert Outcome(ok=True, output={"sum": 3}) == added
    assert Outcome(ok=True, output="Hello Bo") == greeted
    assert ["text", "image"] == [one["type"] for one in mixed.output]
    for outcome, words in ((failed, "tool fail"), (unknown, "nothing"), (wrong, "a")):
        assert not outcome.ok
        assert words in (outcome.error or "")


async def test_calls_end_in_time_and_within_bounds(tmp_path: Path) -> None:
    """An answer that is too long is refused, one that does not come is given up."""
    note = tmp_path / "note"
    async with open_clients(srv=program("good", str(note))) as clients:
        await wait_tools(clients)
        large = await call(clients, "large", size=OUTPUT_BYTES + 1)
        late = await call(clients, "sleep", timeout_s=0.2)
        await wait_until(lambda: note.read_text() == "cancelled")
        assert Outcome(ok=True, output={"sum": 3}) == await call(clients, "add", a=1, b=2)
    assert f"{OUTPUT_BYTES} are allowed" in (large.error or "")
    assert (False, True) == (late.ok, late.timed_out)


async def test_a_caller_that_leaves_cancels_the_call(tmp_path: Path) -> None:
    """At once for the caller; and the server is told."""
    note = tmp_path / "note"
    async with open_clients(srv=program("good", str(note))) as clients:
        await wait_tools(clients)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, clients, "sleep")
            await wait_until(note.exists)
            began_s = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began_s < 0.5
        await wait_until(lambda: note.read_text() == "cancelled")


async def test_a_server_that_says_so_is_listed_again(tmp_path: Path) -> None:
    """A tool that comes later is there, and the change has a time."""
    async with open_clients(srv=program("good", str(tmp_path / "note"))) as clients:
        assert "srv/later" not in await wait_tools(clients)
        before_s = clients.changed_s
        await call(clients, "grow")
        await wait_until(lambda: "later" in [one.name for one in clients.tools()])
        assert before_s < clients.changed_s


async def test_a_server_that_dies_comes_back(tmp_path: Path) -> None:
    """Its call fails, its tools go with a reason, and then it is started again."""
    async with open_clients(srv=program("good", str(tmp_path / "note"))) as clients:
        await wait_tools(clients)
        died = await call(clients, "die")
        assert not died.ok
        await wait_until(lambda: not clients.tools())
        assert "ended with status 3: so long" in clients.broken[0].error
        assert not (await call(clients, "add", a=1, b=2)).ok
        await wait_tools(clients)
        assert Outcome(ok=True, output={"sum": 3}) == await call(clients, "add", a=1, b=2)


async def test_a_program_sees_what_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its path and home, what is named for it, and nothing of ours."""
    for name, value in {"TOKEN_OF_SERVER": "t", "LMX_SECRET_KEY": "k", "OTHER_TOKEN": "o"}.items():
        monkeypatch.setenv(name, value)
    named = ("TOKEN_OF_SERVER", "LMX_SECRET_KEY")
    async with open_clients(srv=program("good", str(tmp_path / "n"), env=named)) as clients:
        await wait_tools(clients)
        seen = (await call(clients, "environment")).output
    given = server_environment(named, os.environ)
    assert given == {name: seen[name] for name in given}
    assert "t" == seen["TOKEN_OF_SERVER"]
    assert "PATH" in seen
    assert {"LMX_SECRET_KEY", "OTHER_TOKEN"}.isdisjoint(seen)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("exits", "ended with status 7: no licence found"),
        ("garbage", "no message of MCP"),
        ("huge", "a message of over"),
        ("wrong-version", "1900-01-01"),
        ("refuses", "go away"),
        ("no-list", "no answer of MCP"),
    ],
)
async def test_a_bad_server_is_reported(kind: str, words: str) -> None:
    """With what it did; there are no tools of it, and calls say why."""
    async with open_clients(srv=program(kind)) as clients:
        reason = await wait_reason(clients)
        refused = await call(clients, "t")
    assert words in reason
    assert "mcp:srv" == clients.broken[0].path
    assert (False, []) == (refused.ok, list(clients.tools()))
    assert "MCP server srv" in (refused.error or "")


async def test_a_program_that_is_not_there_is_reported() -> None:
    """By its name."""
    settings = McpServerSettings(command=("/nowhere/server",))
    async with open_clients(srv=settings) as clients:
        assert "/nowhere/server" in await wait_reason(clients)


async def test_a_silent_server_is_given_up() -> None:
    """After the time that a greeting may take, and not before anybody else is served."""
    attend = await trio.to_thread.run_sync(load_client)

    async def use(_: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise AssertionError("nobody answered")

    limits = Limits(output_bytes=1000, connect_s=0.3)
    with trio.fail_after(LIMIT_S):
        reason = await attend(
            program("silent"), limits, asks_first=False, use=use, on_change=lambda: None
        )
    assert "it did not answer the greeting within 0.3 s" == reason


async def test_a_bad_server_hurts_no_other(tmp_path: Path) -> None:
    """While one floods, another answers; what the flood announces is looked at with pauses."""
    async with open_clients(
        srv=program("good", str(tmp_path / "note")), bad=program("floods"), huge=program("huge")
    ) as clients:
        await wait_tools(clients)
        for _ in range(5):
            with trio.fail_after(5):
                assert Outcome(ok=True, output={"sum": 3}) == await call(clients, "add", a=1, b=2)


async def test_calls_of_a_bad_server_end() -> None:
    """What is no result is told, and what never comes is given up."""
    async with open_clients(srv=program("bad-result")) as clients:
        await wait_tools(clients)
        assert "no answer of MCP" in str((await call(clients, "t")).error)
    async with open_clients(srv=program("mute-call")) as clients:
        await wait_tools(clients)
        assert (await call(clients, "t", timeout_s=0.2)).timed_out


async def test_odd_tools_are_left_out_with_a_reason() -> None:
    """Names are made to fit, the others go on."""
    async with open_clients(srv=program("odd-tools")) as clients:
        assert ["srv/a_b_c"] == await wait_tools(clients)
        broken = {one.path: one.error for one in clients.broken}
    assert {"mcp:srv/a_b_c", "mcp:srv/large"} == set(broken)
    assert "same name" in broken["mcp:srv/a_b_c"]


async def test_an_endless_list_ends() -> None:
    """After as many tools as one server may bring."""
    async with open_clients(srv=program("endless-list")) as clients:
        await wait_tools(clients)
        assert any("only its first 256" in one.error for one in clients.broken)


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """A program that ignores every hint goes, and its child with it."""
    note = tmp_path / "pids"
    async with open_clients(srv=program("stays", str(note))) as clients:
        await wait_tools(clients)
        pids = [int(one) for one in note.read_text().split()]
        assert all(map(is_alive, pids))
    with trio.fail_after(5):
        await wait_until(lambda: not any(map(is_alive, pids)))


async def test_a_killed_daemon_takes_its_servers_along(tmp_path: Path) -> None:
    """Without a chance to stop them; a guard does it."""
    note = tmp_path / "pids"
    script = (
        "import trio; from tests.process.test_mcp_clients import *\n"
        "async def main():\n"
        f"    async with open_clients(srv=program('stays', {str(note)!r})) as clients:\n"
        "        await wait_tools(clients); print('up', flush=True); await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    run = partial(
        trio.lowlevel.open_process,
        [sys.executable, "-c", script],
        stdout=-1,
        cwd=PROGRAM.parent.parent,
    )
    with trio.fail_after(LIMIT_S):
        daemon = await run()
        assert daemon.stdout is not None
        said = b""
        while b"up\n" not in said:
            said += await daemon.stdout.receive_some()
        pids = [int(one) for one in note.read_text().split()]
        os.kill(daemon.pid, signal.SIGKILL)
        await daemon.wait()
        await daemon.stdout.aclose()
        await wait_until(lambda: not any(map(is_alive, pids)))


async def test_a_server_over_http_has_its_tools_here(tmp_path: Path) -> None:
    """LMX's own server, over streamable HTTP: tools, calls, changes, and its key in a header."""
    async with open_app(tmp_path, inference_api_key="opta_sk_1") as app:
        settings = McpServerSettings(
            url=f"{app.url}/mcp", headers={"authorization": "Bearer opta_sk_1"}
        )
        async with open_clients(srv=settings) as clients:
            assert "srv/add" in await wait_tools(clients)
            assert Outcome(ok=True, output={"sum": 3}) == await call(clients, "add", a=1, b=2)
            assert "it failed" == (await call(clients, "fail")).error
            await app.host.is_heard.wait()
            app.skills.add(manifest("later"), lambda _: "now")
            await wait_until(lambda: "srv/later" in [x.qualified_name for x in clients.tools()])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call, clients, "sleep")
                await app.skills.started.wait()
                nursery.cancel_scope.cancel()
            await app.skills.ended.wait()


async def test_an_address_that_refuses_is_reported(tmp_path: Path) -> None:
    """A wrong key, no server, and no address at all."""
    async with open_app(tmp_path, inference_api_key="opta_sk_1") as app:
        async with open_clients(srv=McpServerSettings(url=f"{app.url}/mcp")) as clients:
            assert "error" in await wait_reason(clients)
        async with open_clients(srv=McpServerSettings(url="http://127.0.0.1:1/mcp")) as clients:
            assert "Connect" in await wait_reason(clients)
        async with open_clients(srv=McpServerSettings(url="no address")) as clients:
            assert await wait_reason(clients)


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_an_endless_answer_over_http_ends(encoding: str) -> None:
    """By its size, or for hiding it."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: {encoding}\r\n"

    async def pour(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        with_body = f"{head}connection: close\r\n\r\n".encode()
        try:
            await stream.send_all(with_body)
            for _ in range(1000):
                await stream.send_all(b" " * 65536)
        except trio.BrokenResourceError:
            pass
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, pour, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        settings = McpServerSettings(url=f"http://127.0.0.1:{port}/mcp")
        async with open_clients(srv=settings) as clients:
            reason = await wait_reason(clients)
        nursery.cancel_scope.cancel()
    assert ("over 365536 bytes" if encoding == "identity" else "compressed") in reason


async def test_names_that_mislead_are_refused() -> None:
    """A server cannot pass for LMX's own skills, nor have a name that is none."""
    servers = {"builtin": program("silent"), "a b": program("silent")}
    clients = McpClients(SkillSettings(mcp_servers=servers))
    with trio.fail_after(LIMIT_S):
        await clients.run()
    assert ["mcp:builtin", "mcp:a b"] == [one.path for one in clients.broken]
    assert [] == list(clients.tools())


async def test_without_servers_nothing_runs() -> None:
    """Nor is the SDK loaded; the same when skills are switched off."""

    def load() -> Any:
        raise AssertionError("nobody needs it")

    off = SkillSettings(mcp_servers={"srv": program("silent")}, enabled=False)
    for settings in (SkillSettings(), off):
        clients = McpClients(settings, load=load)
        with trio.fail_after(LIMIT_S):
            await clients.run()
        assert ([], 0.0) == (list(clients.broken), clients.changed_s)
