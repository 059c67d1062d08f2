"""A model's keeper: it loads, serves, drains, tries again, gives up, and always cleans up."""

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.config import ModelSettings, WorkerSettings
from lmx.daemon.model import Leaving, LoadOptions
from lmx.daemon.supervisor import STABLE_AFTER_S
from lmx.errors import (
    CorruptModel,
    ModelNotFound,
    ModelQuarantined,
    OutOfMemory,
    WorkerBroken,
    WorkerClosed,
    WorkerStalled,
)
from tests.lifecycle import FICKLE, FOREVER, PROMPTLY, STEADY, Life, open_house

SIZES = {"a": 700}
SLOW = Life(1, FOREVER, answer_s=20)
HANGING = Life(1, FOREVER, answer_s=FOREVER)
DRAIN = Leaving(reason="manual", drain_s=10)
AT_ONCE = msgspec.structs.replace(
    FICKLE, worker=WorkerSettings(restart_delay_s=0, restart_delay_limit_s=0)
)


async def test_unloading_lets_requests_finish(autojump_clock: MockClock) -> None:
    """A model that is told to go answers what it has, then its memory is back."""
    async with open_house(SIZES, usual=Life(1, FOREVER, answer_s=5)) as (house, requests):
        await house.load("a")
        requests.start_soon(house.ask, "a")
        await trio.sleep(1)
        before_s = trio.current_time()
        await house.unload("a", DRAIN)
        assert pytest.approx(4) == trio.current_time() - before_s
        await wait_all_tasks_blocked()
        assert (["a"], []) == (house.answered, house.failed)
        house.check()
        assert ["manual"] == house.telemetry.of("model_unloaded", "reason")


async def test_unloading_has_an_end(autojump_clock: MockClock) -> None:
    """A request that outlasts the time for it is told that the model was unloaded."""
    async with open_house(SIZES, usual=HANGING) as (house, requests):
        await house.load("a")
        requests.start_soon(house.ask, "a")
        await trio.sleep(1)
        before_s = trio.current_time()
        await house.unload("a", DRAIN)
        assert pytest.approx(10) == trio.current_time() - before_s
        await wait_all_tasks_blocked()
        assert [WorkerClosed] == [type(error) for _, error in house.failed]
        house.check()


async def test_the_most_urgent_of_several_counts(autojump_clock: MockClock) -> None:
    """An unload at once overtakes one that has time, and is itself not put off again."""
    async with open_house(SIZES, usual=HANGING) as (house, requests):
        await house.load("a")
        model = house.loader.models["a"]
        requests.start_soon(house.ask, "a")
        await trio.sleep(1)
        house.loader.unload(model, Leaving(reason="lru", drain_s=FOREVER))
        await trio.sleep(1)
        before_s = trio.current_time()
        house.loader.unload(model, PROMPTLY)
        house.loader.unload(model, DRAIN)
        await house.loader.wait_gone(model)
        assert before_s == trio.current_time()
        assert ["manual"] == house.telemetry.of("model_unloaded", "reason")


async def test_what_comes_during_the_drain_brings_it_back(autojump_clock: MockClock) -> None:
    """A load of a model on its way out waits for the end and loads it afresh."""
    async with open_house(SIZES, lives={"a": [SLOW]}) as (house, requests):
        await house.load("a")
        requests.start_soon(house.ask, "a")
        await trio.sleep(1)
        house.loader.unload(house.loader.models["a"], Leaving(reason="manual", drain_s=FOREVER))
        await trio.sleep(1)
        await house.load("a")
        assert (["a"], 2) == (house.answered, len(house.loader.attempts))
        house.check("a")


@pytest.mark.parametrize("wait_s", [0.0, 0.5])
async def test_a_load_can_be_cancelled(wait_s: float, autojump_clock: MockClock) -> None:
    """Told to go before it is ready, it ends at once, with its worker and its memory."""
    async with open_house(SIZES, usual=Life(100, FOREVER)) as (house, requests):
        model = house.want("a")
        if wait_s:
            requests.start_soon(house.ask, "a")
            await trio.sleep(wait_s)
            assert (1, 700) == (house.workshop.open_count, house.loader.room.ledger.reserved)
        before_s = trio.current_time()
        house.loader.unload(model, PROMPTLY)
        with trio.fail_after(1), pytest.raises(ModelNotFound):
            await house.loader.wait_loaded(model)
        await house.loader.wait_gone(model)
        assert before_s == trio.current_time()
        await wait_all_tasks_blocked()
        house.check()
        assert 0 == house.workshop.open_count
        assert "absent" == house.states()["a"]
        assert ["no-model-loaded"] * bool(wait_s) == [error.code for _, error in house.failed]


