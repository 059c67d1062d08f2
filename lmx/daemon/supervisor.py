"""Keeps one model loaded for as long as it is wanted.

Theory of operation. A life is: find the files, reserve memory, take a worker, load under the device
lease, serve, and leave. It ends because the worker ended or hangs, because the model is told to go,
or because the load failed. A failed life is followed by a growing pause and the next one; after too
many failures with no answered request between them the model is quarantined. A worn worker is
replaced by a second one that comes up beside it; the first then finishes what it has. Where both do
not fit, the first one drains before, and requests wait.
"""

from functools import partial
from math import inf
from typing import Protocol

import msgspec
import structlog
import trio

from lmx.config import Settings
from lmx.daemon.admission import Admission
from lmx.daemon.compatibility import backend_name
from lmx.daemon.estimates import Estimates, LoadPlan
from lmx.daemon.lease import Lease, LeaseSeat
from lmx.daemon.measures import ModelMeasures
from lmx.daemon.model import Leaving, Model, ReadyModel
from lmx.daemon.model_state import ModelEvent, ModelState
from lmx.daemon.restarts import restart_delay_s
from lmx.daemon.room import Room
from lmx.daemon.service import Service, Verdict
from lmx.daemon.sources import Source, find_source
from lmx.daemon.spares import Workshop
from lmx.daemon.telemetry import Telemetry
from lmx.daemon.worker import Worker
from lmx.errors import (
    CapacityError,
    DoesNotFit,
    ImportFailed,
    LmxError,
    LoadError,
    ModelQuarantined,
    RequestError,
    WorkerError,
    WorkerStalled,
)
from lmx.protocol.messages import Load, Loaded

EXPECTED = (LoadError, RequestError, WorkerError, CapacityError)
RENEWAL_PAUSE_S = 60.0
# A worker that lived this long was no crash loop: its death is the first in a row.
STABLE_AFTER_S = 60.0

log = structlog.get_logger("lmx.loader")


class Shop(Protocol):
    """What supervisors share."""

    settings: Settings
    telemetry: Telemetry
    room: Room
    lease: Lease
    workshop: Workshop
    estimates: Estimates

    def footprint(self, pid: int) -> int | None:
        """Bytes of a process as last measured."""


