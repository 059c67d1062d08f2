"""What a decode step costs, learned from the steps themselves. Pure; knows no device and no rows.

A pass over B rows of at most L tokens is taken to last a(B) + c * B * L seconds: reading weights
and whatever else a number of rows costs, and attention over the rectangle. a(B) is a table, so a
device may have any steps and cliffs in it; c is one number, which all sizes give evidence for. What
is not known counts as 0, so that nothing is decided on a guess.
"""

from collections import deque
from collections.abc import Callable, Sequence
from math import fsum
from statistics import median
from time import perf_counter
from typing import NamedTuple

# A size's own evidence fades with every note of it; this many notes count, about.
MEMORY_NOTES = 100
# From so many notes on a size counts as known.
ENOUGH_NOTES = 6
# Notes after which a larger size that is not used any more is worth another try.
STALE_NOTES = 1000
# The slope that counts is so many standard errors below the likeliest one; steps that follow each
# other are slow or fast together, so that many notes are worth a few.
SLOPE_CAUTION = 4.0
# Evidence for a slope are passes whose padded tokens differ by this share of their mean, or what
# else changes in the meantime looks like one.
LEAST_SPREAD = 0.4
# Steps whose median is one note: one of them may be held up by anything.
STEPS_PER_NOTE = 3
# Notes of the same batches that a rate is made of: no fewer, and no more than the last few.
RATE_NOTES = 4
# Reads that what happens between two launches may still lengthen.
DISTURBED_READS = 3


class PassShape(NamedTuple):
    """What a pass goes over.

    Attributes:
        rows: How many.
        padded_tokens: Rows times the longest one's tokens.
    """

    rows: int
    padded_tokens: int


class _Evidence:
    """Fading means and sums of squares of padded tokens (x) and seconds (y)."""

    def __init__(self) -> None:
        self.weight = self.x = self.y = 0.0
        self.xx = self.xy = self.yy = 0.0
        self.last_note = 0

    def add(self, x: float, y: float, note: int) -> None:
        fading = 1 - 1 / MEMORY_NOTES
        self.weight = self.weight * fading + 1
        off_x, off_y = x - self.x, y - self.y
        self.x += off_x / self.weight
        self.y += off_y / self.weight
        self.xx = self.xx * fading + off_x * (x - self.x)
        self.xy = self.xy * fading + off_x * (y - self.y)
        self.yy = self.yy * fading + off_y * (y - self.y)
        self.last_note = note


class StepCosts:
    """Predicts the seconds of a pass."""

    def __init__(self) -> None:
        self._by_rows: dict[int, _Evidence] = {}
        self._notes = 0
        self._fixed: dict[int, float] = {}  # a(B), of the sizes asked for since the last note
        self.slope = 0.0  # c, in seconds per padded token

    @property
    def is_measured(self) -> bool:
        """Something is known."""
        return bool(self._by_rows)

    def knows(self, rows: int) -> bool:
        """This size was measured, and not long ago."""
        found = self._by_rows.get(rows)
        return found is not None and found.weight >= ENOUGH_NOTES

    def note(self, shape: PassShape, seconds: float) -> None:
        """Learn from a pass."""
        self._notes += 1
        evidence = self._by_rows.setdefault(shape.rows, _Evidence())
        evidence.add(shape.padded_tokens, seconds, self._notes)
        oldest = self._notes - STALE_NOTES
        for rows in [rows for rows in self._by_rows if rows > shape.rows]:
            if self._by_rows[rows].last_note < oldest:
                del self._by_rows[rows]
        self._fixed.clear()
        self.slope = _cautious_slope(list(self._by_rows.values()))

    def error(self, rows: int) -> float:
        """Standard error of what passes of this size were measured to take, in seconds."""
        found = self._by_rows.get(rows)
        return 0.0 if found is None else (found.yy / found.weight) ** 0.5 / found.weight**0.5

    def predict(self, shape: PassShape) -> float:
        """Seconds; 0 if nothing is known."""
        fixed = self._fixed.get(shape.rows)
        if fixed is None:
            fixed = self._fixed[shape.rows] = self._interpolate(shape.rows)
        return fixed + self.slope * shape.padded_tokens

    def _interpolate(self, rows: int) -> float:
        """a(B), between its neighbours where it was not measured, beyond them as the last one.

        Beyond the largest that is a hope, so that a size is tried; below the smallest it is a
        fear, so that nothing is split for it.
        """
        below = max((size for size in self._by_rows if size <= rows), default=None)
        above = min((size for size in self._by_rows if size >= rows), default=None)
        if below is None or above is None:
            known = above if below is None else below
            return 0.0 if known is None else self._fixed_of(known)
        if below == above:
            return self._fixed_of(below)
        share = (rows - below) / (above - below)
        return self._fixed_of(below) * (1 - share) + self._fixed_of(above) * share

    def _fixed_of(self, rows: int) -> float:
        evidence = self._by_rows[rows]
        return max(0.0, evidence.y - self.slope * evidence.x)