async def test_a_load_has_a_limit(autojump_clock: MockClock) -> None:
    """A worker that never says that it is ready is given up, and another one tried."""
    settings = msgspec.structs.replace(FICKLE, worker=WorkerSettings(load_limit_s=50))
    lives = {"a": [Life(FOREVER), STEADY]}
    async with open_house(SIZES, settings=settings, lives=lives) as (house, _):
        model = house.want("a")
        with pytest.raises(WorkerStalled, match="not done after 50 s"):
            await house.loader.wait_loaded(model)
        assert pytest.approx(50) == trio.current_time()
        await house.loader.wait_routable("a", wait_s=60)
        house.check("a")


@pytest.mark.parametrize("life", [Life(1), Life(1, 5), Life(1, error=OutOfMemory("no room"))])
async def test_three_failures_in_a_row_are_quarantine(
    life: Life, autojump_clock: MockClock
) -> None:
    """Loads that die and workers that die young count alike; an explicit load starts anew."""
    async with open_house(SIZES, lives={"a": [life] * 3}, on_disk=["a"]) as (house, _):
        model = house.want("a")
        await trio.sleep(100)
        assert (3, "quarantined") == (len(house.loader.attempts), house.states()["a"])
        house.check()
        await house.ask("a")
        assert [ModelQuarantined] == [type(error) for _, error in house.failed]
        assert 3 == len(house.loader.attempts)
        await house.load("a")
        assert (None, 0) == (model.error, model.failures)
        house.check("a")


async def test_a_quarantined_model_can_be_unloaded(autojump_clock: MockClock) -> None:
    """What is known of it goes; a request may then bring it back."""
    async with open_house(SIZES, lives={"a": [Life(1)] * 3}) as (house, _):
        model = house.want("a")
        await trio.sleep(100)
        with trio.fail_after(1):
            await house.unload("a")
        assert ("absent", None) == (house.states()["a"], model.error)
        await house.ask("a")
        assert ["a"] == house.answered


async def test_an_answer_between_failures_forgives(autojump_clock: MockClock) -> None:
    """A model that dies often, but answers in between, is kept."""
    async with open_house(SIZES, usual=Life(1, 5)) as (house, _):
        house.want("a")
        for _number in range(8):
            await house.ask("a")
            house.worker("a").finish("again", "signal")
            await wait_all_tasks_blocked()
            assert "quarantined" != house.states()["a"]
        assert (8, []) == (len(house.answered), house.failed)


async def test_a_long_life_forgives(autojump_clock: MockClock) -> None:
    """Deaths that are far apart do not add up, without any request."""
    async with open_house(SIZES, usual=Life(1, STABLE_AFTER_S + 1)) as (house, _):
        house.want("a")
        await trio.sleep(20 * STABLE_AFTER_S)
        assert len(house.loader.attempts) > 15
        assert "quarantined" != house.states()["a"]


async def test_damaged_files_need_a_person(autojump_clock: MockClock) -> None:
    """No second attempt by itself nor for a request; an explicit load makes one."""
    lives = {"a": [Life(1, error=CorruptModel("no weights")), STEADY]}
    async with open_house(SIZES, lives=lives) as (house, _):
        with pytest.raises(CorruptModel, match="no weights"):
            await house.load("a")
        await trio.sleep(100)
        await house.ask("a")
        assert (1, "failed") == (len(house.loader.attempts), house.states()["a"])
        house.check()
        await house.load("a")
        house.check("a")


async def test_a_crash_while_draining(autojump_clock: MockClock) -> None:
    """The requests are told, and the model is gone as it was told to be, with no restart."""
    async with open_house(SIZES, usual=HANGING) as (house, requests):
        await house.load("a")
        requests.start_soon(house.ask, "a")
        await trio.sleep(1)
        house.loader.unload(house.loader.models["a"], DRAIN)
        await trio.sleep(1)
        house.worker("a").finish("boom", "signal")
        await trio.sleep(100)
        assert [WorkerBroken] == [type(error) for _, error in house.failed]
        assert (1, "absent") == (len(house.loader.attempts), house.states()["a"])
        assert ["signal"] == house.telemetry.of("worker_exited", "kind")
        house.check()


@pytest.mark.parametrize("drain_s", [FOREVER, 0.0])
async def test_a_hang_is_ended(drain_s: float, autojump_clock: MockClock) -> None:
    """A worker that delivers nothing is killed, its requests are told, the model comes back."""
    async with open_house(SIZES, lives={"a": [HANGING]}) as (house, requests):
        await house.load("a")
        requests.start_soon(house.ask, "a")
        await trio.sleep(29)
        assert [] == house.failed
        await trio.sleep(4)
        assert [WorkerStalled] == [type(error) for _, error in house.failed]
        assert ["stall"] == house.telemetry.of("worker_exited", "kind")
        await house.ask("a")
        assert ["a"] == house.answered
        house.check("a")


