"""``/mcp`` on the wire: what clients without the SDK are answered, and what is refused."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from lmx.skills.mcp.host import MESSAGE_BYTES
from tests.http.skill_app import App, open_app

LIMIT_S = 20
ACCEPT = "application/json, text/event-stream"
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
CANCELLED = -32800


class Wire:
    """A client of one application.

    Attributes:
        app: Whom it talks to.
        session: Its session, once it has one.
    """

    def __init__(self, app: App, http: httpx2.AsyncClient) -> None:
        self.app = app
        self.session = ""
        self._http = http

    async def send(self, body: Any, *, method: str = "POST", **headers: str) -> httpx2.Response:
        """One request; a body that is no bytes is sent as JSON."""
        named = {"accept": ACCEPT, "content-type": "application/json", "host": "lmx"}
        named |= {"mcp-session-id": self.session} if self.session else {}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self._http.request(
            method, f"{self.app.url}/mcp", content=content, headers=named
        )

    async def call(self, method: str, params: Any = None, identity: int = 7) -> Mapping[str, Any]:
        """A request within the session, and the message that answers it."""
        body = {"jsonrpc": "2.0", "id": identity, "method": method}
        reply = await self.send(body if params is None else {**body, "params": params})
        assert 200 == reply.status_code, reply.text
        message = message_of(reply)
        assert ("2.0", identity) == (message["jsonrpc"], message["id"])
        return message

    async def begin(self, version: str = "2025-06-18") -> Mapping[str, Any]:
        """Open a session; what it was answered."""
        params = {"protocolVersion": version, "capabilities": {}}
        params["clientInfo"] = {"name": "wire", "version": "1"}
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        reply = await self.send(body)
        assert 200 == reply.status_code, reply.text
        self.session = reply.headers["mcp-session-id"]
        told = await self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert (202, b"") == (told.status_code, told.content)
        result: Mapping[str, Any] = message_of(reply)["result"]
        return result


def message_of(reply: httpx2.Response) -> Mapping[str, Any]:
    """The last message of an answer, whether it is a stream or a document."""
    if reply.headers["content-type"].startswith("application/json"):
        document: Mapping[str, Any] = reply.json()
        return document
    lines = [line for line in reply.text.splitlines() if line.startswith("data: ")]
    message: Mapping[str, Any] = json.loads(lines[-1].removeprefix("data: "))
    return message


@asynccontextmanager
async def open_wire(home: Path, **given: Any) -> AsyncIterator[Wire]:
    """An application and a client of it, within a time."""
    with trio.fail_after(LIMIT_S):
        async with (
            open_app(home, **given) as app,
            httpx2.AsyncClient(verify=False, timeout=LIMIT_S) as http,
        ):
            yield Wire(app, http)


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_known_versions_are_agreed_to(tmp_path: Path, version: str) -> None:
    """The client's version is ours, and the session works."""
    async with open_wire(tmp_path) as wire:
        assert version == (await wire.begin(version))["protocolVersion"]
        assert "tools" in (await wire.call("tools/list"))["result"]


async def test_an_unknown_version_gets_a_counter_offer(tmp_path: Path) -> None:
    """The newest with sessions, as the specification asks."""
    async with open_wire(tmp_path) as wire:
        assert "2025-11-25" == (await wire.begin("1999-01-01"))["protocolVersion"]


async def test_a_version_header_that_nobody_speaks_is_refused(tmp_path: Path) -> None:
    """With the versions that stand alone."""
    async with open_wire(tmp_path) as wire:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        reply = await wire.send(body, mcp_protocol_version="2099-01-01")
        assert 400 == reply.status_code
        assert "error" in reply.json()


async def test_errors_of_requests_have_their_codes(tmp_path: Path) -> None:
    """Unknown methods and parameters that do not fit; the session lives on."""
    async with open_wire(tmp_path) as wire:
        await wire.begin()
        unknown = await wire.call("tools/explode")
        assert METHOD_NOT_FOUND == unknown["error"]["code"]
        for params in ({}, {"name": 5}, {"name": "add", "arguments": [1]}):
            wrong = await wire.call("tools/call", params)
            assert INVALID_PARAMS == wrong["error"]["code"], params
        assert {} == (await wire.call("ping"))["result"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", PARSE_ERROR),
        (b"{", PARSE_ERROR),
        (b"\xff\xfe", PARSE_ERROR),
        (b"[" * 5000, PARSE_ERROR),
        (b"[]", INVALID_PARAMS),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', INVALID_PARAMS),
        (b'{"id":1,"method":"ping"}', INVALID_PARAMS),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', INVALID_PARAMS),
        (b'"text"', INVALID_PARAMS),
    ],
)
async def test_what_is_no_message_is_refused(tmp_path: Path, body: bytes, code: int) -> None:
    """In a session and without one, as a JSON-RPC error under status 400."""
    async with open_wire(tmp_path) as wire:
        for _ in range(2):
            reply = await wire.send(body)
            assert (400, code) == (reply.status_code, reply.json()["error"]["code"])
            await wire.begin()
        assert {} == (await wire.call("ping"))["result"]


