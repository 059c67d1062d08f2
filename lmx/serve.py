"""The composition root: builds the objects, opens the root nursery, stops in reverse order.

Reads top to bottom as the order of start. The port is bound and answers before any model is
loaded. A first signal drains and exits with status 0; a second one exits at once.
"""

import gc
import os
import resource
import signal
import time
from collections.abc import Sequence
from functools import partial

import msgspec
import structlog
import trio

from lmx import __version__
from lmx.catalog.specs import ModelSpec
from lmx.daemon.admin import ModelAdmin
from lmx.daemon.broadcaster import Broadcaster
from lmx.daemon.dispatch import Dispatch
from lmx.daemon.following import Follower
from lmx.daemon.gauge import Gauge
from lmx.daemon.guardian import Guardian
from lmx.daemon.hardware import Hardware, read_hardware
from lmx.daemon.jobs.arrivals import Arrivals
from lmx.daemon.jobs.downloads import Downloads
from lmx.daemon.jobs.quantizer import Quantizer
from lmx.daemon.live import LiveSettings
from lmx.daemon.loader import Loader
from lmx.daemon.log_tail import LogTail
from lmx.daemon.mdns import make_announcer
from lmx.daemon.meters import find_budget, make_meter
from lmx.daemon.naming import Names
from lmx.daemon.presence import Presence
from lmx.daemon.presets import Presets
from lmx.daemon.relief import ModelRelief
from lmx.daemon.restarts import keep_running
from lmx.daemon.restorer import Restorer
from lmx.daemon.telemetry import Telemetry
from lmx.daemon.vectors import VectorDesk
from lmx.errors import ConfigError
from lmx.skills.containment import Containment
from lmx.skills.desk import SkillDesk
from lmx.skills.mcp.clients import McpClients
from lmx.skills.mcp.host import McpHost
from lmx.skills.packaged import SEARCH_DOCUMENTS
from lmx.skills.search.documents import DocumentSearch
from lmx.web.app import Dispatcher
from lmx.web.auth import Gate
from lmx.web.barrier import contain
from lmx.web.door import Door
from lmx.web.events import EventHub
from lmx.web.machine import reload_settings
from lmx.web.resume import AnswerKeeper
from lmx.web.server import HttpServer, bind_sockets
from lmx.web.services import Services

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Connections, worker pipes and room to spare; macOS starts processes with 256.
WANTED_DESCRIPTORS = 65_536

log = structlog.get_logger("lmx.serve")


