"""From entries to settings: names become ours, later sources win, values have to fit.

An unknown name is warned of with the nearest known one, and never stops the start. A value that
does not fit is a `ConfigError` that says where it stands and what was expected, and not the value.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, inspect

from lmx.config.former import (
    FORMER,
    FORMS,
    MOOT,
    SECTIONS_WITHOUT_MEANING,
    Nothing,
    find_moot,
)
from lmx.config.known import SECTIONS, SETTINGS, Setting, describe, nearest
from lmx.config.origins import DEFAULT, ConfigWarning, Entry, Origin
from lmx.config.sections import Settings
from lmx.errors import ConfigError

_FORMER_SECTIONS = tuple({name.partition(".")[0] for name in FORMER} - set(SECTIONS))
# How far below the critical level the other one is where only the critical one is set.
_WARNING_BELOW = 5.0
_PRINTABLE = re.compile(r"[\w.-]{1,64}")


class Loaded(Struct, frozen=True):
    """Settings, and how they came about.

    Attributes:
        settings: What is in force.
        origins: Name of each setting to where its value came from.
        warnings: What has no effect, in the order of the sources.
        files: The files that were read, the ones that win last.
    """

    settings: Settings
    origins: Mapping[str, Origin]
    warnings: tuple[ConfigWarning, ...]
    files: tuple[Path, ...]


class Resolver:
    """Takes sources in the order in which they win, the last one most.

    Attributes:
        warnings: What was odd so far.
    """

    def __init__(self) -> None:
        self.warnings: list[ConfigWarning] = []
        self._chosen: dict[str, Entry] = {}

    def add(self, entries: Iterable[Entry]) -> None:
        """Take one source.

        Raises:
            ConfigError: A section is no section.
        """
        own: dict[str, Entry] = {}
        for entry in entries:
            known = self._translate(entry)
            if known is None:
                continue
            other = own.get(known.name)
            if other is not None and other.said_as != known.said_as:
                # Of two names for one thing, ours counts, else the last one.
                known, ignored = (known, other) if other.said_as else (other, known)
                if ignored.value != known.value:
                    beside = known.said_as or known.name
                    self._warn(ignored, f"{ignored.title} has no effect beside {beside}")
            own[known.name] = known
        for name, entry in own.items():
            earlier = self._chosen.get(name)
            if earlier is not None and "file" == earlier.origin.kind == entry.origin.kind:
                self._warn(earlier, f"{earlier.title} has no effect: {entry.origin} says it, too")
            self._chosen[name] = entry

    def settle(self, home: Path) -> tuple[Settings, Mapping[str, Origin]]:
        """The settings, and where each came from.

        Raises:
            ConfigError: A value does not fit.
        """
        values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        origins = dict.fromkeys(SETTINGS, DEFAULT)
        for name, entry in self._chosen.items():
            values[entry.section][entry.key] = self._fit(entry, SETTINGS[name])
            origins[name] = entry.origin
        self._lower_warning(values["memory"], origins)
        sections = {section: self._build(section, values[section]) for section in SECTIONS}
        return Settings(home=home, **sections), origins

    def _translate(self, entry: Entry) -> Entry | None:
        """An entry under our name and in our form, or `None` where it means nothing."""
        if entry.key == "":
            if entry.section in SECTIONS:
                raise ConfigError(
                    f"{entry.origin}: expected keys below '{entry.section}:', one a line"
                )
            self._refuse_section(entry)
            return None
        if entry.section not in SECTIONS and entry.section not in _FORMER_SECTIONS:
            self._refuse_section(entry)
            return None
        former = FORMER.get(entry.name)
        if former is None and entry.name not in SETTINGS:
            self._refuse_key(entry)
            return None
        value = entry.value if former is None else former.convert(entry.value)
        section, _, key = (entry.name if former is None else former.name).partition(".")
        if (form := FORMS.get(f"{section}.{key}")) is not None:
            value = form(value)
        if isinstance(value, Nothing):
            if value.why:
                self._warn(entry, f"{entry.name} has no effect: {value.why}")
            return None
        return Entry(section, key, value, entry.origin, "" if former is None else entry.name)

    def _refuse_section(self, entry: Entry) -> None:
        why = SECTIONS_WITHOUT_MEANING.get(entry.section)
        near = None
        if why is not None:
            message = f"section {entry.section} has no effect: {why}"
        else:
            near = nearest(entry.section, [*SECTIONS, *SECTIONS_WITHOUT_MEANING])
            message = f"unknown section {_shown(entry.section)}" + _hint(near)
        is_unsafe = why is None and near == "security"
        origins = [warning.origin for warning in self.warnings if warning.message == message]
        if not any(origin.place == entry.origin.place for origin in origins):
            # Once for all that stands below it.
            self.warnings.append(ConfigWarning(entry.origin, message, is_unsafe))

    def _refuse_key(self, entry: Entry) -> None:
        moot = find_moot(entry.name)
        if moot is not None:
            if moot.usual != entry.value:
                self._warn(entry, f"{entry.name} has no effect here: {moot.why}")
            return
        near = _nearest_setting(entry)
        # What stands where a key is expected may be a key of the other kind.
        is_shown = entry.section != "security" or near is not None
        name = f"{entry.section}.{_shown(entry.key)}" if is_shown else f"in {entry.section}"
        message = f"unknown setting {name}" + _hint(near)
        is_unsafe = entry.section == "security"
        self.warnings.append(ConfigWarning(entry.origin, message, is_unsafe))

    def _fit(self, entry: Entry, setting: Setting) -> Any:
        value, unknown = _prune(entry.value, setting.info)
        for path in unknown:
            self._warn(entry, f"unknown setting {entry.name}.{path}")
        try:
            return msgspec.convert(value, setting.annotation)
        except msgspec.ValidationError:
            fault = f": expected {describe(setting.info)}"
            if _struct_of(setting.info) is not None:
                fault = _find_fault(value, setting.annotation) or fault
            more = f"; unknown: {', '.join(unknown)}" if unknown else ""
            raise ConfigError(f"{entry.origin}: {entry.title}{fault}{more}") from None

    def _build(self, section: str, values: Mapping[str, Any]) -> Any:
        kind = {field.name: field.type for field in msgspec.structs.fields(Settings)}[section]
        try:
            return kind(**values)
        except ValueError as error:
            message = str(error)
            about = [self._chosen.get(f"{section}.{key}") for key in _quoted(message)]
            places = [str(entry.origin) for entry in about if entry is not None]
            raise ConfigError(f"{', '.join(places[:1])}: {section}: {message}") from None

    def _lower_warning(self, memory: dict[str, Any], origins: dict[str, Origin]) -> None:
        """Where only the critical level is set, the other one stays below it."""
        critical = memory.get("critical_percent")
        usual = SETTINGS["memory.warning_percent"].default
        if critical is not None and "warning_percent" not in memory and critical <= usual:
            memory["warning_percent"] = max(critical - _WARNING_BELOW, critical / 2)
            origins["memory.warning_percent"] = origins["memory.critical_percent"]

    def _warn(self, entry: Entry, message: str) -> None:
        self.warnings.append(ConfigWarning(entry.origin, message))


def _nearest_setting(entry: Entry) -> str | None:
    """What may have been meant: a key of the section first, then the same key in another one."""
    names = [*SETTINGS, *FORMER, *MOOT]
    in_section = [n.partition(".")[2] for n in names if n.partition(".")[0] == entry.section]
    if near := nearest(entry.key, in_section):
        return f"{entry.section}.{near}"
    elsewhere = [name for name in SETTINGS if name.partition(".")[2] == entry.key]
    return elsewhere[0] if elsewhere else None


def _shown(name: str) -> str:
    return name if _PRINTABLE.fullmatch(name) else "of an odd name"


def _hint(near: str | None) -> str:
    return "" if near is None else f"; did you mean {near}?"


def _quoted(message: str) -> list[str]:
    return re.findall(r"`([a-z_]+)", message)


def _struct_of(info: inspect.Type) -> inspect.StructType | None:
    """The records that a table holds, if it holds any."""
    value = info.value_type if isinstance(info, inspect.DictType) else None
    return value if isinstance(value, inspect.StructType) else None


def _find_fault(value: Any, annotation: Any) -> str:
    """The first record of a table that does not fit, and why; nothing of what it holds."""
    for name, record in value.items() if isinstance(value, dict) else ():
        try:
            msgspec.convert({name: record}, annotation)
        except msgspec.ValidationError as error:
            why = re.sub(r"(['\"]).*?\1", "...", str(error))
            why, _, place = why.partition(" - at `$[...]")
            return f".{_shown(str(name))}{place.rstrip('`')}: {why}"
    return ""


def _prune(value: Any, info: inspect.Type) -> tuple[Any, list[str]]:
    """A table of records without the keys that its records do not have, and those keys."""
    struct = _struct_of(info)
    if struct is None or not isinstance(value, dict):
        return value, []
    known = {field.encode_name for field in struct.fields}
    unknown = [
        f"{_shown(str(name))}.{_shown(str(key))}"
        for name, record in value.items()
        if isinstance(record, dict)
        for key in record
        if key not in known
    ]
    pruned = {name: _without(record, known) for name, record in value.items()}
    return pruned, unknown


def _without(record: Any, known: set[str]) -> Any:
    if not isinstance(record, dict):
        return record
    return {key: value for key, value in record.items() if key in known}
