"""What the routes that manage models answer. Sizes are in 10^9 bytes, times in epoch seconds.

Several clients read the same document under names of their own, so some values are there twice:
the Opta CLI, the dashboard and the help pages each find theirs.
"""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType


class MachineMemory(Struct, frozen=True, kw_only=True):
    """Memory of the whole machine. Above `threshold_percent` room is made."""

    total_gb: float
    used_gb: float
    available_gb: float
    usage_percent: float
    used_percent: float
    threshold_percent: float


class LoadingModel(Struct, frozen=True, kw_only=True):
    """A model on its way.

    Attributes:
        state: Where it is in its life.
        reason: Why the attempt before this one failed.
        waiting: Requests that wait for it, in order.
        since: When it came into this state.
    """

    id: str
    state: str
    reason: str | None
    waiting: int
    since: float


class AdminStatus(Struct, frozen=True, kw_only=True):
    """The server at a glance. `waiting_requests` wait for a model that is loading or for a slot."""

    version: str
    uptime_seconds: float
    loaded_models: int
    models_loaded: int
    models: list[str]
    loading: list[LoadingModel]
    memory: MachineMemory
    in_flight_requests: int
    waiting_requests: int
    max_concurrent_requests: int


class ModelStatistics(Struct, frozen=True, kw_only=True):
    """What a model has done since it is known."""

    total_requests: int
    total_tokens_generated: int
    avg_tokens_per_second: float
    last_used_at: float


class Readiness(Struct, frozen=True, kw_only=True):
    """Where a model is in its life."""

    state: str
    reason: str | None
    crash_count: int


class LoadedModel(Struct, frozen=True, kw_only=True):
    """A model that answers.

    Attributes:
        loaded_at: When its worker came up.
        last_used_at: When its last request ended; when it was loaded, before the first.
        use_batching: It answers several requests together.
        keep_alive_sec: Idle time after which it is unloaded; 0 for never.
        performance_overrides: What the load asked for, as it was.
        speculative: Nothing yet.
    """

    id: str
    model_id: str
    loaded: bool = True
    memory_gb: float
    memory_used_gb: float
    loaded_at: float
    last_used_at: float
    request_count: int
    context_length: int
    use_batching: bool
    backend: str
    backend_type: str
    keep_alive_sec: float
    performance: dict[str, Any]
    performance_overrides: dict[str, Any]
    stats: ModelStatistics
    readiness: Readiness
    speculative: dict[str, Any] = {}


class InventoryModel(Struct, frozen=True, kw_only=True):
    """A model on disk, or one that is loaded and on no disk.

    Attributes:
        id: A short name, if no other model has the same; else the whole one.
        path: The whole name.
        vram_gb: What it takes, while it is loaded.
        reason: Why it is not complete.
        purpose: What it is for.
    """

    id: str
    path: str
    loaded: bool
    vram_gb: float | None
    format: str
    size_bytes: int
    status: str
    reason: str | None = None
    quantisation: str | None = None
    architecture: str | None = None
    parameter_count: int | None = None
    context_length: int | None = None
    purpose: str | None = None


class AdminModels(Struct, frozen=True, kw_only=True):
    """Models that answer, models on their way, and models on disk."""

    loaded: list[LoadedModel]
    count: int
    loading: list[LoadingModel]
    models: list[InventoryModel]


class AvailableModel(Struct, frozen=True, kw_only=True):
    """A model on disk. `status` is absent for one that is complete."""

    repo_id: str
    local_path: str
    size_bytes: int
    downloaded_at: float
    status: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    backend: str
    format: str
    quantization: str | None = None


class LoadReply(Struct, frozen=True, kw_only=True):
    """A model is loaded.

    Attributes:
        memory_after_load_gb: In use on the machine now.
        time_to_load_ms: What the load took.
        vram_gb: What the model takes.
    """

    success: bool = True
    status: Literal["loaded"] = "loaded"
    model_id: str
    model: str
    memory_after_load_gb: float
    time_to_load_ms: float
    load_time_ms: float
    vram_gb: float
    backend: str
    context_length: int


class UnloadReply(Struct, frozen=True, kw_only=True):
    """A model is gone, and what its memory was."""

    success: bool = True
    model_id: str
    memory_freed_gb: float
    freed_vram_gb: float


class DeleteReply(Struct, frozen=True, kw_only=True):
    """A model's files are gone, and how long they were."""

    success: bool = True
    model_id: str
    freed_bytes: int


class ModelMemory(Struct, frozen=True, kw_only=True):
    """What a model takes, or is going to take while it loads."""

    memory_gb: float
    loaded: bool


class ModelMemoryRow(Struct, frozen=True, kw_only=True):
    """What a loaded model takes."""

    model_id: str
    memory_gb: float
    backend: str


class MemoryBudget(Struct, frozen=True, kw_only=True):
    """What models may take together, and what is spoken for."""

    budget_gb: float
    reserved_gb: float
    free_gb: float


class AdminMemory(Struct, frozen=True, kw_only=True):
    """Memory of the machine, and of each model. Above `warning_percent` a warning is sent."""

    total_unified_memory_gb: float
    total_gb: float
    used_gb: float
    available_gb: float
    usage_percent: float
    used_percent: float
    warning_percent: float
    threshold_percent: float
    models: dict[str, ModelMemory]
    per_model: list[ModelMemoryRow]
    budget: MemoryBudget


class PerformanceReply(Struct, frozen=True, kw_only=True):
    """How a loaded model is run. `global_defaults` are settings that hold where it has no own."""

    model_id: str
    backend_type: str
    loaded_at: float
    request_count: int
    last_used_at: float
    memory_gb: float
    context_length: int
    use_batching: bool
    performance: dict[str, Any]
    global_defaults: dict[str, Any]
    stats: ModelStatistics
    readiness: Readiness
    speculative: dict[str, Any] = {}


Outcome = Literal["pass", "fail", "unknown"]


class ProbeCandidate(Struct, frozen=True, kw_only=True):
    """One backend, and whether it loads the model; ``unknown`` when it could not be tried out."""

    backend: str
    outcome: Outcome
    reason: str | None


class ProbeReply(Struct, frozen=True, kw_only=True):
    """Which backends load a model; none is recommended if none does."""

    model_id: str
    recommended_backend: str | None
    candidates: list[ProbeCandidate]


class CompatibilityRow(Struct, frozen=True, kw_only=True):
    """How one attempt to load a model went."""

    ts: float
    model_id: str
    backend: str
    backend_version: str
    outcome: Outcome
    reason: str | None
    metadata: dict[str, Any]


class CompatibilitySummary(Struct, frozen=True, kw_only=True):
    """Attempts that a query found, counted by outcome and by backend."""

    outcomes: dict[str, int]
    backends: dict[str, dict[str, int]]


class CompatibilityReply(Struct, frozen=True, kw_only=True):
    """Attempts, the latest first. `total` counts those beyond the limit, too."""

    total: int
    rows: list[CompatibilityRow]
    summary: CompatibilitySummary | None
