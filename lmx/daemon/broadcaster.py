"""Tells subscribers once a second how fast the daemon generates and how full its memory is.

Speeds are of live counts, so a long answer shows while it runs and not in one lump at its end. It
is silent while nothing runs, after one last event that says so.
"""

from collections.abc import Callable
from typing import NamedTuple, NoReturn

import trio

from lmx.daemon.measures import Histogram
from lmx.daemon.meter import Reading
from lmx.daemon.running import RunningRequest
from lmx.daemon.telemetry import Telemetry

PERIOD_S = 1.0


class Sums(NamedTuple):
    """Number and sum of a kind of observations, over all models."""

    number: int
    total_s: float

    def mean_ms_since(self, before: "Sums") -> float | None:
        """Of what was observed after another reading; `None` if nothing was."""
        number = self.number - before.number
        return round(1000 * (self.total_s - before.total_s) / number, 3) if number else None


class Snapshot(NamedTuple):
    """What a period is measured by: the difference of two of these."""

    tokens: dict[str, int]
    first_text: Sums
    between_texts: Sums
    queue: Sums


class Broadcaster:
    """Publishes ``throughput`` and ``memory``.

    Args:
        telemetry: Counts, and tells the subscribers.
        running: The requests under way.
        reading: Memory as last measured.
        is_loading: Whether any model is being loaded.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        *,
        running: Callable[[], list[RunningRequest]],
        reading: Callable[[], Reading | None],
        is_loading: Callable[[], bool],
    ) -> None:
        self._telemetry = telemetry
        self._running = running
        self._reading = reading
        self._is_loading = is_loading
        self._was_busy = False

    async def run(self) -> NoReturn:
        """Publish once a period."""
        while True:
            before = self._take()
            await trio.sleep(PERIOD_S)
            self._publish(before)

    def _publish(self, before: Snapshot) -> None:
        requests = self._running()
        now = self._take()
        grown = {model: n - before.tokens.get(model, 0) for model, n in now.tokens.items()}
        speed = round(max(0, sum(now.tokens.values()) - sum(before.tokens.values())) / PERIOD_S, 2)
        self._telemetry.tokens_per_second = speed
        is_busy = bool(requests or speed)
        if is_busy or self._was_busy:
            waiting = sum(request.state == "waiting" for request in requests)
            self._telemetry.publish(
                "throughput",
                tokens_per_second=speed,
                tokens_per_sec=speed,
                active_requests=len(requests) - waiting,
                waiting_requests=waiting,
                model=_busiest(grown, requests),
                ttft_ms=now.first_text.mean_ms_since(before.first_text),
                itl_ms=now.between_texts.mean_ms_since(before.between_texts),
                queue_ms=now.queue.mean_ms_since(before.queue),
            )
        if is_busy or self._is_loading():
            self._publish_memory()
        self._was_busy = is_busy

    def _publish_memory(self) -> None:
        reading = self._reading()
        if reading is None:
            return
        used, total = round(reading.used_bytes / 1e9, 3), round(reading.total_bytes / 1e9, 3)
        self._telemetry.publish(
            "memory",
            vram_used_gb=used,
            vram_total_gb=total,
            pct=round(100 * reading.used_bytes / reading.total_bytes, 2),
            vram={"used_gb": used, "total_gb": total},
        )

    def _take(self) -> Snapshot:
        models = dict(self._telemetry.models.items())
        latencies = [measures.latencies for measures in models.values()]
        return Snapshot(
            {name: measures.totals.generated_tokens for name, measures in models.items()},
            _sum([one.first_text for one in latencies]),
            _sum([one.between_texts for one in latencies]),
            _sum([one.queue for one in latencies]),
        )


def _sum(histograms: list[Histogram]) -> Sums:
    return Sums(sum(one.count for one in histograms), sum(one.total for one in histograms))


def _busiest(grown: dict[str, int], requests: list[RunningRequest]) -> str:
    """The model that generated most, or else the one that was asked last."""
    model = max(grown, key=lambda name: grown[name], default="")
    if grown.get(model):
        return model
    return requests[-1].model_id if requests else ""
