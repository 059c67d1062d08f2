"""What the routes that manage models take: bodies and query strings.

An empty body is an empty object, because clients send a JSON content type without one. As in chat,
a field nobody reads is refused by name unless it is null.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from lmx.config import Backend
from lmx.errors import InvalidRequest, UnsupportedModel
from lmx.schema.admin import Outcome
from lmx.schema.fields import refuse_unknown
from lmx.schema.json_body import decode_body, parse_query

R = TypeVar("R", bound=Struct)

# What clients call the two formats; the first two are names of libraries, for the format they read.
BACKENDS: Mapping[str, Backend] = {
    "auto": "auto",
    "mlx": "mlx",
    "vllm-mlx": "mlx",
    "mlx-lm": "mlx",
    "gguf": "gguf",
}
DEFAULT_PROBE_S = 90.0
DEFAULT_ROWS = 200
# Keys of a query string that restrict nothing when they are empty.
NAMES = frozenset({"model_id", "backend"})

Name = Annotated[str, Meta(min_length=1, max_length=1024)]
Accepted = Annotated[Any, Meta(description="Accepted; it has no effect.")]


class ModelFields(Struct, kw_only=True):
    """A model's name under either of its keys; `model_id` counts if both are there."""

    model_id: Name | None = None
    model: Name | None = None

    @property
    def name(self) -> str | None:
        """The model that is meant, if any."""
        return self.model_id or self.model


class LoadRequest(ModelFields, kw_only=True):
    """What to load, and how."""

    backend: Annotated[
        str | None, Meta(description="One of auto, mlx, vllm-mlx, mlx-lm and gguf.")
    ] = None
    backend_hint: Annotated[str | None, Meta(description="The same as backend.")] = None
    max_context_length: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    keep_alive_sec: Annotated[
        float | None,
        Meta(description="Idle time after which the model is unloaded; 0 or less for never."),
    ] = None
    performance_overrides: Annotated[
        dict[str, Any] | None, Meta(description="Reported back with the model.")
    ] = None
    auto_download: Annotated[
        bool | None,
        Meta(
            description="Whether to download a model that is not here, and wait for that; false "
            "asks for a confirmation. Absent, it is true for who says model instead of model_id."
        ),
    ] = None
    allow_unsupported_runtime: Accepted = None

    @property
    def format(self) -> Backend | None:
        """The format asked for.

        Raises:
            UnsupportedModel: There is no such backend.
        """
        asked = self.backend or self.backend_hint
        if asked is None:
            return None
        if asked not in BACKENDS:
            param = "backend" if self.backend else "backend_hint"
            known = ", ".join(BACKENDS)
            raise UnsupportedModel(f"there is no backend {asked!r}, only {known}", param=param)
        return BACKENDS[asked]

    @property
    def waits_for_download(self) -> bool:
        """Whether one answer is expected, however long a download takes."""
        if self.auto_download is None:
            return self.model_id is None
        return self.auto_download

    @property
    def keep_alive_s(self) -> float | None:
        """In the loader's terms, where negative is never and `None` the settings' value."""
        if self.keep_alive_sec is None:
            return None
        return self.keep_alive_sec if self.keep_alive_sec > 0 else -1.0


class UnloadRequest(ModelFields, kw_only=True):
    """What to unload; without a name, the model that was used last."""


class ProbeRequest(ModelFields, kw_only=True):
    """Which model to try out, and for how long at most."""

    timeout_sec: Annotated[float, Meta(ge=1, le=900)] | None = None
    allow_unsupported_runtime: Accepted = None

    @property
    def timeout_s(self) -> float:
        """The limit that holds."""
        return DEFAULT_PROBE_S if self.timeout_sec is None else self.timeout_sec


class CompatibilityQuery(Struct, kw_only=True):
    """Which attempts to list; what is absent restricts nothing."""

    model_id: str | UnsetType = UNSET
    backend: str | UnsetType = UNSET
    outcome: Outcome | UnsetType = UNSET
    since_ts: float | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=1000)] = DEFAULT_ROWS
    include_summary: bool = False


def parse_load_request(body: bytes) -> LoadRequest:
    """Read a body of the load route.

    Raises:
        InvalidRequest: Malformed, or without a model.
        UnsupportedModel: There is no such backend.
    """
    request = parse_body(body, LoadRequest)
    _require_name(request)
    _ = request.format
    return request


def parse_unload_request(body: bytes) -> UnloadRequest:
    """Read a body of the unload route.

    Raises:
        InvalidRequest: Malformed; `param` names the field.
    """
    return parse_body(body, UnloadRequest)


def parse_probe_request(body: bytes) -> ProbeRequest:
    """Read a body of the probe route.

    Raises:
        InvalidRequest: Malformed, or without a model.
    """
    request = parse_body(body, ProbeRequest)
    _require_name(request)
    return request


def parse_compatibility_query(values: Mapping[str, str]) -> CompatibilityQuery:
    """Read a query string; keys that are not known here have no effect, and empty names neither.

    Raises:
        InvalidRequest: A value is of the wrong type; `param` names it.
    """
    given = {name: text for name, text in values.items() if text or name not in NAMES}
    return parse_query(given, CompatibilityQuery)


def _require_name(request: ModelFields) -> None:
    if request.name is None:
        raise InvalidRequest("'model_id' is needed", param="model_id")


def parse_body(body: bytes, kind: type[R]) -> R:
    """Read a body; an empty one is an empty object.

    Raises:
        InvalidRequest: Malformed, or with a field that nobody reads; `param` names it.
    """
    if not body.strip():
        body = b"{}"
    request = decode_body(body, msgspec.json.Decoder(kind))
    refuse_unknown(body, request.__struct_fields__)
    return request