async def serve(
    live: LiveSettings,
    specs: Sequence[ModelSpec],
    *,
    presence: Presence,
    log_tail: LogTail,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the daemon until it is told to stop.

    Args:
        live: Everything configurable.
        specs: Models to load once the port answers.
        presence: Tells others of this daemon.
        log_tail: Where the last log lines are kept.
        task_status: Told the bound addresses as URLs.

    Raises:
        OSError: The address cannot be bound.

    Cancellation:
        Ends at once: workers are killed and reaped, connections reset.
    """
    _raise_descriptor_limit()
    settings = live.current
    sockets = bind_sockets(settings.server.host, settings.server.port)
    meter = make_meter()
    hardware = await trio.to_thread.run_sync(read_hardware)
    budget = await trio.to_thread.run_sync(find_budget, settings.memory, meter)
    services = _compose(live, hardware, log_tail, gauge=Gauge(meter), budget_bytes=budget)
    await services.skills.prepare()
    loader, dispatch = services.loader, services.dispatch
    relief = ModelRelief(loader, dispatch)
    guardian = Guardian(settings, loader.gauge, relief, telemetry=services.telemetry)
    broadcaster = _make_broadcaster(services)
    restorer = Restorer(loader, settings)
    server = HttpServer(Door(Dispatcher(services), _make_gate(services)), settings, sockets)
    live.listen(server.follow_settings)
    stop_requested = trio.Event()
    async with trio.open_nursery() as siblings:
        await siblings.start(partial(_watch_signals, stop_requested))
        siblings.start_soon(partial(keep_running, presence.run, name="signs of life"))
        await siblings.start(_watch_reload, services)
        siblings.start_soon(partial(keep_running, broadcaster.run, name="broadcaster"))
        await siblings.start(loader.run)
        await siblings.start(services.keeper.run)
        siblings.start_soon(partial(keep_running, guardian.run, name="memory guardian"))
        _keep_services(siblings, services)
        await _start_jobs(siblings, services)
        _settle_heap()
        async with trio.open_nursery() as http:
            urls = await http.start(server.run)
            log.info("listening", version=__version__, urls=urls, pid=os.getpid())
            await presence.tell_ready(urls)
            _announce(siblings, services, urls[0])
            await _load_first(services, specs)
            siblings.start_soon(partial(keep_running, restorer.run, name="loaded set"))
            task_status.started(urls)
            await stop_requested.wait()
            await presence.tell_stopping()
            await restorer.close()
            await _drain(server, services, drain_s=settings.server.drain_s)
        siblings.cancel_scope.cancel()
    log.info("stopped", **msgspec.structs.asdict(services.telemetry.statistics()))


def _make_gate(services: Services) -> Gate:
    return Gate(
        lambda: services.live.current.security,
        hostname=services.hardware.hostname,
        clock=time.monotonic,
        has_guests=lambda: services.box.is_connected,
    )


def _announce(siblings: trio.Nursery, services: Services, url: str) -> None:
    """Let the network know, if settings allow and it can reach us."""
    announcer = make_announcer(services.settings, services.hardware.hostname, url)
    if announcer is not None:
        siblings.start_soon(partial(keep_running, announcer.run, name="mDNS"))


async def _start_jobs(siblings: trio.Nursery, services: Services) -> None:
    """What goes on in the background for longer than any request, and over restarts."""
    arrivals, quantizer = services.arrivals, services.quantizer
    await arrivals.downloads.recall()
    await quantizer.recall()
    siblings.start_soon(partial(keep_running, services.admin.run, name="model administration"))
    siblings.start_soon(partial(keep_running, arrivals.run, name="loads of downloads"))
    siblings.start_soon(partial(keep_running, arrivals.downloads.run, name="downloads"))
    siblings.start_soon(partial(keep_running, quantizer.run, name="quantisations"))


def _keep_services(siblings: trio.Nursery, services: Services) -> None:
    """Start what requests lean on and may fail without ending the daemon."""
    for run, name in (
        (services.events.run, "event heartbeat"),
        (services.skills.run, "skills"),
        (services.mcp.run, "MCP server"),
        (services.mcp_clients.run, "MCP clients"),
    ):
        siblings.start_soon(partial(keep_running, run, name=name))


def _compose(
    live: LiveSettings,
    hardware: Hardware,
    log_tail: LogTail,
    *,
    gauge: Gauge,
    budget_bytes: int,
) -> Services:
    """What requests are served with; nothing of it runs yet."""
    settings = live.current
    telemetry = Telemetry()
    loader = Loader(
        settings,
        telemetry,
        gauge=gauge,
        budget_bytes=budget_bytes,
        names=Names(lambda: settings.routing),
    )
    live.listen(Follower(settings, loader).follow)
    dispatch = Dispatch(loader, telemetry, settings)
    admin = ModelAdmin(loader)
    downloads = Downloads(
        settings.home, lambda: settings.downloads, telemetry=telemetry, shelf=loader.shelf
    )
    live.listen(downloads.follow_settings)
    mcp_clients = McpClients(settings.skills)
    box = Containment(settings.home, secrets=live.files)
    skills = _make_skills(live, dispatch, loader, telemetry=telemetry, tools=mcp_clients, box=box)
    live.listen(lambda: skills.follow_settings(settings.skills))
    return Services(
        settings=settings,
        live=live,
        hardware=hardware,
        loader=loader,
        dispatch=dispatch,
        telemetry=telemetry,
        admin=admin,
        arrivals=Arrivals(admin, downloads),
        quantizer=Quantizer(admin, telemetry, lambda: settings.downloads),
        events=EventHub(telemetry, settings),
        keeper=AnswerKeeper(settings),
        vectors=VectorDesk(dispatch, loader, settings),
        log_tail=log_tail,
        presets=Presets(settings),
        skills=skills,
        box=box,
        mcp=McpHost(skills),
        mcp_clients=mcp_clients,
    )


def _make_skills(
    live: LiveSettings,
    dispatch: Dispatch,
    loader: Loader,
    *,
    telemetry: Telemetry,
    tools: McpClients,
    box: Containment,
) -> SkillDesk:
    """The skills, with a search that may have an embedding model of its own."""
    settings, searching = live.current.skills, live.current
    models = searching.models
    if settings.search_model is not None:
        models = msgspec.structs.replace(models, embedding_model=settings.search_model)
        searching = msgspec.structs.replace(searching, models=models)
    search = DocumentSearch(
        settings,
        VectorDesk(dispatch, loader, searching),
        box,
        has_reranker=models.rerank_model is not None,
    )
    return SkillDesk(
        settings,
        live.current.home,
        box=box,
        telemetry=telemetry,
        internal={SEARCH_DOCUMENTS: search},
        mcp=tools,
    )


async def _load_first(services: Services, specs: Sequence[ModelSpec]) -> None:
    for spec in specs:
        services.loader.load(spec)
    await services.presets.reload()
    services.presets.load_into(services.loader)


def _make_broadcaster(services: Services) -> Broadcaster:
    loader, dispatch = services.loader, services.dispatch
    return Broadcaster(
        services.telemetry,
        running=lambda: dispatch.running,
        reading=lambda: loader.reading,
        is_loading=lambda: loader.is_loading,
    )


async def _drain(server: HttpServer, services: Services, *, drain_s: float) -> None:
    """Let running requests finish, tell those that do not, and end the HTTP server."""
    dispatch = services.dispatch
    log.info("stopping", in_flight=dispatch.in_flight, drain_s=drain_s)
    server.stop_accepting()
    dispatch.drain()
    with trio.move_on_after(drain_s):
        await dispatch.wait_idle()
        await services.skills.wait_idle()
    dispatch.revoke()
    server.close()


async def _watch_signals(
    stop_requested: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        task_status.started()
        async for number in signals:
            if stop_requested.is_set():
                os._exit(128 + number)  # workers end with their pipes
            stop_requested.set()


async def _watch_reload(
    services: Services, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Read the settings again at SIGHUP; a mistake in them is logged and changes nothing."""

    async def reload() -> None:
        try:
            await reload_settings(services.live, services.telemetry)
        except ConfigError as error:
            log.warning("config not reloaded", reason=error.message)

    def fail(error: Exception) -> None:
        log.error("config not reloaded", exc_info=error)

    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            await contain(reload, fail)


def _settle_heap() -> None:
    """Leave what was built for the daemon's life out of all later garbage collections.

    A full one would look at each of these objects, and every stream would stand still for as long:
    35 ms on two cores.
    """
    gc.collect()
    gc.freeze()


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, WANTED_DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
