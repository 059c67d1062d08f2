"""What a person may write where a model is asked for, and what it means. Pure.

demo, embedder             the embedded models, one for text and one for vectors
fake:NAME?key=value&...    the deterministic engine
path/to/model.gguf         a GGUF file, or any part of a split one
path/to/directory          a directory with an MLX model or GGUF files
anything else              an id, looked up on disk by `lmx.catalog.locate`

A directory and an id may end with the quantisation of a GGUF file: ``org/repo@q4_k_m`` as LM Studio
writes it, ``org/repo:Q4_K_M`` as Ollama does.
"""

from pathlib import Path
from typing import Literal

from msgspec import Struct

from lmx.catalog.embedded import EMBEDDED
from lmx.catalog.gguf_names import is_gguf, model_name, parse_variant
from lmx.config import Backend
from lmx.errors import InvalidRequest
from lmx.protocol.values import Purpose

ModelKind = Literal["embedded", "fake", "gguf", "directory", "id"]


class ModelSpec(Struct, frozen=True):
    """A model somebody asked for.

    Attributes:
        id: Canonical id, as `/v1/models` lists it.
        kind: How to find it.
        source: Path, query string of a fake model, word of an embedded one, or the id itself.
        aliases: Other exact names it answers to.
        backend: The format to load; ``auto`` prefers MLX. A fake model has none.
        variant: The quantisation of the GGUF file to load, in lower case; empty for the best.
        purpose: What it is for, once that is known.
    """

    id: str
    kind: ModelKind
    source: str
    aliases: tuple[str, ...] = ()
    backend: Backend = "auto"
    variant: str = ""
    purpose: Purpose | None = None


def parse_spec(text: str, backend: Backend = "auto") -> ModelSpec:
    """Read one model argument.

    Args:
        text: What the person wrote.
        backend: The format to load, where a model is there in several.

    Raises:
        InvalidRequest: It is empty or a fake model without a name.
    """
    text = text.strip()
    if embedded := EMBEDDED.get(text):
        purpose = embedded.purpose
        return ModelSpec(embedded.name, "embedded", text, (text,), backend, purpose=purpose)
    if text.startswith("fake:"):
        name, _, query = text.removeprefix("fake:").partition("?")
        if not name:
            raise InvalidRequest("a fake model needs a name: fake:NAME?step_ms=5", param="model")
        return ModelSpec(name, "fake", query)
    if not text:
        raise InvalidRequest("the model's name is empty", param="model")
    if is_gguf(text):
        return ModelSpec(model_name(text) or text, "gguf", text, backend=backend)
    source, variant = _split_variant(text)
    is_path = text.startswith(("/", "./", "../", "~"))
    name = (Path(source).name or source) if is_path else source
    model_id = f"{name}@{variant}" if variant else name
    aliases = (text,) if variant and not is_path and text != model_id else ()
    kind: ModelKind = "directory" if is_path else "id"
    return ModelSpec(model_id, kind, source, aliases, backend, variant)


def _split_variant(text: str) -> tuple[str, str]:
    """A name and the quantisation behind it, or the text as it is and nothing."""
    for separator in "@:":
        source, found, behind = text.rpartition(separator)
        variant = parse_variant(behind) if found and source else None
        if variant:
            return source, variant
    return text, ""
