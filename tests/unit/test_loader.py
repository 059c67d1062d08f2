"""Supervisors keep models loaded, and requests wait for those that are on their way."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.catalog.specs import ModelSpec, parse_spec
from lmx.config import GgufSettings, ModelSettings, Settings
from lmx.daemon.estimates import kv_cache_bytes, load_command
from lmx.daemon.gauge import Gauge
from lmx.daemon.loader import Loader
from lmx.daemon.model import Leaving
from lmx.daemon.model_state import ModelState
from lmx.daemon.sources import Source
from lmx.daemon.supervisor import STABLE_AFTER_S
from lmx.daemon.telemetry import Telemetry
from lmx.errors import (
    CorruptModel,
    ImportFailed,
    LoadError,
    ModelLoading,
    ModelNotFound,
    ModelQuarantined,
    NoModelLoaded,
    WorkerBroken,
)
from lmx.protocol.messages import Load
from lmx.protocol.values import GgufOptions
from tests.fakes import Recorder
from tests.lifecycle import FOREVER, HOME, Life, NoMeter, ScriptedLoader, ScriptedWorkshop


@asynccontextmanager
async def open_loader(**lives: Sequence[Life]) -> AsyncIterator[ScriptedLoader]:
    """A running loader that was asked for each of these models, in order."""
    loader = ScriptedLoader(Settings(home=HOME), Telemetry(), ScriptedWorkshop(lives))
    async with trio.open_nursery() as nursery:
        await nursery.start(loader.run)
        for model_id in lives:
            loader.load(ModelSpec(model_id, "fake", ""))
        await wait_all_tasks_blocked()
        yield loader
        nursery.cancel_scope.cancel()


def pauses(loader: ScriptedLoader, lives: Sequence[Life]) -> list[float]:
    """Seconds between the end of one attempt and the next."""
    times = [time for _, time in loader.attempts]
    return [
        after - before - life.load_s - (life.serve_s or 0)
        for before, after, life in zip(times, times[1:], lives, strict=False)
    ]


async def test_a_model_becomes_ready(autojump_clock: MockClock) -> None:
    """A load runs in the background and ends in a model that answers."""
    async with open_loader(m=[Life(5, FOREVER)]) as loader:
        model = loader.models["m"]
        assert (ModelState.LOADING, []) == (model.state, loader.routable)
        await trio.sleep(6)
        assert (ModelState.READY, [model]) == (model.state, loader.routable)
        assert model.ready is not None


async def test_asking_twice_loads_once(autojump_clock: MockClock) -> None:
    """A model that is known already is returned as it is."""
    async with open_loader(m=[Life(5, FOREVER)]) as loader:
        assert loader.models["m"] is loader.load(ModelSpec("m", "fake", ""))
        await trio.sleep(6)
        assert loader.models["m"] is loader.load(ModelSpec("m", "fake", ""))
        await wait_all_tasks_blocked()
        assert 1 == len(loader.attempts)


def test_a_loader_that_does_not_run_cannot_load() -> None:
    """Loading before `run` is a programming error."""
    loader = Loader(Settings(home=HOME), Telemetry(), gauge=Gauge(NoMeter()), budget_bytes=1000)
    with pytest.raises(RuntimeError):
        loader.load(ModelSpec("m", "fake", ""))
    assert {} == loader.models


async def test_a_request_waits_for_a_model_on_its_way(autojump_clock: MockClock) -> None:
    """A request that comes during the load gets the model as soon as it is ready."""
    async with open_loader(m=[Life(5, FOREVER)]) as loader:
        before_s = trio.current_time()
        model = await loader.wait_routable("m", wait_s=60)
        assert ("m", 5.0) == (model.id, pytest.approx(trio.current_time() - before_s))


async def test_a_request_waits_through_a_failed_attempt(autojump_clock: MockClock) -> None:
    """A model whose first worker dies in the load is still on its way."""
    async with open_loader(m=[Life(1), Life(1, FOREVER)]) as loader:
        assert "m" == (await loader.wait_routable("m", wait_s=60)).id
        assert 2 == len(loader.attempts)


async def test_waiting_has_an_end(autojump_clock: MockClock) -> None:
    """A load longer than the wait is a `ModelLoading` that says when to come back."""
    async with open_loader(m=[Life(FOREVER)]) as loader:
        before_s = trio.current_time()
        with pytest.raises(ModelLoading) as caught:
            await loader.wait_routable("m", wait_s=3)
        assert 3.0 == pytest.approx(trio.current_time() - before_s)
        assert caught.value.retry_after_s == 5


async def test_a_wait_of_zero_does_not_wait(autojump_clock: MockClock) -> None:
    """Without patience a model on its way is refused at once."""
    async with open_loader(m=[Life(5, FOREVER)]) as loader:
        with pytest.raises(ModelLoading):
            await loader.wait_routable("m", wait_s=0)


async def test_a_request_that_hangs_up_ends_no_load(autojump_clock: MockClock) -> None:
    """The load belongs to the loader, not to who asked."""
    async with open_loader(m=[Life(5, FOREVER)]) as loader:
        with trio.move_on_after(1):
            await loader.wait_routable("m", wait_s=60)
        await trio.sleep(5)
        assert ModelState.READY is loader.models["m"].state
        assert 1 == len(loader.attempts)


async def test_nothing_loaded(autojump_clock: MockClock) -> None:
    """An empty loader says that nothing is loaded, whatever the name."""
    async with open_loader() as loader:
        for name in ("", "auto", "m"):
            with pytest.raises(NoModelLoaded):
                await loader.wait_routable(name, wait_s=60)


async def test_another_name_is_not_found_at_once(autojump_clock: MockClock) -> None:
    """With a model loaded, an unknown name is the client's mistake; the message lists models."""
    async with open_loader(m=[Life(0, FOREVER)]) as loader:
        await trio.sleep(1)
        with pytest.raises(ModelNotFound, match="Loaded: m") as caught:
            await loader.wait_routable("other", wait_s=60)
        assert "model" == caught.value.param


