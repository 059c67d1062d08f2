"""The lives of the MCP server: none before it is asked for, and another after each that fails."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NoReturn

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lmx.config import Settings
from lmx.daemon.restarts import keep_running
from lmx.errors import LmxError
from lmx.skills.mcp.host import GONE, START_LIMIT_S, McpHost
from lmx.web.exchange import Exchange, run_exchange
from lmx.web.mcp import McpRoute
from tests.lifecycle import HOME
from tests.scripted_skills import ScriptedSkills


class Life:
    """One life of a server that answers nothing.

    Attributes:
        failure: Set to end the life.
        requests: Scopes of what is being answered.
    """

    def __init__(self, _: Any) -> None:
        self.failure = trio.Event()
        self.requests: list[Any] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        yield

    async def watch(self) -> NoReturn:
        await self.failure.wait()
        raise ValueError("a fault of the SDK")

    async def handle(self, scope: Any, *_: Any) -> None:
        self.requests.append(scope)
        await trio.sleep_forever()


class Lives:
    """Makes lives, and knows them."""

    def __init__(self) -> None:
        self.made: list[Life] = []

    def load(self) -> Any:
        return self.make

    def make(self, skills: Any) -> Life:
        self.made.append(Life(skills))
        return self.made[-1]


async def _nothing(*_: Any) -> Any:
    await trio.lowlevel.checkpoint()


async def test_nothing_is_loaded_before_it_is_asked_for(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    """An hour passes, and the SDK is still not there."""
    lives = Lives()
    nursery.start_soon(McpHost(ScriptedSkills(), load=lives.load).run)
    await trio.sleep(3600)
    assert [] == lives.made


async def test_a_failed_life_ends_its_requests_and_is_followed_by_another(
    nursery: trio.Nursery,
) -> None:
    """What runs for a request learns that nobody waits; the next request is served again."""
    lives = Lives()
    host = McpHost(ScriptedSkills(), load=lives.load)
    nursery.start_soon(partial(keep_running, host.run, name="MCP server"))
    scope: dict[str, Any] = {}
    with trio.fail_after(10):
        async with trio.open_nursery() as requests:
            requests.start_soon(host.handle, scope, _nothing, _nothing)
            while not lives.made or not lives.made[0].requests:  # noqa: ASYNC110  # a thread loads
                await trio.sleep(0.001)
            assert not scope[GONE].is_set()
            lives.made[0].failure.set()
        assert scope[GONE].is_set()
        async with trio.open_nursery() as requests:
            requests.start_soon(host.handle, {}, _nothing, _nothing)
            while len(lives.made) < 2 or not lives.made[1].requests:  # noqa: ASYNC110
                await trio.sleep(0.001)
            requests.cancel_scope.cancel()


async def test_a_client_that_leaves_is_gone(nursery: trio.Nursery) -> None:
    """The cancellation of a request is told to what runs for it."""
    lives = Lives()
    host = McpHost(ScriptedSkills(), load=lives.load)
    nursery.start_soon(host.run)
    scope: dict[str, Any] = {}
    with trio.fail_after(10):
        async with trio.open_nursery() as requests:
            requests.start_soon(host.handle, scope, _nothing, _nothing)
            while GONE not in scope:  # noqa: ASYNC110  # a thread loads
                await trio.sleep(0.001)
            requests.cancel_scope.cancel()
    assert scope[GONE].is_set()


async def test_a_server_that_does_not_start_is_an_error(autojump_clock: object) -> None:
    """After a while, and not for ever."""
    host = McpHost(ScriptedSkills(), load=Lives().load)  # nobody runs it
    began_s = trio.current_time()
    with pytest.raises(LmxError, match="did not start"):
        await host.handle({}, _nothing, _nothing)
    assert trio.current_time() - began_s == pytest.approx(START_LIMIT_S)
    await wait_all_tasks_blocked()


async def test_its_client_is_told_that_the_server_did_not_start(autojump_clock: object) -> None:
    """In the sentence of the host, as the answer to the request."""
    host = McpHost(ScriptedSkills(), load=Lives().load)  # nobody runs it
    sent: list[Any] = []
    unread = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive() -> Any:
        if not unread:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return unread.pop()

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": [], "state": {}, "extensions": {}}
    route = McpRoute(host, Settings(home=HOME), trio.sleep_forever)
    await run_exchange(route, Exchange(scope, receive, send), body_limit=1000)
    assert 500 == sent[0]["status"]
    assert b"did not start" in sent[1]["body"]
