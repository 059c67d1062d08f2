"""Settings that may change while the daemon runs, and where they came from.

The same files, environment and command line are read again; what can take effect does, the rest
waits for a restart. A reading that fails changes nothing: a daemon never loses its keys to a
mistake in a file.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio
from msgspec import Struct

from lmx.catalog.specs import parse_spec
from lmx.config import (
    ConfigWarning,
    Loaded,
    Settings,
    carry_over,
    default_files,
    differing,
    load,
    put_sections,
    sections_of,
)
from lmx.errors import ConfigError, InvalidRequest
from lmx.text.dialects import dialect_setting

log = structlog.get_logger("lmx.config")


class SettingsSource(Struct, frozen=True, kw_only=True):
    """Where settings came from.

    Attributes:
        file: The only file to read; `None` for those in their usual places, as far as they exist.
        required: Files that were there before and must not be missing now.
        environment: Environment variables.
        overrides: Section to key to value, from the command line.
    """

    file: Path | None = None
    required: tuple[Path, ...] = ()
    environment: Mapping[str, str] = msgspec.field(default_factory=lambda: os.environ)
    overrides: Mapping[str, Mapping[str, Any]] = {}

    def settled(self) -> "SettingsSource":
        """With the files that are there now, which must not be missing from then on."""
        if self.file is not None:
            return self
        found = dict.fromkeys((*self.required, *self.files))
        return msgspec.structs.replace(self, required=tuple(found))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read, as far as they exist now."""
        return default_files(self.environment) if self.file is None else (self.file,)

    def load(self) -> Settings:
        """The settings alone; see `read`."""
        return self.read().settings

    def read(self) -> Loaded:
        """Read everything, and what settings name as far as that needs no disk.

        Raises:
            ConfigError: A file cannot be read, or a value does not fit; the message says which.
        """
        for path in self.required:
            if not path.exists():
                raise ConfigError(f"{path}: it was there before, and is gone")
        loaded = load(file=self.file, environment=self.environment, overrides=self.overrides)
        models, routing = loaded.settings.models, loaded.settings.routing
        for dialect in models.dialects.values():
            dialect_setting(dialect)
        named = [("models.load", text) for text in models.load]
        for alias in routing.aliases:
            named += [("routing.aliases", text) for text in routing.targets(alias)]
        if routing.default_model is not None:
            named.append(("routing.default_model", routing.default_model))
        for name, text in named:
            try:
                parse_spec(text, models.backend)
            except InvalidRequest as error:
                raise ConfigError(f"{loaded.origins[name]}: {name}: {error.message}") from error
        return loaded

    def __repr__(self) -> str:
        return f"SettingsSource({', '.join(map(str, self.files))})"  # the environment may hold keys


class Reloaded(Struct, frozen=True):
    """What a reading changed, as names of settings with a dot between section and key.

    Attributes:
        updated_keys: They took effect.
        needs_restart_keys: They differ from what runs, and take effect at the next start.
        warnings: What has no effect at all, and where it stands.
    """

    updated_keys: list[str]
    needs_restart_keys: list[str]
    warnings: list[str] = []

    @property
    def updated(self) -> list[str]:
        """Sections of which something took effect."""
        return sections_of(self.updated_keys)

    @property
    def needs_restart(self) -> list[str]:
        """Sections of which something waits for the next start."""
        return sections_of(self.needs_restart_keys)


class LiveSettings:
    """The settings in force.

    Args:
        source: Where to read them again.
        settings: As they were read from it.
        set_log_level: Told when `logging.level` changes.

    Attributes:
        current: The settings in force: the same object always, whose sections a reload replaces.
    """

    def __init__(
        self, source: SettingsSource, settings: Settings, *, set_log_level: Callable[[str], None]
    ) -> None:
        self._source = source
        self._reading = trio.Lock()
        self._listeners: list[Callable[[], None]] = [
            lambda: set_log_level(self.current.logging.level)
        ]
        self.current = settings

    @property
    def files(self) -> list[Path]:
        """Files with settings, keys among them."""
        return list(self._source.files)

    def listen(self, listener: Callable[[], None]) -> None:
        """Have something called after every reload, on the event loop; it must not block or fail.

        Only needed by what cannot ask `current` each time.
        """
        self._listeners.append(listener)

    async def reload(self) -> Reloaded:
        """Read the source again and apply what can be applied.

        Raises:
            ConfigError: A file is gone or holds a mistake; nothing has changed.
        """
        async with self._reading:  # so that an older reading is never applied after a newer one
            source = self._source.settled()
            loaded = await trio.to_thread.run_sync(source.read)
            _refuse_lost_keys(loaded.warnings)
            self._source = source
            return self._apply(loaded)

    def _apply(self, loaded: Loaded) -> Reloaded:
        before = msgspec.structs.replace(self.current)
        applied = carry_over(before, loaded.settings)
        updated = differing(before, applied)
        waiting = differing(applied, loaded.settings)
        put_sections(self.current, applied, sections_of(updated))
        for listener in self._listeners:
            listener()
        tell_warnings(loaded.warnings)
        warnings = [str(warning) for warning in loaded.warnings]
        return Reloaded(updated, waiting, warnings)


def tell_warnings(warnings: tuple[ConfigWarning, ...]) -> None:
    """Log what is odd about the settings."""
    for warning in warnings:
        log.warning("configuration", where=str(warning.origin), reason=warning.message)


def _refuse_lost_keys(warnings: tuple[ConfigWarning, ...]) -> None:
    """A start must not fail for an unknown name, but a daemon that runs keeps its keys.

    Raises:
        ConfigError: A name in `security` is unknown, which may be one that is spelled wrong.
    """
    for warning in warnings:
        if warning.is_unsafe:
            raise ConfigError(str(warning))
