"""The values of all metrics at one moment: the only place that knows where each comes from.

Nothing here waits, so what one scrape shows belongs together and the books balance in it.
"""

from collections.abc import Callable, Iterable, Iterator

from lmx.daemon.admin import memory_bytes
from lmx.daemon.dispatch import Dispatch
from lmx.daemon.loader import Loader
from lmx.daemon.measures import Histogram, Latencies, ModelMeasures, Totals, merge
from lmx.daemon.model_state import ModelState
from lmx.daemon.running import Occupancy
from lmx.daemon.tables import FoldingTable
from lmx.daemon.telemetry import NO_MODEL, Telemetry
from lmx.schema import metrics as m
from lmx.schema.metrics import Buckets, Metric, Sample
from lmx.skills.counts import RunCounts
from lmx.web.admin_views import machine_memory, ready_models

Family = tuple[Metric, Iterable[Sample]]
# What vLLM calls the ways in which a request ends.
FINISHED_REASONS = {"stop": "stop", "length": "length", "cancelled": "abort", "error": "error"}
IDLE = Occupancy(0, 0)


class Scrape:
    """Reads everything that is measured.

    Args:
        telemetry: Has the counters.
        dispatch: Knows the requests under way.
        loader: Knows the models.
        skill_runs: What was counted of skills.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        dispatch: Dispatch,
        loader: Loader,
        *,
        skill_runs: FoldingTable[RunCounts],
    ) -> None:
        self._telemetry = telemetry
        self._dispatch = dispatch
        self._loader = loader
        self._skill_runs = skill_runs

    def encode(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return m.encode_scrape(self.families())

    def families(self) -> Iterator[Family]:
        """Every metric with its samples, in the order of the docs."""
        models = {
            name: measures for name, measures in self._telemetry.models.items() if name != NO_MODEL
        }
        yield from self._occupancy(models)
        yield from _of_vllm(models)
        yield from self._requests()
        yield from self._machine()
        yield from self._models()
        yield from _of_models(models)
        yield (
            m.SKILL_RUNS,
            [
                Sample((name, ending), number)
                for name, one in self._skill_runs.items()
                for ending, number in one.endings.items()
            ],
        )

    def _occupancy(self, models: Iterable[str]) -> Iterator[Family]:
        found = self._dispatch.occupancy
        known = self._loader.models
        loading = {name: model.waiting_count for name, model in known.items()}
        names = dict.fromkeys([*models, *known])
        yield m.RUNNING, [Sample((name,), found.get(name, IDLE).running) for name in names]
        yield (
            m.WAITING,
            [
                Sample((name,), found.get(name, IDLE).waiting + loading.get(name, 0))
                for name in names
            ],
        )

    def _requests(self) -> Iterator[Family]:
        now, recent = self._telemetry.statistics(), self._telemetry.recent
        running = self._dispatch.running
        waiting = sum(request.state == "waiting" for request in running)
        slots = sum(ready.loaded.info.max_sequences for _, ready in ready_models(self._loader))
        every = dict(self._telemetry.models.items())
        yield m.RECEIVED, _one(now.received)
        yield m.REFUSED, _one(now.refused)
        yield m.ADMITTED, _one(now.admitted)
        yield m.COMPLETED, _one(now.completed)
        yield m.FAILED, _one(now.failed)
        yield m.CANCELLED, _one(now.cancelled)
        yield m.IN_FLIGHT, _one(now.in_flight)
        yield m.UNADMITTED, _one(now.waiting)
        yield m.QUEUED, _one(waiting)
        yield m.SLOTS, _one(slots or self._loader.settings.models.max_sequences)
        yield (
            m.ERRORS,
            [
                Sample((name, code), number)
                for name, one in every.items()
                for code, number in one.errors.items()
            ],
        )
        yield m.DURATION, _one(_buckets(merge(every.values()).latencies.whole))
        yield m.LATENCY_P95, _one(recent.durations_s(0.95)[0])
        yield m.SPEED, _one(now.tokens_per_second)

    def _machine(self) -> Iterator[Family]:
        loader, reading = self._loader, self._loader.reading
        memory, ledger = machine_memory(loader), loader.room.ledger
        yield m.LOADED_MODELS, _one(len(loader.routable))
        yield m.MEMORY_USED, _one(memory.used_gb)
        yield m.MEMORY_TOTAL, _one(memory.total_gb)
        yield m.BUDGET, _one(ledger.budget)
        yield m.RESERVED, _one(ledger.reserved)
        yield m.RESIDENT, _one(reading.daemon_bytes) if reading is not None else ()
        yield m.UPTIME, _one(self._telemetry.uptime.seconds)

    def _models(self) -> Iterator[Family]:
        known = self._loader.models.values()
        yield (
            m.MODEL_STATE,
            [
                Sample((model.id, state.value), int(model.state is state))
                for model in known
                for state in ModelState
            ],
        )
        yield (
            m.READINESS,
            [Sample((model.id,), int(model.state is ModelState.READY)) for model in known],
        )
        yield (
            m.MODEL_MEMORY,
            [
                Sample((model.id,), memory_bytes(ready))
                for model, ready in ready_models(self._loader)
            ],
        )
        told = [(model.id, ready.worker.link.vitals) for model, ready in ready_models(self._loader)]
        paces = [(name, vitals.pacing) for name, vitals in told if vitals and vitals.pacing]
        yield m.PIECE_TOKENS, [Sample((name,), pace.piece_tokens) for name, pace in paces]
        targets = [(name, pace.gap_target_s) for name, pace in paces]
        yield m.GAP_TARGET, [Sample((name,), gap_s) for name, gap_s in targets if gap_s is not None]
        kept = [(name, vitals.memory.kept) for name, vitals in told if vitals]
        yield m.KEPT_BYTES, [Sample((name,), one.size_bytes) for name, one in kept]
        yield m.KEPT_ENTRIES, [Sample((name,), one.entry_count) for name, one in kept]
        yield m.KEPT_EVICTIONS, [Sample((name,), one.evicted_count) for name, one in kept]


def _of_vllm(models: dict[str, ModelMeasures]) -> Iterator[Family]:
    """What vLLM measures, too, but for the requests under way."""

    def total(read: Callable[[Totals], int]) -> list[Sample]:
        return [Sample((name,), read(one.totals)) for name, one in models.items()]

    def timed(read: Callable[[Latencies], Histogram]) -> list[Sample]:
        return [Sample((name,), _buckets(read(one.latencies))) for name, one in models.items()]

    yield m.PROMPT_TOKENS, total(lambda totals: totals.prompt_tokens)
    yield m.GENERATED_TOKENS, total(lambda totals: totals.generated_tokens)
    yield (
        m.ENDED,
        [
            Sample((name, shown), one.outcomes[reason])
            for name, one in models.items()
            for reason, shown in FINISHED_REASONS.items()
        ],
    )
    yield m.FIRST_TEXT, timed(lambda latencies: latencies.first_text)
    yield m.BETWEEN_TEXTS, timed(lambda latencies: latencies.between_texts)
    yield m.WHOLE, timed(lambda latencies: latencies.whole)
    yield m.QUEUE, timed(lambda latencies: latencies.queue)
    yield m.PREFILL, timed(lambda latencies: latencies.prefill)
    yield m.DECODE, timed(lambda latencies: latencies.decode)
    yield m.CACHE_QUERIES, total(lambda totals: totals.prompt_tokens)
    yield m.CACHE_HITS, total(lambda totals: totals.cached_tokens)
    yield m.DRAFTED, total(lambda totals: totals.drafted_tokens)
    yield m.ACCEPTED, total(lambda totals: totals.accepted_tokens)


def _of_models(models: dict[str, ModelMeasures]) -> Iterator[Family]:
    """What only LMX measures. A mean of nothing has no sample."""

    def known(read: Callable[[ModelMeasures], float | None]) -> list[Sample]:
        values = {name: read(one) for name, one in models.items()}
        return [Sample((name,), value) for name, value in values.items() if value is not None]

    yield m.MODEL_SPEED, known(lambda one: one.tokens_per_second or None)
    yield m.ERROR_RATE, known(_error_rate)
    yield m.QUEUE_WAIT, known(lambda one: one.latencies.queue.mean)
    yield m.LOADS, known(lambda one: one.totals.load_count)
    yield m.LOAD_DURATION, known(lambda one: one.totals.last_load_s or None)
    yield (
        m.EXITS,
        [
            Sample((name, kind), number)
            for name, one in models.items()
            for kind, number in one.exits.items()
        ],
    )
    yield (
        m.LEASE_WAIT,
        [
            Sample((name,), _buckets(one.latencies.lease))
            for name, one in models.items()
            if one.latencies.lease.count
        ],
    )


def _error_rate(measures: ModelMeasures) -> float | None:
    ended = measures.request_count
    return measures.outcomes["error"] / ended if ended else None


def _one(value: float | Buckets) -> list[Sample]:
    return [Sample((), value)]


def _buckets(histogram: Histogram) -> Buckets:
    return Buckets(histogram.bounds, histogram.cumulative, histogram.total)
