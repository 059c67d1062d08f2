"""Which rows are computed together, and what each result means for its request.

Theory of operation. A request is a set of rows. Every step takes one batch out of all that wait:
the request with the fewest rows left goes first, so that a single text never waits behind a large
job for longer than the batch under way, and rows of others that are about as long fill the batch up
to the engine's budget of padded tokens. A request that was passed over for long goes first once.
Results leave as they come; a request ends by exactly one `Finished`. It knows rows and numbers, no
socket and no text.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lmx.engines.vectors import TokenRow, VectorEngine
from lmx.errors import OutOfMemory
from lmx.protocol.messages import Finished, Rows
from lmx.protocol.values import FinishReason, Timings, Usage

if TYPE_CHECKING:  # the worker's own modules load no engine package, and not NumPy
    import numpy as np
    from numpy.typing import NDArray

# Steps that a request may be passed over in a row.
PATIENCE_STEPS = 8
# A shorter row than this share of the batch's longest would be mostly padding.
LEAST_SHARE = 0.5
LEAST_NORM = 1e-12
FLOATS = "<f4"


class VectorJob:
    """A tokenised request, on its way from the intake thread into the engine.

    Attributes:
        sequence: The daemon's number for it.
        rows: Its inputs.
        dimensions: Leading numbers of each vector to keep, or `None` for all.
        pairs: For scores by cosine: which rows belong together; else `None`.
        ready_at_s: When tokenising ended, on the scheduler's clock.
    """

    def __init__(
        self,
        sequence: int,
        rows: list[TokenRow],
        *,
        ready_at_s: float,
        dimensions: int | None = None,
        pairs: list[tuple[int, int]] | None = None,
    ) -> None:
        self.sequence = sequence
        self.rows = rows
        self.dimensions = dimensions
        self.pairs = pairs
        self.ready_at_s = ready_at_s
        # Indices of what is still to be computed, the shortest first.
        self.pending = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
        self.began_at_s: float | None = None
        self.passed_over = 0
        self.vectors: dict[int, NDArray[np.float32]] = {}  # kept for `pairs` alone

    @property
    def token_count(self) -> int:
        """Of all its rows."""
        return sum(len(row.ids) for row in self.rows)

    def length(self, index: int) -> int:
        """Tokens of one row."""
        return len(self.rows[index].ids)


class _Pick(NamedTuple):
    """One row of a batch."""

    job: VectorJob
    at: int

    @property
    def row(self) -> TokenRow:
        return self.job.rows[self.at]


class VectorScheduler:
    """Owns every step of one vector engine. Engine thread only.

    Args:
        engine: The engine, already loaded.
        clock: Seconds, monotonic.
    """

    def __init__(self, engine: VectorEngine, *, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock
        self._budget_tokens = engine.batch_tokens
        self._jobs: dict[int, VectorJob] = {}  # in order of arrival

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._jobs)

    def submit(self, job: VectorJob) -> None:
        """Take a request."""
        self._jobs[job.sequence] = job

    def cancel(self, sequence: int) -> list[Finished]:
        """Forget a request before the next step. Unknown sequences are ignored."""
        job = self._jobs.pop(sequence, None)
        return [] if job is None else [self._finished(job, "cancelled")]

    def stop_thinking(self, sequence: int) -> None:
        """Nothing here thinks."""

    def rest(self) -> bool:
        """There is nothing that waits for a pause."""
        return False

    def shrink(self, prefix_cache_bytes: int | None = None) -> None:
        """Give back memory that is only kept for speed; rows keep no prefixes across requests."""
        if prefix_cache_bytes is None:
            self._engine.shrink()

    def step(self) -> list[Rows | Finished]:
        """Compute one batch, and say what came of it."""
        picks = self._choose()
        if not picks:
            return []
        now_s = self._clock()
        for pick in picks:
            if pick.job.began_at_s is None:
                pick.job.began_at_s = now_s
        try:
            values = self._engine.compute([pick.row for pick in picks])  # (N, D) float32
        except OutOfMemory as error:
            return self._shrink_batch(picks, error)
        return self._deliver(picks, values)

    def _choose(self) -> list[_Pick]:
        """The rows of the next batch, taken off what is pending."""
        if not self._jobs:
            return []
        first = min(self._jobs.values(), key=_rank)
        longest = first.length(first.pending[-1])
        picks: list[_Pick] = []
        others = sorted((j for j in self._jobs.values() if j is not first), key=_rank)
        for job in (first, *others):
            room = max(0, self._budget_tokens // longest - len(picks))
            taken = _take(job, longest, max(room, 1) if job is first else room)
            picks += [_Pick(job, index) for index in taken]
            job.passed_over = 0 if taken else job.passed_over + 1
        return picks

    def _shrink_batch(self, picks: list[_Pick], error: OutOfMemory) -> list[Rows | Finished]:
        """The batch did not fit: try with half of it, or tell the one request it was for."""
        if len(picks) > 1:
            longest = max(len(pick.row.ids) for pick in picks)
            self._budget_tokens = max(1, longest * len(picks) // 2)
            for pick in picks:
                job = pick.job
                place = bisect_left(job.pending, job.length(pick.at), key=job.length)
                job.pending.insert(place, pick.at)
            return []
        job = picks[0].job
        del self._jobs[job.sequence]
        return [self._finished(job, "error", error)]

    def _deliver(
        self, picks: Sequence[_Pick], values: "NDArray[np.float32]"
    ) -> list[Rows | Finished]:
        places: dict[int, list[int]] = {}
        for place, pick in enumerate(picks):
            places.setdefault(pick.job.sequence, []).append(place)
        events: list[Rows | Finished] = []
        for sequence, mine in places.items():
            job = self._jobs[sequence]
            indices = [picks[place].at for place in mine]
            events += _results(job, indices, values[mine])
            if not job.pending:
                del self._jobs[sequence]
                events.append(self._finished(job, "stop"))
        return events

    def _finished(
        self, job: VectorJob, reason: FinishReason, error: OutOfMemory | None = None
    ) -> Finished:
        now_s = self._clock()
        began_s = now_s if job.began_at_s is None else job.began_at_s
        timings = Timings(queue_s=began_s - job.ready_at_s, prefill_s=now_s - began_s)
        usage = Usage(job.token_count, 0)
        if error is None:
            return Finished(job.sequence, reason, usage, timings)
        return Finished(job.sequence, reason, usage, timings, error.code, error.message)


def _rank(job: VectorJob) -> tuple[bool, int]:
    """Who goes first: who was passed over for long, then who has the fewest rows left."""
    return job.passed_over < PATIENCE_STEPS, len(job.pending)


def _take(job: VectorJob, longest: int, room: int) -> list[int]:
    """Up to `room` of a job's rows, the longest ones that fit a batch of this length."""
    end = bisect_right(job.pending, longest, key=job.length)
    least = bisect_left(job.pending, longest * LEAST_SHARE, key=job.length)
    begin = max(least, end - room)
    taken = job.pending[begin:end]
    del job.pending[begin:end]
    return taken


