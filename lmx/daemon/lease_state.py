"""Who may use the device now and who is next: decisions of the lease, without clock or task.

Theory of operation. At most one claimant holds the lease. It keeps it, idle or not, until somebody
else wants it; then it is asked back once, and its release hands the lease to the next in line.
Claimants wait in a ring. One whose turn it is gets a slice of time as credit, and is charged what
it used while somebody waited; one that used more, because its steps are long, is passed over until
its credit is positive again. So time is shared evenly whatever the lengths of steps, and a debt has
a limit, so that nobody is passed over for long.
"""

from collections import deque
from typing import NamedTuple

from lmx.errors import FrameError

# A second at the default slice. What a longer step took beyond it is forgiven.
DEBT_LIMIT_SLICES = 20


class Grant(NamedTuple):
    """Tell a claimant that it holds the lease.

    Attributes:
        claimant: Whom.
        slice_s: Seconds that it may use before it hands over.
        is_contended: Somebody waits already: it counts as asked back.
    """

    claimant: int
    slice_s: float
    is_contended: bool


class AskBack(NamedTuple):
    """Tell the holder that somebody waits."""

    claimant: int


Order = Grant | AskBack


class LeaseState:
    """The lease and the ring of those who want it. Methods return whom to tell what, in order.

    Args:
        slice_s: Seconds of one turn.

    Attributes:
        holder: Who may compute, if anybody.
        held_since_s: Since when; stale without a holder.
        asked_back_since_s: Since when somebody waits for the holder, or `None`.
    """

    def __init__(self, slice_s: float) -> None:
        self._slice_s = slice_s
        self._waiting: deque[int] = deque()
        self._credits_s: dict[int, float] = {}
        self._resting_since_s: dict[int, float] = {}
        self.holder: int | None = None
        self.held_since_s = 0.0
        self.asked_back_since_s: float | None = None

    @property
    def waiting(self) -> tuple[int, ...]:
        """Who wants the lease and has it not, next in line first."""
        return tuple(self._waiting)

    def want(self, claimant: int, now_s: float) -> list[Order]:
        """A claimant has work.

        Raises:
            FrameError: It waits or holds the lease already.
        """
        if claimant == self.holder or claimant in self._waiting:
            raise FrameError("a worker asked for the lease twice")
        rested_s = now_s - self._resting_since_s.pop(claimant, now_s)
        # Time that it left to others pays its debt; it saves none for later.
        self._credits_s[claimant] = min(0.0, self._credits_s.get(claimant, 0.0) + rested_s)
        self._waiting.append(claimant)
        if self.holder is None:
            return self._hand_on(now_s)
        if self.asked_back_since_s is None:
            self.asked_back_since_s = now_s
            return [AskBack(self.holder)]
        return []

    def release(self, claimant: int, now_s: float, *, wants_more: bool) -> list[Order]:
        """The holder uses the device no more.

        Raises:
            FrameError: It does not hold the lease.
        """
        if claimant != self.holder:
            raise FrameError("a worker released a lease that it does not hold")
        if self.asked_back_since_s is not None:
            used_s = now_s - max(self.held_since_s, self.asked_back_since_s)
            lowest_s = -DEBT_LIMIT_SLICES * self._slice_s
            self._credits_s[claimant] = max(lowest_s, self._credits_s[claimant] - used_s)
        self.holder = None
        if wants_more:
            self._waiting.append(claimant)
        else:
            self._resting_since_s[claimant] = now_s
        return self._hand_on(now_s)

    def forget(self, claimant: int, now_s: float) -> list[Order]:
        """A claimant is gone for good, whether it held the lease, waited or rested. Idempotent."""
        self._credits_s.pop(claimant, None)
        self._resting_since_s.pop(claimant, None)
        if claimant in self._waiting:
            self._waiting.remove(claimant)
        if claimant != self.holder:
            return []
        self.holder = None
        return self._hand_on(now_s)

    def _hand_on(self, now_s: float) -> list[Order]:
        """Give the free lease to the first in the ring whose credit allows it."""
        self.asked_back_since_s = None
        while self._waiting:
            claimant = self._waiting.popleft()
            credit_s = min(self._credits_s[claimant] + self._slice_s, self._slice_s)
            self._credits_s[claimant] = credit_s
            if credit_s > 0:
                self.holder = claimant
                self.held_since_s = now_s
                if self._waiting:
                    self.asked_back_since_s = now_s
                return [Grant(claimant, credit_s, bool(self._waiting))]
            self._waiting.append(claimant)
        return []
