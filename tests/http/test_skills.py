"""The routes of skills: what they answer, in the spellings of all their clients."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from tests.http.skill_app import open_app
from tests.scripted_skills import NUMBERS, TEXT, ScriptedSkills, manifest

LIMIT_S = 20
FLAGS = {"timed_out": False, "denied": False, "requires_approval": False}


class Client:
    """A client of one application.

    Attributes:
        skills: What the application serves.
    """

    def __init__(self, skills: ScriptedSkills, http: httpx2.AsyncClient) -> None:
        self.skills = skills
        self._http = http

    async def get(self, path: str, status: int = 200) -> Any:
        """What a GET is answered."""
        reply = await self._http.get(path, headers={"content-type": "application/json"})
        assert status == reply.status_code, reply.text
        return reply.json()

    async def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        """What a POST is answered; without a body it has a JSON content type all the same."""
        if body is None:
            headers = {"content-type": "application/json"}
            reply = await self._http.post(path, headers=headers)
        else:
            reply = await self._http.post(path, json=body)
        assert status == reply.status_code, reply.text
        return reply.json()


@asynccontextmanager
async def open_client(home: Path, **given: Any) -> AsyncIterator[Client]:
    """An application with scripted skills, and its client."""
    with trio.fail_after(LIMIT_S):
        async with (
            open_app(home, **given) as app,
            httpx2.AsyncClient(base_url=app.url, verify=False, timeout=LIMIT_S) as http,
        ):
            yield Client(app.skills, http)


def refused(reply: Mapping[str, Any]) -> tuple[str, str | None]:
    """The code of an error, and the field at fault."""
    return reply["code"], reply["error"]["param"]


async def test_skills_are_listed_with_what_is_broken(tmp_path: Path) -> None:
    """Every version, or the latest of each; a manifest that cannot be used stands beside."""
    async with open_client(tmp_path) as client:
        everything = await client.get("/v1/skills")
        latest = await client.get("/v1/skills?latest_only=true")
        malformed = await client.get("/v1/skills?latest_only=maybe", 400)
    assert "list" == everything["object"]
    assert 7 == len(everything["data"])
    assert [{"path": "/skills/bad.yaml", "error": "`kind` is missing"}] == everything["broken"]
    assert "builtin/echo@1.0.0" not in [one["reference"] for one in latest["data"]]
    assert 6 == len(latest["data"])
    assert ("invalid-request", "latest_only") == refused(malformed)


async def test_a_skill_is_shown_by_each_of_its_names(tmp_path: Path) -> None:
    """Bare, qualified and with version, slashes encoded or not."""
    async with open_client(tmp_path) as client:
        for name in ("echo", "builtin/echo", "builtin%2Fecho%402.0.0", "builtin/echo@2.0.0"):
            row = await client.get(f"/v1/skills/{name}")
            assert ("builtin/echo@2.0.0", TEXT) == (row["reference"], row["input_schema"])
        row = await client.get("/v1/skills/sleep")
        unknown = await client.get("/v1/skills/nothing", 404)
    expected = {
        "schema": "opta.skills.manifest/v1",
        "name": "sleep",
        "namespace": "builtin",
        "version": "1.0.0",
        "qualified_name": "builtin/sleep",
        "reference": "builtin/sleep@1.0.0",
        "description": "Does sleep.",
        "kind": "internal",
        "timeout_sec": None,
        "permission_tags": ["network", "files:/data"],
        "risk_tags": [],
        "requires_approval": False,
        "input_schema": {"type": "object", "properties": {}},
    }
    assert expected == row
    assert ("not_found", "name") == refused(unknown)


async def test_a_skill_is_executed(tmp_path: Path) -> None:
    """By path, with an object, with its text, and with no body at all."""
    async with open_client(tmp_path) as client:
        done = await client.post("/v1/skills/add/execute", {"arguments": {"a": 1, "b": 2}})
        body = {"arguments": {"text": "x"}, "approved": None, "timeout_sec": 2}
        old = await client.post("/v1/skills/builtin%2Fecho%401.0.0/execute", body)
        failed = await client.post("/v1/skills/fail/execute")
        lacking = await client.post("/v1/skills/add/execute", {"arguments": {"a": 1}})
        unknown = await client.post("/v1/skills/nothing/execute", status=404)
    shared = {**FLAGS, "error": None, "duration_ms": 2.0}
    assert {"skill": "builtin/add@1.0.0", "ok": True, "output": {"sum": 3}, **shared} == done
    assert ("builtin/echo@1.0.0", "x") == (old["skill"], old["output"])
    assert (False, "it failed", 1.5) == (failed["ok"], failed["error"], failed["duration_ms"])
    assert (False, True, None) == (lacking["ok"], lacking["denied"], lacking["output"])
    assert "not_found" == unknown["code"]


async def test_arguments_and_approval_reach_the_skill(tmp_path: Path) -> None:
    """As they were sent: text stays text, and whoever answers for skills reads it."""
    async with open_client(tmp_path) as client:
        await client.post("/v1/skills/fail/execute", {"arguments": '{"a":1}'})
        asked = await client.post("/v1/skills/delete/execute")
        given = await client.post("/v1/skills/delete/execute", {"approved": True})
        assert ("builtin/fail@1.0.0", '{"a":1}', False) == client.skills.calls[0]
    assert (False, True, True) == (asked["ok"], asked["denied"], asked["requires_approval"])
    assert (True, "deleted") == (given["ok"], given["output"])


async def test_malformed_calls_are_refused(tmp_path: Path) -> None:
    """With the field at fault; nothing runs."""
    async with open_client(tmp_path) as client:
        for body, param in (
            ({"arguments": 5}, "arguments"),
            ({"timeout_sec": 0}, "timeout_sec"),
            ({"approved": "yes"}, "approved"),
            ({"other": 1}, "other"),
        ):
            reply = await client.post("/v1/skills/fail/execute", body, 400)
            assert ("invalid-request", param) == refused(reply)
        assert ("invalid-request", "name") == refused(
            await client.post("/v1/skills/mcp/call", {}, 400)
        )
        assert ("invalid-request", "name") == refused(
            await client.post("/v1/skills/openclaw/invoke", {}, 400)
        )
        assert [] == client.skills.calls


async def test_a_client_that_leaves_ends_the_run(tmp_path: Path) -> None:
    """The skill is cancelled when the connection is gone."""
    async with open_client(tmp_path) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.post, "/v1/skills/sleep/execute")
            await client.skills.started.wait()
            nursery.cancel_scope.cancel()
        await client.skills.ended.wait()


async def test_tools_come_in_both_spellings(tmp_path: Path) -> None:
    """Clients read `inputSchema` or `input_schema`, and call by any name shown."""
    async with open_client(tmp_path) as client:
        listed = await client.get("/v1/skills/mcp/tools")
        called = await client.post(
            "/v1/skills/mcp/call", {"name": "builtin/add", "arguments": {"a": 1, "b": 2}}
        )
        prompt = await client.post(
            "/v1/skills/mcp/call", {"name": "greet", "arguments": {"who": "Bo"}}
        )
        changed_s = client.skills.changed_s
    assert changed_s == listed["list_changed_at"]
    expected = {
        "name": "add",
        "description": "Does add.",
        "inputSchema": NUMBERS,
        "input_schema": NUMBERS,
        "namespace": "builtin",
        "version": "1.0.0",
        "requires_approval": False,
        "aliases": ["builtin/add", "builtin/add@1.0.0"],
    }
    assert expected == listed["tools"][0]
    assert "greet" not in [one["name"] for one in listed["tools"]]
    shown = [called[key] for key in ("skill_name", "kind", "ok", "output")]
    assert ["builtin/add@1.0.0", "internal", True, {"sum": 3}] == shown
    assert ("prompt", "Hello Bo") == (prompt["kind"], prompt["output"])


async def test_a_name_that_two_share_has_its_namespace(tmp_path: Path) -> None:
    """As models see functions; both can be called."""
    async with open_client(tmp_path) as client:
        client.skills.add(manifest("add", namespace="other.place"), lambda _: "other")
        names = [one["name"] for one in (await client.get("/v1/skills/mcp/tools"))["tools"]]
        called = await client.post("/v1/skills/mcp/call", {"name": "other_place__add"})
    assert {"builtin__add", "other_place__add"} <= set(names)
    assert "other.place/add@1.0.0" == called["skill_name"]


@pytest.mark.parametrize("path", ["/v1/skills/mcp/prompts/get", "/mcp/prompts/get"])
async def test_prompts_are_filled_in(tmp_path: Path, path: str) -> None:
    """In MCP's shape, with `ok`; a refusal is an answer without messages."""
    async with open_client(tmp_path) as client:
        filled = await client.post(path, {"name": "greet", "arguments": {"who": "Bo"}})
        lacking = await client.post(path, {"name": "greet"})
        await client.post(path, {"name": "add"}, 404)
    message = {"role": "user", "content": {"type": "text", "text": "Hello Bo"}}
    assert (True, [message]) == (filled["ok"], filled["messages"])
    assert (False, []) == (lacking["ok"], lacking["messages"])
    assert "who" in lacking["error"]


