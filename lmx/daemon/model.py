"""One model as the daemon sees it: its state, and the worker behind it while it is ready.

Only the model's supervisor changes its state; requests hold it while they run and queue for it
while it is on its way. It starts no tasks.
"""

import time
from collections import deque
from typing import Any, Literal

import trio
from msgspec import Struct

from lmx.catalog.specs import ModelSpec
from lmx.daemon.admission import Admission
from lmx.daemon.model_state import ModelEvent, ModelState, next_state
from lmx.daemon.worker import Worker
from lmx.errors import ImportFailed, LmxError, WorkerClosed
from lmx.protocol.messages import Loaded

LeaveReason = Literal["manual", "lru", "ttl", "oom", "swap", "recycle"]


class LoadOptions(Struct, frozen=True, kw_only=True):
    """What a load asked for beside the model; `None` means the settings' value.

    Attributes:
        context_tokens: Upper bound of the context.
        keep_alive_s: Idle time after which it is unloaded; negative for never.
        is_pinned: It is never unloaded but by an explicit request.
        performance: What the client called performance overrides, reported back as it was.
    """

    context_tokens: int | None = None
    keep_alive_s: float | None = None
    is_pinned: bool = False
    performance: dict[str, Any] = {}


class Leaving(Struct, frozen=True, kw_only=True):
    """Why and how a model goes.

    Attributes:
        reason: What `model_unloaded` events say.
        drain_s: How long running requests may go on; infinite for as long as they take.
        error: What requests are told that still run then.
    """

    reason: LeaveReason
    drain_s: float
    error: LmxError = WorkerClosed("the model was unloaded")


class ReadyModel:
    """One loaded worker, and who uses it.

    Attributes:
        worker: The live worker.
        loaded: What the worker reported when it came up.
        admission: Requests of this worker.
        load_s: What the load took.
        loaded_at: Epoch seconds.
        ready_since_s: The same on Trio's clock.
        users: Requests from their admission to their last byte.
        last_used_s: When the last one came or went, on Trio's clock.
        generated_tokens: Of all its requests.
        retired: Set when another worker has taken its place.
    """

    def __init__(
        self, worker: Worker, loaded: Loaded, admission: Admission, *, load_s: float = 0.0
    ) -> None:
        self.worker = worker
        self.loaded = loaded
        self.admission = admission
        self.load_s = load_s
        self.loaded_at = time.time()
        self.ready_since_s = self.last_used_s = trio.current_time()
        self.users = 0
        self.generated_tokens = 0
        self.retired = trio.Event()
        self._unused = trio.Event()

    def enter(self) -> None:
        """A request begins to use it."""
        self.users += 1
        self.last_used_s = trio.current_time()

    def leave(self) -> None:
        """The request is done with it."""
        self.users -= 1
        self.last_used_s = trio.current_time()
        if not self.users:
            self._unused.set()
            self._unused = trio.Event()

    async def wait_unused(self) -> None:
        """Wait until no request uses it."""
        while self.users:
            await self._unused.wait()


class ModelStatistics:
    """What a model has done since it is known.

    Attributes:
        last_used_at: Epoch seconds of the last request's end, 0 before.
        request_count: Requests that ended.
        generated_tokens: Of all of them.
        decode_s: Time they spent decoding.
        crash_count: Lives that ended badly.
        state_since: Epoch seconds of the last change of its state.
    """

    __slots__ = (
        "crash_count",
        "decode_s",
        "generated_tokens",
        "last_used_at",
        "request_count",
        "state_since",
    )

    def __init__(self) -> None:
        self.last_used_at = 0.0
        self.request_count = 0
        self.generated_tokens = 0
        self.decode_s = 0.0
        self.crash_count = 0
        self.state_since = time.time()


