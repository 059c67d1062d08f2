"""Which settings take effect while the daemon runs, and what differs between two readings.

Everything does that is not named here. What is read when something begins, such as a load or a
connection, takes effect with the next one.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from lmx.config.known import SECTIONS, SETTINGS
from lmx.config.sections import Settings

# Read once, when the daemon starts.
NEEDS_RESTART = frozenset(
    {
        "server.host",
        "server.port",
        "models.load",
        "models.restore",
        "worker.has_spare",
        "worker.stop_grace_s",
        "worker.lease",
        "worker.lease_slice_s",
        "logging.file",
        "logging.format",
        "logging.max_mb",
        "logging.backups",
        "discovery.mdns_enabled",
        "discovery.mdns_service_name",
        "presets.enabled",
        "presets.directory",
        "skills.enabled",
        "skills.folders",
        "skills.fetch_url",
        "skills.read_folders",
        "skills.search_folder",
        "skills.search_model",
        "skills.mcp_servers",
    }
)


def differing(one: Settings, other: Settings) -> list[str]:
    """Names of the settings in which two readings differ, in the order of their types."""
    return [name for name in SETTINGS if value_of(one, name) != value_of(other, name)]


def sections_of(names: Sequence[str]) -> list[str]:
    """The sections that settings are in, each once."""
    found = {name.partition(".")[0] for name in names}
    return [section for section in SECTIONS if section in found]


def value_of(settings: Settings, name: str) -> Any:
    """The value of one setting."""
    section, _, key = name.partition(".")
    return getattr(getattr(settings, section), key)


def put_sections(settings: Settings, fresh: Settings, sections: Sequence[str]) -> None:
    """Have the settings in force say what a fresh reading says, section by section.

    For the reload alone, on the event loop: without a checkpoint between, nobody on it sees some
    sections new and some old. A thread that needs two that fit together is given both.
    """
    for section in sections:
        msgspec.structs.force_setattr(settings, section, getattr(fresh, section))


def carry_over(before: Settings, fresh: Settings) -> Settings:
    """A fresh reading, with the values of before where a change needs a restart."""
    kept: dict[str, dict[str, Any]] = {}
    for name in NEEDS_RESTART:
        section, _, key = name.partition(".")
        kept.setdefault(section, {})[key] = value_of(before, name)
    sections = {
        section: msgspec.structs.replace(getattr(fresh, section), **values)
        for section, values in kept.items()
    }
    return msgspec.structs.replace(fresh, home=before.home, **sections)
