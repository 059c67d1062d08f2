"""The model loader: which models there are, who keeps each one, and which one a request means.

Theory of operation. Every wanted model has one supervisor task in the loader's nursery. Loads live
here and not in request handlers, so a client that hangs up ends none; asking twice joins the first.
A request for a model that is on its way waits in line for it; one that names a model on disk that
nobody has loaded starts its load, if settings allow that.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NoReturn

import structlog
import trio

from lmx.catalog.names import resolve_name
from lmx.catalog.specs import ModelSpec
from lmx.config import Settings
from lmx.daemon.estimates import Estimates
from lmx.daemon.gauge import Gauge
from lmx.daemon.lease import Lease
from lmx.daemon.ledger import Ledger
from lmx.daemon.meter import Reading
from lmx.daemon.model import Leaving, LoadOptions, Model
from lmx.daemon.model_state import ModelState
from lmx.daemon.naming import Names
from lmx.daemon.restarts import keep_running
from lmx.daemon.room import Room
from lmx.daemon.shelf import Shelf
from lmx.daemon.spares import Workshop
from lmx.daemon.supervisor import Supervisor
from lmx.daemon.telemetry import Telemetry
from lmx.errors import (
    DoesNotFit,
    InvalidRequest,
    LmxError,
    ModelLoading,
    ModelNotFound,
    ModelQuarantined,
    NoModelLoaded,
    OutOfMemory,
)
from lmx.protocol.values import Purpose

RETRY_LOADING_S = 5.0
# Turns at the device are a fraction of this; who waits longer is worth an event.
LONG_LEASE_WAIT_S = 1.0
# What a request for the model itself is told rather than that the model is not loaded.
BARRED = (OutOfMemory, ModelQuarantined, DoesNotFit)

log = structlog.get_logger("lmx.loader")


class Loader:
    """All models the daemon knows, and the tasks that keep them loaded.

    Args:
        settings: The daemon's settings.
        telemetry: Told about loads and exits.
        gauge: Has the last reading of memory, and tells what a killed worker died of.
        budget_bytes: Memory that models may take together.
        names: What clients' names stand for; without it only for themselves.
    """

    def __init__(
        self,
        settings: Settings,
        telemetry: Telemetry,
        *,
        gauge: Gauge,
        budget_bytes: int,
        names: Names | None = None,
    ) -> None:
        self._models: dict[str, Model] = {}
        self.settings = settings
        self.telemetry = telemetry
        self.gauge = gauge
        self.room = Room(
            Ledger(budget_bytes),
            self._models.values,
            min_residency_s=settings.models.min_residency_s,
        )
        self.lease = Lease(
            settings.worker.lease,
            slice_s=settings.worker.lease_slice_s,
            on_wait=self._count_lease_wait,
        )
        self.workshop = Workshop(settings.worker, has_kernel_killed=gauge.has_killed)
        self.estimates = Estimates(settings, budget_bytes=budget_bytes)
        self.shelf = Shelf(settings)
        self.names = names or Names()
        self._supervised: set[str] = set()
        self._nursery: trio.Nursery | None = None

    @property
    def models(self) -> Mapping[str, Model]:
        """Canonical id to model, in order of the first loads."""
        return self._models

    @property
    def routable(self) -> list[Model]:
        """Models that answer now."""
        return [model for model in self._models.values() if model.state is ModelState.READY]

    @property
    def is_loading(self) -> bool:
        """Whether any model is being loaded."""
        return any(model.state is ModelState.LOADING for model in self._models.values())

    @property
    def reading(self) -> Reading | None:
        """Memory as last measured."""
        return self.gauge.reading

    def footprint(self, pid: int) -> int | None:
        """Bytes of a process as last measured."""
        reading = self.reading
        return None if reading is None else reading.worker_bytes.get(pid)

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Own the supervisors. Cancelling it unloads everything."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(partial(keep_running, self.workshop.run, name="spare worker"))
            task_status.started()
            await trio.sleep_forever()
        raise AssertionError("unreachable: sleep_forever only ends by cancellation")

    def load(self, spec: ModelSpec, options: LoadOptions | None = None) -> Model:
        """Have a model loaded; one that is loaded or loading is returned as it is.

        Args:
            spec: What to load.
            options: How; `None` for as before, or as the settings say.
        """
        if self._nursery is None:
            raise RuntimeError("the loader is not running")
        model = self._models.get(spec.id)
        if model is None:
            is_pinned = spec.id in self.settings.models.pinned
            model = Model(spec, options or LoadOptions(is_pinned=is_pinned))
            self._models[spec.id] = model
        elif options is not None and model.state is not ModelState.READY:
            model.spec, model.options = spec, options
        self._want(model, self._nursery)
        return model

    def unload(self, model: Model, leaving: Leaving) -> None:
        """Tell a model to go; `wait_gone` waits for it."""
        model.leave(leaving)
        if model.id not in self._supervised and model.leaving is not None:
            # Failed for good or in quarantine: there is no process, only what is known of it.
            model.be_gone()
            model.error = None

    async def wait_gone(self, model: Model) -> None:
        """Wait until nothing of a model is left that was told to go."""
        while model.leaving is not None:
            await model.wait_change()

    def forget(self, model: Model) -> None:
        """Drop a model that is gone from the list; on demand it may come back."""
        if model.state is ModelState.ABSENT and not model.is_wanted:
            self._models.pop(model.id, None)

    async def wait_loaded(self, model: Model) -> None:
        """Wait for the outcome of a load.

        Raises:
            LmxError: Why it failed.
        """
        while model.state is not ModelState.READY:
            if not model.is_wanted or (model.error is not None and model.failures):
                raise model.error or ModelNotFound(f"{model.id} was unloaded", param="model")
            await model.wait_change()

    async def find(self, name: str, purpose: Purpose) -> Model | None:
        """The model of a kind that a name means: one that is known, else one on disk, which loads.

        Args:
            name: As the client spelled it.
            purpose: What it has to answer.
        """
        candidates = self.names.candidates(name)
        if self.names.prefers_loaded(name):
            for candidate in candidates:
                model = self._find_known(candidate, purpose)
                if model is not None and model.state is ModelState.READY:
                    return model
        for candidate in candidates:
            model = self._find_known(candidate, purpose)
            model = model or await self._find_on_shelf(candidate, purpose)
            if model is not None:
                return model
        return None

    async def wait_routable(
        self, name: str, *, wait_s: float, purpose: Purpose = "generation"
    ) -> Model:
        """The model a client means, waiting in line for one that is on its way.

        Args:
            name: As the client spelled it.
            wait_s: How long to wait.
            purpose: What it has to answer.

        Raises:
            InvalidRequest: The model of that name answers something else.
            ModelNotFound: Another model is loaded, but none by that name.
            NoModelLoaded: Nothing is loaded and nothing by that name is loading.
            ModelLoading: It was not ready within `wait_s`.
            ImportFailed: Its files could not be fetched now; later requests try again.
            LmxError: Why it cannot be loaded.
        """
        model = await self.find(name, purpose)
        if model is None:
            raise self._refusal(name, purpose)
        if model.state is ModelState.READY and not model.waiting_count:
            return model
        self._want_on_demand(model)
        with trio.move_on_after(wait_s):
            await model.wait_until_ready()
            while _left_for_another(model) and self._want_on_demand(model):
                await model.wait_until_ready()  # it was there, but not until this one's turn
        if model.state is ModelState.READY:
            return model
        if model.awaits_network:
            raise model.error or self._refusal(name, purpose)
        if model.is_on_its_way:
            raise ModelLoading(
                f"No model loaded yet: {model.id} is {model.state.value}",
                retry_after_s=RETRY_LOADING_S,
            )
        raise self._why_not(model) or self._refusal(name, purpose)

    def _count_lease_wait(self, model_id: str, waited_s: float) -> None:
        """The wait of a model's worker for the device is over."""
        self.telemetry.models.of(model_id).latencies.lease.observe(waited_s)
        if waited_s > LONG_LEASE_WAIT_S:
            waited_ms = round(1000 * waited_s, 1)
            self.telemetry.publish("lease_wait", model_id=model_id, waited_ms=waited_ms)

    def _want(self, model: Model, nursery: trio.Nursery) -> None:
        """Start or wake the supervisor of a model; an explicit wish clears what went before."""
        model.is_wanted = True
        model.failures = 0
        model.wake()
        if model.id not in self._supervised:
            self._supervised.add(model.id)
            nursery.start_soon(self._supervise, model)

    async def _supervise(self, model: Model) -> None:
        supervisor = Supervisor(model, self)
        try:
            is_wanted = True  # once at least: it may have been told to go before this task began
            while is_wanted:
                await keep_running(supervisor.run, name=f"model {model.id}")
                is_wanted = model.is_wanted
        finally:
            self._supervised.discard(model.id)

    def _want_on_demand(self, model: Model) -> bool:
        """A request brings a model back that left by itself, but none that failed or was barred.

        One that did not fit is tried again: there may be room by now. One whose files could not be
        fetched is tried at once and not after its pause.

        Returns:
            Whether it is on its way.
        """
        did_not_fit = isinstance(model.error, DoesNotFit)
        has_left = did_not_fit or model.state in {ModelState.ABSENT, ModelState.DRAINING}
        is_barred = not did_not_fit and self._why_not(model) is not None
        may_come = self.settings.models.on_demand and not is_barred
        if model.awaits_network or (has_left and not model.is_wanted and may_come):
            self.load(model.spec)
        return model.is_on_its_way

    def _find_known(self, name: str, purpose: Purpose) -> Model | None:
        """Ready models first, then those on their way, then those that left by themselves.

        A model asked for exactly goes before another whose name is close enough.
        """
        known = [m for m in self._models.values() if m.spec.purpose in {None, purpose}]
        ready = [model for model in known if model.state is ModelState.READY]
        coming = [model for model in known if model.is_on_its_way]
        left = [model for model in known if not model.is_wanted]
        for model in known:
            if name == model.id or name in model.spec.aliases:
                return model
        return (
            self._resolve(name, ready)
            or self._resolve(name, coming)
            or self._resolve(name, sorted(left, key=self._reluctance))
        )

    async def _find_on_shelf(self, name: str, purpose: Purpose) -> Model | None:
        if not self.settings.models.on_demand:
            return None
        spec = await self.shelf.find(name, purpose)
        return None if spec is None else self.load(spec)

    def _resolve(self, name: str, among: Iterable[Model]) -> Model | None:
        found = resolve_name(name, {model.id: model.spec.aliases for model in among})
        return None if found is None else self._models[found]

    def _reluctance(self, model: Model) -> tuple[bool, float]:
        """What models that are gone are sorted by: barred ones last, the last used ones first."""
        return self._why_not(model) is not None, -model.statistics.last_used_at

    def _why_not(self, model: Model) -> LmxError | None:
        """Why a model that is not on its way will not come by being asked for."""
        return model.error if isinstance(model.error, BARRED) else None

    def _refusal(self, name: str, purpose: Purpose) -> LmxError:
        other = self._models.get(name)
        if other is not None and other.spec.purpose not in {None, purpose}:
            return InvalidRequest(
                f"{name} is for {other.spec.purpose}; it does not answer this", param="model"
            )
        loaded = [model.id for model in self.routable if model.spec.purpose in {None, purpose}]
        if loaded:
            return ModelNotFound(
                f"The model {name!r} is not loaded. Loaded: {', '.join(loaded)}", param="model"
            )
        errors = [(m.id, m.error) for m in self._models.values() if m.error is not None]
        for _, error in errors:
            if isinstance(error, OutOfMemory):
                return error
        why = f" ({errors[0][0]}: {errors[0][1]})" if errors else ""
        return NoModelLoaded(f"No model loaded{why}")


def _left_for_another(model: Model) -> bool:
    return model.leaving is not None and model.leaving.reason == "lru"
