"""What the machine says of itself to clients that look for it, and what a reload changed.

Sizes are in 10^9 bytes. Some values are there twice, because the Opta CLI and the dashboard read
them in different places.
"""

from typing import Literal

from msgspec import Struct

from lmx.schema.status import Yes

SecurityProfile = Literal["open", "local-key"]


class DiscoveryAuth(Struct, frozen=True, kw_only=True):
    """Which keys a client needs."""

    admin_key_required: bool
    inference_key_required: bool
    supabase_jwt_enabled: bool = False


class DiscoveryEndpoints(Struct, frozen=True, kw_only=True):
    """Where to go on, under the name by which the client got here."""

    preferred_base_url: str
    base_urls: list[str]
    openai_base_url: str
    admin_base_url: str
    websocket_url: str


class DiscoveryContinuity(Struct, frozen=True, kw_only=True):
    """Whether events can be resumed by their ids, and whether logs of sessions can be read."""

    event_resume_supported: bool = True
    session_log_api: bool = True


class HardwareSummary(Struct, frozen=True, kw_only=True):
    """The machine in three values; `metal` says whether Apple's GPU interface is there."""

    chip: str
    memory_gb: float
    metal: bool


class Discovery(Struct, frozen=True, kw_only=True):
    """How a client finds out what this is and how to use it, without a key.

    Attributes:
        instance_id: The same as long as name and port are, to tell machines apart.
        security_profile: Whether any key is needed.
        client_probe_order: Paths that tell the most first.
    """

    schema_version: str = "1"
    service: str = "opta-lmx"
    version: str
    name: str
    instance_id: str
    security_profile: SecurityProfile
    ready: bool
    loaded_models: list[str]
    loaded_model_count: int
    in_flight_requests: int
    auth: DiscoveryAuth
    endpoints: DiscoveryEndpoints
    continuity: DiscoveryContinuity = DiscoveryContinuity()
    client_probe_order: list[str]
    hardware_summary: HardwareSummary


class DeviceHardware(Struct, frozen=True, kw_only=True):
    """The machine. `gpu_family` is Apple's name of a GPU generation."""

    hostname: str
    chip_name: str
    memory_gb: float
    cpu_cores: int
    metal_available: bool
    architecture: str
    gpu_family: str | None


class DeviceIdentity(Struct, frozen=True, kw_only=True):
    """How the machine presents itself, as its operator says."""

    name: str
    purpose: str
    role: str


class DeviceReply(Struct, frozen=True, kw_only=True):
    """The machine and its part in the network."""

    hardware: DeviceHardware
    identity: DeviceIdentity
    chip: str
    memory_gb: float
    hostname: str
    name: str
    purpose: str
    role: str
    os_version: str


class ReloadReply(Struct, frozen=True, kw_only=True):
    """What reading the settings again has changed.

    Attributes:
        updated: Sections that changed and took effect.
        needs_restart: Sections that changed and take effect at the next start.
        updated_keys: Settings that changed and took effect, as ``section.key``.
        needs_restart_keys: Settings that changed and take effect at the next start.
        warnings: What stands there without any effect, and where.
    """

    success: Yes = True
    updated: list[str]
    needs_restart: list[str]
    updated_keys: list[str]
    needs_restart_keys: list[str]
    warnings: list[str]
