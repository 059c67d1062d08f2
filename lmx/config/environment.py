"""Environment variables as entries: ``LMX_SECTION__KEY``, and the names of the help pages.

A variable's text is read as YAML would read it, so that numbers and lists work. Where a text is
wanted it is that text, and a key is taken as it is, whatever YAML would make of it.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from lmx.config.former import FORMER
from lmx.config.known import SETTINGS
from lmx.config.origins import Entry, Origin

# In order: the later one wins.
PREFIXES = ("OPTA_LMX_", "LMX_")
ENVIRONMENT_PREFIX = PREFIXES[-1]
# Variables of the help pages that name no section.
SHORT_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "OPTA_LMX_HOST": "server.host",
        "OPTA_LMX_PORT": "server.port",
        "OPTA_LMX_ADMIN_KEY": "security.admin_key",
    }
)
# Settings outside of `security` that may hold keys.
_OTHER_SECRETS = frozenset({"skills.mcp_servers"})


def read_environment(environment: Mapping[str, str]) -> list[Entry]:
    """What variables say, in order: the later one wins."""
    entries = []
    for variable, name in SHORT_NAMES.items():
        if variable in environment:
            entries.append(_entry(variable, environment[variable], name))
    for prefix in PREFIXES:
        entries += _read_prefix(prefix, environment)
    return entries


def holds_keys(variable: str) -> bool:
    """Whether a variable's text may be a key, so that processes that need none are not given it."""
    name = _name_of(variable.upper())
    return name is not None and (name.startswith("security.") or name in _OTHER_SECRETS)


def _name_of(variable: str) -> str | None:
    """The setting that a variable is for, under our name."""
    entries = read_environment({variable: ""})
    return next((_current_name(entry.name) for entry in entries), None)


def _current_name(name: str) -> str:
    return FORMER[name].name if name in FORMER else name


def _read_prefix(prefix: str, environment: Mapping[str, str]) -> Iterator[Entry]:
    for variable, text in environment.items():
        section, separator, key = variable.removeprefix(prefix).partition("__")
        if variable.startswith(prefix) and separator:
            yield _entry(variable, text, f"{section}.{key}".lower())


def _entry(variable: str, text: str, name: str) -> Entry:
    section, _, key = name.partition(".")
    value = _read_value(_current_name(name), text)
    return Entry(section, key, value, Origin("environment", variable))


def _read_value(name: str, text: str) -> Any:
    setting = SETTINGS.get(name)
    if setting is None:
        return _as_yaml(text)
    if setting.is_text and setting.is_secret:
        return text
    value = _as_yaml(text)
    if setting.is_text and value is not None and not isinstance(value, str):
        return text
    return value


def _as_yaml(text: str) -> Any:
    try:
        return msgspec.yaml.decode(text.encode())
    except ValueError:
        return text
