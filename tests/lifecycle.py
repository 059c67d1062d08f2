"""A house of models for tests: the real loader, supervisors, ledger and dispatcher, no processes.

Workers load, answer and die as the test says. The links and their sockets are the real ones.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import trio
from trio.testing import wait_all_tasks_blocked

from lmx.catalog.specs import ModelSpec
from lmx.config import ModelSettings, Settings
from lmx.daemon.dispatch import Dispatch, reply_error
from lmx.daemon.estimates import Estimates, LoadPlan, load_command
from lmx.daemon.gauge import Gauge
from lmx.daemon.ledger import Demand
from lmx.daemon.loader import Loader
from lmx.daemon.meter import Reading
from lmx.daemon.model import Leaving, LoadOptions, Model
from lmx.daemon.model_state import ModelState
from lmx.daemon.sources import Source
from lmx.daemon.telemetry import Telemetry
from lmx.daemon.worker import ExitKind
from lmx.errors import LmxError, LoadError, WorkerBroken, WorkerClosed
from lmx.protocol.messages import Command, Generate, LoadFailed, Started
from lmx.protocol.values import Purpose
from tests.fakes import Recorder, ScriptedWorker, delta, finished, generate, loaded_event

FOREVER = float("inf")
HOME = Path("/nonexistent/lmx-home")
# Models may be made to leave as soon as they are up.
FICKLE = Settings(home=HOME, models=ModelSettings(min_residency_s=0))
PROMPTLY = Leaving(reason="manual", drain_s=0.0)
FIRST_PID = 1000


class Life(NamedTuple):
    """What one attempt at a worker comes to.

    Attributes:
        load_s: How long the load takes.
        serve_s: How long the worker then serves; `None` if the load fails.
        error: Why it ended. Anything but an `LmxError` is raised, as a fault of the loader.
        kind: How it ended, where it did.
        answer_s: How long it takes to answer a request; infinite for never.
    """

    load_s: float
    serve_s: float | None = None
    error: Exception = WorkerBroken("as scripted")
    kind: ExitKind = "exit"
    answer_s: float = 0.1


NEVER_LOADED = Life(FOREVER)
STEADY = Life(1, FOREVER)


class ScriptedWorkshop:
    """Gives out workers that load, serve and end as scripted.

    Args:
        lives: Of each model, in order.
        usual: Every further life.
        sizes: What the models weigh.

    Attributes:
        attempts: Model id and time of every worker so far.
        workers: Every worker so far, by model.
        open_count: Workers there are now.
        heard: Every command of every worker.
    """

    def __init__(
        self,
        lives: Mapping[str, Sequence[Life]],
        *,
        usual: Life = NEVER_LOADED,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self.attempts: list[tuple[str, float]] = []
        self.workers: dict[str, list[ScriptedWorker]] = {}
        self.open_count = 0
        self.heard: list[Command] = []
        self._lives = {model_id: list(script) for model_id, script in lives.items()}
        self._usual = usual
        self._sizes = sizes or {}

    @property
    def pids(self) -> list[int]:
        """Of the workers that live."""
        return [w.pid for group in self.workers.values() for w in group if w.ended is None]

    async def run(self) -> None:
        """Nothing is kept at hand."""
        await trio.sleep_forever()

    def want_spare(self, engine: str) -> None:
        """Nothing is kept at hand."""

    @asynccontextmanager
    async def open(self, engine: str, *, model_id: str) -> AsyncIterator[ScriptedWorker]:
        """A worker that lives the model's next life."""
        self.attempts.append((model_id, trio.current_time()))
        script = self._lives.get(model_id)
        life = script.pop(0) if script else self._usual
        if not isinstance(life.error, LmxError) and life.serve_s is None:
            await trio.sleep(life.load_s)
            raise life.error
        worker = ScriptedWorker(FIRST_PID + len(self.attempts))
        self.workers.setdefault(model_id, []).append(worker)
        self.open_count += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.run)
                nursery.start_soon(_live, worker, life, self._sizes.get(model_id, 0))
                nursery.start_soon(self._answer, worker, life.answer_s)
                try:
                    yield worker
                finally:
                    worker.link.end(WorkerClosed("the model's worker was stopped"))
                    nursery.cancel_scope.cancel()
        finally:
            worker.die()
            self.open_count -= 1

    async def _answer(self, worker: ScriptedWorker, answer_s: float) -> None:
        async with trio.open_nursery() as nursery:
            while commands := await worker.listen():
                self.heard += commands
                for command in commands:
                    if isinstance(command, Generate):
                        nursery.start_soon(_answer_one, worker, command, answer_s)


async def _live(worker: ScriptedWorker, life: Life, weight_bytes: int) -> None:
    await trio.sleep(life.load_s)
    if life.serve_s is None:
        if isinstance(life.error, LoadError):
            worker.send(LoadFailed(life.error.code, life.error.message))
        else:
            worker.finish(str(life.error), life.kind)
        return
    worker.send(loaded_event(weight_bytes=weight_bytes))
    await trio.sleep(life.serve_s)
    if not isinstance(life.error, LmxError):
        raise life.error
    worker.finish(str(life.error), life.kind)


async def _answer_one(worker: ScriptedWorker, command: Generate, answer_s: float) -> None:
    numbers = range(command.sequence, command.sequence + len(command.samplings))
    with suppress(OSError):  # the daemon has closed the pipe
        worker.send(*(Started(number, 3) for number in numbers))
        await trio.sleep(answer_s)
        for number in numbers:
            worker.send(delta(number, "yes"), finished(number))


class NoMeter:
    """Memory cannot be read."""

    def read(self, pids: Collection[int]) -> Reading:
        """Fails."""
        raise OSError("no meter")


