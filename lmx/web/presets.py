"""``/admin/presets``: the presets there are, one of them, and reading them again."""

from quart import Blueprint, Response

from lmx.daemon.presets import Presets
from lmx.errors import EntryNotFound
from lmx.schema.presets import PresetList, PresetReload, describe_preset
from lmx.web.bodies import json_response


def preset_routes(presets: Presets) -> Blueprint:
    """The three routes.

    Args:
        presets: The presets in force.
    """
    routes = Blueprint("presets", __name__, url_prefix="/admin/presets")

    @routes.get("")
    async def list_presets() -> Response:
        shelved = presets.shelved
        rows = [describe_preset(preset) for preset in shelved.presets]
        return json_response(PresetList(rows, len(rows), len(rows), list(shelved.broken)))

    @routes.get("/<preset_name:name>")
    async def show(name: str) -> Response:
        preset = presets.find(name)
        if preset is None:
            raise EntryNotFound(f"there is no preset {name!r}", param="name")
        return json_response(describe_preset(preset))

    @routes.post("/reload")
    async def reload() -> Response:
        shelved = await presets.reload()
        names = [preset.name for preset in shelved.presets]
        success = not shelved.broken
        return json_response(
            PresetReload(success, len(names), names, len(names), list(shelved.broken))
        )

    return routes