async def test_any_model_prefers_one_that_answers(autojump_clock: MockClock) -> None:
    """``auto`` does not wait for a slow model while another is ready."""
    async with open_loader(slow=[Life(50, FOREVER)], quick=[Life(1, FOREVER)]) as loader:
        await trio.sleep(2)
        for name in ("auto", "", "current", "quick", "QUICK"):
            assert "quick" == (await loader.wait_routable(name, wait_s=0)).id


async def test_an_exact_name_waits_rather_than_takes_a_sibling(autojump_clock: MockClock) -> None:
    """A model that loads is not replaced by another quantisation that happens to be ready."""
    lives = {"q-4bit": [Life(0, FOREVER)], "q-8bit": [Life(9, FOREVER)]}
    async with open_loader(**lives) as loader:
        await trio.sleep(1)
        assert "q-8bit" == (await loader.wait_routable("q-8bit", wait_s=60)).id
        assert "q-4bit" == (await loader.wait_routable("q-4bit", wait_s=60)).id


async def test_a_dead_worker_is_replaced(autojump_clock: MockClock) -> None:
    """A worker that dies while it serves is followed by another, and requests wait for it."""
    async with open_loader(m=[Life(1, 10), Life(1, FOREVER)]) as loader:
        await trio.sleep(5)
        first = loader.models["m"].ready
        await trio.sleep(6.05)
        model = loader.models["m"]
        assert (ModelState.FAILED, None) == (model.state, model.ready)
        assert isinstance(model.error, WorkerBroken)
        again = await loader.wait_routable("m", wait_s=60)
        assert again.ready is not None
        assert first is not again.ready
        assert None is again.error


async def test_the_pause_grows(autojump_clock: MockClock) -> None:
    """Downloads that fail in a row are further and further apart, up to a limit, for ever."""
    lives = [Life(1, error=ImportFailed("no network"))] * 14 + [Life(1, FOREVER)]
    async with open_loader(m=lives) as loader:
        await trio.sleep(1000)
        assert ModelState.READY is loader.models["m"].state
        found = pauses(loader, lives)
    assert 14 == len(found)
    for number, pause_s in enumerate(found):
        base_s = min(30.0, 0.1 * 2**number)
        assert 0.8 * base_s <= pause_s <= 1.2 * base_s + 1e-6