class ScriptedSource(Estimates):
    """Every model needs what the test says."""

    def __init__(self, settings: Settings, sizes: Mapping[str, int]) -> None:
        super().__init__(settings, budget_bytes=0)
        self._sizes = sizes

    async def plan(self, source: Source, model: Model) -> LoadPlan:
        """What the script says; nothing is read."""
        demand = Demand(weights=self._sizes.get(model.id, 0))
        return LoadPlan(demand, load_command(Settings(home=HOME), model.id, source))


class ScriptedShelf:
    """Models on a disk that is none."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names = names

    async def find(self, name: str, purpose: Purpose | None = None) -> ModelSpec | None:
        """Exact names only."""
        return ModelSpec(name, "fake", "") if name in self._names else None


class ScriptedLoader(Loader):
    """The real loader with its real supervisors, whose workers exist on paper only."""

    def __init__(
        self,
        settings: Settings,
        telemetry: Telemetry,
        workshop: ScriptedWorkshop,
        *,
        sizes: Mapping[str, int] | None = None,
        on_disk: Sequence[str] = (),
        budget_bytes: int = 1000,
    ) -> None:
        super().__init__(settings, telemetry, gauge=Gauge(NoMeter()), budget_bytes=budget_bytes)
        self.scripted = workshop
        self.workshop = workshop
        self.estimates = ScriptedSource(settings, sizes or {})
        self.shelf = ScriptedShelf(on_disk)

    @property
    def attempts(self) -> list[tuple[str, float]]:
        """Model id and time of every worker so far."""
        return self.scripted.attempts


class House:
    """Models with sizes under one budget, and requests for them.

    Attributes:
        answered: Labels of the requests that were answered, in order.
        failed: Labels of those that were not, and why.
        footprints: What the meter says of processes.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        settings: Settings = FICKLE,
        lives: Mapping[str, Sequence[Life]] | None = None,
        usual: Life = STEADY,
        budget_bytes: int = 1000,
        on_disk: Sequence[str] = (),
    ) -> None:
        self.sizes = sizes
        self.telemetry = Recorder()
        self.workshop = ScriptedWorkshop(lives or {}, usual=usual, sizes=sizes)
        self.loader = ScriptedLoader(
            settings,
            self.telemetry,
            self.workshop,
            sizes=sizes,
            on_disk=on_disk,
            budget_bytes=budget_bytes,
        )
        self.footprints: dict[int, int] = {}
        reading = Reading(used_bytes=0, total_bytes=0, daemon_bytes=0, worker_bytes=self.footprints)
        self.loader.gauge.reading = reading
        self.dispatch = Dispatch(self.loader, self.telemetry, settings)
        self.answered: list[str] = []
        self.failed: list[tuple[str, LmxError]] = []

    def want(self, model_id: str, options: LoadOptions | None = None) -> Model:
        """Ask for a model and do not wait."""
        return self.loader.load(ModelSpec(model_id, "fake", ""), options)

    async def load(self, *model_ids: str, options: LoadOptions | None = None) -> None:
        """Have models loaded, one after the other."""
        for model_id in model_ids:
            await self.loader.wait_loaded(self.want(model_id, options))

    async def unload(self, model_id: str, leaving: Leaving = PROMPTLY) -> None:
        """Have a model gone."""
        model = self.loader.models[model_id]
        self.loader.unload(model, leaving)
        await self.loader.wait_gone(model)

    async def ask(self, model_id: str, label: str = "", text: str = "Hi") -> None:
        """One request, read to its end; how it ended is noted."""
        label = label or model_id
        try:
            async with self.dispatch.open(generate(text=text), model_name=model_id) as reply:
                (choice,) = reply.choices
                while not choice.is_over:
                    await choice.wait_change()
                error = reply_error(choice)
        except LmxError as refusal:
            error = refusal
        if error is None:
            self.answered.append(label)
        else:
            self.failed.append((label, error))

    def worker(self, model_id: str) -> ScriptedWorker:
        """The last worker of a model."""
        return self.workshop.workers[model_id][-1]

    def states(self) -> dict[str, str]:
        """Where each model is."""
        return {key: model.state.value for key, model in self.loader.models.items()}

    def check(self, *loaded: str) -> None:
        """Just these are ready, and just they have memory."""
        ready = {key for key, model in self.loader.models.items() if model.ready is not None}
        assert set(loaded) == ready
        ledger = self.loader.room.ledger
        assert sum(self.sizes.get(model_id, 0) for model_id in loaded) == ledger.reserved
        assert sorted(loaded) == sorted(owner.rpartition("#")[0] for owner in ledger.owners)

    async def clear(self) -> None:
        """Unload everything; nothing may be left of it."""
        for model in self.loader.models.values():
            self.loader.unload(model, PROMPTLY)
        for model in self.loader.models.values():
            await self.loader.wait_gone(model)
            assert (ModelState.ABSENT, None) == (model.state, model.ready)
        await wait_all_tasks_blocked()
        assert [] == self.loader.room.ledger.owners
        assert 0 == self.loader.room.ledger.reserved == self.workshop.open_count
        now = self.telemetry.statistics()
        assert 0 == now.in_flight == self.dispatch.in_flight


@asynccontextmanager
async def open_house(
    sizes: Mapping[str, int], **how: Any
) -> AsyncIterator[tuple[House, trio.Nursery]]:
    """A running house, and a nursery for requests. In the end everything is unloaded."""
    house = House(sizes, **how)
    async with trio.open_nursery() as nursery:
        await nursery.start(house.loader.run)
        async with trio.open_nursery() as requests:
            yield house, requests
        with trio.fail_after(1000):
            await house.clear()
        nursery.cancel_scope.cancel()
