"""LMX as an MCP server, as the official client sees it: lists, calls, documents, changes, ends.

The client speaks both eras of the protocol, sessions and requests that stand alone; what can be
asked of both is asked of both.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
import pytest
import trio
from mcp.client.client import Client
from mcp.client.session import ClientRequestContext, IncomingMessage
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from lmx import __version__
from tests.http.skill_app import App, open_app
from tests.scripted_skills import NUMBERS, manifest

LIMIT_S = 20
ERAS = pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
TOOLS = ["add", "delete", "echo", "fail", "sleep"]


@asynccontextmanager
async def open_client(app: App, mode: str = "legacy", **given: Any) -> AsyncIterator[Client]:
    """The official client, connected."""
    # Certificates are read for seconds where many tests run, and not needed here.
    async with httpx2.AsyncClient(verify=False, timeout=LIMIT_S) as http:
        transport = streamable_http_client(f"{app.url}/mcp", http_client=http)
        async with Client(transport, mode=mode, cache=None, **given) as client:
            yield client


async def error_of(call: Any) -> MCPError:
    """How a call fails."""
    with pytest.raises(MCPError) as caught:
        await call
    return caught.value


def text_of(result: types.CallToolResult) -> str:
    """The only text of a result."""
    [content] = result.content
    assert isinstance(content, types.TextContent)
    return content.text


async def test_the_handshake_says_who_we_are_and_what_we_can(tmp_path: Path) -> None:
    """Version, capabilities and instructions of a session."""
    with trio.fail_after(LIMIT_S):
        async with open_app(tmp_path) as app, open_client(app) as client:
            assert "2025-11-25" == client.protocol_version
            assert client.server_info is not None
            assert ("lmx", __version__) == (client.server_info.name, client.server_info.version)
            can = client.server_capabilities
            for one in (can.tools, can.prompts, can.resources):
                assert one is not None
                assert one.list_changed
            assert "approval" in (client.instructions or "")


async def test_the_newest_protocol_is_found_by_asking(tmp_path: Path) -> None:
    """A client that asks first needs no session."""
    with trio.fail_after(LIMIT_S):
        async with open_app(tmp_path) as app, open_client(app, "auto") as client:
            assert "2026-07-28" == client.protocol_version


@ERAS
async def test_skills_are_tools(tmp_path: Path, mode: str) -> None:
    """Every skill but prompts, the newest version of each, with its schema."""
    with trio.fail_after(LIMIT_S):
        async with open_app(tmp_path) as app, open_client(app, mode) as client:
            tools = (await client.list_tools()).tools
    assert TOOLS == [one.name for one in tools]
    assert NUMBERS == tools[0].input_schema
    assert ("Does add.", "builtin/add") == (tools[0].description, tools[0].title)


@ERAS
async def test_tools_are_called(tmp_path: Path, mode: str) -> None:
    """An object is answered as such and as text, a text as it is; qualified names work too."""
    with trio.fail_after(LIMIT_S):
        async with open_app(tmp_path) as app, open_client(app, mode) as client:
            added = await client.call_tool("add", {"a": 1, "b": 2})
            echoed = await client.call_tool("builtin/echo@1.0.0", {"text": "hi"})
            assert [("builtin/add@1.0.0", {"a": 1, "b": 2}, False),
                    ("builtin/echo@1.0.0", {"text": "hi"}, False)] == app.skills.calls  # fmt: skip
    assert ({"sum": 3}, '{"sum":3}') == (added.structured_content, text_of(added))
    assert (None, "hi", False) == (echoed.structured_content, text_of(echoed), echoed.is_error)


@ERAS
async def test_failures_are_results_for_the_model(tmp_path: Path, mode: str) -> None:
    """What a skill refuses is told in the result; only an unknown name is an error."""
    with trio.fail_after(LIMIT_S):
        async with open_app(tmp_path) as app, open_client(app, mode) as client:
            failed = await client.call_tool("fail")
            lacking = await client.call_tool("add", {"a": 1})
            unknown = await error_of(client.call_tool("nothing"))
            prompt = await error_of(client.call_tool("greet"))
    assert (True, "it failed") == (failed.is_error, text_of(failed))
    assert (True, "arguments: 'b' is missing") == (lacking.is_error, text_of(lacking))
    assert {types.INVALID_PARAMS} == {unknown.code, prompt.code}


@ERAS
async def test_what_needs_approval_says_how(tmp_path: Path, mode: str) -> None:
    """A client that cannot be asked is told of the route that takes the decision."""
    with trio.fail_after(LIMIT_S):
        async with open_app(tmp_path) as app, open_client(app, mode) as client:
            result = await client.call_tool("delete")
    assert result.is_error
    assert '"approved": true' in text_of(result)


@ERAS
@pytest.mark.parametrize("action", ["accept", "decline"])
async def test_approval_is_asked_for(tmp_path: Path, mode: str, action: Any) -> None:
    """A client with elicitation decides, and the skill runs only if it accepts."""
    questions: list[str] = []

    async def decide(
        _: ClientRequestContext, params: types.ElicitRequestParams
    ) -> types.ElicitResult:
        await trio.lowlevel.checkpoint()
        questions.append(params.message)
        return types.ElicitResult(action=action, content={} if action == "accept" else None)

    with trio.fail_after(LIMIT_S):
        async with (
            open_app(tmp_path) as app,
            open_client(app, mode, elicitation_callback=decide) as client,
        ):
            result = await client.call_tool("delete", {"x": 1})
            approvals = [approved for _, _, approved in app.skills.calls]
    assert ['May the skill builtin/delete@1.0.0 run with {"x":1}?'] == questions
    assert (action == "accept") is not result.is_error
    assert (action == "accept") is (True in approvals)


@ERAS
async def test_prompts_are_filled_in(tmp_path: Path, mode: str) -> None:
    """Texts become what the schema wants; what is missing or unknown is an error."""
    with trio.fail_after(LIMIT_S):
        async with open_app(tmp_path) as app, open_client(app, mode) as client:
            [prompt] = (await client.list_prompts()).prompts
            filled = await client.get_prompt("greet", {"who": "Bo", "times": "2"})
            missing = await error_of(client.get_prompt("greet", {"times": "2"}))
            unknown = await error_of(client.get_prompt("add"))
    fields = [(one.name, one.required) for one in prompt.arguments or []]
    assert ("greet", [("who", True), ("times", False)]) == (prompt.name, fields)
    [message] = filled.messages
    assert isinstance(message.content, types.TextContent)
    assert ("user", "Hello Bo Hello Bo") == (message.role, message.content.text)
    assert {types.INVALID_PARAMS} == {missing.code, unknown.code}
    assert "who" in missing.message


@ERAS
async def test_each_skill_has_a_document(tmp_path: Path, mode: str) -> None:
    """Listed, readable by its address, and unknown otherwise."""
    with trio.fail_after(LIMIT_S):
        async with open_app(tmp_path) as app, open_client(app, mode) as client:
            resources = (await client.list_resources()).resources
            read = await client.read_resource("skill://builtin/add")
            templates = (await client.list_resource_templates()).resource_templates
            unknown = await error_of(client.read_resource("skill://builtin/none"))
            foreign = await error_of(client.read_resource("file:///etc/passwd"))
    assert "skill://builtin/add" in [one.uri for one in resources]
    [content] = read.contents
    assert isinstance(content, types.TextResourceContents)
    assert "# builtin/add" in content.text
    assert ["skill://{namespace}/{name}"] == [one.uri_template for one in templates]
    expected = -32002 if mode == "legacy" else types.INVALID_PARAMS
    assert [expected] * 2 == [unknown.code, foreign.code]


@ERAS
async def test_a_cancelled_call_ends_its_run(tmp_path: Path, mode: str) -> None:
    """The client's cancellation reaches the skill, and the connection goes on."""
    with trio.fail_after(LIMIT_S):
        async with open_app(tmp_path) as app, open_client(app, mode) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call_tool, "sleep")
                await app.skills.started.wait()
                nursery.cancel_scope.cancel()
            await app.skills.ended.wait()
            assert 5 == len((await client.list_tools()).tools)


