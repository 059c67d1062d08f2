"""Which draft model a model gets, and what it needs. Knows settings and files, no engines.

Whether it can draft at all the worker finds out, which loads the model without it if not.
"""

from typing import Literal

from msgspec import Struct

from lmx.catalog.locate import locate
from lmx.catalog.memory_plan import plan_mlx
from lmx.catalog.mlx_files import read_mlx
from lmx.catalog.specs import parse_spec
from lmx.config import Settings
from lmx.daemon.sources import Source
from lmx.errors import LmxError


class Draft(Struct, frozen=True):
    """A draft model.

    Attributes:
        path: What the worker is told; empty for none.
        size_bytes: Memory of its weights, and of its caches for one whole context.
    """

    path: str = ""
    size_bytes: int = 0


NOTHING = Draft()


def find_draft(
    settings: Settings, model_id: str, source: Source, *, device: Literal["cpu", "gpu"]
) -> Draft:
    """The draft model of a model. Reads files.

    One that cannot be found is passed on as it was named, so that the worker says why it cannot be
    loaded.

    Args:
        settings: Name it.
        model_id: Whose.
        source: The model itself. What a draft model needs is counted if MLX serves it.
        device: Where MLX computes.
    """
    name = settings.models.draft.get(model_id, "")
    if not name or not settings.models.speculation or source.purpose != "generation":
        return NOTHING
    if source.engine != "mlx":
        return Draft(name)
    try:
        path = locate(parse_spec(name, "mlx"), settings.home, settings.models.folders).path
        files = read_mlx(path)
        plan = plan_mlx(
            files.config,
            files.weight_bytes,
            context_tokens=settings.models.context_tokens,
            max_sequences=1,
            device=device,
        )
    except LmxError:
        return Draft(name)
    return Draft(str(path), plan.weights + plan.kv_cache + plan.transient)