async def test_a_worker_that_keeps_dying_is_quarantined(autojump_clock: MockClock) -> None:
    """After so many deaths in a row only an explicit load tries again."""
    async with open_loader(m=[Life(1)] * 3 + [Life(1, FOREVER)]) as loader:
        with pytest.raises(ModelQuarantined, match=r"3 times in a row.*as scripted"):
            await loader.wait_routable("m", wait_s=1000)
        assert 3 == len(loader.attempts)
        model = loader.models["m"]
        assert (ModelState.QUARANTINED, False) == (model.state, model.is_wanted)
        for name in ("m", "M"):
            with pytest.raises(ModelQuarantined):
                await loader.wait_routable(name, wait_s=1000)
        assert 3 == len(loader.attempts)
        loader.load(model.spec)
        assert "m" == (await loader.wait_routable("m", wait_s=1000)).id
        assert (4, None) == (len(loader.attempts), model.error)


async def test_a_long_life_forgives(autojump_clock: MockClock) -> None:
    """After a worker that lived long the pause is small again and failures count anew."""
    lives = [Life(1)] * 2 + [Life(1, STABLE_AFTER_S + 10)] + [Life(1), Life(1, FOREVER)]
    async with open_loader(m=lives) as loader:
        await trio.sleep(200)
        assert 5 == len(loader.attempts)
        assert pauses(loader, lives)[2] <= 1.2 * 0.1 + 1e-6


async def test_damaged_files_are_not_tried_again(autojump_clock: MockClock) -> None:
    """A failure that trying again cannot mend ends the attempts; requests hear why at once."""
    async with open_loader(m=[Life(1, error=CorruptModel("no weights"))]) as loader:
        with pytest.raises(NoModelLoaded, match="m: no weights"):
            await loader.wait_routable("m", wait_s=60)
        await trio.sleep(1000)
        assert 1 == len(loader.attempts)
        assert not loader.models["m"].is_on_its_way
        assert "no weights" == str(loader.models["m"].error)


async def test_a_failed_download_is_tried_again(autojump_clock: MockClock) -> None:
    """The network may be back later."""
    lives = [Life(1, error=ImportFailed("no network")), Life(1, FOREVER)]
    async with open_loader(m=lives) as loader:
        await trio.sleep(10)
        assert (2, ModelState.READY) == (len(loader.attempts), loader.models["m"].state)


async def test_a_missing_network_is_not_waited_for(autojump_clock: MockClock) -> None:
    """Requests hear at once why a model cannot be fetched; the next one has it tried again."""
    lives = [Life(1, error=ImportFailed("no network"))] * 8 + [Life(1, FOREVER)]
    async with open_loader(m=lives) as loader:
        with pytest.raises(ImportFailed, match="no network"):
            await loader.wait_routable("m", wait_s=60)
        assert 1 == len(loader.attempts)
        await trio.sleep(14.5)  # in the middle of the pause after the seventh attempt
        assert (7, ModelState.FAILED) == (len(loader.attempts), loader.models["m"].state)
        started_s = trio.current_time()
        with pytest.raises(ImportFailed, match="no network"):
            await loader.wait_routable("m", wait_s=60)
        assert 1 == pytest.approx(trio.current_time() - started_s)
        assert "m" == (await loader.wait_routable("m", wait_s=60)).id
        assert 2 == pytest.approx(trio.current_time() - started_s)


async def test_a_model_that_gave_up_does_not_hide_one_that_answers(
    autojump_clock: MockClock,
) -> None:
    """Asked for the failed model by name, the client hears what is loaded instead."""
    lives = {"bad": [Life(1, error=LoadError("no"))], "good": [Life(1, FOREVER)]}
    async with open_loader(**lives) as loader:
        await trio.sleep(2)
        assert "good" == (await loader.wait_routable("auto", wait_s=0)).id
        with pytest.raises(ModelNotFound, match="Loaded: good"):
            await loader.wait_routable("bad", wait_s=60)


@pytest.mark.parametrize("serve_s", [None, 5.0])
async def test_a_fault_of_the_loader_costs_a_pause(
    serve_s: float | None, autojump_clock: MockClock
) -> None:
    """An unforeseen exception, in a load or while serving, is followed by another attempt."""
    lives = [Life(1, serve_s, error=OSError("out of descriptors")), Life(1, FOREVER)]
    async with open_loader(m=lives) as loader:
        await trio.sleep(30)
        assert ModelState.READY is loader.models["m"].state
        assert 2 == len(loader.attempts)