@ERAS
async def test_a_client_that_leaves_ends_its_run(tmp_path: Path, mode: str) -> None:
    """Without any goodbye within the protocol: its connections are gone."""
    with trio.fail_after(LIMIT_S):
        async with open_app(tmp_path) as app:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_call_and_stay, app, mode)
                await app.skills.started.wait()
                nursery.cancel_scope.cancel()
            await app.skills.ended.wait()


async def _call_and_stay(app: App, mode: str) -> None:
    async with open_client(app, mode) as client:
        await client.call_tool("sleep")


async def test_a_session_is_told_of_changes(tmp_path: Path) -> None:
    """A skill that comes is announced, and is there."""
    heard: list[str] = []
    came = trio.Event()

    async def hear(message: IncomingMessage) -> None:
        await trio.lowlevel.checkpoint()
        if isinstance(message, types.ServerNotification):
            heard.append(message.method)
            if isinstance(message, types.ResourceListChangedNotification):
                came.set()

    with trio.fail_after(LIMIT_S):
        async with open_app(tmp_path) as app, open_client(app, message_handler=hear) as client:
            await app.host.is_heard.wait()
            app.skills.add(manifest("later"), lambda _: "now")
            await came.wait()
            assert "now" == text_of(await client.call_tool("later"))
    kinds = ["tools", "prompts", "resources"]
    assert [f"notifications/{kind}/list_changed" for kind in kinds] == heard


async def test_a_subscriber_is_told_of_changes(tmp_path: Path) -> None:
    """Since 2026-07-28, a client says what it wants to hear."""
    with trio.fail_after(LIMIT_S):
        async with (
            open_app(tmp_path) as app,
            open_client(app, "2026-07-28") as client,
            client.listen(tools_list_changed=True) as subscription,
        ):
            app.skills.add(manifest("later"), lambda _: "now")
            event = await anext(aiter(subscription))
            assert "ToolsListChanged" == type(event).__name__
            assert "later" in [one.name for one in (await client.list_tools()).tools]


async def test_many_clients_at_once_get_their_own_answers(tmp_path: Path) -> None:
    """Twenty calls over four sessions, together."""
    results: dict[int, Any] = {}

    async def call(client: Client, number: int) -> None:
        result = await client.call_tool("add", {"a": number, "b": number})
        results[number] = result.structured_content

    async def use(app: App, first: int) -> None:
        async with open_client(app) as client, trio.open_nursery() as nursery:
            for number in range(first, first + 5):
                nursery.start_soon(call, client, number)

    with trio.fail_after(LIMIT_S):
        async with open_app(tmp_path) as app, trio.open_nursery() as nursery:
            for first in (0, 5, 10, 15):
                nursery.start_soon(use, app, first)
    assert {number: {"sum": 2 * number} for number in range(20)} == results


async def test_ping_is_answered(tmp_path: Path) -> None:
    """Within a session."""
    with trio.fail_after(LIMIT_S):
        async with open_app(tmp_path) as app, open_client(app) as client:
            assert types.EmptyResult() == await client.session.send_ping()
