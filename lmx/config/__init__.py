"""Settings: what exists (`sections`) and where values come from (`sources`)."""

from lmx.config.downloads import DownloadSettings
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
    ENVIRONMENT_PREFIX,
    SECTIONS,
    default_file,
    home_directory,
    load_settings,
)

__all__ = [
    "ENVIRONMENT_PREFIX",
    "EVERY_MODEL",
    "SECTIONS",
    "Backend",
    "DeviceSettings",
    "DiscoverySettings",
    "DownloadSettings",
    "GgufSettings",
    "LeaseMode",
    "LoggingSettings",
    "MemorySettings",
    "ModelSettings",
    "PresetSettings",
    "RoutingSettings",
    "SecuritySettings",
    "ServerSettings",
    "Settings",
    "SkillSettings",
    "WorkerSettings",
    "default_file",
    "home_directory",
    "load_settings",
]