async def test_lists_of_the_root_are_those_below_v1(tmp_path: Path) -> None:
    """Prompts, documents and capabilities, with and without a body."""
    async with open_client(tmp_path) as client:
        for old, new in (
            ("/v1/skills/mcp/prompts", "/mcp/prompts/list"),
            ("/v1/skills/mcp/resources", "/mcp/resources/list"),
            ("/v1/skills/mcp/capabilities", "/mcp/capabilities"),
        ):
            reply = await client.get(old)
            assert reply["ok"]
            assert reply == await client.post(new) == await client.post(new, {"cursor": "x"})
        prompts = await client.get("/v1/skills/mcp/prompts")
        resources = await client.get("/v1/skills/mcp/resources")
        can = await client.get("/v1/skills/mcp/capabilities")
    arguments = [
        {"name": "who", "description": "A name.", "required": True},
        {"name": "times", "description": "", "required": False},
    ]
    greet = {"name": "greet", "description": "Does greet.", "arguments": arguments}
    assert [greet] == prompts["prompts"]
    document = {
        "uri": "skill://builtin/add",
        "name": "builtin/add",
        "description": "Does add.",
        "mimeType": "text/markdown",
    }
    assert document == resources["resources"][0]
    assert {"tools", "prompts", "resources"} == set(can["capabilities"])


