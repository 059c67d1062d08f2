"""What a step costs on this device, in units of a plain one. Knows seconds, not tokens.

A plain step is one that computes one token per sequence as it always does; a checking step computes
the last token and a draft behind it. Medians stand for both, because a machine that does something
else for a moment would spoil a mean.
"""

from collections import deque
from collections.abc import Mapping
from statistics import median

# Draft lengths that are tried, so that each is measured often. With the token before them they are
# 2, 4, 8 rows and so on: kernels take whole tiles, and a row beyond one costs a tenth of a pass.
LADDER = (1, 3, 7, 15, 31)
KEPT = 9
# A plain step has to be known before anything is compared with it.
NEEDED = 3
# What is assumed until it is measured: a checking step is a little dearer, and each token adds.
ASSUMED_EXTRA = 0.1
ASSUMED_PER_TOKEN = 0.05
# It counts as so many measurements.
ASSUMED_WEIGHT = 1
# A clock that stands still divides by this.
SHORTEST_S = 1e-9
# Plain steps after which costs are taken for lower than measured: what made them high may be over.
FORGOTTEN_AFTER = 2048
FADING = 0.75


class CheckCosts:
    """Medians of measured steps."""

    def __init__(self) -> None:
        self._plain_s: deque[float] = deque(maxlen=KEPT)
        self._ratios: dict[int, deque[float]] = {}  # by draft length; 0 for an unpipelined step
        self._seen: set[int] = set()
        self._since_check = 0

    @property
    def is_known(self) -> bool:
        """Plain steps have been measured."""
        return len(self._plain_s) >= NEEDED

    @property
    def longest_tried(self) -> int:
        """The longest draft that was ever checked; 0 before the first."""
        return max(self._seen, default=0)

    def note_plain(self, seconds: float) -> None:
        """A plain step took so long."""
        self._plain_s.append(seconds)
        self._since_check += 1
        if self._since_check >= FORGOTTEN_AFTER:
            self._since_check = 0
            for length in self._measured:
                faded = FADING * min(self._ratios[length]) + (1 - FADING) * _assumed(length)
                self._ratios[length] = deque([faded], maxlen=KEPT)

    def note_check(self, drafted: int, seconds: float) -> float:
        """A checking step took so long.

        The first one of a length is no measure, for it may have compiled kernels.

        Args:
            drafted: Length of the draft; 0 for a plain step that was not pipelined.
            seconds: From one read to the next.

        Returns:
            How many plain steps that is; once it was measured often, how many it usually is,
            because whatever else the machine did meanwhile is not the draft's fault.
        """
        self._since_check = 0
        if not self._plain_s:
            return 1.0
        ratio = seconds / max(median(self._plain_s), SHORTEST_S)
        measured = self._ratios.setdefault(drafted, deque(maxlen=KEPT))
        if drafted in self._seen:
            measured.append(ratio)
        self._seen.add(drafted)
        return ratio if len(measured) < NEEDED else median(measured)

    def ratio(self, drafted: int) -> float:
        """How many plain steps a checking step costs, at least 1.

        What longer drafts were measured at is a bound, for a shorter one costs no more. A length
        that was not measured is on the line between its neighbours that were.
        """
        measured = {length: self._estimate(length) for length in self._measured}
        found = measured.get(drafted) or self._between(drafted, measured)
        bounds = [ratio for length, ratio in measured.items() if length > drafted]
        return max(1.0, min([found, *bounds]))

    @property
    def _measured(self) -> list[int]:
        return [length for length, measured in self._ratios.items() if measured]

    def _estimate(self, drafted: int) -> float:
        """A median of a few is held close to what is assumed."""
        measured = self._ratios[drafted]
        total = ASSUMED_WEIGHT * _assumed(drafted) + len(measured) * median(measured)
        return total / (ASSUMED_WEIGHT + len(measured))

    def _between(self, drafted: int, measured: Mapping[int, float]) -> float:
        shorter = max((length for length in measured if length < drafted), default=0)
        longer = min((length for length in measured if length > drafted), default=None)
        low = measured.get(shorter, 1.0)
        if longer is not None:
            return low + (measured[longer] - low) * (drafted - shorter) / (longer - shorter)
        if not shorter:
            return _assumed(drafted)
        # Beyond all that was measured, on the line through a plain step and the longest of it.
        return max(_assumed(drafted), 1 + (low - 1) * drafted / shorter)


def _assumed(drafted: int) -> float:
    return 1 + ASSUMED_EXTRA + ASSUMED_PER_TOKEN * drafted
