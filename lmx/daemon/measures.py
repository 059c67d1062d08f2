"""What is counted and timed of each model: histograms, tokens, outcomes. Pure; knows no clock.

A histogram keeps counts and a sum, which is what Prometheus wants and all that is needed for means
over any stretch of time: two readings of both are subtracted. Nothing here ever goes down.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate

from msgspec import Struct

# vLLM's bounds in seconds (vllm/v1/metrics/loggers.py), so that its dashboards fit. The first few
# are ours: small models on one machine answer within them.
FIRST_TEXT_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
    10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
BETWEEN_TEXTS_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
    5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
REQUEST_BOUNDS_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip


class Histogram:
    """Counts of observations by size.

    Args:
        bounds: Upper bounds of the buckets, inclusive and rising; one without a bound follows.

    Attributes:
        bounds: The same.
        counts: Observations in each bucket, the unbounded one last.
        total: Sum of all observations.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    @property
    def count(self) -> int:
        """Observations so far."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """Of all observations; `None` before the first."""
        count = self.count
        return self.total / count if count else None

    def observe(self, value: float) -> None:
        """Add one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[int]:
        """Observations up to each bound, and all of them last."""
        return list(accumulate(self.counts))

    def percentile(self, share: float) -> float:
        """The bound under which this share of the observations lies, linearly between bounds.

        Returns:
            0 before the first observation; the highest bound for what lies beyond it.
        """
        wanted, below, lower = share * self.count, 0, 0.0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and below + count >= wanted:
                return lower + (bound - lower) * (wanted - below) / count
            below, lower = below + count, bound
        return lower if below < self.count else 0.0

    def add(self, other: "Histogram") -> None:
        """Take over all observations of another one with the same bounds."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


class Latencies(Struct, frozen=True, kw_only=True):
    """Where the time of requests went, in seconds.

    Attributes:
        first_text: From received to the first text delivered (TTFT).
        between_texts: Between two texts of one choice (ITL).
        queue: From received to having a slot, the wait for a load included.
        prefill: From having a slot to the first token.
        decode: From the first token to the last.
        whole: From received to the end.
        lease: From wanting the device lease to having it, of workers that take turns.
    """

    first_text: Histogram
    between_texts: Histogram
    queue: Histogram
    prefill: Histogram
    decode: Histogram
    whole: Histogram
    lease: Histogram

    def add(self, other: "Latencies") -> None:
        """Take over all observations."""
        for name in self.__struct_fields__:
            getattr(self, name).add(getattr(other, name))


def new_latencies() -> Latencies:
    """All of them empty."""
    return Latencies(
        first_text=Histogram(FIRST_TEXT_BOUNDS_S),
        between_texts=Histogram(BETWEEN_TEXTS_BOUNDS_S),
        queue=Histogram(REQUEST_BOUNDS_S),
        prefill=Histogram(REQUEST_BOUNDS_S),
        decode=Histogram(REQUEST_BOUNDS_S),
        whole=Histogram(REQUEST_BOUNDS_S),
        lease=Histogram(BETWEEN_TEXTS_BOUNDS_S),
    )


class Totals(Struct):
    """Numbers that only rise.

    Attributes:
        generated_tokens: Counted as they are delivered.
        prompt_tokens: Of requests whose prompt was processed.
        cached_tokens: Of these, tokens whose prefill was skipped.
        decode_s: Time that ended requests spent decoding.
        load_count: Loads that succeeded.
        load_s: What they took together.
        last_load_s: What the last one took. The one number here that may fall.
    """

    generated_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    decode_s: float = 0.0
    load_count: int = 0
    load_s: float = 0.0
    last_load_s: float = 0.0

    def add(self, other: "Totals") -> None:
        """Take over another model's."""
        for name in self.__struct_fields__:
            if name != "last_load_s":
                setattr(self, name, getattr(self, name) + getattr(other, name))


class ModelMeasures:
    """Everything counted of one model since the daemon started.

    Attributes:
        latencies: Where the time went.
        totals: Tokens and loads.
        outcomes: Requests that ended, by finish reason.
        errors: Requests that were refused or broke, by the error's code.
        exits: Workers that ended by themselves, by kind.
        open_count: Requests that count here now.
        is_loaded: The model answers now.
    """

    __slots__ = (
        "errors",
        "exits",
        "is_loaded",
        "latencies",
        "open_count",
        "outcomes",
        "totals",
    )

    def __init__(self) -> None:
        self.latencies = new_latencies()
        self.totals = Totals()
        self.outcomes: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.exits: Counter[str] = Counter()
        self.open_count = 0
        self.is_loaded = False

    @property
    def is_at_rest(self) -> bool:
        """Whether nobody is about to count something here."""
        return not self.open_count and not self.is_loaded

    @property
    def request_count(self) -> int:
        """Requests that ended."""
        return self.outcomes.total()

    @property
    def tokens_per_second(self) -> float:
        """Of ended requests while they decoded; 0 before the first."""
        whole = self.totals
        return whole.generated_tokens / whole.decode_s if whole.decode_s else 0.0

    def count_load(self, duration_s: float) -> None:
        """A load has succeeded."""
        self.is_loaded = True
        self.totals.load_count += 1
        self.totals.load_s += duration_s
        self.totals.last_load_s = duration_s

    def add(self, other: "ModelMeasures") -> None:
        """Take over everything of a model that is no longer shown by itself."""
        self.latencies.add(other.latencies)
        self.totals.add(other.totals)
        self.outcomes += other.outcomes
        self.errors += other.errors
        self.exits += other.exits


def merge(measures: Iterable[ModelMeasures]) -> ModelMeasures:
    """All of them as one, a copy."""
    merged = ModelMeasures()
    for one in measures:
        merged.add(one)
    return merged
