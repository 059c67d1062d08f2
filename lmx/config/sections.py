"""The sections of the configuration: frozen, one class per subsystem.

What settings exist, with their defaults and ranges; not where they come from and not what they do.
Sections with a subsystem of their own stand in a module of their own beside this one.
"""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from lmx.config.downloads import DownloadSettings
from lmx.config.routing import DiscoverySettings, PresetSettings, RoutingSettings
from lmx.config.skills import SkillSettings
from lmx.config.values import Count, ModelArgument, Percent, Port, Seconds

Backend = Literal["auto", "mlx", "gguf"]
LeaseMode = Literal["auto", "exclusive", "shared"]
LogLevelName = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "text"]
SecurityProfileName = Literal["lan", "cloud"]
# In tables of models: all that have no entry of their own.
EVERY_MODEL = "*"


class ServerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """HTTP: where to listen and when to give up on a client.

    Attributes:
        host: Address to listen on; ``0.0.0.0`` is all of them.
        port: Port to listen on; 0 picks a free one.
        max_body_bytes: Longest body of a request; more is a 413.
        body_timeout_s: Time for a whole body to arrive.
        max_connections: Most open connections; more are answered 503.
        keep_alive_s: Idle time after which a connection closes; also the header-read limit.
        write_timeout_s: Longest time a client may take no byte before it is reset.
        heartbeat_s: Silence on a stream after which a comment is sent.
        events_heartbeat_s: Time between two ``heartbeat`` events of ``/admin/events``.
        resume: Streamed answers survive their connection and can be taken up again, unless their
            request says otherwise.
        resume_keep_s: How long after its end such an answer is kept.
        resume_max_mb: Memory of all such answers together, in 10^6 bytes.
        max_socket_requests: Most requests that run on one WebSocket at a time.
        drain_s: Time that running requests get to finish at a stop.
        close_grace_s: Time that open connections get after that.
    """

    host: str = "0.0.0.0"  # noqa: S104  # serving a LAN is the purpose
    port: Port = 1234
    max_body_bytes: Count = 64 * 1024 * 1024
    body_timeout_s: Seconds = 60.0
    max_connections: Count = 1024
    keep_alive_s: Seconds = 75.0
    write_timeout_s: Seconds = 30.0
    heartbeat_s: Seconds = 10.0
    events_heartbeat_s: Annotated[float, Meta(gt=0)] = 30.0
    resume: bool = False
    resume_keep_s: Seconds = 60.0
    resume_max_mb: Annotated[float, Meta(ge=0, le=1_000_000)] = 64.0
    max_socket_requests: Count = 256
    drain_s: Seconds = 30.0
    close_grace_s: Seconds = 2.0


class ModelSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is loaded at start and how requests meet a model.

    Attributes:
        load: Models to load at start, in the forms `--model` takes. Empty means
            `routing.default_model`, and ``demo`` where that is not set either.
        folders: Further folders in which models are looked for.
        backend: The format to load at start where a model is there in several; ``auto`` prefers
            MLX, and loads a GGUF file as it is. ``mlx`` converts GGUF files.
        max_sequences: Most sequences one model decodes together.
        max_waiting: Most requests that wait for a slot of one model.
        load_wait_s: How long a request waits for a model that is loading.
        context_tokens: Upper bound of every model's context, or `None`.
        default_max_tokens: Answer length when a request names none.
        default_temperature: Temperature when a request names none.
        dialects: How a model spells tools and reasoning where its template misleads: model id to
            the name of a tool family, and after a slash the name of its reasoning markers.
        speculation: An answer that is generated alone may come faster by checking drafts.
        draft: Models that have a draft model: model id to a smaller model of the same vocabulary,
            as a path or an id.
        inline_reasoning: Keep reasoning inside the content, between ``<think>`` tags, when a
            request does not say.
        on_demand: Load a model that is on disk when a request names it.
        keep_alive_s: Idle time after which a model is unloaded; `None` for never.
        pinned: Ids of models that are never unloaded to make room or for being idle.
        gap_target_ms: Longest gap between two tokens of a running stream while prompts are
            computed beside; `None` for 150 ms on a GPU, and on a CPU for fourteen times what it is
            without them, within 200 and 400 ms, or for twice that where it is more.
        min_residency_s: How long a model that just came up is not unloaded to make room.
        drain_s: How long running requests may go on when their model is to leave.
        restore: Load again what was loaded before the daemon stopped uncleanly.
        embedding_model: The model of requests for vectors that name none of that kind, in the forms
            `--model` takes. It is loaded at the first of them.
        rerank_model: The model of requests for scores that name none of that kind, or `None`.
        kv_bits: Models whose KV cache holds values of 8 bits instead of the engine's floats: model
            id to 8, or to 16 for the floats. ``*`` is every model of text that has no entry.
    """

    load: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    backend: Backend = "auto"
    max_sequences: Count = 32
    max_waiting: Annotated[int, Meta(ge=0)] = 512
    load_wait_s: Seconds = 60.0
    context_tokens: Count | None = None
    default_max_tokens: Count = 4096
    default_temperature: Annotated[float, Meta(ge=0, le=2)] = 0.7
    dialects: dict[str, str] = {}
    speculation: bool = True
    draft: dict[str, ModelArgument] = {}
    inline_reasoning: bool = False
    on_demand: bool = True
    keep_alive_s: Seconds | None = None
    pinned: tuple[str, ...] = ()
    gap_target_ms: Annotated[float, Meta(gt=0, le=600_000)] | None = None
    min_residency_s: Seconds = 5.0
    drain_s: Seconds = 30.0
    restore: bool = True
    embedding_model: ModelArgument = "embedder"
    rerank_model: ModelArgument | None = None
    kv_bits: dict[str, Literal[8, 16]] = {}


class GgufSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How llama.cpp loads GGUF files.

    Attributes:
        gpu_layers: Layers computed on the GPU; -1 for all of them.
        context_tokens: Upper bound of the context of GGUF models, or `None` for
            `models.context_tokens`.
        threads: Threads of the CPU, or `None` for the physical cores the process may use.
        mmap: Map the file's pages instead of copying the weights into memory.
        kv_cache_gb: Memory for the KV cache of all sequences of one model, in 10^9 bytes, or `None`
            for the engine's default.
    """

    gpu_layers: Annotated[int, Meta(ge=-1)] = -1
    context_tokens: Count | None = None
    threads: Count | None = None
    mmap: bool = True
    kv_cache_gb: Annotated[float, Meta(gt=0, le=100_000)] | None = None


class WorkerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Worker processes: how they are stopped, restarted and renewed.

    Attributes:
        stop_grace_s: Time between SIGTERM and SIGKILL.
        restart_delay_s: Pause before the first restart; doubles with each failure in a row.
        restart_delay_limit_s: The longest such pause.
        quarantine_after: Failures in a row, with no answered request between them, after which
            only an explicit load tries again.
        stall_s: Time without a token or a piece of prefill, while work is in flight, after which a
            worker counts as hung. Four times as long where the CPU computes.
        load_limit_s: The longest a load may take.
        recycle_tokens: Generated tokens after which a worker is renewed; 0 for never.
        recycle_growth_gb: Growth of its memory beyond the load after which a worker is renewed; 0
            for never.
        has_spare: Keep a started worker at hand, so that the next load need not start one.
        lease: Whether workers compute one at a time; ``auto`` is ``exclusive`` on macOS, where two
            processes on the GPU can bring the system down, and ``shared`` elsewhere.
        lease_slice_s: How long a worker computes before it hands over to one that waits.
    """

    stop_grace_s: Seconds = 2.0
    restart_delay_s: Seconds = 0.1
    restart_delay_limit_s: Seconds = 30.0
    quarantine_after: Count = 3
    stall_s: Annotated[float, Meta(gt=0)] = 30.0
    load_limit_s: Annotated[float, Meta(gt=0)] = 900.0
    recycle_tokens: Annotated[int, Meta(ge=0)] = 100_000_000
    recycle_growth_gb: Annotated[float, Meta(ge=0)] = 8.0
    has_spare: bool = True
    lease: LeaseMode = "auto"
    lease_slice_s: Annotated[float, Meta(gt=0, le=10)] = 0.05


class MemorySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much memory LMX may use and when it makes room.

    Attributes:
        budget_gb: Memory of the daemon and its workers together, in 10^9 bytes, or `None` to go by
            what the machine has and what everybody on it uses.
        warning_percent: Use of memory that is warned of.
        critical_percent: Use of memory at which room is made, in the end by unloading models.
        period_s: Time between two readings.
        prefix_cache_gb: What one model may keep of prompts and answers in memory, in 10^9 bytes; 0
            keeps nothing, `None` half of what the budget leaves beside the model, at most 8. It is
            less where less is free, and never keeps another model from loading.
        prefix_disk_gb: What all models together may keep of them on disk, in 10^9 bytes, so that
            it outlives unloads and restarts; 0 keeps nothing.
    """

    budget_gb: Annotated[float, Meta(gt=0, le=100_000)] | None = None
    warning_percent: Percent = 85.0
    critical_percent: Percent = 90.0
    period_s: Annotated[float, Meta(gt=0, le=60)] = 1.0
    prefix_cache_gb: Annotated[float, Meta(ge=0, le=100_000)] | None = None
    prefix_disk_gb: Annotated[float, Meta(ge=0, le=1_000_000)] = 10.0

    def __post_init__(self) -> None:
        if self.warning_percent >= self.critical_percent:
            raise ValueError("`warning_percent` must be below `critical_percent`")


class LoggingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Logs: what is written, where and how.

    Attributes:
        level: The least severe level written.
        file: The file written to, or `None` for standard error alone.
        format: How lines look; ``auto`` is ``text`` on a terminal and ``json`` elsewhere.
        max_mb: Size at which a file is put away and a new one begun, in 10^6 bytes; 0 for never.
        backups: How many files that were put away are kept.
        prompts: Also write what is asked and answered. Off, no line holds a word of either.
    """

    level: LogLevelName = "info"
    file: str | None = None
    format: LogFormat = "auto"
    max_mb: Annotated[float, Meta(ge=0, le=1_000_000)] = 50.0
    backups: Annotated[int, Meta(ge=0, le=1000)] = 5
    prompts: bool = False

    @property
    def path(self) -> Path | None:
        """Where `file` is, if there is one."""
        return None if self.file is None else Path(self.file).expanduser()


class SecuritySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may do what, from where. Never shows its keys.

    Attributes:
        admin_key: Opens ``/admin`` and everything else; an empty one is none.
        inference_api_key: Opens the routes that answer requests; an empty one is none.
        inference_api_keys: More of these.
        cors_allowed_origins: Web pages that may use the API: an origin, one with ``:*`` for any
            port, or ``*`` for all.
        allowed_hosts: Further names of this machine; ``.lan`` for all names below, ``*`` for any.
        open_admin: Let other hosts delete and change things while there is no admin key.
        wrong_keys_per_minute: Wrong keys from one address after which it has to wait; 0 for no end.
        profile: ``cloud`` is for machines that others than a LAN can reach: it refuses to run
            without an admin key and an inference key.
    """

    admin_key: str | None = None
    inference_api_key: str | None = None
    inference_api_keys: tuple[str, ...] = ()
    cors_allowed_origins: tuple[str, ...] = (
        "http://localhost:*",
        "http://127.0.0.1:*",
        "http://[::1]:*",
        "https://lmx.optalocal.com",
    )
    allowed_hosts: tuple[str, ...] = ()
    open_admin: bool = False
    wrong_keys_per_minute: Annotated[int, Meta(ge=0)] = 10
    profile: SecurityProfileName = "lan"

    def __post_init__(self) -> None:
        if self.profile == "cloud" and not (self.admin_keys and self.inference_keys):
            raise ValueError("`profile: cloud` needs an `admin_key` and an `inference_api_key`")

    @property
    def admin_keys(self) -> tuple[str, ...]:
        """The admin key, if one is set."""
        return _set_keys(self.admin_key)

    @property
    def inference_keys(self) -> tuple[str, ...]:
        """All inference keys that are set."""
        return _set_keys(self.inference_api_key, *self.inference_api_keys)

    def __repr__(self) -> str:
        counts = f"{len(self.admin_keys)} admin, {len(self.inference_keys)} inference"
        return f"SecuritySettings(keys: {counts})"


def _set_keys(*keys: str | None) -> tuple[str, ...]:
    """Without the blanks that no header can carry, and without empty ones."""
    return tuple(filter(None, ((key or "").strip() for key in keys)))


class DeviceSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this machine presents itself to clients that look for it.

    Attributes:
        name: What clients show; `None` for the host's name.
        purpose: What it is used for.
        role: Its part among the machines of its owner.
    """

    name: str | None = None
    purpose: str = "inference"
    role: str = "server"


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything the daemon can be told. `home` comes from ``LMX_HOME`` alone.

    The daemon has one such object for as long as it runs, frozen for all but the reload, which puts
    new sections into it (`put_sections`). So whoever keeps the object and asks it each time
    follows, and whoever keeps a section has what was in force when it was taken.
    """

    home: Path
    server: ServerSettings = ServerSettings()
    models: ModelSettings = ModelSettings()
    gguf: GgufSettings = GgufSettings()
    worker: WorkerSettings = WorkerSettings()
    memory: MemorySettings = MemorySettings()
    logging: LoggingSettings = LoggingSettings()
    security: SecuritySettings = SecuritySettings()
    device: DeviceSettings = DeviceSettings()
    routing: RoutingSettings = RoutingSettings()
    discovery: DiscoverySettings = DiscoverySettings()
    presets: PresetSettings = PresetSettings()
    downloads: DownloadSettings = DownloadSettings()
    skills: SkillSettings = SkillSettings()
