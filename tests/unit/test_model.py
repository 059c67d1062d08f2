"""A model lets requests in in order, and knows who uses it and why it goes."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.catalog.specs import ModelSpec
from lmx.config import ModelSettings, Settings
from lmx.daemon.model import LeaveReason, Leaving, Model
from lmx.daemon.model_state import ModelEvent
from lmx.errors import ModelLoading, ModelNotFound, NoModelLoaded, OutOfMemory
from lmx.protocol.messages import ChatPrompt, Generate
from tests.fakes import ScriptedWorker, ready_model
from tests.lifecycle import FICKLE, FOREVER, HOME, Life, open_house

RECYCLE = Leaving(reason="recycle", drain_s=30)


def named(reason: LeaveReason, drain_s: float) -> Leaving:
    """A way to go."""
    return Leaving(reason=reason, drain_s=drain_s)


@pytest.mark.parametrize(
    ("tellings", "reason", "is_wanted"),
    [
        ([named("lru", FOREVER)], "lru", False),
        ([named("lru", FOREVER), named("manual", 30)], "manual", False),
        ([named("oom", 0), named("manual", 30)], "oom", False),
        ([named("manual", 30), named("ttl", 30)], "ttl", False),
        ([RECYCLE], "recycle", True),
        ([RECYCLE, named("manual", 60)], "manual", False),
        ([RECYCLE, named("lru", FOREVER)], "lru", False),
        ([named("manual", 60), RECYCLE], "manual", False),
        ([RECYCLE, RECYCLE], "recycle", True),
    ],
)
def test_of_several_tellings(tellings: list[Leaving], reason: str, is_wanted: bool) -> None:  # noqa: FBT001
    """The most urgent counts, and one to stay away more than one to come back."""
    model = Model(ModelSpec("m", "fake", ""))
    for leaving in tellings:
        model.leave(leaving)
    assert model.leaving is not None
    assert (reason, is_wanted) == (model.leaving.reason, model.is_wanted)


async def test_users_are_counted() -> None:
    """Who waits for an unused worker hears of it."""
    model = ready_model(ScriptedWorker())
    ready = model.ready
    assert ready is not None
    async with trio.open_nursery() as nursery:
        await ready.wait_unused()
        ready.enter()
        ready.enter()
        nursery.start_soon(ready.wait_unused)
        ready.leave()
        await wait_all_tasks_blocked()
        assert (1, 1) == (ready.users, len(nursery.child_tasks))
        ready.leave()
    assert 0 == ready.users


async def test_requests_enter_in_order_of_arrival(autojump_clock: MockClock) -> None:
    """Also those that come while the first of them go in, and all at once are told apart."""
    lives = {"a": [Life(10, FOREVER)]}
    async with open_house({"a": 1}, lives=lives) as (house, requests):
        model = house.want("a")
        for number in range(50):
            requests.start_soon(house.ask, "a", str(number), f"text {number}")
            await wait_all_tasks_blocked()
            assert number + 1 == model.waiting_count
        while model.ready is None:
            await model.wait_change()
        requests.start_soon(house.ask, "a", "50", "text 50")
        await trio.sleep(0.05)
        assert 0 == model.waiting_count
        expected = [ChatPrompt([{"role": "user", "content": f"text {n}"}]) for n in range(51)]
        heard = house.workshop.heard
        assert expected == [c.prompt for c in heard if isinstance(c, Generate)]


async def test_who_gives_up_leaves_the_line(autojump_clock: MockClock) -> None:
    """The first in line may go, by its own will or because it waited too long."""
    settings = Settings(home=HOME, models=ModelSettings(load_wait_s=5))
    async with open_house({"a": 1}, settings=settings, usual=Life(8, FOREVER)) as (house, requests):
        model = house.want("a")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(house.ask, "a", "hangs up")
                await trio.sleep(1)
                requests.start_soon(house.ask, "a", "waits too long")
                await trio.sleep(3)
                requests.start_soon(house.ask, "a", "gets in")
                await wait_all_tasks_blocked()
                assert 3 == model.waiting_count
                scope.cancel()
        await wait_all_tasks_blocked()
        assert 2 == model.waiting_count
        await trio.sleep(3)
        assert [("waits too long", ModelLoading)] == [(w, type(e)) for w, e in house.failed]
        await trio.sleep(5)
        assert (["gets in"], 0) == (house.answered, model.waiting_count)


async def test_whoever_waits_is_told_of_the_end(autojump_clock: MockClock) -> None:
    """A load that is given up ends the waiting at once."""
    async with open_house({"a": 1, "b": 1}, usual=Life(8, FOREVER)) as (house, requests):
        house.want("a")
        for _ in range(5):
            requests.start_soon(house.ask, "a")
        await trio.sleep(1)
        await house.unload("a")
        await wait_all_tasks_blocked()
        assert [NoModelLoaded] * 5 == [type(error) for _, error in house.failed]
        assert 1 == len(house.loader.attempts)


async def test_a_model_on_disk_is_loaded_on_demand(autojump_clock: MockClock) -> None:
    """A request that names it loads it, unless settings say otherwise."""
    async with open_house({"a": 1}, on_disk=["a"]) as (house, _):
        await house.ask("a")
        await house.ask("other")
        assert (["a"], [ModelNotFound]) == (house.answered, [type(e) for _, e in house.failed])
        house.check("a")
    never = Settings(home=HOME, models=ModelSettings(on_demand=False))
    async with open_house({"a": 1}, settings=never, on_disk=["a"]) as (house, _):
        await house.ask("a")
        await house.load("a")
        await house.unload("a", named("lru", FOREVER))
        await house.ask("a")
        assert [NoModelLoaded] * 2 == [type(error) for _, error in house.failed]
        assert 1 == len(house.loader.attempts)


async def test_no_name_means_the_one_used_last(autojump_clock: MockClock) -> None:
    """Of models that left by themselves; one that is barred does not stand in their way."""
    async with open_house({"a": 1, "b": 1, "c": 1}) as (house, _):
        await house.load("a", "b", "c")
        for model_id in "abc":
            model = house.loader.models[model_id]
            model.statistics.last_used_at = float(ord(model_id))
            oom = Leaving(reason="oom", drain_s=0, error=OutOfMemory("too large"))
            await house.unload(model_id, oom if model_id == "c" else named("ttl", 0))
        await house.ask("auto")
        assert (["auto"], []) == (house.answered, house.failed)
        house.check("b")


async def test_forgetting(autojump_clock: MockClock) -> None:
    """Only a model that is gone can be forgotten."""
    async with open_house({"a": 1}, settings=FICKLE) as (house, _):
        await house.load("a")
        model = house.loader.models["a"]
        house.loader.forget(model)
        assert "a" in house.loader.models
        await house.unload("a")
        house.loader.forget(model)
        assert {} == house.loader.models


def test_failures_and_answers_are_counted() -> None:
    """An answer clears the failures in a row, not those ever."""
    model = Model(ModelSpec("m", "fake", ""))
    for _ in range(2):
        model.apply(ModelEvent.LOAD)
        model.fail(ModelEvent.LOAD_FAILED, OutOfMemory("x"))
    assert (2, 2) == (model.failures, model.statistics.crash_count)
    model.count(tokens=1, decode_s=0.5, is_answered=False)
    assert 2 == model.failures
    model.count(tokens=6, decode_s=0.5, is_answered=True)
    assert (0, 2) == (model.failures, model.statistics.crash_count)
    now = model.statistics
    assert (2, 7, 1.0) == (now.request_count, now.generated_tokens, now.decode_s)
