"""What a person may ask of the models, over the real loader with workers on paper."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.config import ModelSettings, Settings
from lmx.daemon.admin import ModelAdmin
from lmx.daemon.model import LoadOptions, Model
from lmx.daemon.model_state import ModelState
from lmx.daemon.telemetry import Telemetry
from lmx.errors import (
    CorruptModel,
    DoesNotFit,
    LmxError,
    LoadCancelled,
    LoadCrashed,
    ModelInUse,
    ModelNotFound,
    WorkerBroken,
)
from tests.lifecycle import Life, ScriptedLoader, ScriptedWorkshop

FOREVER = float("inf")
PLAIN = LoadOptions()


class Bench:
    """A running loader and its administration.

    Attributes:
        told: Id or error of each load that was asked for, in order of the answers.
    """

    def __init__(self, loader: ScriptedLoader, nursery: trio.Nursery) -> None:
        self.loader = loader
        self.admin = ModelAdmin(loader)
        self.told: list[str | LmxError] = []
        self._nursery = nursery
        nursery.start_soon(self.admin.run)

    async def load(self, name: str, options: LoadOptions = PLAIN) -> Model:
        """Load a fake model."""
        return await self.admin.load(f"fake:{name}", None, options)

    def start_load(self, name: str) -> None:
        """Load in the background."""
        self._nursery.start_soon(self._load, name)

    async def _load(self, name: str) -> None:
        try:
            self.told.append((await self.load(name)).id)
        except LmxError as error:
            self.told.append(error)


@asynccontextmanager
async def open_bench(
    home: Path,
    lives: Mapping[str, Sequence[Life]],
    *,
    sizes: Mapping[str, int] | None = None,
    models: ModelSettings = ModelSettings(),  # noqa: B008  # frozen
) -> AsyncIterator[Bench]:
    """A bench whose tasks run."""
    settings = Settings(home=home, models=models)
    loader = ScriptedLoader(settings, Telemetry(), ScriptedWorkshop(lives), sizes=sizes)
    async with trio.open_nursery() as nursery:
        await nursery.start(loader.run)
        yield Bench(loader, nursery)
        nursery.cancel_scope.cancel()


async def test_a_load_is_waited_for(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The answer comes when the model is ready, with how it was asked for."""
    async with open_bench(tmp_path, {"m": [Life(5, FOREVER)]}) as bench:
        model = await bench.load("m", LoadOptions(performance={"a": 1}, keep_alive_s=9))
        assert (5, ModelState.READY) == (round(trio.current_time()), model.state)
        assert ({"a": 1}, 9) == (model.options.performance, model.options.keep_alive_s)


