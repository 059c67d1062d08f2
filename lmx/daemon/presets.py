"""The presets there are: read from a folder, and again when somebody asks for it.

A file that is no preset is listed with the reason and takes nothing from the others.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import structlog
import trio
from msgspec import Struct

from lmx.catalog.specs import parse_spec
from lmx.config import Settings
from lmx.daemon.loader import Loader
from lmx.daemon.model import LoadOptions
from lmx.errors import ConfigError, InvalidRequest
from lmx.schema.fields import GenerationFields
from lmx.schema.presets import (
    PREFIX,
    BrokenPreset,
    Preset,
    apply_preset,
    index_presets,
    parse_preset,
)

R = TypeVar("R", bound=GenerationFields)

ENDINGS = frozenset({".yaml", ".yml"})
MAX_FILE_BYTES = 256 * 1024
MAX_FILES = 1000

log = structlog.get_logger("lmx.presets")


class Shelved(Struct, frozen=True):
    """What a reading of the folder found.

    Attributes:
        presets: In order of their names.
        broken: Files that are none.
        index: By every name that requests may use.
    """

    presets: Sequence[Preset] = ()
    broken: Sequence[BrokenPreset] = ()
    index: Mapping[str, Preset] = {}


class Presets:
    """The presets in force.

    Args:
        settings: Where they are, and whether there are any.

    Attributes:
        shelved: As last read.
    """

    def __init__(self, settings: Settings) -> None:
        directory = settings.presets.directory
        default = settings.home / "presets"
        self._folder = default if directory is None else Path(directory).expanduser()
        self._is_enabled = settings.presets.enabled
        self.shelved = Shelved()

    async def reload(self) -> Shelved:
        """Read the folder again."""
        if self._is_enabled:
            self.shelved = await trio.to_thread.run_sync(read_presets, self._folder)
            for broken in self.shelved.broken:
                log.warning("a preset cannot be used", path=broken.path, reason=broken.error)
        return self.shelved

    def load_into(self, loader: Loader) -> None:
        """Have the models loaded of presets that want theirs loaded at start."""
        for preset in self.shelved.presets:
            if not preset.file.auto_load:
                continue
            meant = loader.names.candidates(preset.file.model)[0]
            try:
                spec = parse_spec(meant, loader.settings.models.backend)
            except InvalidRequest as error:
                log.warning(
                    "a preset's model cannot be loaded", preset=preset.name, reason=str(error)
                )
                continue
            loader.load(spec, LoadOptions(performance=preset.file.performance))

    def find(self, name: str) -> Preset | None:
        """The preset of that name, with or without ``preset:`` before it."""
        return self.shelved.index.get(PREFIX + name.removeprefix(PREFIX))

    def fill(self, request: R) -> R:
        """The request as it is meant, where its model is a preset or an alias of one."""
        preset = self.shelved.index.get(request.model or "")
        return request if preset is None else apply_preset(request, preset)


def read_presets(folder: Path) -> Shelved:
    """Read every preset of a folder; a folder that is not there has none."""
    presets: dict[str, Preset] = {}
    broken = []
    for path in _files(folder):
        try:
            preset = _read(path)
        except ConfigError as error:
            broken.append(BrokenPreset(str(path), error.message))
            continue
        if preset.name in presets:
            taken = f"name: {preset.name!r} is the name of another preset"
            broken.append(BrokenPreset(str(path), taken))
        else:
            presets[preset.name] = preset
    found = sorted(presets.values(), key=lambda preset: preset.name)
    return Shelved(found, broken, index_presets(found))


def _files(folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.iterdir() if path.suffix.lower() in ENDINGS]
    except OSError:
        return []
    return sorted(found)[:MAX_FILES]


def _read(path: Path) -> Preset:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"it cannot be read: {error.strerror}") from error
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"it is larger than {MAX_FILE_BYTES} bytes")
    return parse_preset(text, stem=path.stem)