async def test_headers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Both media types have to be accepted, and JSON has to be sent."""
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    async with open_wire(tmp_path) as wire:
        await wire.begin()
        assert 406 == (await wire.send(ping, accept="application/json")).status_code
        assert 406 == (await wire.send(ping, accept="text/html")).status_code
        assert 400 == (await wire.send(ping, content_type="text/plain")).status_code
        assert 406 == (await wire.send(b"", method="GET", accept="text/html")).status_code
        refused = await wire.send(ping, method="PUT")
        assert 405 == refused.status_code
        assert {"GET", "POST", "DELETE"} <= set(refused.headers["allow"].split(", "))


async def test_sessions_are_demanded_and_end(tmp_path: Path) -> None:
    """Without one nothing but `initialize` works; a deleted one is unknown ever after."""
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    async with open_wire(tmp_path) as wire:
        missing = await wire.send(ping)
        assert (400, INVALID_REQUEST) == (missing.status_code, missing.json()["error"]["code"])
        assert 404 == (await wire.send(ping, mcp_session_id="unknown")).status_code
        await wire.begin()
        assert 200 == (await wire.send(b"", method="DELETE")).status_code
        assert 404 == (await wire.send(ping)).status_code
        assert 404 == (await wire.send(b"", method="DELETE")).status_code


async def test_a_deleted_session_ends_its_runs(tmp_path: Path) -> None:
    """And the call that waits gets an answer or an end, not silence."""
    async with open_wire(tmp_path) as wire, trio.open_nursery() as nursery:
        await wire.begin()
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "sleep"}}
        nursery.start_soon(wire.send, call)
        await wire.app.skills.started.wait()
        await wire.send(b"", method="DELETE")
        await wire.app.skills.ended.wait()


async def test_a_cancellation_ends_the_run_and_the_answer(tmp_path: Path) -> None:
    """The stream of the call ends with a word about it, as clients of sessions need."""
    async with open_wire(tmp_path) as wire:
        await wire.begin()
        messages: list[Mapping[str, Any]] = []

        async def call() -> None:
            messages.append(await wire.call("tools/call", {"name": "sleep"}, identity=9))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await wire.app.skills.started.wait()
            note = {"jsonrpc": "2.0", "method": "notifications/cancelled"}
            await wire.send({**note, "params": {"requestId": 9}})
            await wire.app.skills.ended.wait()
        assert CANCELLED == messages[0]["error"]["code"]


async def test_sessions_are_counted_and_expire(tmp_path: Path) -> None:
    """One too many is refused; idle ones make room."""
    async with open_wire(tmp_path, sessions=2, idle_s=0.5) as wire:
        await wire.begin()
        first, wire.session = wire.session, ""
        await wire.begin()
        wire.session = ""
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
        full = await wire.send(body)
        assert 503 == full.status_code
        await trio.sleep(0.7)  # the idle time is the subject
        await wire.begin()
        assert 404 == (await wire.send(body, mcp_session_id=first)).status_code


async def test_a_body_is_bounded(tmp_path: Path) -> None:
    """Too large a message is refused as on every other route, and nothing else suffers."""
    async with open_wire(tmp_path) as wire:
        await wire.begin()
        large = await wire.send(b" " * (MESSAGE_BYTES + 1))
        assert (413, "body-too-large") == (large.status_code, large.json()["code"])
        assert {} == (await wire.call("ping"))["result"]


async def test_answers_carry_a_request_id(tmp_path: Path) -> None:
    """Like every other, which the audit log has too."""
    async with open_wire(tmp_path) as wire:
        reply = await wire.send(b"{")
        assert reply.headers["x-request-id"].startswith("req_")


async def test_a_call_that_the_stop_cuts_is_told_so(tmp_path: Path) -> None:
    """Its run ends, and its answer too."""
    async with open_wire(tmp_path) as wire, trio.open_nursery() as nursery:
        await wire.begin()
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "sleep"}}
        nursery.start_soon(wire.send, call)
        await wire.app.skills.started.wait()
        wire.app.revoke()
        await wire.app.skills.ended.wait()


async def test_keys_and_hosts_are_checked_first(tmp_path: Path) -> None:
    """The inference key opens it, a foreign page and a foreign host name do not."""
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    async with open_wire(tmp_path, inference_api_key="opta_sk_1") as wire:
        assert 401 == (await wire.send(ping)).status_code
        opened = await wire.send(ping, authorization="Bearer opta_sk_1")
        assert (400, INVALID_REQUEST) == (opened.status_code, opened.json()["error"]["code"])
        assert 403 == (await wire.send(ping, host="evil.example")).status_code
        foreign = await wire.send(ping, origin="http://evil.example", x_api_key="opta_sk_1")
        assert 403 == foreign.status_code


async def test_a_stopping_daemon_ends_streams(tmp_path: Path) -> None:
    """A client that listens learns at once that nothing more comes."""
    async with open_wire(tmp_path) as wire, trio.open_nursery() as nursery:
        await wire.begin()

        async def listen() -> None:
            assert 200 == (await wire.send(b"", method="GET")).status_code
            nursery.cancel_scope.cancel()

        nursery.start_soon(listen)
        await wire.app.host.is_heard.wait()
        wire.app.revoke()
        with trio.fail_after(2):
            await trio.sleep_forever()
