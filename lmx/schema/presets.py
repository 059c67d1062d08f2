"""Presets: named sets of request parameters, as files say them and as clients see them.

A preset's parameters are read with the same types as a request's fields, so that what a preset may
say is what a request may say. A request's own fields count more.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from lmx.errors import ConfigError, InvalidRequest
from lmx.schema.chat_request import ChatRequest, check_chat_request
from lmx.schema.fields import GenerationFields
from lmx.schema.json_body import explain_mismatch
from lmx.schema.messages import Message

R = TypeVar("R", bound=GenerationFields)

PREFIX = "preset:"
# What makes a request this one and not another; a preset has its own place for some of it.
NOT_PARAMETERS = frozenset({"model", "messages", "stream", "stream_options", "resumable", "n"})
LIMITS = frozenset({"max_tokens", "max_completion_tokens"})
SYSTEM_ROLES = frozenset({"system", "developer"})

PresetName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,63}\Z")]


class PresetFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A preset as its file says it; `name` is the file's where it says none."""

    model: Annotated[str, Meta(min_length=1)]
    name: PresetName | None = None
    description: str = ""
    parameters: dict[str, Any] = {}
    system_prompt: str | None = None
    prompt_profiles: dict[str, str] = {}
    default_prompt_profile: str | None = None
    routing_alias: PresetName | None = None
    routing_aliases: tuple[PresetName, ...] = ()
    auto_load: bool = False
    performance: dict[str, Any] = {}


class Preset(Struct, frozen=True, kw_only=True):
    """A preset that can be used.

    Attributes:
        name: Requests name it after ``preset:``.
        file: What its file says.
        fields: Its parameters, as a request holds them; what is `None` is not said.
    """

    name: str
    file: PresetFile
    fields: ChatRequest

    @property
    def system_prompt(self) -> str | None:
        """What stands before conversations that bring no system message."""
        chosen = self.file.default_prompt_profile
        return self.file.system_prompt if chosen is None else self.file.prompt_profiles[chosen]

    @property
    def aliases(self) -> tuple[str, ...]:
        """Further names that requests may use, as they are."""
        alias = self.file.routing_alias
        return tuple(
            dict.fromkeys([*([] if alias is None else [alias]), *self.file.routing_aliases])
        )


class PresetDocument(Struct, frozen=True, kw_only=True):
    """A preset as clients see it."""

    name: str
    description: str
    model: str
    model_pattern: str
    parameters: dict[str, Any]
    system_prompt: str | None
    prompt_profiles: dict[str, str]
    default_prompt_profile: str | None
    routing_alias: str | None
    routing_aliases: list[str]
    auto_load: bool
    performance: dict[str, Any]
    chat_template: None = None


class BrokenPreset(Struct, frozen=True):
    """A file that is no preset, and why."""

    path: str
    error: str


class PresetList(Struct, frozen=True):
    """All presets, and files that are none."""

    presets: list[PresetDocument]
    count: int
    total: int
    broken: list[BrokenPreset]


class PresetReload(Struct, frozen=True):
    """What a reading of the files found; `presets` are names."""

    success: bool
    presets_loaded: int
    presets: list[str]
    count: int
    broken: list[BrokenPreset]


def parse_preset(text: bytes, *, stem: str) -> Preset:
    """Read a preset.

    Args:
        text: Of its file, YAML.
        stem: The file's name without its ending.

    Raises:
        ConfigError: It is none; the message names the key.
    """
    try:
        file = msgspec.yaml.decode(text, type=PresetFile)
        name = msgspec.convert(file.name or stem, PresetName)
    except msgspec.ValidationError as error:
        found = explain_mismatch(error)
        raise ConfigError(f"{found.param}: {found.message}") from error
    except ValueError as error:
        raise ConfigError(f"it is no YAML: {error}") from error
    chosen = file.default_prompt_profile
    if chosen is not None and chosen not in file.prompt_profiles:
        raise ConfigError(f"default_prompt_profile: there is no profile {chosen!r}")
    return Preset(name=name, file=file, fields=_read_parameters(file.parameters))


def apply_preset(request: R, preset: Preset) -> R:
    """A request with what its preset says wherever it says nothing itself.

    Args:
        request: Of any generating route; what the route does not know of the preset is left out.
        preset: The preset that its model's name stands for.
    """
    given = {name for name in request.__struct_fields__ if getattr(request, name) is not None}
    said = [name for name in preset.file.parameters if name in request.__struct_fields__]
    taken = given | (LIMITS if given & LIMITS else frozenset())
    defaults = {name: getattr(preset.fields, name) for name in said if name not in taken}
    filled = msgspec.structs.replace(request, **{**defaults, "model": preset.file.model})
    prompt = preset.system_prompt
    if prompt is None or not isinstance(filled, ChatRequest) or _has_system(filled):
        return filled
    return msgspec.structs.replace(filled, messages=[Message("system", prompt), *filled.messages])


def describe_preset(preset: Preset) -> PresetDocument:
    """A preset as clients see it."""
    file = preset.file
    return PresetDocument(
        name=preset.name,
        description=file.description,
        model=file.model,
        model_pattern=file.model,
        parameters=file.parameters,
        system_prompt=preset.system_prompt,
        prompt_profiles=file.prompt_profiles,
        default_prompt_profile=file.default_prompt_profile,
        routing_alias=file.routing_alias,
        routing_aliases=list(preset.aliases),
        auto_load=file.auto_load,
        performance=file.performance,
    )


def index_presets(presets: Iterable[Preset]) -> Mapping[str, Preset]:
    """Presets by every name that requests may use."""
    index: dict[str, Preset] = {}
    for preset in presets:
        index[PREFIX + preset.name] = preset
        for alias in preset.aliases:
            index.setdefault(alias, preset)
    return index


def _read_parameters(parameters: Mapping[str, Any]) -> ChatRequest:
    known = set(ChatRequest.__struct_fields__) - NOT_PARAMETERS
    for name in parameters:
        if name not in known:
            raise ConfigError(f"parameters.{name}: requests with presets have no such parameter")
    document = {**parameters, "messages": [{"role": "user", "content": ""}]}
    try:
        return check_chat_request(msgspec.convert(document, ChatRequest))
    except msgspec.ValidationError as error:
        found = explain_mismatch(error)
        raise ConfigError(f"parameters.{found.param}: {found.message}") from error
    except InvalidRequest as error:
        raise ConfigError(f"parameters.{error.param}: {error.message}") from error


def _has_system(request: ChatRequest) -> bool:
    return any(message.role in SYSTEM_ROLES for message in request.messages)
