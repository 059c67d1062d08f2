"""Where settings come from, and how the sources combine.

Order of precedence: defaults < YAML file < environment (``LMX_SECTION__KEY``) < command line. A
value of the wrong type or an unknown key is a `ConfigError` that names it. No message holds a
value, for a value may be a key.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from lmx.config.sections import Settings
from lmx.errors import ConfigError

ENVIRONMENT_PREFIX = "LMX_"
SECTIONS = tuple(field for field in Settings.__struct_fields__ if field != "home")
# Variables whose text is the value, whatever YAML would make of it.
VERBATIM = frozenset({("security", "admin_key"), ("security", "inference_api_key")})


def home_directory(environment: Mapping[str, str]) -> Path:
    """Where state lives: ``LMX_HOME``, by default ``~/.opta-lmx``."""
    return Path(environment.get("LMX_HOME") or "~/.opta-lmx").expanduser().absolute()


def load_settings(
    *,
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Settings:
    """Combine the sources.

    Args:
        file: YAML file to read; by default ``config.yaml`` in the home directory, if it exists.
        environment: Environment variables.
        overrides: Section to key to value, from the command line.

    Raises:
        ConfigError: The file cannot be read, or a value does not fit; the message says which.
    """
    home = home_directory(environment)
    tree = _read_file(file, home)
    for source in (_from_environment(environment), overrides or {}):
        for section, values in source.items():
            tree.setdefault(section, {}).update(values)
    return _convert({**tree, "home": str(home)}, source="settings")


def _read_file(file: Path | None, home: Path) -> dict[str, dict[str, Any]]:
    path = file or default_file(home)
    if path is None:
        return {}
    try:
        tree = msgspec.yaml.decode(path.read_bytes()) or {}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:  # PyYAML lets the ValueError of an odd date through
        raise ConfigError(f"{path}: {_without_values(str(error))}") from None
    if not isinstance(tree, dict) or not all(
        value is None or isinstance(value, dict) for value in tree.values()
    ):
        raise ConfigError(f"{path}: expected sections such as 'server:' with keys below them")
    sections = {str(key): dict(value or {}) for key, value in tree.items()}
    _convert({**sections, "home": str(home)}, source=str(path))
    return sections


def default_file(home: Path) -> Path | None:
    """The configuration file that is read when none is named, if it exists."""
    path = home / "config.yaml"
    return path if path.exists() else None


def _without_values(message: str) -> str:
    """A parser's message without what it quotes from the file."""
    return re.sub(r"""(['"]).*\1""", "...", message)


def _from_environment(environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    tree: dict[str, dict[str, Any]] = {}
    for variable, text in environment.items():
        section, separator, key = variable.removeprefix(ENVIRONMENT_PREFIX).partition("__")
        if variable.startswith(ENVIRONMENT_PREFIX) and separator and section.lower() in SECTIONS:
            place = section.lower(), key.lower()
            tree.setdefault(place[0], {})[place[1]] = text if place in VERBATIM else _value(text)
    return tree


def _value(text: str) -> Any:
    """A variable's text as YAML would read it, so that numbers and lists work; else the text."""
    try:
        return msgspec.yaml.decode(text.encode())
    except ValueError:
        return text


def _convert(tree: dict[str, Any], *, source: str) -> Settings:
    try:
        return msgspec.convert(tree, Settings, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        # `admin_key:secret` without a blank makes a field's name of both.
        message = re.sub(r"field `([\w-]*)[^`]*`", r"field `\1`", str(error))
        raise ConfigError(f"{source}: {message}") from None


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)
