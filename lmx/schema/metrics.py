"""Every metric that ``/metrics`` serves, and how a scrape is spelled.

Names that start with ``vllm:`` are vLLM's, where they mean the same, so that its dashboards work;
all others start with ``lmx_``. The text is written here and not by a library: twenty models have
thousands of lines, and a scrape must not hold up tokens. Source: Prometheus text exposition format
0.0.4. Knows nothing of where values come from.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

TEXT_TYPE = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")

MetricKind = Literal["counter", "gauge", "histogram"]
ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Metric(NamedTuple):
    """A metric as the docs list it.

    Attributes:
        name: As it is served, the ending of counters included.
        kind: How it is to be read.
        labels: What tells its samples apart.
        meaning: One sentence.
    """

    name: str
    kind: MetricKind
    labels: tuple[str, ...]
    meaning: str


class Buckets(NamedTuple):
    """A reading of a histogram.

    Attributes:
        bounds: Upper bounds of the buckets, without the last, infinite one.
        cumulative: Observations up to each bound, and all of them last.
        total: Sum of all observations.
    """

    bounds: Sequence[float]
    cumulative: Sequence[int]
    total: float


class Sample(NamedTuple):
    """A value, and the values of the metric's labels in their order."""

    labels: tuple[str, ...]
    value: float | Buckets


def metric(name: str, kind: MetricKind, meaning: str, *labels: str) -> Metric:
    """A row of the table below."""
    return Metric(name, kind, labels, meaning)


RUNNING = metric(
    "vllm:num_requests_running", "gauge", "Requests that have a slot now.", "model_name"
)
WAITING = metric(
    "vllm:num_requests_waiting", "gauge", "Requests that wait for a slot now.", "model_name"
)
PROMPT_TOKENS = metric(
    "vllm:prompt_tokens_total", "counter", "Prompt tokens of requests that ended.", "model_name"
)
GENERATED_TOKENS = metric(
    "vllm:generation_tokens_total",
    "counter",
    "Tokens generated, counted as they are delivered.",
    "model_name",
)
ENDED = metric(
    "vllm:request_success_total",
    "counter",
    "Admitted requests that ended, by how: stop, length, abort or error.",
    "model_name",
    "finished_reason",
)
FIRST_TEXT = metric(
    "vllm:time_to_first_token_seconds",
    "histogram",
    "From receiving a request to its first text (TTFT).",
    "model_name",
)
BETWEEN_TEXTS = metric(
    "vllm:inter_token_latency_seconds",
    "histogram",
    "Between two texts of one choice (ITL).",
    "model_name",
)
WHOLE = metric(
    "vllm:e2e_request_latency_seconds",
    "histogram",
    "From receiving a request to the end of its answer, of those that were answered.",
    "model_name",
)
QUEUE = metric(
    "vllm:request_queue_time_seconds",
    "histogram",
    "From receiving a request to its having a slot, the wait for a load included; of those that "
    "were answered.",
    "model_name",
)
PREFILL = metric(
    "vllm:request_prefill_time_seconds",
    "histogram",
    "From having a slot to the first token, of requests that were answered.",
    "model_name",
)
DECODE = metric(
    "vllm:request_decode_time_seconds",
    "histogram",
    "From the first token to the last, of requests that were answered.",
    "model_name",
)
CACHE_QUERIES = metric(
    "vllm:prefix_cache_queries_total",
    "counter",
    "Prompt tokens that were looked up in the prefix cache.",
    "model_name",
)
CACHE_HITS = metric(
    "vllm:prefix_cache_hits_total",
    "counter",
    "Of these, tokens whose prefill was skipped.",
    "model_name",
)
DRAFTED = metric(
    "vllm:spec_decode_num_draft_tokens_total",
    "counter",
    "Drafted tokens that were checked.",
    "model_name",
)
ACCEPTED = metric(
    "vllm:spec_decode_num_accepted_tokens_total",
    "counter",
    "Of these, tokens that became part of an answer.",
    "model_name",
)

