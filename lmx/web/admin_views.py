"""What the daemon knows of its models, as the rows that clients read. Touches no disk."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from lmx.catalog.inventory import InventoryRow
from lmx.config import Settings
from lmx.daemon.admin import memory_bytes
from lmx.daemon.compatibility import Attempt, backend_name
from lmx.daemon.loader import Loader
from lmx.daemon.model import Model, ReadyModel
from lmx.daemon.model_state import ModelState
from lmx.schema.admin import (
    AdminMemory,
    AvailableModel,
    CompatibilityReply,
    CompatibilityRow,
    CompatibilitySummary,
    InventoryModel,
    LoadedModel,
    LoadingModel,
    MachineMemory,
    MemoryBudget,
    ModelMemory,
    ModelMemoryRow,
    ModelStatistics,
    PerformanceReply,
    Readiness,
)
from lmx.schema.admin_requests import CompatibilityQuery

# Of the loader's states, the one that clients know under another name.
READY = "routable"


def gigabytes(count_bytes: float) -> float:
    """In 10^9 bytes, as clients count."""
    return round(count_bytes / 1e9, 3)


def ready_models(loader: Loader) -> list[tuple[Model, ReadyModel]]:
    """The models that answer, with their workers."""
    return [(model, model.ready) for model in loader.routable if model.ready is not None]


def machine_memory(loader: Loader) -> MachineMemory:
    """The last reading; before the first one, what models may take and have."""
    reading, ledger = loader.reading, loader.room.ledger
    total = ledger.budget if reading is None else reading.total_bytes
    used = ledger.reserved if reading is None else reading.used_bytes
    percent = round(100 * used / total, 2) if total else 100.0
    return MachineMemory(
        total_gb=gigabytes(total),
        used_gb=gigabytes(used),
        available_gb=gigabytes(max(0, total - used)),
        usage_percent=percent,
        used_percent=percent,
        threshold_percent=loader.settings.memory.critical_percent,
    )


def memory_reply(loader: Loader) -> AdminMemory:
    """Memory of the machine, and of each model."""
    machine, ledger = machine_memory(loader), loader.room.ledger
    loaded = {model.id: memory_bytes(ready) for model, ready in ready_models(loader)}
    coming = {
        model.id: loader.room.bytes_of(model)
        for model in loader.models.values()
        if model.is_on_its_way
    }
    models = {
        model_id: ModelMemory(memory_gb=gigabytes(size), loaded=model_id in loaded)
        for model_id, size in {**coming, **loaded}.items()
    }
    rows = [
        ModelMemoryRow(
            model_id=model.id, memory_gb=gigabytes(loaded[model.id]), backend=_backend(ready)
        )
        for model, ready in ready_models(loader)
    ]
    budget = MemoryBudget(
        budget_gb=gigabytes(ledger.budget),
        reserved_gb=gigabytes(ledger.reserved),
        free_gb=gigabytes(max(0, ledger.free)),
    )
    return AdminMemory(
        total_unified_memory_gb=machine.total_gb,
        warning_percent=loader.settings.memory.warning_percent,
        models=models,
        per_model=rows,
        budget=budget,
        **msgspec.structs.asdict(machine),
    )


def loaded_rows(loader: Loader) -> list[LoadedModel]:
    """Routable models only: clients take each row for a model that answers."""
    return [_loaded_row(model, ready, loader.settings) for model, ready in ready_models(loader)]


def loading_rows(loader: Loader) -> list[LoadingModel]:
    """Models on their way, in order of the first loads."""
    return [
        LoadingModel(
            id=model.id,
            state=model.state.value,
            reason=_reason(model),
            waiting=model.waiting_count,
            since=round(model.statistics.state_since, 3),
        )
        for model in loader.models.values()
        if model.is_on_its_way
    ]


def inventory_rows(rows: Sequence[InventoryRow], loader: Loader) -> list[InventoryModel]:
    """Models on disk, and those that are loaded from elsewhere."""
    loaded = {model.id: ready for model, ready in ready_models(loader)}
    ids = [row.id for row in rows]
    elsewhere = [model_id for model_id in loaded if model_id not in set(ids)]
    short_names = Counter(_tail(model_id) for model_id in (*ids, *elsewhere))

    def short(model_id: str) -> str:
        return _tail(model_id) if short_names[_tail(model_id)] == 1 else model_id

    on_disk = [
        InventoryModel(
            id=short(row.id),
            path=row.id,
            loaded=row.id in loaded,
            vram_gb=_vram(loaded.get(row.id)),
            format=row.format,
            size_bytes=row.size_bytes,
            status=row.status,
            reason=row.reason or None,
            quantisation=row.quantisation or None,
            architecture=row.architecture or None,
            parameter_count=row.parameter_count,
            context_length=row.context_tokens,
            purpose=row.purpose,
        )
        for row in rows
    ]
    return on_disk + [
        InventoryModel(
            id=short(model_id),
            path=model_id,
            loaded=True,
            vram_gb=_vram(loaded[model_id]),
            format=_backend(loaded[model_id]),
            size_bytes=loaded[model_id].loaded.info.weight_bytes,
            status="complete",
        )
        for model_id in elsewhere
    ]


def available_rows(rows: Iterable[InventoryRow]) -> list[AvailableModel]:
    """Models on disk; a status is given only to those that are not complete."""
    return [
        AvailableModel(
            repo_id=row.id,
            local_path=str(row.path),
            size_bytes=row.size_bytes,
            downloaded_at=row.modified_at,
            status=UNSET if row.status == "complete" else row.status,
            reason=row.reason or UNSET,
            backend=row.format,
            format=row.format,
            quantization=row.quantisation or None,
        )
        for row in rows
    ]


def performance_reply(model: Model, ready: ReadyModel, settings: Settings) -> PerformanceReply:
    """How a loaded model is run."""
    row = _loaded_row(model, ready, settings)
    names = set(PerformanceReply.__struct_fields__) - {"global_defaults"}
    shared = {name: value for name, value in _fields(row).items() if name in names}
    return PerformanceReply(global_defaults=_defaults(settings), **shared)


def compatibility_reply(
    attempts: Sequence[Attempt], query: CompatibilityQuery
) -> CompatibilityReply:
    """The attempts that a query asks for.

    Args:
        attempts: All, the latest first.
        query: Which ones.
    """
    found = [attempt for attempt in attempts if _is_asked_for(attempt, query)]
    rows = [CompatibilityRow(**_fields(attempt)) for attempt in found[: query.limit]]
    summary = _summarise(found) if query.include_summary else None
    return CompatibilityReply(total=len(found), rows=rows, summary=summary)


def _loaded_row(model: Model, ready: ReadyModel, settings: Settings) -> LoadedModel:
    info, done, memory = ready.loaded.info, model.statistics, gigabytes(memory_bytes(ready))
    last_used_at = round(max(done.last_used_at, ready.loaded_at), 3)
    speed = done.generated_tokens / done.decode_s if done.decode_s else 0.0
    is_ready = model.state is ModelState.READY
    return LoadedModel(
        id=model.id,
        model_id=model.id,
        memory_gb=memory,
        memory_used_gb=memory,
        loaded_at=round(ready.loaded_at, 3),
        last_used_at=last_used_at,
        request_count=done.request_count,
        context_length=info.context_tokens,
        use_batching=info.max_sequences > 1,
        backend=_backend(ready),
        backend_type=_backend(ready),
        keep_alive_sec=_keep_alive(model.options.keep_alive_s, settings),
        performance=model.options.performance,
        performance_overrides=model.options.performance,
        stats=ModelStatistics(
            total_requests=done.request_count,
            total_tokens_generated=done.generated_tokens,
            avg_tokens_per_second=round(speed, 2),
            last_used_at=last_used_at,
        ),
        readiness=Readiness(
            state=READY if is_ready else model.state.value,
            reason=_reason(model),
            crash_count=done.crash_count,
        ),
    )


def _defaults(settings: Settings) -> dict[str, Any]:
    models = settings.models
    return {
        "max_sequences": models.max_sequences,
        "max_waiting": models.max_waiting,
        "context_tokens": models.context_tokens,
        "keep_alive_sec": _keep_alive(None, settings),
        "max_tokens": models.default_max_tokens,
        "temperature": models.default_temperature,
    }


def _keep_alive(keep_alive_s: float | None, settings: Settings) -> float:
    """As clients count it, where 0 is never."""
    effective = settings.models.keep_alive_s if keep_alive_s is None else keep_alive_s
    return 0.0 if effective is None or effective < 0 else effective


def _is_asked_for(attempt: Attempt, query: CompatibilityQuery) -> bool:
    pairs = (
        (query.model_id, attempt.model_id),
        (query.backend, attempt.backend),
        (query.outcome, attempt.outcome),
    )
    is_recent = query.since_ts is UNSET or attempt.ts >= query.since_ts
    return is_recent and all(wanted is UNSET or wanted == value for wanted, value in pairs)


def _summarise(attempts: Iterable[Attempt]) -> CompatibilitySummary:
    outcomes: Counter[str] = Counter()
    backends: dict[str, Counter[str]] = {}
    for attempt in attempts:
        outcomes[attempt.outcome] += 1
        backends.setdefault(attempt.backend, Counter())[attempt.outcome] += 1
    by_backend = {name: dict(counts) for name, counts in backends.items()}
    return CompatibilitySummary(outcomes=dict(outcomes), backends=by_backend)


def _backend(ready: ReadyModel) -> str:
    return backend_name(ready.loaded.info.engine)


def _reason(model: Model) -> str | None:
    return None if model.error is None else model.error.message


def _vram(ready: ReadyModel | None) -> float | None:
    return None if ready is None else gigabytes(memory_bytes(ready))


def _tail(model_id: str) -> str:
    return model_id.rstrip("/").rsplit("/", 1)[-1]


def _fields(value: msgspec.Struct) -> dict[str, Any]:
    return msgspec.structs.asdict(value)
