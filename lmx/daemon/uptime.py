"""Since when the daemon runs: one start, on one clock, for every document that tells."""

import time


class Uptime:
    """Counts from its making."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start, to the millisecond."""
        return round(time.monotonic() - self._started_s, 3)
