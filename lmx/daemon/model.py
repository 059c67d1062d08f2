"""One model as the daemon sees it: its state, and the worker behind it while it is ready.

Only the model's supervisor changes it; everybody else reads and waits. It starts no tasks.
"""

import time

import trio

from lmx.catalog.specs import ModelSpec
from lmx.daemon.admission import Admission
from lmx.daemon.model_state import ModelEvent, ModelState, next_state
from lmx.daemon.worker import Worker
from lmx.errors import LmxError
from lmx.protocol.messages import Loaded


class ReadyModel:
    """What exists exactly while a model is ready.

    Attributes:
        worker: The live worker.
        loaded: What the worker reported when it came up.
        admission: Requests of this worker.
        loaded_at: Epoch seconds.
    """

    __slots__ = ("admission", "loaded", "loaded_at", "worker")

    def __init__(self, worker: Worker, loaded: Loaded, admission: Admission) -> None:
        self.worker = worker
        self.loaded = loaded
        self.admission = admission
        self.loaded_at = time.time()


class Model:
    """A model the daemon was asked to keep loaded.

    Attributes:
        spec: What was asked for.
        state: Where it is in its life.
        ready: Set iff `state` is READY or DRAINING.
        error: Why it last failed; `None` while it is ready.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.state = ModelState.ABSENT
        self.ready: ReadyModel | None = None
        self.error: LmxError | None = None
        self._is_given_up = False
        self._changed = trio.Event()

    @property
    def id(self) -> str:
        """Canonical id."""
        return self.spec.id

    @property
    def is_on_its_way(self) -> bool:
        """Whether it will be ready without anybody asking again."""
        return self.state in {ModelState.ABSENT, ModelState.LOADING} or (
            self.state is ModelState.FAILED and not self._is_given_up
        )

    def apply(self, event: ModelEvent) -> None:
        """Move along the table and wake whoever waits for a change."""
        self.state = next_state(self.state, event)
        self._changed.set()
        self._changed = trio.Event()

    def become_ready(self, worker: Worker, loaded: Loaded, *, max_waiting: int) -> None:
        """Loading succeeded."""
        admission = Admission(slot_count=loaded.info.max_sequences, max_waiting=max_waiting)
        self.ready = ReadyModel(worker, loaded, admission)
        self.error = None
        self.apply(ModelEvent.LOADED)

    def fail(self, event: ModelEvent, error: LmxError, *, is_permanent: bool) -> None:
        """The worker or the load failed.

        Args:
            event: ``DIED`` or ``LOAD_FAILED``.
            error: Why.
            is_permanent: Whether nobody will try again by himself.
        """
        self.ready = None
        self.error = error
        self._is_given_up = is_permanent
        self.apply(event)

    async def wait_change(self) -> None:
        """Wait for the next transition."""
        await self._changed.wait()
