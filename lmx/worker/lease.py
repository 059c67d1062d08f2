"""The worker's side of the device lease: when it may compute, and when to hand over.

It waits for nothing: grants come through the engine thread's inbox like everything else, so that
cancels and the shutdown are heard while the lease is elsewhere. Asked back, it hands over between
two steps, after the device has done what the last one left behind. See `lmx.daemon.lease`.
"""

from collections.abc import Callable

from lmx.protocol.messages import (
    LeaseCommand,
    LeaseEvent,
    LeaseGranted,
    LeaseReleased,
    LeaseWanted,
)


class WorkerLease:
    """Whether this process may compute. Engine thread only.

    Args:
        is_needed: Other workers take turns with this one; if not, it may always compute.
        quiesce: Waits until the device has nothing of this process left to do.
        clock: Seconds, monotonic.

    Attributes:
        is_held: It may compute.
    """

    def __init__(
        self, *, is_needed: bool, quiesce: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        self._quiesce = quiesce
        self._clock = clock
        self._is_wanted = False  # asked for and not granted; never while it is held
        self._is_wanted_back = False  # each grant says it anew
        self._slice_ends_s = 0.0
        self.is_held = not is_needed

    def take(self, command: LeaseCommand) -> None:
        """What the daemon says of it."""
        if isinstance(command, LeaseGranted):
            self.is_held = True
            self._is_wanted = False
            self._is_wanted_back = command.is_wanted_back
            self._slice_ends_s = self._clock() + command.slice_s
        else:
            self._is_wanted_back = True

    def turn(self, *, has_work: bool) -> list[LeaseEvent]:
        """What to tell the daemon now, between two steps; to be called before each.

        Args:
            has_work: There is something to compute.

        Raises:
            OutOfMemory: The device ran out in what the last step left behind.
        """
        if not self.is_held:
            if not has_work or self._is_wanted:
                return []
            self._is_wanted = True
            return [LeaseWanted()]
        if not self._is_wanted_back or (has_work and self._clock() < self._slice_ends_s):
            return []
        self._quiesce()
        self.is_held = False
        self._is_wanted_back = False
        self._is_wanted = has_work
        return [LeaseReleased(wants_more=has_work)]