RECEIVED = metric("lmx_requests_total", "counter", "Requests that asked for a model.")
REFUSED = metric(
    "lmx_requests_refused_total",
    "counter",
    "Of these, requests that ended before a model took them on.",
)
ADMITTED = metric("lmx_requests_admitted_total", "counter", "Requests that a model took on.")
COMPLETED = metric(
    "lmx_requests_completed_total", "counter", "Of the admitted, requests that were answered."
)
FAILED = metric(
    "lmx_requests_failed_total", "counter", "Of the admitted, requests that ended with an error."
)
CANCELLED = metric(
    "lmx_requests_cancelled_total",
    "counter",
    "Of the admitted, requests that somebody ended, such as by hanging up.",
)
IN_FLIGHT = metric(
    "lmx_in_flight_requests", "gauge", "Admitted requests that have not ended; the rest of them."
)
UNADMITTED = metric(
    "lmx_requests_awaiting_model",
    "gauge",
    "Requests that wait for a model to load: received, and neither refused nor admitted.",
)
QUEUED = metric("lmx_queued_requests", "gauge", "Requests that wait for a load or for a slot.")
SLOTS = metric(
    "lmx_concurrent_limit",
    "gauge",
    "Requests that the loaded models can run at once; without any, what settings allow one model.",
)
ERRORS = metric(
    "lmx_errors_total",
    "counter",
    "Requests that ended with an error, by its code; model (none) where none was found.",
    "model",
    "code",
)
DURATION = metric(
    "lmx_request_duration_seconds",
    "histogram",
    "From receiving a request to the end of its answer, of those that were answered, all models.",
)
LATENCY_P95 = metric(
    "lmx_request_latency_p95_seconds",
    "gauge",
    "The same, the 95th percentile of the last 1024 answered requests.",
)
SPEED = metric(
    "lmx_tokens_per_second", "gauge", "Tokens generated in the last whole second, all models."
)
LOADED_MODELS = metric("lmx_loaded_models", "gauge", "Models that answer.")
MEMORY_USED = metric(
    "lmx_memory_used_gb", "gauge", "Memory of the machine in use by anybody, in 10^9 bytes."
)
MEMORY_TOTAL = metric(
    "lmx_memory_total_gb", "gauge", "Memory that could be used at most, in 10^9 bytes."
)
BUDGET = metric("lmx_memory_budget_bytes", "gauge", "What models may take together.")
RESERVED = metric("lmx_memory_reserved_bytes", "gauge", "Of this, what is taken or promised.")
RESIDENT = metric("lmx_daemon_resident_bytes", "gauge", "Resident memory of the daemon's process.")
UPTIME = metric("lmx_uptime_seconds", "gauge", "Since the daemon started.")
MODEL_STATE = metric(
    "lmx_model_state", "gauge", "1 for the state that a known model is in.", "model", "state"
)
READINESS = metric(
    "lmx_model_readiness_state", "gauge", "1 if a known model answers, else 0.", "model"
)
MODEL_MEMORY = metric(
    "lmx_model_memory_bytes", "gauge", "What a loaded model has in memory.", "model"
)
MODEL_SPEED = metric(
    "lmx_model_tokens_per_second",
    "gauge",
    "Mean speed of a model's answers while they were decoded, since start.",
    "model",
)
ERROR_RATE = metric(
    "lmx_model_error_rate",
    "gauge",
    "Share of a model's admitted requests that ended with an error, since start.",
    "model",
)
QUEUE_WAIT = metric(
    "lmx_model_queue_wait_seconds",
    "gauge",
    "Mean of vllm:request_queue_time_seconds since start.",
    "model",
)
LOADS = metric("lmx_model_loads_total", "counter", "Loads that succeeded.", "model")
LOAD_DURATION = metric(
    "lmx_model_load_duration_seconds", "gauge", "What a model's last load took.", "model"
)
EXITS = metric(
    "lmx_worker_exits_total",
    "counter",
    "Worker processes that ended by themselves, by kind.",
    "model",
    "kind",
)
PIECE_TOKENS = metric(
    "lmx_prefill_piece_tokens",
    "gauge",
    "Tokens of prompts in a model's last step that computed any, as last told.",
    "model",
)
GAP_TARGET = metric(
    "lmx_gap_target_seconds",
    "gauge",
    "Longest gap between tokens that running answers were to have beside that step.",
    "model",
)
KEPT_BYTES = metric(
    "lmx_prefix_cache_bytes",
    "gauge",
    "Memory that holds prompts and answers for later ones, as last told.",
    "model",
)
KEPT_ENTRIES = metric(
    "lmx_prefix_cache_entries",
    "gauge",
    "Pieces that it holds, as last told.",
    "model",
)
KEPT_EVICTIONS = metric(
    "lmx_prefix_cache_evictions_total",
    "counter",
    "Pieces that its worker has dropped for want of room or under pressure, as last told.",
    "model",
)
LEASE_WAIT = metric(
    "lmx_lease_wait_seconds",
    "histogram",
    "From wanting the device to having it, where workers take turns.",
    "model",
)
SKILL_RUNS = metric(
    "lmx_skill_runs_total", "counter", "Calls of skills, by how they ended.", "skill", "outcome"
)

