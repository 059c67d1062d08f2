"""The decision to accept a request for one model, and the arithmetic of when to come back. Pure.

A slot's life never depends on a client's socket: `leave` is called when the worker or the caller is
done with the request, whatever the client does.
"""

import math

from lmx.errors import QueueFull

# Weight of the newest service time; about the last ten requests count.
SMOOTHING = 0.1


class Admission:
    """Counts requests of one model, from admitted to ended.

    Args:
        slot_count: Sequences the engine runs together.
        max_waiting: Requests that may wait beyond that.
    """

    def __init__(self, *, slot_count: int, max_waiting: int) -> None:
        self._slot_count = slot_count
        self._max_waiting = max_waiting
        self._service_s = 1.0
        self.in_flight = 0  # at least 0

    @property
    def waiting_count(self) -> int:
        """Admitted requests for which there is no slot."""
        return max(0, self.in_flight - self._slot_count)

    def set_max_waiting(self, count: int) -> None:
        """Let so many wait from now on; those who wait already stay."""
        self._max_waiting = count

    def enter(self, count: int = 1) -> None:
        """Admit so many more, all or none.

        Raises:
            QueueFull: As many wait as may wait; ``retry_after_s`` is when one should be through.
        """
        if self.in_flight + count > self._slot_count + self._max_waiting:
            raise QueueFull(
                f"{self.waiting_count} requests wait already; the queue is full",
                retry_after_s=self.retry_after_s(),
            )
        self.in_flight += count

    def leave(self, service_s: float) -> None:
        """One ended after `service_s` seconds."""
        self.in_flight -= 1
        self._service_s += SMOOTHING * (service_s - self._service_s)

    def retry_after_s(self) -> float:
        """Whole seconds after which a place should be free, at least 1."""
        return float(
            max(1, math.ceil(self._service_s * (self.waiting_count + 1) / self._slot_count))
        )