async def test_documents_are_read(tmp_path: Path) -> None:
    """By the address that the list gives; others are unknown."""
    async with open_client(tmp_path) as client:
        read = await client.post("/mcp/resources/read", {"uri": "skill://builtin/add"})
        unknown = await client.post("/mcp/resources/read", {"uri": "skill://a/b"}, 404)
        missing = await client.post("/mcp/resources/read", {}, 400)
    [content] = read["contents"]
    assert ("skill://builtin/add", "text/markdown") == (content["uri"], content["mimeType"])
    assert "input_schema:" in content["text"]
    assert (("not_found", "uri"), ("invalid-request", "uri")) == (
        refused(unknown),
        refused(missing),
    )


@pytest.mark.parametrize("name", ["name", "tool", "tool_name"])
@pytest.mark.parametrize("values", ["arguments", "input", "params"])
async def test_bridges_call_in_their_spelling(tmp_path: Path, name: str, values: str) -> None:
    """Whichever of the keys they use, with headers that name them."""
    async with open_client(tmp_path) as client:
        body = {name: "add", values: {"a": 1, "b": 2}, "timeout_sec": 5}
        reply = await client.post("/v1/skills/openclaw/invoke", body)
    shared = {**FLAGS, "error": None, "duration_ms": 2.0}
    expected = {"object": "openclaw.tool_result", "tool": "builtin/add@1.0.0", "ok": True}
    assert {**expected, "result": {"sum": 3}, **shared} == reply


async def test_the_inference_key_opens_all_of_it(tmp_path: Path) -> None:
    """Also the routes at the root, which read documents only."""
    async with open_client(tmp_path, inference_api_key="opta_sk_1") as client:
        for path in ("/v1/skills", "/v1/skills/mcp/tools"):
            await client.get(path, 401)
        await client.post("/mcp/resources/read", {"uri": "skill://builtin/add"}, 401)


async def test_fixed_paths_are_no_skills(tmp_path: Path) -> None:
    """The wrong method is told so, and nothing is taken for a skill's name."""
    async with open_client(tmp_path) as client:
        for path in ("mcp/call", "mcp/prompts/get", "openclaw/invoke", "add/execute"):
            await client.get(f"/v1/skills/{path}", 405)
