"""What the daemon knows of itself at work, as the documents that clients read. Touches no disk."""

from typing import Literal, NamedTuple

import msgspec

from lmx import __version__
from lmx.daemon.admin import memory_bytes
from lmx.daemon.clients import ClientCounts
from lmx.daemon.compatibility import backend_name
from lmx.daemon.dispatch import Dispatch
from lmx.daemon.loader import Loader
from lmx.daemon.measures import Histogram, ModelMeasures, merge
from lmx.daemon.model_state import ModelState
from lmx.daemon.telemetry import NO_MODEL, Statistics, Telemetry
from lmx.schema.live import (
    AdminHealth,
    ClientMetrics,
    DeviceMemory,
    DiagnosedMemory,
    DiagnosedMetrics,
    DiagnosedModel,
    Diagnostics,
    MetricsReply,
    ModelMetrics,
    RecentErrorRow,
    RequestCounts,
    RunningReply,
    RunningRow,
    TokenCounts,
)
from lmx.web.admin_views import gigabytes, machine_memory, ready_models

SHARES = (0.5, 0.95, 0.99)


class Verdict(NamedTuple):
    """Whether all is well, and if not, why."""

    level: Literal["healthy", "degraded", "critical"]
    reason: str | None


def judge(loader: Loader, dispatch: Dispatch) -> Verdict:
    """The worst that can be said of the daemon now. Having no model loaded is no fault."""
    memory = machine_memory(loader)
    if dispatch.is_short_of_memory:
        return Verdict("critical", "memory is critical, new requests are refused")
    if memory.used_percent >= memory.threshold_percent:
        return Verdict("critical", f"memory is critical: {memory.used_percent:.1f}% is used")
    if dispatch.is_draining:
        return Verdict("degraded", "the server is stopping")
    for model in loader.models.values():
        if model.state in {ModelState.FAILED, ModelState.QUARANTINED}:
            why = "" if model.error is None else f": {model.error.message}"
            return Verdict("degraded", f"{model.id} has failed{why}")
    if memory.used_percent >= loader.settings.memory.warning_percent:
        return Verdict("degraded", f"memory is short: {memory.used_percent:.1f}% is used")
    return Verdict("healthy", None)


def running_reply(dispatch: Dispatch) -> RunningReply:
    """The requests under way."""
    rows = [RunningRow(**msgspec.structs.asdict(request)) for request in dispatch.running]
    return RunningReply(requests=rows, count=len(rows))


def metrics_reply(telemetry: Telemetry) -> MetricsReply:
    """Everything measured, flat and nested."""
    now, recent = telemetry.statistics(), telemetry.recent
    whole = merge(telemetry.models.values())
    totals, latencies = whole.totals, whole.latencies
    p50, p95, p99 = (round(speed, 2) for speed in recent.speeds(*SHARES))
    rate, latency_ms = _error_rate(now, whole), _mean_ms(latencies.whole)
    return MetricsReply(
        total_requests=now.received,
        total_tokens_generated=totals.generated_tokens,
        total_prompt_tokens=totals.prompt_tokens,
        avg_tokens_per_second=round(whole.tokens_per_second, 2),
        avg_time_to_first_token_ms=_mean_ms(latencies.first_text),
        avg_total_time_ms=latency_ms,
        p50_tokens_per_second=p50,
        p95_tokens_per_second=p95,
        p99_tokens_per_second=p99,
        error_count=whole.error_count,
        error_rate=rate,
        requests_per_minute=recent.requests_per_minute(),
        recent_tokens_per_second=now.tokens_per_second,
        cli_total_requests=now.received,
        cli_total_tokens=totals.generated_tokens,
        cli_average_latency_ms=latency_ms,
        cli_error_rate=rate,
        requests=_request_counts(now),
        tokens=TokenCounts(
            prompt=totals.prompt_tokens,
            completion=totals.generated_tokens,
            cached=totals.cached_tokens,
            total=totals.prompt_tokens + totals.generated_tokens,
        ),
        per_model={
            name: _model_metrics(one) for name, one in telemetry.models.items() if name != NO_MODEL
        },
        per_client={name: _client_metrics(one) for name, one in telemetry.clients.items()},
        uptime_seconds=telemetry.uptime.seconds,
    )


