"""A whole daemon with an MCP server of its own and one of somebody else, as users run it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import Connection, encode_request, wait_until

PROGRAM = Path(__file__).parent.parent / "mcp_program.py"
LIMIT_S = 30


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """With a program as a server, and one that cannot be started."""
    home = tmp_path_factory.mktemp("home")
    servers = {
        "friend": {"command": [sys.executable, str(PROGRAM), "good", str(home / "note")]},
        "absent": {"command": ["/nowhere/server"]},
    }
    settings = {"LMX_SKILLS__MCP_SERVERS": json.dumps(servers)}
    with shared_daemon(home, "fake:x", settings=settings) as shared:
        yield shared


async def _friends_are_there(client: Client) -> list[str]:
    for _ in range(1000):
        names = [one.name for one in (await client.list_tools()).tools]
        if "greet" in names:
            return names
        await trio.sleep(0.02)
    return []


async def test_the_official_client_calls_skills_of_both(daemon: Daemon) -> None:
    """LMX's own, contained, and the other server's through LMX."""
    with trio.fail_after(LIMIT_S):
        async with httpx2.AsyncClient(verify=False, timeout=LIMIT_S) as http:
            transport = streamable_http_client(f"{daemon.url}/mcp", http_client=http)
            async with Client(transport, mode="legacy", cache=None) as client:
                names = await _friends_are_there(client)
                assert {"builtin__add", "friend__add", "calculator", "echo"} <= set(names)
                own = await client.call_tool("builtin__add", {"a": 1, "b": 2})
                friends = await client.call_tool("friend__add", {"a": 1, "b": 2})
                refused = await client.call_tool("builtin__add", {"a": "x"})
    assert (False, False, True) == (own.is_error, friends.is_error, refused.is_error)
    assert {"sum": 3} == friends.structured_content


def test_the_routes_show_what_is_there_and_what_is_not(daemon: Daemon) -> None:
    """A server that cannot be started is listed with the reason, and healthy ones work."""
    with Connection(daemon) as connection:
        listed = connection.ask("GET", "/v1/skills").json()
        assert ["mcp:absent"] == [one["path"] for one in listed["broken"]]
        assert "/nowhere/server" in listed["broken"][0]["error"]
        body = json.dumps({"arguments": {"who": "Bo"}}).encode()
        reply = connection.ask("POST", "/v1/skills/friend%2Fgreet/execute", body).json()
    assert (True, "Hello Bo") == (reply["ok"], reply["output"])


def test_a_session_outlives_the_connection_that_opened_it(daemon: Daemon) -> None:
    """A client may close it as soon as it knows the session."""
    params = {"protocolVersion": "2025-06-18", "capabilities": {}}
    params |= {"clientInfo": {"name": "hasty", "version": "1"}}
    statuses = []
    for _ in range(30):
        with Connection(daemon) as connection:
            connection.send(_message("initialize", params))
            session = connection.read_head().headers["mcp-session-id"]
        with Connection(daemon) as connection:
            connection.send(_message("tools/list", {}, session))
            statuses.append(connection.read_head().status)
    assert [200] * 30 == statuses


def _message(method: str, params: dict[str, Any], session: str | None = None) -> bytes:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    headers = {"accept": "application/json, text/event-stream"}
    headers |= {"mcp-session-id": session} if session else {}
    return encode_request("POST", "/mcp", body.encode(), headers=headers)


def test_a_server_is_started_once(daemon: Daemon) -> None:
    """Of a program that is a server there is one."""
    assert wait_until(lambda: b"friend/greet" in _skills(daemon))
    listing = subprocess.run(
        ["/bin/ps", "-A", "-ww", "-o", "args"], check=True, capture_output=True
    ).stdout
    program = f"{PROGRAM} good {daemon.log_path.parent}/"
    assert 1 == listing.decode(errors="replace").count(program)


def _skills(daemon: Daemon) -> bytes:
    with Connection(daemon) as connection:
        return connection.ask("GET", "/v1/skills").body
