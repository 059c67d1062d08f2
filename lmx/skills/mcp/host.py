"""The MCP server as the daemon runs it: a task of the daemon, whatever becomes of its clients.

Sleeps until the first request for it, loads the SDK on a thread, and serves until it is cancelled.
Sessions and the runs of skills live in its task, so a fault of the SDK ends them and is logged, and
`lmx.daemon.restarts.keep_running` starts the next life. Requests of the old life end with it.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, NoReturn, Protocol

import structlog
import trio

from lmx.daemon.waiting import wait_first
from lmx.errors import LmxError
from lmx.skills.mcp import load_server
from lmx.skills.service import Skills

# The SDK is imported within a second, on a busy machine within some.
START_LIMIT_S = 30.0
# In a request's scope: an event that says that its client is gone or answered.
GONE = "lmx.gone"
# What one message may hold; it is parsed on the event loop.
MESSAGE_BYTES = 1024 * 1024

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = structlog.get_logger("lmx.mcp")


class McpServer(Protocol):
    """What the host runs; `lmx.skills.mcp.server.SkillServer` with the SDK."""

    def serving(self) -> AbstractAsyncContextManager[None]:
        """Sessions live within the block."""

    async def watch(self) -> NoReturn:
        """Tell clients of changes, for ever."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request, an ASGI call."""


class McpHost:
    """Owns the server's lives.

    Args:
        skills: What is served.
        load: Gives what makes a server of skills; blocks.
    """

    def __init__(
        self, skills: Skills, *, load: Callable[[], Callable[[Skills], McpServer]] = load_server
    ) -> None:
        self._skills = skills
        self._load = load
        self._is_wanted = trio.Event()
        self._has_started = trio.Event()
        self._has_ended = trio.Event()
        self._server: McpServer | None = None

    async def run(self) -> None:
        """Serve, once somebody asks. Raises whatever ends the server's life."""
        await self._is_wanted.wait()
        make = await trio.to_thread.run_sync(self._load)
        server = make(self._skills)
        try:
            async with server.serving():
                log.info("serving MCP")
                self._server, self._has_ended = server, trio.Event()
                self._has_started.set()
                await server.watch()
        finally:
            self._server, self._has_started = None, trio.Event()
            self._has_ended.set()

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for ``/mcp``.

        Raises:
            LmxError: The server did not start.

        Cancellation:
            Ends the run of a skill that the request asked for.
        """
        self._is_wanted.set()
        with trio.move_on_after(START_LIMIT_S):
            await self._has_started.wait()
        server, has_ended = self._server, self._has_ended
        if server is None:
            raise LmxError("The MCP server did not start; the log says why")
        gone = scope[GONE] = trio.Event()
        try:
            await wait_first(has_ended.wait, partial(server.handle, scope, receive, send))
        finally:
            gone.set()
