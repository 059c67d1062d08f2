"""Trying a model out: one load per backend in a worker of its own that is thrown away at once.

Loaded models stay as they are: a probe takes its turn at the device and its memory from what is
free, and nobody has to leave for it.
"""

from collections.abc import Sequence
from functools import partial

import msgspec
import trio
from msgspec import Struct

from lmx.catalog.locate import locate
from lmx.catalog.specs import ModelSpec
from lmx.config import Backend
from lmx.daemon.compatibility import Outcome
from lmx.daemon.loader import Loader
from lmx.daemon.model import Model
from lmx.daemon.sources import find_source
from lmx.errors import CapacityError, DoesNotFit, LmxError, ModelNotFound

FORMATS: tuple[Backend, ...] = ("mlx", "gguf")


class Trial(Struct, frozen=True):
    """One backend, and whether it loads a model."""

    backend: str
    outcome: Outcome
    reason: str | None = None


async def candidates(spec: ModelSpec, loader: Loader) -> Sequence[tuple[str, ModelSpec]]:
    """The backends that a model's files admit without being converted, the preferred one first.

    Raises:
        ModelNotFound: It is nowhere on disk.
        CorruptModel: What is there is no model.
    """
    if spec.kind in {"fake", "embedded"}:
        return [("fake" if spec.kind == "fake" else "mlx", spec)]
    search = partial(locate, home=loader.settings.home, folders=loader.settings.models.folders)
    found = []
    for backend in FORMATS:
        this = msgspec.structs.replace(spec, backend=backend)
        try:
            located = await trio.to_thread.run_sync(search, this)
        except ModelNotFound:
            continue
        if located.format == backend:
            found.append((backend, this))
    if not found:
        raise ModelNotFound(f"{spec.id} is not on disk", param="model_id")
    return found


async def try_load(backend: str, spec: ModelSpec, loader: Loader, *, limit_s: float) -> Trial:
    """Load a model in a fresh worker and throw it away.

    Cancellation:
        The worker is killed and reaped, its memory released.
    """
    failure: LmxError | None = None
    with trio.move_on_after(limit_s) as limit:
        try:
            await _load(spec, loader)
        except* LmxError as group:
            failure = _first(group)
    if limit.cancelled_caught:
        return Trial(backend, "unknown", f"not loaded after {limit_s:.1f} s")
    if failure is None:
        return Trial(backend, "pass")
    is_about_memory = isinstance(failure, DoesNotFit | CapacityError)
    return Trial(backend, "unknown" if is_about_memory else "fail", failure.message)


async def _load(spec: ModelSpec, loader: Loader) -> None:
    source = await find_source(spec, loader.settings.home, loader.settings.models.folders)
    # Under a name of its own, so that its memory is not taken for that of the loaded model.
    model = Model(msgspec.structs.replace(spec, id=f"{spec.id} (probe)"))
    plan = await loader.estimates.plan(source, model)
    command = msgspec.structs.replace(plan.command, lease=loader.lease.is_exclusive)
    async with (
        loader.room.reserve(model, plan.demand, may_evict=False),
        loader.lease.seat(model.id) as seat,
        loader.workshop.open(source.engine, model_id=model.id) as worker,
    ):
        seat.connect(worker.link)
        async with seat.for_load():
            await worker.link.load(command)


def _first(group: BaseExceptionGroup[LmxError]) -> LmxError:
    """Any of the errors that ended a load together; one is enough to say why."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
