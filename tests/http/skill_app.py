"""The daemon's HTTP side in the test's own process, with scripted skills behind it."""

from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from lmx.config import SecuritySettings, Settings
from lmx.daemon.gauge import Gauge
from lmx.daemon.hardware import read_hardware
from lmx.daemon.live import LiveSettings, SettingsSource
from lmx.daemon.log_tail import LogTail
from lmx.daemon.meters import make_meter
from lmx.daemon.restarts import keep_running
from lmx.serve import _compose
from lmx.skills.mcp.host import McpHost, Receive, Scope, Send
from lmx.skills.mcp.server import SkillServer
from lmx.web.app import Dispatcher
from lmx.web.auth import Gate
from lmx.web.door import Door
from lmx.web.server import HttpServer, bind_sockets
from lmx.web.services import Services
from tests.scripted_skills import ScriptedSkills

POLL_S = 0.02


class CountingHost(McpHost):
    """Knows whether a client listens.

    Attributes:
        is_heard: A client listens.
    """

    def __init__(self, skills: ScriptedSkills, *, load: Any) -> None:
        super().__init__(skills, load=load)
        self.is_heard = trio.Event()

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def count(message: MutableMapping[str, Any]) -> None:
            await send(message)
            if message["type"] == "http.response.start" and scope["method"] == "GET":
                self.is_heard.set()

        await super().handle(scope, receive, count)


class App:
    """The application, served.

    Attributes:
        url: Where.
        skills: What it serves.
        host: Its MCP server.
        revoke: What the daemon does to its streams when it stops.
    """

    def __init__(self, url: str, services: Services) -> None:
        self.url = url
        self.skills: Any = services.skills
        self.host: Any = services.mcp
        self.revoke = services.dispatch.revoke


@asynccontextmanager
async def open_app(
    home: Path, skills: Any = None, *, sessions: int = 8, idle_s: float = 60.0, **security: Any
) -> AsyncIterator[App]:
    """Serve scripted skills on a port of 127.0.0.1 while the block runs.

    Args:
        home: The daemon's home.
        skills: What is served; scripted ones by default.
        sessions: Most sessions of MCP.
        idle_s: How long one may be idle.
        security: Settings of that section.
    """
    skills = ScriptedSkills() if skills is None else skills
    security = {"allowed_hosts": ["lmx"], **security}
    settings = Settings(home=home, security=msgspec.convert(security, SecuritySettings))
    live = LiveSettings(SettingsSource(), settings, set_log_level=lambda _: None)
    make = partial(SkillServer, sessions=sessions, idle_s=idle_s, watch_s=POLL_S)
    host = CountingHost(skills, load=lambda: make)
    services = _compose(live, read_hardware(), LogTail(), gauge=Gauge(make_meter()), budget_bytes=1)
    skills.runs = services.skills.runs
    services = services._replace(skills=skills, mcp=host)
    gate = Gate(lambda: settings.security, hostname="lmx", clock=trio.current_time)
    sockets = bind_sockets("127.0.0.1", 0)
    server = HttpServer(Door(Dispatcher(services), gate), settings, sockets)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(keep_running, host.run, name="MCP server"))
        [url] = await nursery.start(server.run)
        yield App(url, services)
        nursery.cancel_scope.cancel()
