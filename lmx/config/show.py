"""Settings for a person's eyes: every value but those that are keys, or may hold some."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from lmx.config.known import SETTINGS, Setting
from lmx.config.reloading import value_of
from lmx.config.sections import Settings

SET = "set"


def shown_values(settings: Settings) -> dict[str, Any]:
    """Name of each setting to its value, in the order of their types; a key is only ``set``."""
    return {
        name: _shown(setting, msgspec.to_builtins(value_of(settings, name)))
        for name, setting in SETTINGS.items()
    }


def _shown(setting: Setting, value: Any) -> Any:
    if setting.is_secret:
        return SET if value else value
    if setting.name == "skills.mcp_servers":
        return {name: _shown_server(server) for name, server in value.items()}
    return value


def _shown_server(server: Mapping[str, Any]) -> Any:
    """A server without what may be keys: headers, arguments, and all of an address but its host."""
    url, command = server.get("url"), server.get("command") or ()
    shown = {
        **server,
        "command": [*command[:1], *[SET for _ in command[1:]]],
        "headers": dict.fromkeys(server.get("headers") or {}, SET),
    }
    if url is not None:
        parts = urlsplit(url)
        shown["url"] = f"{parts.scheme}://{parts.hostname or ''}"
    return shown