class Supervisor:
    """One model's keeper.

    Args:
        model: Whose state it changes.
        shop: What it works with.
    """

    def __init__(self, model: Model, shop: Shop) -> None:
        self._model = model
        self._shop = shop

    @property
    def _measures(self) -> ModelMeasures:
        return self._shop.telemetry.models.of(self._model.id)

    async def run(self) -> None:
        """Keep the model loaded until it is not wanted any more."""
        model = self._model
        if model.state in {ModelState.LOADING, ModelState.READY}:
            self._fail(LmxError("the loader failed"))  # this task was started again half-way
        elif model.state is ModelState.DRAINING:
            self._be_gone()
        while model.is_wanted:
            error = await self._live()
            if error is None:
                continue
            if is_permanent(error):
                model.is_wanted = False
                model.wake()
            elif self._has_failed_enough(error):
                self._quarantine(error)
            else:
                await self._pause()
        if model.leaving is not None:
            self._be_gone()

    async def _live(self) -> LmxError | None:
        """One life; returns why it failed, `None` if the model was told to go."""
        model = self._model
        self._move(ModelEvent.LOAD)
        failure: LmxError | None = None
        try:
            async with trio.open_nursery() as life:
                life.start_soon(self._cancel_unwanted_load, None, life.cancel_scope)
                settings = self._shop.settings
                source = await find_source(model.spec, settings.home, settings.models.folders)
                model.spec = msgspec.structs.replace(model.spec, purpose=source.purpose)
                plan = await self._shop.estimates.plan(source, model)
                async with trio.open_nursery() as lives:
                    await self._serve_from(source, plan, lives)
                life.cancel_scope.cancel()
        except* EXPECTED as group:
            failure = _first(group)
        if failure is not None and model.state in {ModelState.LOADING, ModelState.READY}:
            self._fail(failure)
        if model.leaving is not None or failure is None:
            self._be_gone()
            return None
        return failure

    async def _cancel_unwanted_load(
        self, before: ReadyModel | None, scope: trio.CancelScope
    ) -> None:
        """A load that is told to go ends at once; a loaded model drains by itself.

        Args:
            before: What the model has until the load is done.
            scope: The load's.
        """
        while self._model.leaving is None or self._model.ready is not before:
            await self._model.wait_change()
        scope.cancel()

    async def _serve_from(
        self, source: Source, plan: LoadPlan, lives: trio.Nursery, *, is_renewal: bool = False
    ) -> None:
        """One worker from its start to its end, serving in between.

        Raises:
            LmxError: It could not be loaded, or ended badly while it was the model's worker.
        """
        shop, model = self._shop, self._model
        async with (
            shop.room.reserve(model, plan.demand, may_evict=not is_renewal) as reservation,
            shop.lease.seat(model.id) as seat,
            shop.workshop.open(source.engine, model_id=model.id) as worker,
        ):
            seat.connect(worker.link)
            granted = reservation.take_grant()
            command = msgspec.structs.replace(plan.command, prefix_cache_bytes=granted)
            ready = await self._load(worker, seat, command)
            reservation.settle(ready.loaded.info.weight_bytes)
            reservation.connect(worker.link.send)
            shop.estimates.learn(source, ready.loaded)
            model.become_ready(ready)
            shop.workshop.want_spare(source.engine)
            service = Service(
                model, ready, seat=seat, settings=shop.settings, footprint=shop.footprint
            )
            while (verdict := await service.watch()) is Verdict.WORN:
                service.put_renewal_off(inf)
                renew = partial(self._renew, source, plan, lives, service=service)
                lives.start_soon(renew)
            await self._end(verdict, ready, service)

    async def _load(self, worker: Worker, seat: LeaseSeat, load: Load) -> ReadyModel:
        log.info("model loads", model=self._model.id, pid=worker.pid)
        started_at = trio.current_time()
        limit_s = self._shop.settings.worker.load_limit_s
        command = msgspec.structs.replace(load, lease=self._shop.lease.is_exclusive)
        async with seat.for_load():
            with trio.move_on_after(limit_s) as limit:
                loaded = await worker.link.load(command)
            if limit.cancelled_caught:
                reason = f"the load was not done after {limit_s:g} s"
                worker.condemn("stall", reason)  # one that hangs need not be asked to go
                raise WorkerStalled(reason)
        load_s = trio.current_time() - started_at
        self._announce(loaded, load_s)
        admission = Admission(
            slot_count=loaded.info.max_sequences,
            max_waiting=self._shop.settings.models.max_waiting,
        )
        return ReadyModel(worker, loaded, admission, load_s=load_s)

    async def _end(self, verdict: Verdict, ready: ReadyModel, service: Service) -> None:
        """Let a worker go, in the way that its end asks for."""
        model = self._model
        if verdict is Verdict.EXPIRED:
            # A request may have come this moment.
            model.leave(Leaving(reason="ttl", drain_s=inf))
        if verdict is Verdict.STALLED:
            service.condemn()
        if verdict in {Verdict.STALLED, Verdict.ENDED}:
            await ready.worker.wait_ended()
        else:
            await self._drain(ready, service)
        ended = ready.worker.ended
        if ended is None:
            return
        known = {"model": model.id, "pid": ended.pid, "request_ids": list(ended.request_ids)}
        log.warning("worker ended", **known, kind=ended.kind, reason=ended.reason)
        if ended.output:
            log.warning("worker said", **known, output=ended.output[-2000:])
        self._measures.exits[ended.kind] += 1
        self._shop.telemetry.publish(
            "worker_exited",
            model_id=model.id,
            kind=ended.kind,
            reason=ended.reason,
            pid=ended.pid,
        )
        if model.ready is ready and model.leaving is None:
            if trio.current_time() - ready.ready_since_s > STABLE_AFTER_S:
                model.failures = 0
            self._fail(ended.error())  # before the process is reaped: requests wait from now on
            raise ended.error()

    async def _drain(self, ready: ReadyModel, service: Service) -> None:
        """Wait until nobody uses a worker, or until its requests have had their time.

        One that has been replaced has as long as they take, unless the model is told to go.
        """
        model = self._model
        leaving, told_s = model.leaving, trio.current_time()
        if leaving is not None and model.ready is ready:
            self._move(ModelEvent.DRAIN)
        while ready.users and ready.worker.ended is None:
            if model.leaving is not leaving:
                leaving, told_s = model.leaving, trio.current_time()
            drain_s = inf if leaving is None else leaving.drain_s
            left_s = told_s + drain_s - trio.current_time()
            if left_s <= 0:
                break
            with trio.move_on_after(left_s):
                await service.wait_drained(model.wait_change)
        if model.leaving is not None:
            ready.worker.link.end(model.leaving.error)

    async def _renew(
        self, source: Source, plan: LoadPlan, lives: trio.Nursery, *, service: Service
    ) -> None:
        """A fresh worker beside the old one; without room for both, drain first."""
        model = self._model
        log.info("worker is renewed", model=model.id)
        try:
            async with trio.open_nursery() as load:
                load.start_soon(self._cancel_unwanted_load, model.ready, load.cancel_scope)
                await self._serve_from(source, plan, lives, is_renewal=True)
                load.cancel_scope.cancel()
        except* EXPECTED as group:
            if model.ready is None:
                raise  # it had taken over, and this is how the model's life ended
            reason = _first(group)
            log.warning("renewal failed", model=model.id, reason=reason.message)
            service.put_renewal_off(RENEWAL_PAUSE_S)
            if isinstance(reason, DoesNotFit):
                drain_s = self._shop.settings.models.drain_s
                model.leave(Leaving(reason="recycle", drain_s=drain_s))

    async def _pause(self) -> None:
        """Wait before the next attempt, unless somebody asks for it now."""
        model, worker = self._model, self._shop.settings.worker
        delay_s = restart_delay_s(
            model.failures, first_s=worker.restart_delay_s, limit_s=worker.restart_delay_limit_s
        )
        log.warning("model restarts", model=model.id, delay_s=round(delay_s, 2))
        with trio.move_on_after(delay_s):
            while model.leaving is None and model.failures:
                await model.wait_change()
        if model.leaving is not None:
            self._be_gone()

    def _has_failed_enough(self, error: LmxError) -> bool:
        """A download is tried for ever: the network comes back without anybody's doing."""
        limit = self._shop.settings.worker.quarantine_after
        return self._model.failures >= limit and not isinstance(error, ImportFailed)

    def _quarantine(self, error: LmxError) -> None:
        model = self._model
        model.error = ModelQuarantined(
            f"{model.id} failed {model.failures} times in a row and is not tried again until it is "
            f"loaded explicitly; the last time: {error.message}"
        )
        model.is_wanted = False
        log.error("model quarantined", model=model.id, failures=model.failures)
        self._move(ModelEvent.QUARANTINE)

    def _fail(self, failure: LmxError) -> None:
        model = self._model
        event = ModelEvent.DIED if model.state is ModelState.READY else ModelEvent.LOAD_FAILED
        model.fail(event, failure)
        self._measures.is_loaded = False
        log.error("model failed", model=model.id, code=failure.code, reason=failure.message)
        self._shop.telemetry.publish(
            "model_failed", model_id=model.id, code=failure.code, reason=failure.message
        )

    def _be_gone(self) -> None:
        """The worker is gone and its memory is back."""
        model = self._model
        leaving = model.leaving
        freed = 0 if model.ready is None else model.ready.loaded.memory.active_bytes
        model.be_gone()
        self._measures.is_loaded = False
        if leaving is None:
            return
        model.error = leaving.error if leaving.reason == "oom" else None
        gigabytes = freed / 1e9
        line = f"Model unloaded, freed {gigabytes:.1f} GB"
        log.info(line, model=model.id, reason=leaving.reason)
        self._shop.telemetry.publish(
            "model_unloaded",
            model_id=model.id,
            memory_freed_gb=round(gigabytes, 3),
            reason=leaving.reason,
        )
        self._tell_model_event("unloaded", gigabytes, duration_s=0.0)

    def _move(self, event: ModelEvent) -> None:
        self._model.apply(event)
        self._shop.telemetry.publish(
            "model_state", model_id=self._model.id, state=self._model.state.value
        )

    def _announce(self, loaded: Loaded, duration_s: float) -> None:
        """The line users look for, and what the model asked to have said."""
        model_id = self._model.id
        gigabytes = loaded.memory.active_bytes / 1e9
        line = f"Model loaded: {model_id} ({gigabytes:.1f} GB, {duration_s:.1f} s)"
        log.info(
            line,
            engine=loaded.info.engine,
            device=loaded.info.device,
            context_tokens=loaded.info.context_tokens,
        )
        for note in loaded.notes:
            log.warning(note, model=model_id)
        self._measures.count_load(duration_s)
        self._shop.telemetry.publish(
            "model_loaded",
            model_id=model_id,
            format=backend_name(loaded.info.engine),
            memory_gb=round(gigabytes, 3),
            duration_sec=round(duration_s, 3),
        )
        self._tell_model_event("loaded", gigabytes, duration_s=duration_s)

    def _tell_model_event(self, action: str, gigabytes: float, *, duration_s: float) -> None:
        """The same news once more, as the small dashboards spell it."""
        self._shop.telemetry.publish(
            "model_event",
            action=action,
            model=self._model.id,
            vram_gb=round(gigabytes, 3),
            load_time_ms=round(1000 * duration_s, 1),
        )


def is_permanent(error: LmxError) -> bool:
    """Whether trying again cannot help: the files are what they are. A download may yet work."""
    return isinstance(error, LoadError | RequestError) and not isinstance(error, ImportFailed)


def _first(group: BaseExceptionGroup[LmxError]) -> LmxError:
    """Any of the errors that ended a life together; one is enough to say why."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
