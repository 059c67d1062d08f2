"""The model loader: which models there are, and the supervisor that keeps each one alive.

Theory of operation. Every model has one supervisor task in the loader's nursery. It finds the
files, starts a worker, sends the load and waits for the worker to end; a worker that ends by itself
is replaced after a growing pause that never gives up. Leaving the supervisor's cancel scope
unloads: the process is gone, and so is its memory. Loads live here and not in request handlers, so
a client that hangs up ends none.
"""

import os
from collections.abc import Mapping
from functools import partial
from typing import NoReturn

import structlog
import trio

from lmx.catalog.names import resolve_name
from lmx.catalog.specs import ModelSpec
from lmx.config import Settings
from lmx.daemon.model import Model
from lmx.daemon.model_state import ModelEvent, ModelState
from lmx.daemon.restarts import keep_running, restart_delay_s
from lmx.daemon.sources import Source, find_source
from lmx.daemon.telemetry import Telemetry
from lmx.daemon.worker import open_worker
from lmx.errors import (
    ImportFailed,
    LmxError,
    LoadError,
    ModelLoading,
    ModelNotFound,
    NoModelLoaded,
    RequestError,
    WorkerError,
)
from lmx.protocol.messages import Load, Loaded
from lmx.protocol.values import GgufOptions

# A worker that lived this long was no crash loop: the next pause starts small again.
STABLE_AFTER_S = 60.0
STARTABLE = frozenset({ModelState.ABSENT, ModelState.FAILED})
WORKER_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # a wrong path must never become a download
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "passive",  # spinning threads collapse on a shared machine
    "PYTHONFAULTHANDLER": "1",
    "PYTHONUNBUFFERED": "1",
}

log = structlog.get_logger("lmx.loader")


def load_command(settings: Settings, model_id: str, source: Source) -> Load:
    """What a worker is told to load, and how."""
    limits, gguf = settings.models, settings.gguf
    size_gb = gguf.kv_cache_gb
    return Load(
        source.engine,
        source.path,
        limits.max_sequences,
        limits.context_tokens,
        limits.dialects.get(model_id, ""),
        GgufOptions(
            gguf.gpu_layers,
            gguf.threads,
            gguf.mmap,
            None if size_gb is None else round(size_gb * 1e9),
        ),
    )


