"""The admin routes that manage models, on Quart: they are few and slow, and need no speed.

No outcome is answered with a status that clients repeat by themselves, such as 503: they would try
again twice and then lose the reason.
"""

from collections.abc import Mapping

import msgspec
from quart import Blueprint, Response, request
from werkzeug.routing import BaseConverter, PathConverter

from lmx import __version__
from lmx.catalog.inventory import InventoryRow
from lmx.catalog.names import resolve_name
from lmx.daemon.admin import memory_bytes
from lmx.daemon.cards import read_card
from lmx.daemon.compatibility import backend_name
from lmx.daemon.dispatch import Dispatch
from lmx.daemon.jobs.arrivals import Arrivals
from lmx.daemon.jobs.downloads import coming_rows
from lmx.daemon.jobs.record import LoadWish
from lmx.daemon.model import LoadOptions, Model, ReadyModel
from lmx.errors import LoadCrashed, ModelNotFound
from lmx.schema.admin import (
    AdminModels,
    AdminStatus,
    DeleteReply,
    LoadReply,
    ProbeCandidate,
    ProbeReply,
    UnloadReply,
)
from lmx.schema.admin_requests import (
    parse_compatibility_query,
    parse_load_request,
    parse_probe_request,
    parse_unload_request,
)
from lmx.web.admin_views import (
    available_rows,
    compatibility_reply,
    gigabytes,
    inventory_rows,
    loaded_rows,
    loading_rows,
    machine_memory,
    memory_reply,
    performance_reply,
    ready_models,
)
from lmx.web.auth import check_unrestrained
from lmx.web.bodies import json_response, read_body
from lmx.web.card_views import card_reply
from lmx.web.jobs import ACCEPTED, pending_reply


class ModelIdConverter(PathConverter):
    """An id in a path: it may hold slashes and, being a path itself, begin with one."""

    regex = ".+?"
    part_isolating = False


class DeletableIdConverter(ModelIdConverter):
    """An id that is no other route of these."""

    regex = (
        r"(?!(?:available|compatibility|downloads?|download/preview|load|load/confirm|probe|unload)\Z)"
        r"(?!.*/(?:card|performance)\Z)(?!download/.*/(?:cancel|progress)\Z)"
        + ModelIdConverter.regex
    )
    part_isolating = False


class PresetNameConverter(BaseConverter):
    """A preset's name that is no other route of presets."""

    regex = r"(?!reload\Z)[^/]+"
    part_isolating = False


class SessionIdConverter(BaseConverter):
    """A session's id that is no other route of sessions."""

    regex = r"(?!search\Z)[^/]+"
    part_isolating = False


CONVERTERS: Mapping[str, type[BaseConverter]] = {
    "model_id": ModelIdConverter,
    "deletable_id": DeletableIdConverter,
    "preset_name": PresetNameConverter,
    "session_id": SessionIdConverter,
}


def admin_routes(arrivals: Arrivals, dispatch: Dispatch) -> Blueprint:
    """The routes, for an application that knows `CONVERTERS`.

    Args:
        arrivals: Does what is asked.
        dispatch: Knows the running requests.
    """
    routes = Blueprint("admin", __name__, url_prefix="/admin")
    views = AdminRoutes(arrivals, dispatch)
    routes.get("/status")(views.status)
    routes.get("/memory")(views.memory)
    routes.get("/models")(views.models)
    routes.get("/models/available")(views.available)
    routes.get("/models/compatibility")(views.compatibility)
    routes.get("/models/<model_id:model_id>/performance", merge_slashes=False)(views.performance)
    routes.get("/models/<model_id:model_id>/card", merge_slashes=False)(views.card)
    routes.post("/models/load")(views.load)
    routes.post("/models/unload")(views.unload)
    routes.post("/models/probe")(views.probe)
    routes.delete("/models/<deletable_id:model_id>", merge_slashes=False)(views.delete)
    return routes