async def test_loads_of_one_model_join(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Two who ask get the same load, and a third afterwards gets it at once."""
    async with open_bench(tmp_path, {"m": [Life(5, FOREVER)]}) as bench:
        bench.start_load("m")
        await trio.sleep(2)
        bench.start_load("m")
        await trio.sleep(4)
        assert (["m", "m"], 1) == (bench.told, len(bench.loader.attempts))
        before_s = trio.current_time()
        await bench.load("m")
        assert before_s == trio.current_time()


async def test_who_hangs_up_ends_no_load(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The load goes on for whoever asks next."""
    async with open_bench(tmp_path, {"m": [Life(5, FOREVER)]}) as bench:
        with trio.move_on_after(1):
            await bench.load("m")
        await trio.sleep(5)
        assert ["m"] == [model.id for model in bench.loader.routable]


async def test_a_loaded_model_takes_over_new_options(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What needs no other worker holds from now on; what is not said stays."""
    async with open_bench(tmp_path, {"m": [Life(1, FOREVER)]}) as bench:
        await bench.load("m", LoadOptions(performance={"a": 1}, context_tokens=50))
        model = await bench.load("m", LoadOptions(keep_alive_s=-1.0))
        options = model.options
        assert ({"a": 1}, -1.0, 50) == (
            options.performance,
            options.keep_alive_s,
            options.context_tokens,
        )


async def test_pinned_models_stay_pinned(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Settings say which; a load with options of its own does not change that."""
    models = ModelSettings(pinned=("m",))
    async with open_bench(tmp_path, {"m": [Life(1, FOREVER)]}, models=models) as bench:
        model = await bench.load("m", LoadOptions(keep_alive_s=5))
        assert model.options.is_pinned


@pytest.mark.parametrize(
    ("life", "told"),
    [
        (Life(1, error=WorkerBroken("killed")), LoadCrashed),
        (Life(1, error=CorruptModel("torn")), CorruptModel),
    ],
)
async def test_a_failed_load_says_why(
    tmp_path: Path, life: Life, told: type[LmxError], autojump_clock: MockClock
) -> None:
    """A crash is final for who asked, whatever the loader tries next."""
    async with open_bench(tmp_path, {"m": [life]}) as bench:
        with pytest.raises(told) as caught:
            await bench.load("m")
        assert str(life.error) in caught.value.message


async def test_what_does_not_fit_says_the_numbers(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What is needed and what there is."""
    async with open_bench(tmp_path, {"big": []}, sizes={"big": 9 * 10**9}) as bench:
        with pytest.raises(DoesNotFit, match=r"needs 9\.0 GB.*budget 0\.0 GB"):
            await bench.load("big")


async def test_an_unload_ends_a_load(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Both are answered: the unload that it is gone, the load that it was cancelled."""
    async with open_bench(tmp_path, {"m": [Life(60, FOREVER)]}) as bench:
        bench.start_load("m")
        await trio.sleep(1)
        gone = await bench.admin.unload("m")
        await wait_all_tasks_blocked()
        assert ("m", 0) == (gone.model_id, gone.freed_bytes)
        (error,) = bench.told
        assert isinstance(error, LoadCancelled)
        assert trio.current_time() < 10


async def test_the_current_model_is_the_one_used_last(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """By its requests, and before any by its load."""
    lives = {name: [Life(1, FOREVER)] for name in ("a", "b")}
    async with open_bench(tmp_path, lives) as bench:
        first, _ = await bench.load("a"), await bench.load("b")
        first.count(tokens=1, decode_s=1.0, is_answered=True)
        assert "a" == (await bench.admin.unload(None)).model_id
        assert "b" == (await bench.admin.unload("auto")).model_id
        with pytest.raises(ModelNotFound):
            await bench.admin.unload(None)


async def test_what_was_unloaded_is_forgotten_and_found_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """No request brings it back by naming nothing; a load finds it by its id."""
    async with open_bench(tmp_path, {"m": [Life(1, FOREVER), Life(1, FOREVER)]}) as bench:
        await bench.load("m?tokens=3")
        await bench.admin.unload("m")
        await wait_all_tasks_blocked()
        assert {} == bench.loader.models
        model = await bench.admin.load("m", None, PLAIN)
        assert "tokens=3" == model.spec.source


async def test_who_hangs_up_ends_no_unload(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A model in use drains, and then it is gone and forgotten."""
    async with open_bench(tmp_path, {"m": [Life(1, FOREVER)]}) as bench:
        model = await bench.load("m")
        assert model.ready is not None
        model.ready.enter()
        with trio.move_on_after(1):
            await bench.admin.unload("m")
        assert ModelState.DRAINING is model.state
        model.ready.leave()
        await trio.sleep(1)
        assert {} == bench.loader.models


async def test_a_model_in_quarantine_is_tried_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """By an explicit load; if it fails again, that is the answer."""
    lives = {"m": [*[Life(1)] * 4, Life(1, FOREVER)]}
    async with open_bench(tmp_path, lives) as bench:
        with pytest.raises(LoadCrashed):
            await bench.load("m")
        await trio.sleep(60)
        model = bench.loader.models["m"]
        assert ModelState.QUARANTINED is model.state
        with pytest.raises(LoadCrashed):
            await bench.load("m")
        assert ModelState.READY is (await bench.load("m")).state


async def test_a_loaded_model_is_not_deleted(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Nor one on its way."""
    lives = {"m": [Life(1, FOREVER)], "slow": [Life(60, FOREVER)]}
    async with open_bench(tmp_path, lives) as bench:
        await bench.load("m")
        bench.start_load("slow")
        await wait_all_tasks_blocked()
        for name in ("m", "slow"):
            with pytest.raises(ModelInUse):
                await bench.admin.delete(name)
