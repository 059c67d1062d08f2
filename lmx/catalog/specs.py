"""What a person may write where a model is asked for, and what it means. Pure.

demo                       the embedded default
fake:NAME?key=value&...    the deterministic engine
path/to/model.gguf         a GGUF file
path/to/directory          an MLX model directory
anything else              an id, looked up on disk by `lmx.catalog.locate`
"""

from pathlib import Path
from typing import Literal

from msgspec import Struct

from lmx.catalog.manifest import DEMO_NAME
from lmx.errors import InvalidRequest

ModelKind = Literal["demo", "fake", "gguf", "directory", "id"]

DEMO = "demo"


class ModelSpec(Struct, frozen=True):
    """A model somebody asked for.

    Attributes:
        id: Canonical id, as `/v1/models` lists it.
        kind: How to find it.
        source: Path, query string of a fake model, or the id itself.
        aliases: Other exact names it answers to.
    """

    id: str
    kind: ModelKind
    source: str
    aliases: tuple[str, ...] = ()


def parse_spec(text: str) -> ModelSpec:
    """Read one model argument.

    Raises:
        InvalidRequest: It is empty or a fake model without a name.
    """
    text = text.strip()
    if text == DEMO:
        return ModelSpec(DEMO_NAME, "demo", DEMO, (DEMO,))
    if text.startswith("fake:"):
        name, _, query = text.removeprefix("fake:").partition("?")
        if not name:
            raise InvalidRequest("a fake model needs a name: fake:NAME?step_ms=5", param="model")
        return ModelSpec(name, "fake", query)
    if not text:
        raise InvalidRequest("the model's name is empty", param="model")
    if text.lower().endswith(".gguf"):
        return ModelSpec(Path(text).stem, "gguf", text)
    if text.startswith(("/", "./", "../", "~")):
        return ModelSpec(Path(text).name or text, "directory", text)
    return ModelSpec(text, "id", text)
