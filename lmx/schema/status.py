"""What the probes and the list of models answer."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from lmx.protocol.values import Purpose

Yes = Annotated[bool, Meta(extra_json_schema={"const": True})]
No = Annotated[bool, Meta(extra_json_schema={"const": False})]


class Index(Struct, frozen=True):
    """What this server is."""

    service: str
    version: str
    openai_base_path: str


class Health(Struct, frozen=True):
    """The event loop turns. Never says that anything is degraded."""

    status: Literal["ok"]
    version: str
    uptime_seconds: float
    loaded_models: int


class Ready(Struct, frozen=True):
    """A model can answer. `model` is the first that can."""

    status: Literal["ready"]
    ready: Yes
    models_loaded: int
    model: str
    vram_gb: float
    version: str


class Unready(Struct, frozen=True):
    """No model can answer, and why."""

    status: Literal["unavailable"]
    ready: No
    reason: str
    error: str
    models_loaded: int
    loading: list[str]
    version: str


class ModelRow(Struct, frozen=True, kw_only=True):
    """A model that can answer."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    context_length: int | UnsetType = UNSET
    max_concurrent_requests: int | UnsetType = UNSET
    engine: str | UnsetType = UNSET
    purpose: Purpose | UnsetType = UNSET


class ModelList(Struct, frozen=True, kw_only=True):
    """All models that can answer."""

    object: Literal["list"] = "list"
    data: list[ModelRow]
