"""What a person may ask of the models: load, unload, delete, try out.

Whoever asks waits for the outcome and is not needed for it: the loader's own tasks do the work, so
that a client that hangs up ends nothing. Knows nothing of HTTP.
"""

from collections.abc import Iterable
from functools import partial
from typing import NoReturn

import msgspec
import trio
from msgspec import Struct

from lmx.catalog.inventory import InventoryRow
from lmx.catalog.locate import locate
from lmx.catalog.names import ANY_MODEL, resolve_name
from lmx.catalog.removal import Removal, plan_removal, remove
from lmx.catalog.specs import ModelSpec, parse_spec
from lmx.config import Backend
from lmx.daemon.compatibility import Compatibility, backend_name
from lmx.daemon.loader import Loader
from lmx.daemon.model import Leaving, LoadOptions, Model, ReadyModel
from lmx.daemon.model_state import ModelState
from lmx.daemon.probe import Trial, candidates, try_load
from lmx.errors import (
    DoesNotFit,
    LmxError,
    LoadCancelled,
    LoadCrashed,
    LoadError,
    ModelInUse,
    ModelNotFound,
    OutOfMemory,
    RequestError,
)

# Models without a place on disk that can be loaded again by their id after an unload.
REMEMBERED_SPECS = 1000


class Unloaded(Struct, frozen=True):
    """A model that is gone, and what it had in memory."""

    model_id: str
    freed_bytes: int


