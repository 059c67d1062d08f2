"""The folders in which models are looked for, in order. Touches no disk.

Whoever finds one model by its id and whoever lists them all must agree on the places and on which
comes first, so both ask here.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from lmx.catalog.manifest import models_directory

# Of LM Studio: today's place, and the one of versions before 0.3.
LM_STUDIO = ("~/.lmstudio/models", "~/.cache/lm-studio/models")
HUB_PREFIX = "models--"


class Root(NamedTuple):
    """One place with models in it.

    Attributes:
        path: Absolute; it need not exist.
        layout: ``plain``, where an id is a relative path, or ``hub``, the Hugging Face cache.
        is_configured: Somebody named it, and should hear if it is not there.
    """

    path: Path
    layout: Literal["plain", "hub"]
    is_configured: bool = False


def model_roots(home: Path, extra: Sequence[str] = ()) -> list[Root]:
    """Every place, the first choice first.

    What somebody configured comes before what other programs happen to use.

    Args:
        home: ``LMX_HOME``.
        extra: Configured folders; a tilde is the user's home.
    """
    configured = {_absolute(path) for path in extra}
    own = [str(models_directory(home)), str(quantized_directory(home))]
    plain = [*own, *extra, "~/models", *LM_STUDIO]
    paths = dict.fromkeys(_absolute(path) for path in plain)
    return [
        *(Root(path, "plain", path in configured) for path in paths),
        Root(_absolute(_hub()), "hub"),
    ]


def quantized_directory(home: Path) -> Path:
    """Where models that LMX has quantised appear."""
    return home / "quantized"


def hub_name(model_id: str) -> str:
    """The name of a repository's folder in the Hugging Face cache."""
    return HUB_PREFIX + model_id.replace("/", "--")


def hub_id(name: str) -> str:
    """The id that `hub_name` makes that name of."""
    return name.removeprefix(HUB_PREFIX).replace("--", "/")


def _hub() -> str:
    """Where huggingface_hub keeps its cache, by the variables it reads."""
    named = os.environ.get("HF_HUB_CACHE")
    return named or str(Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub")


def _absolute(path: str) -> Path:
    # Unlike `Path.expanduser`, this leaves a tilde with the name of no user as it is.
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111
