"""One model looked at closely: what it is made of, what it speaks, what a load would take.

For models on disk, loaded or not; a fake model has no files and so no more than its name. Nothing
is loaded or converted for it.
"""

import trio
from msgspec import Struct

from lmx.catalog.anatomy import Anatomy, read_anatomy
from lmx.catalog.embedded import EMBEDDED
from lmx.catalog.locate import Located, locate
from lmx.catalog.memory_plan import MemoryPlan
from lmx.catalog.specs import ModelSpec
from lmx.config import Settings
from lmx.daemon.admin import ModelAdmin
from lmx.daemon.sources import Source
from lmx.errors import ModelNotFound
from lmx.text.dialects import PLAIN, Dialect, choose_dialect

ENGINE = {"mlx": "mlx", "gguf": "llama"}


class Card(Struct, frozen=True):
    """What is known of a model.

    Attributes:
        model_id: Canonical.
        anatomy: Of its files; `None` for a fake model.
        dialect: How it spells tools and reasoning, as far as its template tells.
        plan: What a load takes by the settings that hold now; `None` without files.
    """

    model_id: str
    anatomy: Anatomy | None = None
    dialect: Dialect = PLAIN
    plan: MemoryPlan | None = None


async def read_card(admin: ModelAdmin, name: str) -> Card:
    """Look at a model.

    Args:
        admin: Knows the models.
        name: As a load would take it.

    Raises:
        ModelNotFound: It is not on disk.
        LoadError: Its files cannot be read, or no engine knows them.
    """
    spec = await admin.find(name)
    if spec.kind == "fake":
        return Card(spec.id)
    located = await trio.to_thread.run_sync(_locate, spec, admin.loader.settings)
    anatomy = await trio.to_thread.run_sync(read_anatomy, located.path, located.format)
    source = Source(ENGINE[located.format], str(anatomy.path), anatomy.purpose)
    plan = await admin.loader.estimates.preview(source, spec.id)
    return Card(spec.id, anatomy, _dialect(anatomy), plan)


def _locate(spec: ModelSpec, settings: Settings) -> Located:
    if spec.kind != "embedded":
        return locate(spec, settings.home, settings.models.folders)
    directory = EMBEDDED[spec.source].find(settings.home)
    if directory is None:
        raise ModelNotFound(
            f"{spec.id} is not on this machine yet; `lmx import {spec.source}` fetches it",
            param="model_id",
        )
    return Located("mlx", directory)


def _dialect(anatomy: Anatomy) -> Dialect:
    return choose_dialect(anatomy.template or "", anatomy.special_tokens)
