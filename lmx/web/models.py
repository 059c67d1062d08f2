"""``GET /v1/models`` and ``GET /v1/models/{id}`` on Quart: routable models, and nothing else.

Clients take a row as proof that a model is loaded, so neither aliases nor what is merely on disk
appears here.
"""

from typing import Any

from quart import Blueprint

from lmx.catalog.names import resolve_name
from lmx.daemon.loader import Loader
from lmx.daemon.model import Model
from lmx.errors import ModelNotFound


def model_routes(loader: Loader) -> Blueprint:
    """The routes over one loader."""
    routes = Blueprint("models", __name__)

    @routes.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [_row(model) for model in loader.routable]}

    @routes.get("/v1/models/<path:model_id>")
    async def show_model(model_id: str) -> dict[str, Any]:
        routable = {model.id: model for model in loader.routable}
        found = resolve_name(model_id, {key: m.spec.aliases for key, m in routable.items()})
        if found is None:
            raise ModelNotFound(f"The model {model_id!r} is not loaded", param="model")
        return _row(routable[found])

    return routes


def _row(model: Model) -> dict[str, Any]:
    row: dict[str, Any] = {"id": model.id, "object": "model", "created": 0, "owned_by": "lmx"}
    if model.ready is not None:
        info = model.ready.loaded.info
        row |= {
            "created": int(model.ready.loaded_at),
            "context_length": info.context_tokens,
            "max_concurrent_requests": info.max_sequences,
            "engine": info.engine,
        }
    return row
