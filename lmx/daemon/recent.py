"""What happened lately: the speed of the last requests, how many a minute, the last errors. Pure.

Percentiles over all time hide a server that has become slow, so these are over the last requests.
Everything is bounded; the clock is an argument.
"""

import math
from collections import deque

from msgspec import Struct

from lmx.errors import LmxError

REQUEST_LIMIT = 1024
ERROR_LIMIT = 50
MINUTE_S = 60


class RecentError(Struct, frozen=True, kw_only=True):
    """An error that a request was ended with.

    Attributes:
        timestamp: Epoch seconds.
        category: The error's code.
        message: What the client was told.
        model: Whose request it was, as far as that was known.
    """

    timestamp: float
    category: str
    message: str
    model: str


class EndedRequest(Struct, frozen=True):
    """What counts of a request that was answered. A speed of 0 is unknown."""

    duration_s: float
    tokens_per_second: float


class RecentPast:
    """The last requests and errors.

    Attributes:
        errors: The latest last.
    """

    def __init__(self) -> None:
        self.errors: deque[RecentError] = deque(maxlen=ERROR_LIMIT)
        self._answered: deque[EndedRequest] = deque(maxlen=REQUEST_LIMIT)
        self._ends: deque[tuple[int, int]] = deque(maxlen=MINUTE_S + 1)  # whole second, requests

    def count_end(self, now_s: float) -> None:
        """A request has ended, in whatever way."""
        second = int(now_s)
        before = self._ends.pop()[1] if self._ends and self._ends[-1][0] == second else 0
        self._ends.append((second, before + 1))

    def add_answered(self, request: EndedRequest) -> None:
        """A request was answered."""
        self._answered.append(request)

    def add_error(self, error: LmxError, *, at: float, model: str) -> None:
        """A request was ended with an error.

        Args:
            error: Which one.
            at: Epoch seconds.
            model: Whose request it was.
        """
        found = RecentError(timestamp=at, category=error.code, message=error.message, model=model)
        self.errors.append(found)

    def requests_per_minute(self, now_s: float) -> int:
        """Requests that ended in the last minute."""
        return sum(number for second, number in self._ends if second > now_s - MINUTE_S)

    def speeds(self, *shares: float) -> list[float]:
        """Percentiles of tokens per second, over the last requests whose speed is known."""
        known = sorted(one.tokens_per_second for one in self._answered if one.tokens_per_second)
        return [percentile(known, share) for share in shares]

    def durations_s(self, *shares: float) -> list[float]:
        """Percentiles of the time from received to the end."""
        known = sorted(one.duration_s for one in self._answered)
        return [percentile(known, share) for share in shares]


def percentile(ordered: list[float], share: float) -> float:
    """The smallest value that this share of them does not exceed; 0 of none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0