def diagnostics_reply(telemetry: Telemetry, loader: Loader, dispatch: Dispatch) -> Diagnostics:
    """Whether all is well, with what it is judged by."""
    verdict, memory = judge(loader, dispatch), machine_memory(loader)
    now, whole = telemetry.statistics(), merge(telemetry.models.values())
    return Diagnostics(
        verdict=verdict.level,
        reason=verdict.reason,
        uptime_seconds=telemetry.uptime.seconds,
        memory=DiagnosedMemory(
            used_percent=memory.used_percent,
            used_gb=memory.used_gb,
            total_gb=memory.total_gb,
            threshold_percent=memory.threshold_percent,
        ),
        models=[
            DiagnosedModel(
                model_id=model.id,
                backend=backend_name(ready.loaded.info.engine),
                memory_gb=gigabytes(memory_bytes(ready)),
                loaded_at=round(ready.loaded_at, 3),
                requests=model.statistics.request_count,
            )
            for model, ready in ready_models(loader)
        ],
        metrics=DiagnosedMetrics(
            total_requests=now.received,
            avg_tokens_per_second=round(whole.tokens_per_second, 2),
            error_rate=_error_rate(now, whole),
        ),
        recent_errors=[
            RecentErrorRow(**msgspec.structs.asdict(error))
            for error in reversed(telemetry.recent.errors)
        ],
    )


def health_reply(loader: Loader, dispatch: Dispatch) -> AdminHealth:
    """The server's health."""
    verdict = judge(loader, dispatch)
    return AdminHealth(
        status="ok" if verdict.level == "healthy" else "degraded",
        version=__version__,
        reason=verdict.reason,
        memory_usage_percent=machine_memory(loader).usage_percent,
        metal=device_memory(loader),
        models_loaded=len(loader.routable),
        in_flight_requests=dispatch.in_flight,
    )


def device_memory(loader: Loader) -> DeviceMemory | None:
    """What the workers on a GPU last said of its memory; `None` without any."""
    said = [
        ready.worker.link.memory or ready.loaded.memory
        for _, ready in ready_models(loader)
        if ready.loaded.info.device != "cpu"
    ]
    if not said:
        return None
    return DeviceMemory(
        active_memory_gb=gigabytes(sum(memory.active_bytes for memory in said)),
        peak_memory_gb=gigabytes(sum(memory.peak_bytes for memory in said)),
        cache_memory_gb=gigabytes(sum(memory.cached_bytes for memory in said)),
    )


def _request_counts(now: Statistics) -> RequestCounts:
    return RequestCounts(
        total=now.received,
        refused=now.refused,
        waiting=now.waiting,
        admitted=now.admitted,
        completed=now.completed,
        failed=now.failed,
        cancelled=now.cancelled,
        in_flight=now.in_flight,
    )


def _model_metrics(measures: ModelMeasures) -> ModelMetrics:
    totals, latencies = measures.totals, measures.latencies
    return ModelMetrics(
        requests=measures.request_count,
        errors=measures.error_count,
        prompt_tokens=totals.prompt_tokens,
        completion_tokens=totals.generated_tokens,
        cached_tokens=totals.cached_tokens,
        avg_tokens_per_second=round(measures.tokens_per_second, 2),
        avg_time_to_first_token_ms=_mean_ms(latencies.first_text),
        avg_inter_token_latency_ms=_mean_ms(latencies.between_texts),
        avg_queue_ms=_mean_ms(latencies.queue),
        avg_total_time_ms=_mean_ms(latencies.whole),
        loads=totals.load_count,
        last_load_s=round(totals.last_load_s, 3),
        worker_exits=measures.exits.total(),
    )


def _client_metrics(counts: ClientCounts) -> ClientMetrics:
    return ClientMetrics(**msgspec.structs.asdict(counts))


def _error_rate(now: Statistics, whole: ModelMeasures) -> float:
    """The share of errors among the requests that have ended, refused or not."""
    ended = now.received - now.waiting - now.in_flight
    return round(whole.error_count / ended, 4) if ended else 0.0


def _mean_ms(histogram: Histogram) -> float:
    return round(1000 * (histogram.mean or 0.0), 3)