def _results(
    job: VectorJob, indices: list[int], values: "NDArray[np.float32]"
) -> list[Rows | Finished]:
    """What a request is told of some of its rows.

    Shapes: values (n, D) float32.
    """
    if job.pairs is None:
        kept = values if job.dimensions is None else _shorten(values, job.dimensions)
        return [Rows(job.sequence, indices, kept.astype(FLOATS).tobytes())]
    job.vectors.update(zip(indices, values, strict=True))
    if job.pending:
        return []
    scores = array("f", [cosine(job.vectors[a], job.vectors[b]) for a, b in job.pairs])
    return [Rows(job.sequence, list(range(len(scores))), scores.tobytes())]


def _shorten(values: "NDArray[np.float32]", dimensions: int) -> "NDArray[np.float32]":
    """Leading numbers, normalised again.

    Shapes: (n, D) -> (n, dimensions) float32.
    """
    cut = values[:, :dimensions]
    norms = (cut * cut).sum(axis=1, keepdims=True) ** 0.5
    shortened: NDArray[np.float32] = cut / norms.clip(min=LEAST_NORM)
    return shortened


def cosine(left: "NDArray[np.float32]", right: "NDArray[np.float32]") -> float:
    """The cosine of two vectors, a negative one as 0, so that scores are in 0 to 1.

    Shapes: (D,), (D,) float32.
    """
    lengths: float = float((left * left).sum() * (right * right).sum()) ** 0.5
    product = float((left * right).sum())
    return min(1.0, max(0.0, product / max(lengths, LEAST_NORM)))
