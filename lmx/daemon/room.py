"""Making room: memory is reserved before it is used, and models leave for those that come.

Theory of operation. Loads take their turn in order of arrival. The one whose turn it is reserves in
the ledger; when that does not fit, the least recently used models that nobody needs leave, and as
the last resort one that is in use takes no more requests, finishes what it has, and leaves. Whoever
asks for it meanwhile waits behind. Models that just came up stay a while, so that two that do not
fit together do not spend their time loading. Before anybody leaves, prefix caches are cut.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from math import inf

import structlog
import trio

from lmx.daemon.ledger import Demand, Ledger
from lmx.daemon.model import Leaving, Model
from lmx.daemon.model_state import ModelState
from lmx.daemon.residency import Resident, choose_victims
from lmx.daemon.waiting import wait_first
from lmx.errors import DoesNotFit
from lmx.protocol.messages import Shrink

# How long a model that has been told to leave may take to go, processes and all, before the next
# one is asked.
LOOK_AGAIN_S = 1.0
SHORT = "{id} is not loaded while the machine is short of memory"

log = structlog.get_logger("lmx.room")


class Reservation:
    """What one worker may use, until the block it came from ends.

    Args:
        room: What it is part of.
        owner: Its name in the ledger.

    Attributes:
        is_settled: The worker has loaded.
    """

    def __init__(self, room: "Room", owner: str) -> None:
        self._room = room
        self._ledger = room.ledger
        self.owner = owner
        self.is_settled = False
        self._tell: Callable[[Shrink], None] | None = None
        self._told_bytes = 0

    def take_grant(self) -> int:
        """What the worker is told, when it loads, that it may keep of prompts."""
        self._told_bytes = self._ledger.grant_of(self.owner)
        return self._told_bytes

    def settle(self, measured_bytes: int) -> None:
        """What the loaded model really takes."""
        self.is_settled = True
        excess = self._ledger.settle(self.owner, measured_bytes)
        if excess:
            log.warning("model is larger than reserved", owner=self.owner, excess_bytes=excess)
        self._room.take_back(0)

    def connect(self, tell: Callable[[Shrink], None]) -> None:
        """The worker has loaded, and this is how to tell it to keep less of prompts."""
        self._tell = tell
        self.tell_grant()

    def tell_grant(self) -> None:
        """Tell the worker if it may keep less than it was told."""
        granted = self._ledger.grant_of(self.owner)
        if self._tell is not None and granted != self._told_bytes:
            self._told_bytes = granted
            self._tell(Shrink(granted))


class Room:
    """The memory all models share.

    Args:
        ledger: The reservations.
        models: All models the daemon knows.
        min_residency_s: How long a model that just came up stays.

    Attributes:
        min_residency_s: The same, to be changed at any time.
        is_short: The machine itself is short of memory, so that nothing new may be loaded whatever
            the ledger says: others use what it has. A model whose worker died or was worn may come
            back, as nobody would ask for it again.
    """

    def __init__(
        self, ledger: Ledger, models: Callable[[], Iterable[Model]], *, min_residency_s: float
    ) -> None:
        self.ledger = ledger
        self._models = models
        self.min_residency_s = min_residency_s
        self.is_short = False
        self._turn = trio.Lock()  # first come, first served
        self._owner_count = 0
        self._reservations: dict[str, Reservation] = {}
        self._returning: set[str] = set()  # ids of models that go without having been sent away

    @asynccontextmanager
    async def reserve(
        self, model: Model, demand: Demand, *, may_evict: bool = True
    ) -> AsyncIterator[Reservation]:
        """Memory for one worker of a model, until the block ends.

        Args:
            model: Never chosen to leave for this.
            demand: What it needs.
            may_evict: Whether others may have to leave.

        Raises:
            DoesNotFit: It never will, or not without somebody leaving who may not; with the
                arithmetic. Or the machine is short of memory.
        """
        async with self._turn:
            self._refuse_if_short(model)
            if may_evict:
                await self._make_room(model, demand)
            owner = self._new_owner(model)
            self.take_back(demand.total)
            self.ledger.reserve(owner, demand)
        reservation = self._reservations[owner] = Reservation(self, owner)
        try:
            yield reservation
        finally:
            del self._reservations[owner]
            self.ledger.release(owner)
            is_sent_away = model.leaving is not None and model.leaving.reason != "recycle"
            if reservation.is_settled and not is_sent_away:
                self._returning.add(model.id)

    def residents(self, *, but: Model | None = None) -> list[Resident]:
        """The loaded models as candidates for leaving."""
        return [
            Resident(
                id=model.id,
                bytes=self.bytes_of(model),
                last_used_s=model.ready.last_used_s,
                ready_since_s=model.ready.ready_since_s,
                holders=model.ready.users + model.waiting_count,
                is_pinned=model.options.is_pinned,
            )
            for model in self._models()
            if model.ready is not None and model is not but and model.state is ModelState.READY
        ]

    def bytes_of(self, model: Model) -> int:
        """What is reserved for a model's workers."""
        return sum(
            self.ledger.bytes_of(owner)
            for owner in self.ledger.owners
            if owner.rpartition("#")[0] == model.id
        )

    def _refuse_if_short(self, model: Model) -> None:
        is_returning = model.id in self._returning
        self._returning.discard(model.id)
        if self.is_short and not is_returning:
            raise DoesNotFit(SHORT.format(id=model.id))

    async def _make_room(self, model: Model, demand: Demand) -> None:
        if demand.total > self.ledger.budget:
            raise DoesNotFit(self.ledger.explain(demand))
        self.take_back(demand.total)
        while demand.total > self.ledger.free:
            leaving = [m for m in self._models() if m.leaving is not None and m.ready is not None]
            if not leaving:
                leaving = self._dismiss(model, demand.total - self.ledger.free)
            if not leaving and not self._is_worth_waiting(model, demand):
                raise DoesNotFit(self.ledger.explain(demand))
            with trio.move_on_after(LOOK_AGAIN_S):
                await wait_first(*(m.wait_change for m in (*leaving, model)))

    def take_back(self, needed_bytes: int) -> None:
        """Cut prefix caches until so many bytes are free, as far as there are any."""
        for owner in self.ledger.take_back(needed_bytes):
            log.info("a prefix cache is cut", owner=owner, left=self.ledger.grant_of(owner))
            if owner in self._reservations:
                self._reservations[owner].tell_grant()

    def _dismiss(self, model: Model, needed: int) -> list[Model]:
        """Tell models to leave so that so many bytes come free; none if that cannot be."""
        victims = choose_victims(
            self.residents(but=model),
            needed,
            now_s=trio.current_time(),
            min_residency_s=self.min_residency_s,
            may_drain_busy=True,
        )
        chosen = [m for m in self._models() if m.id in (victims or ())]
        for victim in chosen:
            log.info("model leaves to make room", model=victim.id, room_for=model.id)
            victim.leave(Leaving(reason="lru", drain_s=inf))
        return chosen

    def _is_worth_waiting(self, model: Model, demand: Demand) -> bool:
        """Whether it would fit if everybody left who may leave later."""
        pinned = [m for m in self._models() if m is not model and m.options.is_pinned]
        return demand.total <= self.ledger.budget - sum(self.bytes_of(m) for m in pinned)

    def _new_owner(self, model: Model) -> str:
        self._owner_count += 1
        return f"{model.id}#{self._owner_count}"