class StepMeter:
    """Turns the moments at which passes were read into what they cost.

    The device is one step ahead of the reads, so the time between two reads is one pass's.

    Args:
        costs: Where it goes.
        clock: Seconds.
    """

    def __init__(self, costs: StepCosts, clock: Callable[[], float] = perf_counter) -> None:
        self.clock = clock
        self._costs = costs
        self._disturbed = DISTURBED_READS
        self._last_end = 0.0
        self._recent: list[list[float]] = []
        self._sizes: list[int] = []
        self._step_s: deque[float] = deque(maxlen=RATE_NOTES)  # of these sizes, undisturbed

    def disturb(self) -> None:
        """Something else is given to the device: the next reads tell nothing."""
        self._disturbed = DISTURBED_READS

    def restart(self) -> None:
        """Other rows are stepped: the next reads tell nothing, and the rate is another."""
        self.disturb()
        self._step_s.clear()

    @property
    def rate(self) -> float | None:
        """Tokens per second since the last `restart`, or `None` if that is not known yet."""
        if len(self._step_s) < RATE_NOTES:
            return None
        return sum(self._sizes) / median(self._step_s)

    def note(self, shapes: Sequence[PassShape], ends: Sequence[float]) -> None:
        """The passes of one step, in the order of the device.

        Args:
            shapes: Of each pass, at least one.
            ends: When each was read.
        """
        starts = [self._last_end, *ends[:-1]]
        self._last_end = ends[-1]
        sizes = [shape.rows for shape in shapes]
        if self._disturbed or sizes != self._sizes:
            self._disturbed = max(0, self._disturbed - 1)
            self._sizes, self._recent = sizes, []
            return
        self._recent.append([end - start for start, end in zip(starts, ends, strict=True)])
        if len(self._recent) == STEPS_PER_NOTE:
            self._step_s.append(median(list(map(fsum, self._recent))))
            for shape, seconds in zip(shapes, self._shares(shapes), strict=True):
                self._costs.note(shape, seconds)
            self._recent = []

    def _shares(self, shapes: Sequence[PassShape]) -> list[float]:
        """What each pass of the recent steps took.

        A host that is late finds several passes done at once. So between sizes that are known a
        step is divided as they are predicted to share it.
        """
        predicted = [self._costs.predict(shape) for shape in shapes]
        total = fsum(predicted)
        if total and all(self._costs.knows(shape.rows) for shape in shapes):
            return [self._step_s[-1] * seconds / total for seconds in predicted]
        return [median(seconds) for seconds in zip(*self._recent, strict=True)]


def _cautious_slope(evidence: Sequence[_Evidence]) -> float:
    """Seconds per padded token, from how the passes of each size differ among themselves."""
    spread = sum(one.xx for one in evidence)
    weight = sum(one.weight for one in evidence)
    mean = sum(one.x * one.weight for one in evidence) / weight
    freedom = weight - len(evidence) - 1
    if freedom <= 0 or spread < weight * (LEAST_SPREAD * mean) ** 2:
        return 0.0
    covariance = sum(one.xy for one in evidence)
    slope = covariance / spread
    unexplained = max(0.0, sum(one.yy for one in evidence) - slope * covariance)
    error: float = (unexplained / freedom / spread) ** 0.5
    # No pass took less than its attention.
    most = min(one.y / one.x for one in evidence)
    return max(0.0, min(slope - SLOPE_CAUTION * error, most))
