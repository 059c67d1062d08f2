"""What the machine says of itself, and the reload of its settings."""

import msgspec
import structlog
from quart import Blueprint, Response

from lmx import __version__
from lmx.config import DeviceSettings
from lmx.daemon.hardware import Hardware
from lmx.daemon.live import LiveSettings, Reloaded
from lmx.daemon.telemetry import Telemetry
from lmx.schema.machine import (
    DeviceHardware,
    DeviceIdentity,
    DeviceReply,
    Discovery,
    DiscoveryAuth,
    DiscoveryEndpoints,
    HardwareSummary,
    ReloadReply,
)
from lmx.web.admin_views import gigabytes
from lmx.web.auth import read_head
from lmx.web.bodies import json_response
from lmx.web.exchange import Answer, Exchange
from lmx.web.hosts import split_authority
from lmx.web.services import Services

DEFAULT_PORT = 1234
PROBE_ORDER = ("/.well-known/opta-lmx", "/v1/discovery", "/readyz", "/healthz", "/v1/models")

log = structlog.get_logger("lmx.web")


class DiscoveryRoute:
    """``GET /.well-known/opta-lmx`` and ``GET /v1/discovery``.

    Args:
        services: What routes work with.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, exchange: Exchange) -> Answer:
        """Reads memory only, so that scans of a network get their answer at once."""
        loader, hardware = self._services.loader, self._services.hardware
        settings = self._services.live.current
        server = exchange.scope.get("server")
        port = server[1] if server else DEFAULT_PORT
        models = [model.id for model in loader.routable if model.ready is not None]
        auth = DiscoveryAuth(
            admin_key_required=bool(settings.security.admin_keys),
            inference_key_required=bool(settings.security.inference_keys),
        )
        needs_key = auth.admin_key_required or auth.inference_key_required
        document = Discovery(
            version=__version__,
            name=_name(settings.device, hardware),
            instance_id=f"{hardware.hostname}:{port}",
            security_profile="local-key" if needs_key else "open",
            ready=bool(models) and not self._services.dispatch.is_draining,
            loaded_models=models,
            loaded_model_count=len(models),
            in_flight_requests=self._services.dispatch.in_flight,
            auth=auth,
            endpoints=_endpoints(exchange),
            client_probe_order=list(PROBE_ORDER),
            hardware_summary=HardwareSummary(
                chip=hardware.chip_name,
                memory_gb=gigabytes(hardware.memory_bytes),
                metal=hardware.metal_available,
            ),
        )
        return Answer(msgspec.json.encode(document))


def machine_routes(services: Services) -> Blueprint:
    """``/admin/device`` and ``/admin/config/reload``.

    Args:
        services: What routes work with.
    """
    routes = Blueprint("machine", __name__, url_prefix="/admin")

    @routes.get("/device")
    async def device() -> Response:
        return json_response(_device_reply(services.live.current.device, services.hardware))

    @routes.post("/config/reload")
    async def reload() -> Response:
        changed = await reload_settings(services.live, services.telemetry)
        return json_response(
            ReloadReply(
                updated=changed.updated,
                needs_restart=changed.needs_restart,
                updated_keys=changed.updated_keys,
                needs_restart_keys=changed.needs_restart_keys,
                warnings=changed.warnings,
            )
        )

    return routes


async def reload_settings(live: LiveSettings, telemetry: Telemetry) -> Reloaded:
    """Read the settings again and tell who listens.

    Raises:
        ConfigError: The file is gone or holds a mistake; nothing has changed.
    """
    changed = await live.reload()
    log.info("config reloaded", updated=changed.updated, needs_restart=changed.needs_restart_keys)
    telemetry.publish(
        "config_reloaded",
        updated=changed.updated,
        routing_aliases=live.current.routing.aliases,
        memory_threshold=live.current.memory.critical_percent,
        log_level=live.current.logging.level,
    )
    return changed


def _device_reply(settings: DeviceSettings, hardware: Hardware) -> DeviceReply:
    identity = DeviceIdentity(
        name=_name(settings, hardware), purpose=settings.purpose, role=settings.role
    )
    memory_gb = gigabytes(hardware.memory_bytes)
    return DeviceReply(
        hardware=DeviceHardware(
            hostname=hardware.hostname,
            chip_name=hardware.chip_name,
            memory_gb=memory_gb,
            cpu_cores=hardware.cpu_cores,
            metal_available=hardware.metal_available,
            architecture=hardware.architecture,
            gpu_family=hardware.gpu_family,
        ),
        identity=identity,
        chip=hardware.chip_name,
        memory_gb=memory_gb,
        hostname=hardware.hostname,
        name=identity.name,
        purpose=identity.purpose,
        role=identity.role,
        os_version=hardware.os_version,
    )


def _endpoints(exchange: Exchange) -> DiscoveryEndpoints:
    """By the name that the client used: others may not resolve where it is."""
    authority = _authority(exchange)
    base = f"http://{authority}"
    return DiscoveryEndpoints(
        preferred_base_url=base,
        base_urls=[base],
        openai_base_url=f"{base}/v1",
        admin_base_url=f"{base}/admin",
        websocket_url=f"ws://{authority}/v1/chat/stream",
    )


def _authority(exchange: Exchange) -> str:
    host = split_authority(read_head(exchange.scope).text(b"host") or "")
    if host is not None:
        return f"{host.host}:{host.port}" if host.port else host.host
    address, port = exchange.scope.get("server") or ("127.0.0.1", DEFAULT_PORT)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _name(settings: DeviceSettings, hardware: Hardware) -> str:
    return settings.name or hardware.hostname