async def test_models_do_not_disturb_each_other(autojump_clock: MockClock) -> None:
    """One model in a crash loop leaves another ready all the time."""
    async with open_loader(bad=[Life(0.1)] * 50, good=[Life(1, FOREVER)]) as loader:
        await trio.sleep(2)
        for _ in range(20):
            await trio.sleep(3.7)
            assert "good" == (await loader.wait_routable("good", wait_s=0)).id


async def test_events_tell_what_happened(autojump_clock: MockClock) -> None:
    """Subscribers hear of every failure, with its code and reason, and of every state."""
    told = Recorder()
    workshop = ScriptedWorkshop({"m": [Life(1), Life(1, FOREVER)]})
    loader = ScriptedLoader(Settings(home=HOME), told, workshop)
    async with trio.open_nursery() as nursery:
        await nursery.start(loader.run)
        model = loader.load(ModelSpec("m", "fake", ""))
        await loader.wait_routable("m", wait_s=60)
        loader.unload(model, Leaving(reason="manual", drain_s=0.0))
        await loader.wait_gone(model)
        nursery.cancel_scope.cancel()
    assert ["loading", "loading", "draining"] == told.of("model_state", "state")
    assert ["worker-broken"] == told.of("model_failed", "code")
    assert ["the model's worker ended: as scripted"] == told.of("model_failed", "reason")
    assert ["m"] == told.of("model_loaded", "model_id")
    assert ["manual"] == told.of("model_unloaded", "reason")


@pytest.mark.parametrize(
    "text",
    ["/nonexistent/model", "/nonexistent/a.gguf", "no-such-org/no-such-model", "/" + "x" * 300],
)
async def test_a_model_that_is_nowhere(text: str) -> None:
    """A path or id that is not on disk fails for good, and requests hear why."""
    loader = Loader(Settings(home=HOME), Telemetry(), gauge=Gauge(NoMeter()), budget_bytes=1000)
    async with trio.open_nursery() as nursery:
        await nursery.start(loader.run)
        loader.load(parse_spec(text))
        with (
            trio.fail_after(10),
            pytest.raises(NoModelLoaded, match=r"no-such-model|there is no|cannot be read"),
        ):
            await loader.wait_routable("auto", wait_s=5)
        nursery.cancel_scope.cancel()


def test_a_worker_is_told_the_settings() -> None:
    """The limits, the model's own dialect and the GGUF options travel with the load."""
    settings = Settings(
        home=HOME,
        models=ModelSettings(max_sequences=3, context_tokens=99, dialects={"m": "hermes"}),
        gguf=GgufSettings(gpu_layers=0, threads=2, mmap=False, kv_cache_gb=1.5),
    )
    options = GgufOptions(gpu_layers=0, threads=2, use_mmap=False, kv_cache_bytes=1_500_000_000)
    expected = Load("llama", "/m.gguf", 3, 99, "hermes", options, kv_cache_bytes=1_500_000_000)
    source, cache_bytes = Source("llama", "/m.gguf"), kv_cache_bytes(settings.gguf)
    assert expected == load_command(settings, "m", source, cache_bytes=cache_bytes)
    own = msgspec.structs.replace(expected, context_tokens=50)
    assert own == load_command(settings, "m", source, context_tokens=50, cache_bytes=cache_bytes)
    plain = load_command(Settings(home=HOME), "m", Source("mlx", "/m"))
    assert Load("mlx", "/m", 32) == plain


def test_drafts_can_be_turned_off() -> None:
    """For all models."""
    settings = Settings(home=HOME, models=ModelSettings(speculation=False))
    assert not load_command(settings, "m", Source("mlx", "/m")).speculation


def test_a_cache_is_quantised_for_the_models_named() -> None:
    """And for no other one."""
    settings = Settings(home=HOME, models=ModelSettings(kv_bits={"m": 8}))
    found = [load_command(settings, name, Source("mlx", "/m")).kv_bits for name in ("m", "other")]
    assert [8, None] == found
