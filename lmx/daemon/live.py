"""Settings that may change while the daemon runs, and where they came from.

The same file, environment and command line are read again; what can take effect at once does, the
rest waits for a restart. A reading that fails changes nothing: a daemon never loses its keys to a
mistake in a file.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import trio
from msgspec import Struct

from lmx.catalog.specs import parse_spec
from lmx.config import Settings, default_file, home_directory, load_settings
from lmx.errors import ConfigError, InvalidRequest
from lmx.text.dialects import dialect_setting


class SettingsSource(Struct, frozen=True, kw_only=True):
    """Where settings came from.

    Attributes:
        file: YAML file to read; `None` for ``config.yaml`` in the home directory, if it exists.
        environment: Environment variables.
        overrides: Section to key to value, from the command line.
    """

    file: Path | None = None
    environment: Mapping[str, str] = msgspec.field(default_factory=lambda: os.environ)
    overrides: Mapping[str, Mapping[str, Any]] = {}

    def settled(self) -> "SettingsSource":
        """With the file that is there now, which must not be missing from then on."""
        file = self.file or default_file(home_directory(self.environment))
        return msgspec.structs.replace(self, file=file)

    def load(self) -> Settings:
        """Read everything, and what settings name as far as that needs no disk.

        Raises:
            ConfigError: The file cannot be read, or a value does not fit; the message says which.
        """
        settings = load_settings(
            file=self.file, environment=self.environment, overrides=self.overrides
        )
        for dialect in settings.models.dialects.values():
            dialect_setting(dialect)
        for text in settings.models.load:
            try:
                parse_spec(text, settings.models.backend)
            except InvalidRequest as error:
                raise ConfigError(f"models.load: {error.message}") from error
        return settings

    def __repr__(self) -> str:
        return f"SettingsSource({self.file})"  # the environment may hold keys


class Reloaded(Struct, frozen=True):
    """What a reading changed, by section.

    Attributes:
        updated: Took effect.
        needs_restart: Differ from what runs, and take effect at the next start.
    """

    updated: list[str]
    needs_restart: list[str]


class LiveSettings:
    """The settings in force.

    Args:
        source: Where to read them again.
        settings: As they were read from it.
        set_log_level: Told when `logging.level` changes.

    Attributes:
        current: The settings in force.
    """

    def __init__(
        self, source: SettingsSource, settings: Settings, *, set_log_level: Callable[[str], None]
    ) -> None:
        self._source = source
        self._set_log_level = set_log_level
        self._reading = trio.Lock()
        self.current = settings

    @property
    def files(self) -> list[Path]:
        """Files with settings, keys among them."""
        file = self._source.settled().file
        return [file] if file is not None else []

    async def reload(self) -> Reloaded:
        """Read the source again and apply what can be applied.

        Raises:
            ConfigError: The file is gone or holds a mistake; nothing has changed.
        """
        async with self._reading:  # so that an older reading is never applied after a newer one
            source = self._source.settled()
            fresh = await trio.to_thread.run_sync(source.load)
            self._source = source
            return self._apply(fresh)

    def _apply(self, fresh: Settings) -> Reloaded:
        before = self.current
        level = fresh.logging.level
        self.current = msgspec.structs.replace(
            before,
            security=fresh.security,
            device=fresh.device,
            logging=msgspec.structs.replace(before.logging, level=level),
        )
        self._set_log_level(level)
        return Reloaded(_differing(before, self.current), _differing(self.current, fresh))


def _differing(one: Settings, other: Settings) -> list[str]:
    """Names of the sections in which two settings differ."""
    pairs = zip(_sections(one), _sections(other), strict=True)
    return [name for (name, mine), (_, yours) in pairs if mine != yours]


def _sections(settings: Settings) -> list[tuple[str, Any]]:
    fields = settings.__struct_fields__
    return [(name, getattr(settings, name)) for name in fields if name != "home"]
