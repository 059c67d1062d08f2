"""Where settings come from, and how the sources combine.

Order of precedence: defaults < TOML file < YAML file < environment < command line. A value of the
wrong type is a `ConfigError` that names it, an unknown key a warning. Neither holds a value, for a
value may be a key.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmx.config.environment import read_environment
from lmx.config.origins import COMMAND_LINE, Entry, Gathered
from lmx.config.resolve import Loaded, Resolver
from lmx.config.sections import Settings
from lmx.config.toml_file import read_toml
from lmx.config.yaml_file import read_yaml
from lmx.errors import ConfigError

TOML_PLACE = Path(".config/opta/lmx/config.toml")
Overrides = Mapping[str, Mapping[str, Any]]


def home_directory(environment: Mapping[str, str]) -> Path:
    """Where state lives: ``LMX_HOME``, by default ``~/.opta-lmx``."""
    return Path(environment.get("LMX_HOME") or "~/.opta-lmx").expanduser().absolute()


def load_settings(
    *,
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    overrides: Overrides | None = None,
) -> Settings:
    """The settings alone; see `load`."""
    return load(file=file, environment=environment, overrides=overrides).settings


def load(
    *,
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    overrides: Overrides | None = None,
) -> Loaded:
    """Combine the sources. Reads files.

    Args:
        file: The only file to read, TOML if its name ends so, else YAML; by default ``config.yaml``
            in the home directory and the file of the help pages, as far as they exist.
        environment: Environment variables.
        overrides: Section to key to value, from the command line.

    Raises:
        ConfigError: A file cannot be read, or a value does not fit; the message says which.
    """
    home = home_directory(environment)
    files = default_files(environment) if file is None else (file,)
    resolver = Resolver()
    for path in files:
        gathered = read_file(path)
        resolver.warnings += gathered.warnings
        resolver.add(gathered.entries)
    resolver.add(read_environment(environment))
    resolver.add(
        Entry(section, key, value, COMMAND_LINE)
        for section, values in (overrides or {}).items()
        for key, value in values.items()
    )
    settings, origins = resolver.settle(home)
    return Loaded(settings, origins, tuple(resolver.warnings), files)


def read_file(path: Path) -> Gathered:
    """What a file says, by the form that its name tells.

    Raises:
        ConfigError: It is not there, is no text, or has another form.
    """
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: no UTF-8 text at byte {error.start}") from None
    return read_toml(path, text) if path.suffix == ".toml" else read_yaml(path, text)


def default_file(home: Path) -> Path | None:
    """The configuration file of our own that is read when none is named, if it exists."""
    path = home / "config.yaml"
    return path if path.exists() else None


def default_files(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The files that are read when none is named, as far as they exist; the last one wins."""
    user = environment.get("HOME")
    toml = None if not user else Path(user) / TOML_PLACE
    own = default_file(home_directory(environment))
    found = [] if toml is None or not toml.exists() else [toml]
    return (*found, *([] if own is None else [own]))
