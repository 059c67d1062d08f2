"""Names of settings that other versions and the help pages use, and what they are here.

A name that means something is accepted like our own, in every source. One that means nothing here
is accepted with a warning that says why. Pure tables and converters; values that no converter
expects go through as they are, for the types to refuse.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from msgspec import UNSET, Struct

from lmx.config.sections import EVERY_MODEL


class Nothing(Struct, frozen=True):
    """A value that changes nothing here.

    Attributes:
        why: What to tell whoever wrote it; empty for nothing.
    """

    why: str = ""


class Moot(Struct, frozen=True):
    """A name that means nothing here.

    Attributes:
        why: What to tell whoever uses it.
        usual: The value that says what is so anyway, which nobody is told of.
    """

    why: str
    usual: Any = UNSET


Convert = Callable[[Any], Any]


class Former(Struct, frozen=True):
    """What became of a name.

    Attributes:
        name: What it is here.
        convert: From its value to ours, or to `Nothing`.
    """

    name: str
    convert: Convert = lambda value: value


def as_list(value: Any) -> Any:
    """One text as a list of one."""
    return [value] if isinstance(value, str) else value


def lower(value: Any) -> Any:
    """Names of levels, which other programs shout, and spell in more ways."""
    if not isinstance(value, str):
        return value
    name = value.lower()
    return {"warn": "warning", "critical": "error", "fatal": "error"}.get(name, name)


def zero_is_never(value: Any) -> Any:
    """Seconds of idleness, where 0 stood for no end."""
    return None if isinstance(value, int | float) and value <= 0 else value


def bits_of_all(value: Any) -> Any:
    """One number for all models instead of a table of them."""
    if value is None:
        return Nothing()
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if value in {8, 16}:
        return {EVERY_MODEL: value}
    return Nothing("a KV cache holds values of 8 or 16 bits here; it keeps 16")


def one_at_a_time(value: Any) -> Any:
    """Batching switched off is one sequence at a time; switched on is what happens anyway."""
    return 1 if value is False else Nothing() if value is True else value


def default_unless_set(value: Any) -> Any:
    """No text stood for nothing said."""
    return Nothing() if value is None or value == "" else value


def context_of_gguf(value: Any) -> Any:
    """0 stood for what the model's file says."""
    return None if value == 0 and not isinstance(value, bool) else value


FORMER: Mapping[str, Former] = MappingProxyType(
    {
        "server.timeout_sec": Former("server.body_timeout_s"),
        "server.sse_heartbeat_interval_sec": Former("server.events_heartbeat_s"),
        "server.admin_key": Former("security.admin_key"),
        "server.inference_api_key": Former("security.inference_api_key"),
        "models.default_model": Former("routing.default_model", default_unless_set),
        "models.default": Former("routing.default_model", default_unless_set),
        "models.models_directory": Former("models.folders", as_list),
        "models.paths": Former("models.folders", as_list),
        "models.auto_load": Former("models.load", as_list),
        "models.use_batching": Former("models.max_sequences", one_at_a_time),
        "models.max_concurrent_requests": Former("models.max_sequences"),
        "models.gguf_context_length": Former("gguf.context_tokens", context_of_gguf),
        "models.gguf_gpu_layers": Former("gguf.gpu_layers"),
        "models.keep_alive_sec": Former("models.keep_alive_s", zero_is_never),
        "models.speculative_enabled": Former("models.speculation"),
        "inference.max_tokens": Former("models.default_max_tokens"),
        "inference.temperature": Former("models.default_temperature"),
        "inference.context_length": Former("models.context_tokens", context_of_gguf),
        "memory.max_memory_percent": Former("memory.critical_percent"),
        "memory.max_memory_pct": Former("memory.warning_percent"),
        "memory.oom_threshold_pct": Former("memory.critical_percent"),
        "security.downloads_enabled": Former("downloads.enabled"),
        "skills.directories": Former("skills.folders", as_list),
        "skills.directory": Former("skills.folders", as_list),
    }
)

# Further forms in which values of our own names are accepted.
FORMS: Mapping[str, Convert] = MappingProxyType(
    {"logging.level": lower, "models.kv_bits": bits_of_all, "models.load": as_list}
)

# Names that mean nothing here.
MOOT: Mapping[str, Moot] = MappingProxyType(
    {
        "server.workers": Moot("each model has a process of its own", usual=1),
        "server.websocket_enabled": Moot("WebSockets are always answered", usual=True),
        "server.sse_events_enabled": Moot("/admin/events is always answered", usual=True),
        "models.inference_timeout_sec": Moot("answers have no time limit; see worker.stall_s"),
        "models.warmup_on_load": Moot("models are always warmed up", usual=True),
        "memory.load_shedding_percent": Moot("see memory.critical_percent"),
        "memory.auto_evict_lru": Moot("see models.on_demand and models.pinned", usual=True),
        "memory.ttl_enabled": Moot("see models.keep_alive_s", usual=False),
        "memory.ttl_seconds": Moot("see models.keep_alive_s"),
        "memory.ttl_check_interval_sec": Moot("see models.keep_alive_s"),
        "security.rate_limit": Moot("see security.wrong_keys_per_minute and models.max_waiting"),
    }
)
SECTIONS_WITHOUT_MEANING: Mapping[str, str] = MappingProxyType(
    {
        "helper_nodes": "there are no helper nodes",
        "rag": "there is no store of documents; see skills.search_folder",
        "agents": "there are no agents beside skills",
        "journaling": "there is no journal of sessions",
        "backends": "there is nothing to say beyond models.backend and gguf",
        "stack_presets": "there are no stacks",
    }
)
_SPECULATIVE = "models.speculative_"


def find_moot(name: str) -> Moot | None:
    """What is known of a name that means nothing here; `None` for any other name."""
    if name.startswith(_SPECULATIVE):
        return Moot("see models.speculation and models.draft", usual=None)
    return MOOT.get(name)
