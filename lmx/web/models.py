"""``GET /v1/models`` and ``GET /v1/models/{id}`` on Quart: routable models, and nothing else.

Clients take a row as proof that a model is loaded, so neither aliases nor what is merely on disk
appears here.
"""

from quart import Blueprint, Response

from lmx.catalog.names import resolve_name
from lmx.daemon.loader import Loader
from lmx.daemon.model import Model
from lmx.errors import ModelNotFound
from lmx.schema.status import ModelList, ModelRow
from lmx.web.bodies import json_response

OWNER = "lmx"


def model_routes(loader: Loader) -> Blueprint:
    """The routes over one loader."""
    routes = Blueprint("models", __name__)

    @routes.get("/v1/models")
    async def list_models() -> Response:
        return json_response(ModelList(data=[_row(model) for model in loader.routable]))

    @routes.get("/v1/models/<path:model_id>")
    async def show_model(model_id: str) -> Response:
        routable = {model.id: model for model in loader.routable}
        aliases = {key: m.spec.aliases for key, m in routable.items()}
        for name in loader.names.candidates(model_id):
            if (found := resolve_name(name, aliases)) is not None:
                return json_response(_row(routable[found]))
        raise ModelNotFound(f"The model {model_id!r} is not loaded", param="model")

    return routes


def _row(model: Model) -> ModelRow:
    if model.ready is None:
        return ModelRow(id=model.id, created=0, owned_by=OWNER)
    info = model.ready.loaded.info
    return ModelRow(
        id=model.id,
        created=int(model.ready.loaded_at),
        owned_by=OWNER,
        context_length=info.context_tokens,
        max_concurrent_requests=info.max_sequences,
        engine=info.engine,
        purpose=info.purpose,
    )