METRICS: tuple[Metric, ...] = (
    RUNNING,
    WAITING,
    PROMPT_TOKENS,
    GENERATED_TOKENS,
    ENDED,
    FIRST_TEXT,
    BETWEEN_TEXTS,
    WHOLE,
    QUEUE,
    PREFILL,
    DECODE,
    CACHE_QUERIES,
    CACHE_HITS,
    DRAFTED,
    ACCEPTED,
    RECEIVED,
    REFUSED,
    ADMITTED,
    COMPLETED,
    FAILED,
    CANCELLED,
    IN_FLIGHT,
    UNADMITTED,
    QUEUED,
    SLOTS,
    ERRORS,
    DURATION,
    LATENCY_P95,
    SPEED,
    LOADED_MODELS,
    MEMORY_USED,
    MEMORY_TOTAL,
    BUDGET,
    RESERVED,
    RESIDENT,
    UPTIME,
    MODEL_STATE,
    READINESS,
    MODEL_MEMORY,
    PIECE_TOKENS,
    GAP_TARGET,
    KEPT_BYTES,
    KEPT_ENTRIES,
    KEPT_EVICTIONS,
    MODEL_SPEED,
    ERROR_RATE,
    QUEUE_WAIT,
    LOADS,
    LOAD_DURATION,
    EXITS,
    LEASE_WAIT,
    SKILL_RUNS,
)


def encode_scrape(families: Iterable[tuple[Metric, Iterable[Sample]]]) -> bytes:
    """The text of one scrape; a metric without samples is named all the same."""
    lines: list[str] = []
    for described, samples in families:
        lines.append(f"# HELP {described.name} {described.meaning}\n")
        lines.append(f"# TYPE {described.name} {described.kind}\n")
        for sample in samples:
            labels = _labels(described.labels, sample.labels)
            if isinstance(sample.value, Buckets):
                lines += _histogram(described.name, labels, sample.value)
            else:
                shown = f"{{{labels}}}" if labels else ""
                lines.append(f"{described.name}{shown} {sample.value}\n")
    return "".join(lines).encode()


def _histogram(name: str, labels: str, reading: Buckets) -> Iterator[str]:
    prefix = f"{name}_bucket{{{labels}," if labels else f"{name}_bucket{{"
    shown = f"{{{labels}}}" if labels else ""
    for bound, number in zip(reading.bounds, reading.cumulative, strict=False):
        yield f'{prefix}le="{bound}"}} {number}\n'
    yield f'{prefix}le="+Inf"}} {reading.cumulative[-1]}\n'
    yield f"{name}_sum{shown} {reading.total}\n"
    yield f"{name}_count{shown} {reading.cumulative[-1]}\n"


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    pairs = zip(names, values, strict=True)
    return ",".join([f'{name}="{value.translate(ESCAPES)}"' for name, value in pairs])
