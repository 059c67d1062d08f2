"""What the routes answer that show the daemon at work: requests, measurements, health.

Each number of the dashboard stands at the top level, because that is where it looks; the nested
objects below hold the same by kind, model and client for those that read them there. Sizes are in
10^9 bytes, times in epoch seconds, rates between 0 and 1.
"""

from typing import Literal

import msgspec
from msgspec import Struct

from lmx.schema.status import Yes

SCHEMA_VERSION = "1"


class RunningRow(Struct, frozen=True, kw_only=True):
    """A request that has not ended.

    Attributes:
        model_id: As it was asked for, until a model is found.
        client: What the client calls itself, or its address.
        state: It waits for a load or a slot, its prompt is processed, it has said something, or it
            waits for skills that its answer has called.
        completion_tokens: Delivered so far.
        tokens_per_second: Since the first text.
    """

    request_id: str
    model_id: str
    client: str
    route: str
    state: Literal["waiting", "prefill", "decoding", "skills"]
    received_at: float
    age_s: float
    prompt_tokens: int
    completion_tokens: int
    tokens_per_second: float


class RunningReply(Struct, frozen=True, kw_only=True):
    """The requests under way, in order of arrival."""

    requests: list[RunningRow]
    count: int


class CancelReply(Struct, frozen=True, kw_only=True):
    """A request has been told to end."""

    success: Yes = True
    request_id: str


class RequestCounts(Struct, frozen=True, kw_only=True):
    """Requests since the start.

    Attributes:
        total: Received: refused, waiting for a load, or admitted.
        admitted: Completed, failed, cancelled or in flight.
    """

    total: int
    refused: int
    waiting: int
    admitted: int
    completed: int
    failed: int
    cancelled: int
    in_flight: int


class TokenCounts(Struct, frozen=True, kw_only=True):
    """Tokens since the start. `completion` is counted as they are delivered."""

    prompt: int
    completion: int
    cached: int
    total: int


class ModelMetrics(Struct, frozen=True, kw_only=True):
    """What was measured of one model; ``(other)`` holds those not used for long."""

    requests: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    avg_tokens_per_second: float
    avg_time_to_first_token_ms: float
    avg_inter_token_latency_ms: float
    avg_queue_ms: float
    avg_total_time_ms: float
    loads: int
    last_load_s: float
    worker_exits: int


class ClientMetrics(Struct, frozen=True, kw_only=True):
    """What was counted of one client; ``(other)`` holds those not seen for long."""

    requests: int
    errors: int
    prompt_tokens: int
    completion_tokens: int


class MetricsReply(Struct, frozen=True, kw_only=True):
    """What was measured since the start.

    Attributes:
        total_requests: Received.
        error_count: Requests that ended with an error, the refused ones included.
        error_rate: Their share of those that ended.
        p50_tokens_per_second: Percentiles are of the last 1024 answered requests.
        requests_per_minute: That ended in the last minute.
        recent_tokens_per_second: Generated in the last whole second.
    """

    total_requests: int
    total_tokens_generated: int
    total_prompt_tokens: int
    avg_tokens_per_second: float
    avg_time_to_first_token_ms: float
    avg_total_time_ms: float
    p50_tokens_per_second: float
    p95_tokens_per_second: float
    p99_tokens_per_second: float
    error_count: int
    error_rate: float
    requests_per_minute: int
    recent_tokens_per_second: float
    # The Opta CLI's own names for four of these.
    cli_total_requests: int = msgspec.field(name="totalRequests")
    cli_total_tokens: int = msgspec.field(name="totalTokens")
    cli_average_latency_ms: float = msgspec.field(name="avgLatencyMs")
    cli_error_rate: float = msgspec.field(name="errorRate")
    requests: RequestCounts
    tokens: TokenCounts
    per_model: dict[str, ModelMetrics]
    per_client: dict[str, ClientMetrics]
    uptime_seconds: float
    schema_version: str = SCHEMA_VERSION


class DiagnosedMemory(Struct, frozen=True, kw_only=True):
    """Memory of the whole machine."""

    used_percent: float
    used_gb: float
    total_gb: float
    threshold_percent: float


class DiagnosedModel(Struct, frozen=True, kw_only=True):
    """A model that answers."""

    model_id: str
    backend: str
    memory_gb: float
    loaded_at: float
    requests: int


class DiagnosedMetrics(Struct, frozen=True, kw_only=True):
    """The measurements in short."""

    total_requests: int
    avg_tokens_per_second: float
    error_rate: float


class RecentErrorRow(Struct, frozen=True, kw_only=True):
    """An error that a request ended with. `category` is its code."""

    timestamp: float
    category: str
    message: str
    model: str


class Diagnostics(Struct, frozen=True, kw_only=True):
    """Whether all is well, and if not, why.

    Attributes:
        agents: There are none.
        recent_errors: The last 50, the latest first.
    """

    verdict: Literal["healthy", "degraded", "critical"]
    reason: str | None
    uptime_seconds: float
    memory: DiagnosedMemory
    models: list[DiagnosedModel]
    metrics: DiagnosedMetrics
    agents: None = None
    recent_errors: list[RecentErrorRow]


class DeviceMemory(Struct, frozen=True, kw_only=True):
    """Memory as the device libraries of all workers on a GPU count it."""

    active_memory_gb: float
    peak_memory_gb: float
    cache_memory_gb: float


class AdminHealth(Struct, frozen=True, kw_only=True):
    """The server's health; the status is 200 whatever it is.

    Attributes:
        reason: Why it is degraded.
        metal: Only where a model computes on a GPU.
        helpers: There are none.
    """

    status: Literal["ok", "degraded"]
    version: str
    reason: str | None
    memory_usage_percent: float
    metal: DeviceMemory | None
    helpers: dict[str, str] = {}
    models_loaded: int
    in_flight_requests: int
