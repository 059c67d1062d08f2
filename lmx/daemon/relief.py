"""What the guardian can do about memory: the loader's and the dispatcher's part of it."""

from collections.abc import Collection
from math import inf

from lmx.daemon.dispatch import Dispatch
from lmx.daemon.loader import Loader
from lmx.daemon.model import Leaving, Model
from lmx.errors import OutOfMemory
from lmx.protocol.messages import Shrink

UNLOADED = "No model loaded: {id} was unloaded because the machine ran out of memory"


class ModelRelief:
    """Makes room among the loaded models.

    Args:
        loader: Knows them.
        dispatch: Admits requests.
    """

    def __init__(self, loader: Loader, dispatch: Dispatch) -> None:
        self._loader = loader
        self._dispatch = dispatch

    @property
    def worker_pids(self) -> Collection[int]:
        """All worker processes: those that serve, load or retire, and the spare one."""
        return self._loader.workshop.pids

    def shrink_caches(self) -> None:
        """Ask every worker to give back what only makes it faster."""
        for model in self._loaded():
            if model.ready is not None:
                model.ready.worker.link.send(Shrink())

    def set_admitting(self, *, is_admitting: bool) -> None:
        """Refuse new requests and loads, or accept them again."""
        self._loader.room.is_short = not is_admitting
        self._dispatch.set_admitting(is_admitting=is_admitting)

    async def evict_idle(self) -> str | None:
        """Unload the least recently used model that nobody uses."""
        idle = [
            resident
            for resident in self._loader.room.residents()
            if not resident.holders and not resident.is_pinned
        ]
        if not idle:
            return None
        oldest = min(idle, key=lambda resident: resident.last_used_s)
        return await self._unload(self._loader.models[oldest.id], reason_is_memory=False)

    async def unload_biggest(self) -> str | None:
        """Unload the largest model at once; its requests end with `OutOfMemory`."""
        loaded = self._loaded()
        if not loaded:
            return None
        biggest = max(loaded, key=self._loader.room.bytes_of)
        return await self._unload(biggest, reason_is_memory=True)

    async def _unload(self, model: Model, *, reason_is_memory: bool) -> str:
        if reason_is_memory:
            error = OutOfMemory(UNLOADED.format(id=model.id))
            leaving = Leaving(reason="oom", drain_s=0.0, error=error)
        else:
            leaving = Leaving(reason="lru", drain_s=inf)
        self._loader.unload(model, leaving)
        await self._loader.wait_gone(model)
        return model.id

    def _loaded(self) -> list[Model]:
        return [model for model in self._loader.models.values() if model.ready is not None]