class AdminRoutes:
    """The handlers.

    Args:
        arrivals: Does what is asked.
        dispatch: Knows the running requests.
    """

    def __init__(self, arrivals: Arrivals, dispatch: Dispatch) -> None:
        self._arrivals = arrivals
        self._admin = admin = arrivals.admin
        self._loader = admin.loader
        self._dispatch = dispatch
        self._uptime = admin.loader.telemetry.uptime

    async def status(self) -> Response:
        """``GET /admin/status``."""
        loader = self._loader
        ready = [ready for _, ready in ready_models(loader)]
        queued = sum(one.admission.waiting_count for one in ready)
        slots = sum(one.loaded.info.max_sequences for one in ready)
        reply = AdminStatus(
            version=__version__,
            uptime_seconds=self._uptime.seconds,
            loaded_models=len(ready),
            models_loaded=len(ready),
            models=[model.id for model in loader.routable],
            loading=loading_rows(loader),
            memory=machine_memory(loader),
            in_flight_requests=self._dispatch.in_flight,
            waiting_requests=queued + sum(m.waiting_count for m in loader.models.values()),
            max_concurrent_requests=slots or loader.settings.models.max_sequences,
        )
        return json_response(reply)

    async def memory(self) -> Response:
        """``GET /admin/memory``."""
        return json_response(memory_reply(self._loader))

    async def models(self) -> Response:
        """``GET /admin/models``."""
        inventory = await self._inventory()
        loaded = loaded_rows(self._loader)
        reply = AdminModels(
            loaded=loaded,
            count=len(loaded),
            loading=loading_rows(self._loader),
            models=inventory_rows(inventory, self._loader),
        )
        return json_response(reply)

    async def available(self) -> Response:
        """``GET /admin/models/available``."""
        return json_response(available_rows(await self._inventory()))

    async def compatibility(self) -> Response:
        """``GET /admin/models/compatibility``."""
        query = parse_compatibility_query(request.args)
        return json_response(compatibility_reply(self._admin.compatibility.attempts(), query))

    async def performance(self, model_id: str) -> Response:
        """``GET /admin/models/{model}/performance``."""
        ready = {model.id: (model, ready) for model, ready in ready_models(self._loader)}
        found = resolve_name(model_id, {key: m.spec.aliases for key, (m, _) in ready.items()})
        if found is None:
            raise ModelNotFound(f"The model {model_id!r} is not loaded", param="model_id")
        return json_response(performance_reply(*ready[found], self._loader.settings))

    async def card(self, model_id: str) -> Response:
        """``GET /admin/models/{model}/card``."""
        return json_response(card_reply(await read_card(self._admin, model_id), self._loader))

    async def load(self) -> Response:
        """``POST /admin/models/load``: answers when the model is loaded or will not be.

        Of a model that is not here it says what a download would mean, or waits for that, too.
        """
        asked = await read_body(parse_load_request)
        options = LoadOptions(
            context_tokens=asked.max_context_length,
            keep_alive_s=asked.keep_alive_s,
            performance=asked.performance_overrides or {},
        )
        wish = LoadWish(name=asked.name or "", backend=asked.format, options=options)
        found = await self._arrivals.load(wish)
        if not isinstance(found, Model) and asked.waits_for_download:
            check_unrestrained(request.scope)
            found = await self._arrivals.finish(found, wish)
        if not isinstance(found, Model):
            return json_response(pending_reply(found), ACCEPTED)
        model = found
        if model.ready is None:
            raise LoadCrashed(f"{model.id} came up and left again")
        return json_response(self._load_reply(model, model.ready))

    async def unload(self) -> Response:
        """``POST /admin/models/unload``: answers when the memory is back."""
        asked = await read_body(parse_unload_request)
        gone = await self._admin.unload(asked.name)
        freed = gigabytes(gone.freed_bytes)
        return json_response(
            UnloadReply(model_id=gone.model_id, memory_freed_gb=freed, freed_vram_gb=freed)
        )

    async def probe(self) -> Response:
        """``POST /admin/models/probe``."""
        asked = await read_body(parse_probe_request)
        model_id, trials = await self._admin.probe(asked.name or "", limit_s=asked.timeout_s)
        passed = [trial.backend for trial in trials if trial.outcome == "pass"]
        reply = ProbeReply(
            model_id=model_id,
            recommended_backend=passed[0] if passed else None,
            candidates=[ProbeCandidate(**msgspec.structs.asdict(trial)) for trial in trials],
        )
        return json_response(reply)

    async def delete(self, model_id: str) -> Response:
        """``DELETE /admin/models/{model}``."""
        deleted_id, freed = await self._arrivals.delete(model_id)
        return json_response(DeleteReply(model_id=deleted_id, freed_bytes=freed))

    async def _inventory(self) -> list[InventoryRow]:
        """What is on disk, and what is on its way there."""
        rows = await self._admin.inventory()
        known = {row.id for row in rows}
        coming = coming_rows(self._arrivals.downloads.jobs)
        return [*rows, *(row for row in coming if row.id not in known)]

    def _load_reply(self, model: Model, ready: ReadyModel) -> LoadReply:
        load_ms = round(1000 * ready.load_s, 1)
        return LoadReply(
            model_id=model.id,
            model=model.id,
            memory_after_load_gb=machine_memory(self._loader).used_gb,
            time_to_load_ms=load_ms,
            load_time_ms=load_ms,
            vram_gb=gigabytes(memory_bytes(ready)),
            backend=backend_name(ready.loaded.info.engine),
            context_length=ready.loaded.info.context_tokens,
        )