class ModelAdmin:
    """Does what is asked, on top of the loader.

    Args:
        loader: Knows and keeps the models.

    Attributes:
        loader: The same.
        compatibility: How loads went.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.compatibility = Compatibility(
            loader.settings.home, loader.telemetry, backend_of=self._backend_of
        )
        self._unloaded: dict[str, ModelSpec] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self) -> NoReturn:
        """Note how loads go, and forget models that were told to go once they are gone."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self.compatibility.run()
        finally:
            self._nursery = None

    async def load(self, name: str, backend: Backend | None, options: LoadOptions) -> Model:
        """Have a model loaded, and wait until it is. A load that runs already is joined.

        Args:
            name: In any form that `lmx.catalog.specs` reads, or a name close to one on disk.
            backend: The format, or `None` for what settings say.
            options: How. A model that is loaded takes over what needs no other worker.

        Raises:
            ModelNotFound: It is not on disk.
            LoadError: Why it is not loaded.

        Cancellation:
            The load goes on.
        """
        spec = await self._find(name, backend)
        known = self.loader.models.get(spec.id)
        is_pinned = spec.id in self.loader.settings.models.pinned
        options = msgspec.structs.replace(options, is_pinned=is_pinned)
        if known is not None and known.state is ModelState.READY:
            known.options = _merge(known.options, options)
        model = self.loader.load(spec, options)
        try:
            await self.loader.wait_loaded(model)
        except LmxError as error:
            raise _as_outcome(error, model) from error
        return model

    async def unload(self, name: str | None) -> Unloaded:
        """Unload a model, or end its load, and wait until it is gone.

        Args:
            name: As a client spells it; `None` for the model that was used last.

        Raises:
            ModelNotFound: It is neither loaded nor on its way.

        Cancellation:
            It goes all the same.
        """
        model = self._find_present(name)
        freed = 0 if model.ready is None else memory_bytes(model.ready)
        drain_s = self.loader.settings.models.drain_s
        self._dismiss(model, Leaving(reason="manual", drain_s=drain_s))
        await self.loader.wait_gone(model)
        return Unloaded(model.id, freed)

    async def delete(self, model_id: str) -> tuple[str, int]:
        """Delete a model's files, complete or not.

        Args:
            model_id: Exactly as the inventory lists it.

        Returns:
            The model's id, and the bytes that came free.

        Raises:
            ModelInUse: It is loaded or on its way.
            ModelNotFound: There is no such model.
            NotDeletable: Its files are not for LMX to delete.
        """
        _refuse_if_named(model_id, self._in_use())
        rows = await self.loader.shelf.rows(is_fresh=True)
        row = next((row for row in rows if row.id == model_id), None)
        if row is None:
            raise ModelNotFound(f"there is no model {model_id!r} on disk", param="model_id")
        settings = self.loader.settings
        plan = partial(plan_removal, row.path, settings.home, settings.models.folders)
        removal = await trio.to_thread.run_sync(plan)
        await self._refuse_if_held(removal)
        _refuse_if_named(row.id, self._in_use())
        freed = await trio.to_thread.run_sync(remove, removal)
        if known := self.loader.models.get(row.id):
            self._dismiss(known, Leaving(reason="manual", drain_s=0.0))
        self._unloaded.pop(row.id, None)
        await self.loader.shelf.rows(is_fresh=True)
        return row.id, freed

    async def probe(self, name: str, *, limit_s: float) -> tuple[str, list[Trial]]:
        """Find out which backends load a model, without touching those that are loaded.

        Returns:
            The model's id, and one trial per backend that its files admit.

        Raises:
            ModelNotFound: It is not on disk.
            CorruptModel: What is there is no model.

        Cancellation:
            The trial that runs ends, and nothing of it is left.
        """
        spec = await self._find(name, "auto")
        deadline_s = trio.current_time() + limit_s
        trials = []
        for backend, candidate in await candidates(spec, self.loader):
            if backend == self._loaded_backend(spec.id):
                trials.append(Trial(backend, "pass", "it is loaded"))
                continue
            left_s = max(0.0, deadline_s - trio.current_time())
            trial = await try_load(backend, candidate, self.loader, limit_s=left_s)
            self.compatibility.record(
                spec.id, backend, trial.outcome, reason=trial.reason, is_probe=True
            )
            trials.append(trial)
        return spec.id, trials

    async def find(self, name: str) -> ModelSpec:
        """What a name means: a model that is known, one on disk, or what comes close to one.

        Raises:
            ModelNotFound: Nothing.
        """
        return await self._find(name, None)

    async def inventory(self) -> list[InventoryRow]:
        """Every model on disk."""
        return list(await self.loader.shelf.rows())

    def _dismiss(self, model: Model, leaving: Leaving) -> None:
        """Tell a model to go, for whoever waits and for when nobody does."""
        self._unloaded.pop(model.id, None)
        self._unloaded[model.id] = model.spec
        if len(self._unloaded) > REMEMBERED_SPECS:
            del self._unloaded[next(iter(self._unloaded))]
        self.loader.unload(model, leaving)
        if self._nursery is not None:
            self._nursery.start_soon(self._forget, model)

    async def _forget(self, model: Model) -> None:
        """So that no request that names no model brings back what was unloaded on purpose."""
        await self.loader.wait_gone(model)
        self.loader.forget(model)

    async def _find(self, name: str, backend: Backend | None) -> ModelSpec:
        """What a name means: exactly, then on disk, then what comes close."""
        settings = self.loader.settings
        name = self.loader.names.candidates(name)[0]
        if spec := self._find_known(name):
            return spec if backend is None else msgspec.structs.replace(spec, backend=backend)
        spec = parse_spec(name, backend or settings.models.backend)
        if spec.kind in {"fake", "embedded"}:
            return spec
        look = partial(locate, spec, settings.home, settings.models.folders)
        try:
            await trio.to_thread.run_sync(look)
        except ModelNotFound as error:
            refusal = ModelNotFound(error.message, param="model_id")
        else:
            return spec
        close = self._find_close(name) or await self.loader.shelf.find(name)
        if close is None:
            raise refusal
        return close if backend is None else msgspec.structs.replace(close, backend=backend)

    def _find_known(self, name: str) -> ModelSpec | None:
        specs = [model.spec for model in self.loader.models.values()]
        for spec in (*specs, *self._unloaded.values()):
            if name == spec.id or name in spec.aliases:
                return spec
        return None

    def _find_close(self, name: str) -> ModelSpec | None:
        if name in ANY_MODEL:
            return None
        models = self.loader.models
        found = resolve_name(name, {model.id: model.spec.aliases for model in models.values()})
        return None if found is None else models[found].spec

    def _find_present(self, name: str | None) -> Model:
        """A model that can be unloaded: loaded, on its way, or failed.

        Raises:
            ModelNotFound: There is none by that name, or none at all.
        """
        models = self.loader.models
        present = {m.id: m for m in models.values() if m.is_wanted or m.state != ModelState.ABSENT}
        if name is None or name in ANY_MODEL:
            candidates = self.loader.routable or [m for m in present.values() if m.is_wanted]
            if not candidates:
                raise ModelNotFound("No model is loaded", param="model_id")
            return max(candidates, key=_last_touched)
        found = resolve_name(name, {key: m.spec.aliases for key, m in present.items()})
        if found is None:
            loaded = ", ".join(m.id for m in self.loader.routable) or "none"
            raise ModelNotFound(
                f"The model {name!r} is not loaded. Loaded: {loaded}", param="model_id"
            )
        return present[found]

    def _in_use(self) -> list[Model]:
        return [
            model
            for model in self.loader.models.values()
            if model.ready is not None or model.is_on_its_way or model.leaving is not None
        ]

    async def _refuse_if_held(self, removal: Removal) -> None:
        """Refuse to delete files that a model was loaded from, under whatever name."""
        settings = self.loader.settings
        for model in self._in_use():
            if model.spec.kind in {"fake", "embedded"}:
                continue
            search = partial(locate, model.spec, settings.home, settings.models.folders)
            try:
                located = await trio.to_thread.run_sync(search)
            except LmxError:
                continue  # its files are not where they were, so they are not these
            if await trio.to_thread.run_sync(removal.holds, located.path):
                raise _in_use_error(model)

    def _backend_of(self, model_id: str) -> str:
        """The backend of a model as far as it is decided."""
        loaded = self._loaded_backend(model_id)
        model = self.loader.models.get(model_id)
        if loaded is not None or model is None:
            return loaded or "auto"
        kinds = {"fake": "fake", "embedded": "mlx"}
        is_file = model.spec.kind == "gguf" and model.spec.backend == "auto"
        return "gguf" if is_file else kinds.get(model.spec.kind, model.spec.backend)

    def _loaded_backend(self, model_id: str) -> str | None:
        model = self.loader.models.get(model_id)
        if model is None or model.ready is None:
            return None
        return backend_name(model.ready.loaded.info.engine)