class Model:
    """A model the daemon knows.

    Attributes:
        spec: What was asked for.
        options: How it was asked for.
        state: Where it is in its life.
        ready: Set iff `state` is READY or DRAINING.
        error: Why it last failed or went; `None` while it is ready.
        is_wanted: Its supervisor is to keep it loaded.
        leaving: Set while it is told to go.
        failures: Failed lives in a row, with no answered request between them.
        statistics: What it has done.
    """

    def __init__(self, spec: ModelSpec, options: LoadOptions | None = None) -> None:
        self.spec = spec
        self.options = options or LoadOptions()
        self.state = ModelState.ABSENT
        self.ready: ReadyModel | None = None
        self.error: LmxError | None = None
        self.is_wanted = True
        self.leaving: Leaving | None = None
        self.failures = 0
        self.statistics = ModelStatistics()
        self._waiting: deque[object] = deque()
        self._turnstile = trio.Lock()
        self._changed = trio.Event()

    @property
    def id(self) -> str:
        """Canonical id."""
        return self.spec.id

    @property
    def is_on_its_way(self) -> bool:
        """Whether it will be ready without anybody asking again."""
        return self.is_wanted and self.state is not ModelState.READY

    @property
    def awaits_network(self) -> bool:
        """Whether its files could not be fetched, and the next attempt has not begun."""
        is_resting = self.state is ModelState.FAILED and self.failures > 0
        return is_resting and isinstance(self.error, ImportFailed)

    @property
    def waiting_count(self) -> int:
        """Requests that wait for it to be ready."""
        return len(self._waiting)

    def apply(self, event: ModelEvent) -> None:
        """Move along the table and wake whoever waits for a change."""
        self.state = next_state(self.state, event)
        self.statistics.state_since = time.time()
        self.wake()

    def wake(self) -> None:
        """Tell whoever waits that something about it changed."""
        self._changed.set()
        self._changed = trio.Event()

    def become_ready(self, ready: ReadyModel) -> None:
        """Loading succeeded, or a fresh worker takes over from one that retires."""
        previous, self.ready = self.ready, ready
        self.error = None
        if previous is None:
            self.apply(ModelEvent.LOADED)
        else:
            previous.retired.set()

    def fail(self, event: ModelEvent, error: LmxError) -> None:
        """The worker or the load failed.

        Args:
            event: ``DIED`` or ``LOAD_FAILED``.
            error: Why.
        """
        self.ready = None
        self.error = error
        self.failures += 1
        self.statistics.crash_count += 1
        self.apply(event)

    def leave(self, leaving: Leaving) -> None:
        """Tell the supervisor to let it go. Of several tellings the most urgent counts.

        One to come back afterwards, ``recycle``, counts less than any to stay away.
        """
        before = self.leaving
        if leaving.reason != "recycle":
            self.is_wanted = False
            if before is not None and before.reason == "recycle":
                before = None
        elif before is not None:
            return
        if before is None or leaving.drain_s <= before.drain_s:
            self.leaving = leaving
        self.wake()

    def be_gone(self) -> None:
        """It has left."""
        self.ready = None
        self.leaving = None
        self.apply(ModelEvent.GONE)

    def count(self, *, tokens: int, decode_s: float, is_answered: bool) -> None:
        """Add a request that ended; one that was answered ends a row of failures."""
        self.failures = 0 if is_answered else self.failures
        self.statistics.last_used_at = time.time()
        self.statistics.request_count += 1
        self.statistics.generated_tokens += tokens
        self.statistics.decode_s += decode_s

    async def wait_change(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()

    async def wait_until_ready(self) -> None:
        """Wait, in order of arrival, until it is ready or no longer on its way.

        A network that is missing is not waited for.
        """
        if self.state is ModelState.READY and not self._waiting:
            return
        ticket = object()
        self._waiting.append(ticket)
        try:
            async with self._turnstile:
                while self.is_on_its_way and not self.awaits_network:
                    await self._changed.wait()
        finally:
            self._waiting.remove(ticket)