class Loader:
    """All models the daemon knows, and the tasks that keep them loaded.

    Args:
        settings: The daemon's settings.
        telemetry: Told about loads and exits.
    """

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._models: dict[str, Model] = {}
        self._nursery: trio.Nursery | None = None

    @property
    def models(self) -> Mapping[str, Model]:
        """Canonical id to model, in order of the loads."""
        return self._models

    @property
    def routable(self) -> list[Model]:
        """Models that answer now."""
        return [model for model in self._models.values() if model.state is ModelState.READY]

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Own the supervisors. Cancelling it unloads everything."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()
        raise AssertionError("unreachable: sleep_forever only ends by cancellation")

    def load(self, spec: ModelSpec) -> Model:
        """Start loading; a model that is known already is returned as it is."""
        known = self._models.get(spec.id)
        if known is not None:
            return known
        if self._nursery is None:
            raise RuntimeError("the loader is not running")
        model = self._models[spec.id] = Model(spec)
        self._nursery.start_soon(
            partial(keep_running, partial(self._supervise, model), name=f"model {spec.id}")
        )
        return model

    async def wait_routable(self, name: str, *, wait_s: float) -> Model:
        """The model a client means, waiting for one that is on its way.

        Raises:
            ModelNotFound: Another model is loaded, but none by that name.
            NoModelLoaded: Nothing is loaded and nothing by that name is loading.
            ModelLoading: It was not ready within `wait_s`.
        """
        coming = [m for m in self._models.values() if m.is_on_its_way]
        # A model asked for exactly is waited for, though another's name may be close enough.
        is_exact = any(name == m.id or name in m.spec.aliases for m in coming)
        model = None if is_exact else self._find(name, self.routable)
        if model is not None:
            return model
        pending = self._find(name, coming)
        if pending is None:
            raise self._refusal(name)
        with trio.move_on_after(wait_s):
            while pending.is_on_its_way:
                await pending.wait_change()
        if pending.state is ModelState.READY:
            return pending
        if pending.is_on_its_way:
            raise ModelLoading(f"No model loaded yet: {pending.id} is loading", retry_after_s=5)
        raise self._refusal(name)

    def _find(self, name: str, among: list[Model]) -> Model | None:
        found = resolve_name(name, {model.id: model.spec.aliases for model in among})
        return None if found is None else self._models[found]

    def _refusal(self, name: str) -> LmxError:
        loaded = [model.id for model in self.routable]
        if loaded:
            return ModelNotFound(
                f"The model {name!r} is not loaded. Loaded: {', '.join(loaded)}", param="model"
            )
        failed = [m for m in self._models.values() if m.error is not None]
        why = f" ({failed[0].id}: {failed[0].error})" if failed else ""
        return NoModelLoaded(f"No model loaded{why}")

    async def _supervise(self, model: Model) -> None:
        failures = 0
        if model.state not in STARTABLE:  # this task failed half-way and was started again
            self._fail(model, LmxError("the loader failed"))
        while True:
            model.apply(ModelEvent.LOAD)
            started_at = trio.current_time()
            error = await self._run_once(model)
            if _is_permanent(error):
                return
            failures = 1 if trio.current_time() - started_at > STABLE_AFTER_S else failures + 1
            worker = self._settings.worker
            delay_s = restart_delay_s(
                failures, first_s=worker.restart_delay_s, limit_s=worker.restart_delay_limit_s
            )
            log.warning("model restarts", model=model.id, delay_s=round(delay_s, 2))
            await trio.sleep(delay_s)

    async def _run_once(self, model: Model) -> LmxError:
        """One worker's life, or the failed attempt at one; returns why it ended."""
        try:
            source = await find_source(model.spec, self._settings.home)
            failure = await self._run_worker(model, source)
        except (LoadError, RequestError, WorkerError) as error:
            failure = error
        self._fail(model, failure)
        return failure

    def _fail(self, model: Model, failure: LmxError) -> None:
        event = ModelEvent.DIED if model.state is ModelState.READY else ModelEvent.LOAD_FAILED
        model.fail(event, failure, is_permanent=_is_permanent(failure))
        log.error("model failed", model=model.id, code=failure.code, reason=failure.message)
        self._telemetry.publish(
            "model_failed", model_id=model.id, code=failure.code, reason=failure.message
        )

    async def _run_worker(self, model: Model, source: Source) -> LmxError:
        command = load_command(self._settings, model.id, source)
        environment = {**os.environ, **WORKER_ENVIRONMENT}
        grace_s = self._settings.worker.stop_grace_s
        async with open_worker(environment=environment, stop_grace_s=grace_s) as worker:
            started_at = trio.current_time()
            try:
                loaded = await worker.link.load(command)
            except LmxError as error:
                failure = error
            else:
                model.become_ready(worker, loaded, max_waiting=self._settings.models.max_waiting)
                self._announce(model, loaded, trio.current_time() - started_at)
                ended = await worker.wait_ended()
                failure = ended.error()
                log.warning("worker ended", model=model.id, pid=ended.pid, reason=ended.reason)
        if worker.ended is not None and worker.ended.output:
            log.warning("worker said", model=model.id, output=worker.ended.output[-2000:])
        return failure

    def _announce(self, model: Model, loaded: Loaded, duration_s: float) -> None:
        """The line users look for, and what the model asked to have said."""
        gigabytes = loaded.memory.active_bytes / 1e9
        line = f"Model loaded: {model.id} ({gigabytes:.1f} GB, {duration_s:.1f} s)"
        log.info(
            line,
            engine=loaded.info.engine,
            device=loaded.info.device,
            context_tokens=loaded.info.context_tokens,
        )
        for note in loaded.notes:
            log.warning(note, model=model.id)
        self._telemetry.publish(
            "model_loaded", model_id=model.id, memory_gb=gigabytes, duration_sec=duration_s
        )


def _is_permanent(error: LmxError) -> bool:
    """Whether trying again cannot help: the files are what they are. A download may yet work."""
    return isinstance(error, LoadError | RequestError) and not isinstance(error, ImportFailed)
