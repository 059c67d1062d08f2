"""What the guardian can do about memory, cheapest first."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.daemon.model import Leaving, LoadOptions
from lmx.daemon.relief import ModelRelief
from lmx.errors import DoesNotFit, OutOfMemory, QueueFull
from lmx.protocol.messages import Shrink
from tests.lifecycle import FOREVER, House, Life, open_house

SIZES = {"a": 200, "b": 500, "c": 100}
HANGING = {"b": [Life(1, FOREVER, answer_s=FOREVER)]}


def relief(house: House) -> ModelRelief:
    """The relief of a house."""
    return ModelRelief(house.loader, house.dispatch)


async def test_who_holds_memory(autojump_clock: MockClock) -> None:
    """Every worker process, those that still load included."""
    async with open_house(SIZES) as (house, _):
        assert [] == relief(house).worker_pids
        await house.load("a", "b")
        pids = [house.worker(model_id).pid for model_id in "ab"]
        assert pids == relief(house).worker_pids


async def test_every_worker_is_asked_to_shrink(autojump_clock: MockClock) -> None:
    """At once, and nothing is waited for."""
    async with open_house(SIZES) as (house, _):
        await house.load("a", "b")
        relief(house).shrink_caches()
        await wait_all_tasks_blocked()
        assert [Shrink(), Shrink()] == [c for c in house.workshop.heard if isinstance(c, Shrink)]


async def test_requests_are_refused_for_a_while(autojump_clock: MockClock) -> None:
    """With the time to come back at; what runs goes on."""
    async with open_house(SIZES, usual=Life(1, FOREVER, answer_s=9)) as (house, requests):
        await house.load("a")
        requests.start_soon(house.ask, "a", "running")
        await wait_all_tasks_blocked()
        relief(house).set_admitting(is_admitting=False)
        await house.ask("a", "refused")
        ((label, error),) = house.failed
        assert ("refused", QueueFull, 5.0) == (label, type(error), error.retry_after_s)
        relief(house).set_admitting(is_admitting=True)
        await house.ask("a", "later")
        await trio.sleep(1)  # both end at the same time, in any order
        assert ["later", "running"] == sorted(house.answered)


async def test_idle_models_go_in_order_of_their_last_use(autojump_clock: MockClock) -> None:
    """The pinned and the used stay; in the end there is nobody to go."""
    sizes = {**SIZES, "p": 100}
    async with open_house(sizes, lives=HANGING) as (house, requests):
        await house.load("p", options=LoadOptions(is_pinned=True))
        await house.load("a", "b", "c")
        await house.ask("a")
        requests.start_soon(house.ask, "b")
        await wait_all_tasks_blocked()
        assert "c" == await relief(house).evict_idle()
        house.check("p", "a", "b")
        assert "a" == await relief(house).evict_idle()
        assert None is await relief(house).evict_idle()
        house.check("p", "b")
        assert ["lru", "lru"] == house.telemetry.of("model_unloaded", "reason")
        requests.cancel_scope.cancel()


async def test_an_evicted_model_may_come_back(autojump_clock: MockClock) -> None:
    """It left for being idle, not for being too large."""
    async with open_house(SIZES) as (house, _):
        await house.load("a")
        await relief(house).evict_idle()
        await house.ask("a")
        assert ["a"] == house.answered


async def test_nothing_is_loaded_while_memory_is_short(autojump_clock: MockClock) -> None:
    """Whoever asks for what has left hears the words that clients know, until it can come back."""
    async with open_house(SIZES) as (house, _):
        await house.load("a")
        relief(house).set_admitting(is_admitting=False)
        assert "a" == await relief(house).evict_idle()
        await house.ask("a", "short")
        ((label, error),) = house.failed
        assert ("short", OutOfMemory) == (label, type(error))
        assert str(error).startswith("No model loaded: a is not loaded while the machine is short")
        with pytest.raises(DoesNotFit, match="short of memory"):
            await house.load("c")
        house.check()
        relief(house).set_admitting(is_admitting=True)
        await house.ask("a", "later")
        assert ["later"] == house.answered


async def test_what_died_comes_back_while_memory_is_short(autojump_clock: MockClock) -> None:
    """It has the memory that it had; nobody has to ask for it."""
    async with open_house(SIZES, lives={"a": [Life(1, 5)]}) as (house, _):
        await house.load("a")
        relief(house).set_admitting(is_admitting=False)
        await trio.sleep(60)  # it dies after five seconds
        house.check("a")
        assert 2 == len(house.workshop.workers["a"])


async def test_a_request_while_it_leaves_does_not_keep_it(autojump_clock: MockClock) -> None:
    """Who asks for a model that is being sent away hears that memory is short."""
    slow = Life(1, FOREVER, answer_s=9)
    async with open_house(SIZES, usual=slow) as (house, requests):
        await house.load("a")
        requests.start_soon(house.ask, "a", "running")
        await wait_all_tasks_blocked()
        relief(house).set_admitting(is_admitting=False)
        house.loader.unload(house.loader.models["a"], Leaving(reason="lru", drain_s=FOREVER))
        await wait_all_tasks_blocked()
        await house.ask("a", "late")
        assert [("late", "oom-unloaded")] == [(who, error.code) for who, error in house.failed]
        assert ["running"] == house.answered
        house.check()


async def test_the_biggest_goes_at_once(autojump_clock: MockClock) -> None:
    """Its requests are told why, the others' go on."""
    lives = {**HANGING, "a": [Life(1, FOREVER, answer_s=9)]}
    async with open_house(SIZES, lives=lives) as (house, requests):
        await house.load("a", "b", "c")
        requests.start_soon(house.ask, "a")
        requests.start_soon(house.ask, "b")
        await wait_all_tasks_blocked()
        assert "b" == await relief(house).unload_biggest()
        house.check("a", "c")
        await wait_all_tasks_blocked()
        ((label, error),) = house.failed
        assert ("b", OutOfMemory) == (label, type(error))
        assert "b was unloaded because the machine ran out of memory" in str(error)
        assert ["oom"] == house.telemetry.of("model_unloaded", "reason")
        assert "a" == await relief(house).unload_biggest()
        assert "c" == await relief(house).unload_biggest()
        assert None is await relief(house).unload_biggest()
