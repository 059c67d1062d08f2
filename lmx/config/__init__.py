"""Settings: what exists (`sections`) and where values come from (`sources`)."""

from lmx.config.downloads import DownloadSettings
from lmx.config.environment import ENVIRONMENT_PREFIX, holds_keys
from lmx.config.known import SECTIONS
from lmx.config.origins import ConfigWarning, Origin
from lmx.config.reloading import carry_over, differing, put_sections, sections_of
from lmx.config.resolve import Loaded
from lmx.config.routing import DiscoverySettings, PresetSettings, RoutingSettings
from lmx.config.sections import (
    EVERY_MODEL,
    Backend,
    DeviceSettings,
    GgufSettings,
    LeaseMode,
    LoggingSettings,
    MemorySettings,
    ModelSettings,
    SecuritySettings,
    ServerSettings,
    Settings,
    WorkerSettings,
)
from lmx.config.skills import SkillSettings
from lmx.config.sources import (
    default_file,
    default_files,
    home_directory,
    load,
    load_settings,
)

__all__ = [
    "ENVIRONMENT_PREFIX",
    "EVERY_MODEL",
    "SECTIONS",
    "Backend",
    "ConfigWarning",
    "DeviceSettings",
    "DiscoverySettings",
    "DownloadSettings",
    "GgufSettings",
    "LeaseMode",
    "Loaded",
    "LoggingSettings",
    "MemorySettings",
    "ModelSettings",
    "Origin",
    "PresetSettings",
    "RoutingSettings",
    "SecuritySettings",
    "ServerSettings",
    "Settings",
    "SkillSettings",
    "WorkerSettings",
    "carry_over",
    "default_file",
    "default_files",
    "differing",
    "holds_keys",
    "home_directory",
    "load",
    "load_settings",
    "put_sections",
    "sections_of",
]
