"""One loaded worker from its first request to its last: what is watched while it serves.

`watch` returns the first thing that asks for a decision; its caller decides.
"""

from collections.abc import Awaitable, Callable
from enum import Enum

import trio

from lmx.config import Settings
from lmx.daemon.lease import LeaseSeat
from lmx.daemon.model import Model, ReadyModel
from lmx.daemon.residency import is_expired
from lmx.daemon.stalls import wait_stalled
from lmx.daemon.waiting import wait_first

LOOK_S = 1.0
# One pass over a prompt takes this much longer on a CPU than on a GPU, or more.
CPU_PATIENCE = 4


class Verdict(Enum):
    """What a worker's keeper has to decide on."""

    ENDED = "ended"
    STALLED = "stalled"
    LEAVE = "leave"
    RETIRED = "retired"
    EXPIRED = "expired"
    WORN = "worn"


class Service:
    """Watches one worker of a model.

    Args:
        model: Whose worker.
        ready: The worker, loaded.
        seat: Its place in the queue for the device.
        settings: Limits.
        footprint: Bytes of a process as last measured, by its id.
    """

    def __init__(
        self,
        model: Model,
        ready: ReadyModel,
        *,
        seat: LeaseSeat,
        settings: Settings,
        footprint: Callable[[int], int | None],
    ) -> None:
        self._model = model
        self._ready = ready
        self._seat = seat
        self._settings = settings
        self._footprint = footprint
        self._first_footprint: int | None = None
        self._renewable_at_s = trio.current_time()

    @property
    def stall_limit_s(self) -> float:
        """How long it may be silent with work in flight."""
        info = self._ready.loaded.info
        is_slow = info.device == "cpu" and info.engine != "fake"
        return self._settings.worker.stall_s * (CPU_PATIENCE if is_slow else 1)

    async def watch(self) -> Verdict:
        """Wait for the first thing that asks for a decision."""
        waits: dict[Verdict, Callable[[], Awaitable[object]]] = {
            Verdict.ENDED: self._ready.worker.wait_ended,
            Verdict.STALLED: self._wait_stalled,
            Verdict.RETIRED: self._ready.retired.wait,
        }
        if self._model.ready is self._ready:
            waits |= {
                Verdict.LEAVE: self._wait_told_to_leave,
                Verdict.EXPIRED: self._wait_expired,
                Verdict.WORN: self._wait_worn,
            }
        return list(waits)[await wait_first(*waits.values())]

    async def wait_drained(self, *waits: Callable[[], Awaitable[object]]) -> None:
        """Wait until nobody uses the worker, it has ended, or one of `waits` returns.

        A worker that hangs meanwhile is condemned: nobody would ever be done with it.
        """
        worker = self._ready.worker
        if await wait_first(self._wait_stalled, self._ready.wait_unused, worker.wait_ended, *waits):
            return
        self.condemn()
        await worker.wait_ended()

    def condemn(self) -> None:
        """Kill the worker for having hung."""
        reason = f"{self.stall_limit_s:g} s without a sign of work"
        self._ready.worker.condemn("stall", reason)

    def put_renewal_off(self, pause_s: float) -> None:
        """A renewal is under way or has failed: it is not `WORN` again for a while."""
        self._renewable_at_s = trio.current_time() + pause_s

    async def _wait_stalled(self) -> None:
        link = self._ready.worker.link
        await wait_stalled(
            link,
            self.stall_limit_s,
            is_excused=lambda: self._seat.is_waiting,
            owes_since_s=lambda: self._seat.asked_back_since_s,
        )

    async def _wait_told_to_leave(self) -> None:
        while self._model.leaving is None:
            await self._model.wait_change()

    async def _wait_expired(self) -> None:
        while not self._is_expired():  # noqa: ASYNC110  # time itself is waited for
            await trio.sleep(LOOK_S)

    def _is_expired(self) -> bool:
        options = self._model.options
        keep_alive_s = options.keep_alive_s
        if keep_alive_s is None:
            keep_alive_s = self._settings.models.keep_alive_s
        is_held = options.is_pinned or self._ready.users or self._model.waiting_count
        return not is_held and is_expired(
            self._ready.last_used_s, keep_alive_s=keep_alive_s, now_s=trio.current_time()
        )

    async def _wait_worn(self) -> None:
        while not self._is_worn():  # noqa: ASYNC110  # nobody tells of growing memory
            await trio.sleep(LOOK_S)

    def _is_worn(self) -> bool:
        """Whether it has generated or grown so much that a fresh worker is better.

        What is kept of prompts is no growth: it was granted, and goes when it is asked back.
        """
        limits = self._settings.worker
        bytes_now = self._footprint(self._ready.worker.pid)
        if self._first_footprint is None:
            self._first_footprint = bytes_now
        memory = self._ready.worker.link.memory
        kept_bytes = 0 if memory is None else memory.kept.size_bytes
        growth = (bytes_now or 0) - (self._first_footprint or 0) - kept_bytes
        is_old = 0 < limits.recycle_tokens <= self._ready.generated_tokens
        is_grown = 0 < limits.recycle_growth_gb * 1e9 < growth
        return (is_old or is_grown) and trio.current_time() >= self._renewable_at_s
