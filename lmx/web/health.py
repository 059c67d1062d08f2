"""Probes, as raw ASGI handlers: they depend on the event loop and on nothing else.

Liveness says that the loop turns; it never reports degradation. Readiness says whether a model can
answer.
"""

import msgspec
from msgspec import Struct

from lmx import __version__
from lmx.daemon.dispatch import Dispatch
from lmx.daemon.loader import Loader
from lmx.errors import OutOfMemory
from lmx.schema.status import Health, Index, Ready, Unready
from lmx.web.exchange import Answer, Exchange


class HealthRoutes:
    """``/healthz``, ``/readyz`` and the aliases.

    Args:
        loader: Knows the models.
        dispatch: Knows whether the daemon drains.
    """

    def __init__(self, loader: Loader, dispatch: Dispatch) -> None:
        self._loader = loader
        self._dispatch = dispatch
        self._uptime = loader.telemetry.uptime

    async def live(self, _exchange: Exchange) -> Answer:
        """``GET /healthz``: 200 while the loop turns."""
        return _json(
            Health(
                status="ok",
                version=__version__,
                uptime_seconds=self._uptime.seconds,
                loaded_models=len(self._loader.routable),
            )
        )

    async def ready(self, _exchange: Exchange) -> Answer:
        """``GET /readyz``: 200 while a model is routable and the daemon takes work."""
        routable = [model for model in self._loader.routable if model.ready is not None]
        if self._dispatch.is_draining:
            return self._unready("draining", "draining")
        if self._dispatch.is_short_of_memory:
            return self._unready("memory_critical", OutOfMemory.code)
        if not routable:
            is_loading = any(model.is_on_its_way for model in self._loader.models.values())
            errors = [model.error for model in self._loader.models.values()]
            oom = any(isinstance(error, OutOfMemory) for error in errors)
            reason = "loading" if is_loading else "no_models_loaded"
            return self._unready(reason, "oom-unloaded" if oom else "no-model-loaded")
        memory = [model.ready.loaded.memory.active_bytes for model in routable if model.ready]
        return _json(
            Ready(
                status="ready",
                ready=True,
                models_loaded=len(routable),
                model=routable[0].id,
                vram_gb=round(sum(memory) / 1e9, 3),
                version=__version__,
            )
        )

    async def index(self, _exchange: Exchange) -> Answer:
        """``GET /``: what this is."""
        index = Index(service="opta-lmx", version=__version__, openai_base_path="/v1")
        return _json(index)

    def _unready(self, reason: str, error: str) -> Answer:
        loading = [model.id for model in self._loader.models.values() if model.is_on_its_way]
        body = Unready(
            status="unavailable",
            ready=False,
            reason=reason,
            error=error,
            models_loaded=0,
            loading=loading,
            version=__version__,
        )
        return _json(body, status=503)


def _json(value: Struct, *, status: int = 200) -> Answer:
    return Answer(msgspec.json.encode(value), status)