async def test_a_hang_while_draining_is_ended(autojump_clock: MockClock) -> None:
    """A model that hangs on its way out makes nobody wait for ever."""
    async with open_house({"a": 700, "b": 700}, lives={"a": [HANGING]}) as (house, requests):
        await house.load("a")
        requests.start_soon(house.ask, "a")
        await trio.sleep(1)
        with trio.fail_after(40):
            await house.load("b")
        assert [WorkerStalled] == [type(error) for _, error in house.failed]
        house.check("b")


async def test_unloaded_for_memory_it_stays_away(autojump_clock: MockClock) -> None:
    """Requests are told so, those that ran and those that come, until somebody loads it."""
    async with open_house(SIZES, lives={"a": [HANGING]}, on_disk=["a"]) as (house, requests):
        await house.load("a")
        requests.start_soon(house.ask, "a")
        await wait_all_tasks_blocked()
        error = OutOfMemory("No model loaded: a was unloaded")
        await house.unload("a", Leaving(reason="oom", drain_s=0.0, error=error))
        for name in ("a", "auto", ""):
            await house.ask(name)
        assert [error] * 4 == [failure for _, failure in house.failed]
        await house.load("a")
        await house.ask("a")
        assert ["a"] == house.answered
        await house.unload("a", Leaving(reason="oom", drain_s=0.0, error=error))
        await house.unload("a")
        await house.ask("a", "again")
        assert ["a", "again"] == house.answered


async def test_a_fault_of_the_keeper_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    """After an unforeseen exception in any phase state, ledger and workers agree again."""
    for phase in (Life(1, error=ValueError("odd")), Life(1, 5, error=ValueError("odd"))):
        async with open_house(SIZES, lives={"a": [phase]}) as (house, _):
            house.want("a")
            await trio.sleep(60)
            assert 2 == len(house.loader.attempts)
            house.check("a")


async def test_a_fault_while_draining_for_a_renewal(autojump_clock: MockClock) -> None:
    """The keeper that is started again in the middle of a drain loads afresh."""
    lives = {"a": [Life(1, 5, error=ValueError("odd"), answer_s=FOREVER)]}
    async with open_house(SIZES, lives=lives) as (house, requests):
        await house.load("a")
        requests.start_soon(house.ask, "a")
        await trio.sleep(1)
        house.loader.models["a"].leave(Leaving(reason="recycle", drain_s=FOREVER))
        await trio.sleep(60)
        assert 2 == len(house.loader.attempts)
        house.check("a")
        assert [WorkerClosed] == [type(error) for _, error in house.failed]


async def test_an_explicit_load_cuts_the_pause_short(autojump_clock: MockClock) -> None:
    """Who asks for a model that waits for its next attempt need not wait as well."""
    settings = msgspec.structs.replace(FICKLE, worker=WorkerSettings(restart_delay_s=25))
    async with open_house(SIZES, settings=settings, lives={"a": [Life(1)]}) as (house, _):
        with pytest.raises(WorkerBroken):
            await house.load("a")
        before_s = trio.current_time()
        await house.load("a")
        assert pytest.approx(1) == trio.current_time() - before_s


async def test_unloading_in_the_pause(autojump_clock: MockClock) -> None:
    """A model told to go between two attempts is gone at once."""
    settings = msgspec.structs.replace(FICKLE, worker=WorkerSettings(restart_delay_s=25))
    async with open_house(SIZES, settings=settings, lives={"a": [Life(1)]}) as (house, _):
        with pytest.raises(WorkerBroken):
            await house.load("a")
        with trio.fail_after(1):
            await house.unload("a")
        await trio.sleep(60)
        assert (1, "absent") == (len(house.loader.attempts), house.states()["a"])


async def test_options_of_a_load_are_kept(autojump_clock: MockClock) -> None:
    """How a model was asked for holds until it is asked for in another way."""
    settings = msgspec.structs.replace(FICKLE, models=ModelSettings(pinned=("p",)))
    async with open_house({}, settings=settings) as (house, _):
        options = LoadOptions(keep_alive_s=-1)
        assert options == house.want("a", options).options
        assert options == house.want("a").options
        await house.load("a")
        await house.unload("a")
        assert options == house.want("a").options
        assert house.want("p").options.is_pinned
        assert not house.want("q").options.is_pinned


async def test_stopping_ends_everything(autojump_clock: MockClock) -> None:
    """Cancelled in any phase, no worker and no reservation is left."""
    async with open_house({"a": 400, "b": 400}, usual=Life(3, FOREVER)) as (house, _):
        async with trio.open_nursery() as nursery:
            loader = house.loader
            await nursery.start(loader.run)
            house.want("a")
            await trio.sleep(4)
            house.want("b")
            await trio.sleep(1)
            assert (2, 800) == (house.workshop.open_count, loader.room.ledger.reserved)
            nursery.cancel_scope.cancel()
        assert (0, 0) == (house.workshop.open_count, loader.room.ledger.reserved)
