"""The device lease: where two workers at once would do harm, one computes at a time.

Theory of operation. Two processes that give Metal work at the same time are a known trigger of
kernel panics. Every worker process has a *seat*, taken before the process starts and given up after
it is dead: whatever happens to a worker, nobody else computes while it might. A worker claims the
lease by frames; for its load the daemon claims it, because the worker has nothing to say before.
`LeaseState` decides, this module tells. In shared mode nobody asks anybody anything.
"""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count

import trio

from lmx.config import LeaseMode
from lmx.daemon.lease_state import Grant, LeaseState, Order
from lmx.daemon.link import WorkerLink
from lmx.protocol.messages import LeaseEvent, LeaseGranted, LeaseWanted, LeaseWantedBack


class Lease:
    """The one lease of this daemon.

    Args:
        mode: Whether workers take turns; ``auto`` says so on macOS only.
        slice_s: Seconds of one turn while somebody waits.
        platform: As `sys.platform` names it.
        clock: Seconds, monotonic.
        on_wait: Told whose wait is over and how long it was; must not raise.

    Attributes:
        is_exclusive: Workers take turns. What `Load.lease` must say.
    """

    def __init__(
        self,
        mode: LeaseMode,
        *,
        slice_s: float,
        platform: str = sys.platform,
        clock: Callable[[], float] = trio.current_time,
        on_wait: Callable[[str, float], None] | None = None,
    ) -> None:
        self.is_exclusive = mode == "exclusive" or (mode == "auto" and platform == "darwin")
        self._state = LeaseState(slice_s)
        self._clock = clock
        self._numbers = count(1)
        self._on_wait = on_wait
        self._wanted_at_s: dict[int, float] = {}  # of those that wait
        self._names: dict[int, str] = {}
        self._listeners: dict[int, Callable[[Order], None]] = {}

    @property
    def holder(self) -> str | None:
        """The name of the seat that may compute now."""
        holder = self._state.holder
        return None if holder is None else self._names[holder]

    @property
    def held_since_s(self) -> float | None:
        """Since when, on the lease's clock."""
        return None if self._state.holder is None else self._state.held_since_s

    @property
    def waiting(self) -> list[str]:
        """The names of the seats that wait, next in line first."""
        return [self._names[claimant] for claimant in self._state.waiting]

    @asynccontextmanager
    async def seat(self, name: str) -> AsyncIterator["LeaseSeat"]:
        """A place in line for one worker process, until the block ends.

        Enter it before the block that owns the process, so that it ends after it: leaving hands on
        what the worker held, and only a dead worker surely computes nothing.

        Args:
            name: Whose; need not be unique.
        """
        seat = LeaseSeat(self, name)
        try:
            yield seat
        finally:
            seat.close()

    def new_claimant(self, name: str, listener: Callable[[Order], None]) -> int:
        """A claimant at rest; the listener hears what the state orders, and must not raise."""
        claimant = next(self._numbers)
        self._names[claimant] = name
        self._listeners[claimant] = listener
        return claimant

    def is_holder(self, claimant: int) -> bool:
        """Whether it may compute now."""
        return self._state.holder == claimant

    def is_waiting(self, claimant: int) -> bool:
        """Whether it wants to compute and may not."""
        return claimant in self._state.waiting

    def asked_back_since_s(self, claimant: int) -> float | None:
        """Since when others wait for it to hand over, on the lease's clock."""
        return self._state.asked_back_since_s if self._state.holder == claimant else None

    def want(self, claimant: int) -> None:
        """It has work.

        Raises:
            FrameError: It waits or holds the lease already.
        """
        now_s = self._clock()
        orders = self._state.want(claimant, now_s)
        self._wanted_at_s[claimant] = now_s
        self._tell(orders, now_s)

    def release(self, claimant: int, *, wants_more: bool) -> None:
        """It uses the device no more.

        Raises:
            FrameError: It does not hold the lease.
        """
        now_s = self._clock()
        orders = self._state.release(claimant, now_s, wants_more=wants_more)
        if wants_more:
            self._wanted_at_s[claimant] = now_s
        self._tell(orders, now_s)

    def forget(self, claimant: int) -> None:
        """It is gone for good. Idempotent."""
        now_s = self._clock()
        self._names.pop(claimant, None)
        self._listeners.pop(claimant, None)
        self._wanted_at_s.pop(claimant, None)
        self._tell(self._state.forget(claimant, now_s), now_s)

    def _tell(self, orders: list[Order], now_s: float) -> None:
        for order in orders:
            self._listeners[order.claimant](order)
            wanted_at_s = self._wanted_at_s.pop(order.claimant, None)
            if wanted_at_s is not None and self._on_wait is not None:
                self._on_wait(self._names[order.claimant], now_s - wanted_at_s)


class LeaseSeat:
    """One worker process's place in line. See `Lease.seat`.

    Args:
        lease: What it is for.
        name: Whose seat.
    """

    def __init__(self, lease: Lease, name: str) -> None:
        self._lease = lease
        self._name = name
        self._link: WorkerLink | None = None
        self._worker = lease.new_claimant(name, self._tell_worker)
        self._load: int | None = None  # set while a load waits or runs, or has failed

    @property
    def is_waiting(self) -> bool:
        """Whether it cannot be expected to get anything done: another seat computes."""
        return self._lease.is_waiting(self._worker) or (
            self._load is not None and self._lease.is_waiting(self._load)
        )

    @property
    def is_holding(self) -> bool:
        """Whether its worker may compute now, asked for or not."""
        return self._lease.is_holder(self._worker) or (
            self._load is not None and self._lease.is_holder(self._load)
        )

    @property
    def asked_back_since_s(self) -> float | None:
        """Since when its worker owes the lease to others. It owes it after a slice and a step."""
        return self._lease.asked_back_since_s(self._worker)

    def connect(self, link: WorkerLink) -> None:
        """Let the worker at the end of this link claim the lease, if there is anything to claim."""
        if self._lease.is_exclusive:
            self._link = link
            link.on_lease = self.on_frame

    def on_frame(self, event: LeaseEvent) -> None:
        """What the worker says.

        Raises:
            FrameError: It cannot be true.
        """
        if self._link is None:
            return  # closed: what a dying worker said arrives late
        if isinstance(event, LeaseWanted):
            self._lease.want(self._worker)
        else:
            self._lease.release(self._worker, wants_more=event.wants_more)

    @asynccontextmanager
    async def for_load(self) -> AsyncIterator[None]:
        """The lease for what the daemon makes the worker do: send `Load` and await it in here.

        A block that ends with an error keeps the lease until the seat is closed, because the worker
        may compute until it is dead.

        Cancellation:
            While it waits, it leaves the line. Inside the block, as with an error.
        """
        if not self._lease.is_exclusive:
            yield
            return
        granted = trio.Event()
        load = self._load = self._lease.new_claimant(self._name, lambda _: granted.set())
        self._lease.want(load)
        try:
            await granted.wait()
        except trio.Cancelled:
            self._end_load()
            raise
        yield
        self._end_load()

    def close(self) -> None:
        """The worker's process is dead: nothing of it computes. Idempotent."""
        self._link = None
        self._end_load()
        self._lease.forget(self._worker)

    def _end_load(self) -> None:
        if self._load is not None:
            self._lease.forget(self._load)
            self._load = None

    def _tell_worker(self, order: Order) -> None:
        if self._link is None:
            return
        if isinstance(order, Grant):
            self._link.send(LeaseGranted(order.slice_s, order.is_contended))
        else:
            self._link.send(LeaseWantedBack())