def memory_bytes(ready: ReadyModel) -> int:
    """What a worker holds on the device, as it last said."""
    return (ready.worker.link.memory or ready.loaded.memory).active_bytes


def _merge(old: LoadOptions, new: LoadOptions) -> LoadOptions:
    """What a loaded model takes over from another load of it."""
    keep_alive_s = old.keep_alive_s if new.keep_alive_s is None else new.keep_alive_s
    return msgspec.structs.replace(
        old, keep_alive_s=keep_alive_s, performance=new.performance or old.performance
    )


def _as_outcome(error: LmxError, model: Model) -> LmxError:
    """A failed load as who asked for it is told; what passes by itself elsewhere is final here."""
    if isinstance(error, ModelNotFound) and model.error is None:
        return LoadCancelled(f"{model.id} was unloaded before it was ready")
    if isinstance(error, OutOfMemory):
        return DoesNotFit(f"{model.id} does not fit: {error.message}")
    if isinstance(error, LoadError | RequestError):
        return error
    return LoadCrashed(f"{model.id} could not be loaded: {error.message}")


def _last_touched(model: Model) -> tuple[float, float]:
    """When it was used last, and of models never used when it was loaded."""
    loaded_at = 0.0 if model.ready is None else model.ready.loaded_at
    return max(model.statistics.last_used_at, loaded_at), loaded_at


def _refuse_if_named(model_id: str, models: Iterable[Model]) -> None:
    for model in models:
        if model_id == model.id or model_id in model.spec.aliases:
            raise _in_use_error(model)


def _in_use_error(model: Model) -> ModelInUse:
    return ModelInUse(
        f"{model.id} is {model.state.value}; unload it before its files are deleted",
        param="model_id",
    )
