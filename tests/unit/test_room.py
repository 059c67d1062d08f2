"""Memory is reserved before it is used, and models leave for those that come, nobody's loss."""

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.catalog.specs import ModelSpec
from lmx.config import ModelSettings, Settings
from lmx.daemon.ledger import Demand, Ledger
from lmx.daemon.model import Leaving, LoadOptions, Model
from lmx.daemon.model_state import ModelState
from lmx.daemon.room import Room
from lmx.errors import DoesNotFit
from lmx.protocol.messages import Shrink
from tests.lifecycle import FICKLE, FOREVER, Life, open_house

GB = 10**9
SLOW = Life(1, FOREVER, answer_s=20)


def resident_for(residency_s: float) -> Settings:
    """Settings under which a model stays so long after it came up."""
    return msgspec.structs.replace(FICKLE, models=ModelSettings(min_residency_s=residency_s))


async def test_both_fit(autojump_clock: MockClock) -> None:
    """Nobody leaves where there is room."""
    async with open_house({"a": 400, "b": 600}) as (house, _):
        await house.load("a", "b")
        house.check("a", "b")
        assert [] == house.telemetry.of("model_unloaded", "model_id")


async def test_the_least_recently_used_leaves(autojump_clock: MockClock) -> None:
    """Of two idle models the one that was used longer ago makes room, and no other."""
    async with open_house({"a": 400, "b": 400, "c": 400}) as (house, _):
        await house.load("a", "b")
        await house.ask("b")
        await house.ask("a")
        await house.load("c")
        house.check("a", "c")
        assert ["b"] == house.telemetry.of("model_unloaded", "model_id")
        assert ["lru"] == house.telemetry.of("model_unloaded", "reason")


async def test_as_many_leave_as_are_needed(autojump_clock: MockClock) -> None:
    """A large model takes the place of several, and a small idle one may stay."""
    async with open_house({"a": 100, "b": 400, "c": 400, "d": 850}) as (house, _):
        await house.load("a", "b", "c")
        await house.load("d")
        house.check("a", "d")


async def test_memory_is_back_before_it_is_used_again(autojump_clock: MockClock) -> None:
    """The new worker starts when the old one's process is gone."""
    async with open_house({"a": 1000, "b": 1000}) as (house, _):
        await house.load("a")
        for model_id in "bababa":
            await house.load(model_id)
            house.check(model_id)
            assert 1 == house.workshop.open_count


async def test_a_busy_model_drains_first(autojump_clock: MockClock) -> None:
    """Its requests finish, who asks for it meanwhile waits, and it comes back for them."""
    lives = {"a": [SLOW, Life(1, FOREVER)]}
    async with open_house({"a": 700, "b": 700}, lives=lives) as (house, requests):
        await house.load("a")
        for number in range(3):
            requests.start_soon(house.ask, "a", f"a{number}")
        await trio.sleep(1)
        requests.start_soon(house.ask, "b")
        house.want("b")
        await trio.sleep(1)
        assert {"a": "draining", "b": "loading"} == house.states()
        requests.start_soon(house.ask, "a", "late")
        await trio.sleep(1)
        assert 1 == house.loader.models["a"].waiting_count
        assert [] == house.answered
        await trio.sleep(60)
        assert ["a0", "a1", "a2"] == sorted(house.answered[:3])
        assert ["b", "late"] == house.answered[3:]
        assert [] == house.failed
        assert ["a", "b", "a"] == [model_id for model_id, _ in house.loader.attempts]
        house.check("a")


async def test_an_idle_model_leaves_rather_than_a_busy_one(autojump_clock: MockClock) -> None:
    """A model in use stays, though it was used longer ago, while an idle one suffices."""
    lives = {"a": [SLOW]}
    async with open_house({"a": 400, "b": 400, "c": 400}, lives=lives) as (house, requests):
        await house.load("a", "b")
        requests.start_soon(house.ask, "a")
        await trio.sleep(1)
        await house.ask("b")
        await house.load("c")
        house.check("a", "c")


async def test_pinned_models_stay(autojump_clock: MockClock) -> None:
    """What does not fit beside the pinned is refused, with the arithmetic, and at once."""
    sizes = {"a": 60 * GB, "b": 15 * GB, "c": 50 * GB, "d": 40 * GB}
    async with open_house(sizes, budget_bytes=100 * GB) as (house, _):
        await house.load("a", options=LoadOptions(is_pinned=True))
        await house.load("b")
        before_s = trio.current_time()
        with trio.fail_after(60), pytest.raises(DoesNotFit) as caught:
            await house.load("c")
        assert before_s == trio.current_time()
        message = str(caught.value)
        for part in ("needs 50.0 GB", "budget 100.0 GB", "a#1 60.0", "b#2 15.0", "free 25.0"):
            assert part in message
        house.check("a", "b")
        await house.ask("c")
        assert [("c", "insufficient_memory")] == [(w, e.code) for w, e in house.failed]
        await house.load("d")
        house.check("a", "d")


async def test_more_than_the_budget_is_refused(autojump_clock: MockClock) -> None:
    """A model that could never fit makes nobody leave."""
    async with open_house({"a": 900, "b": 1001}) as (house, _):
        await house.load("a")
        with pytest.raises(DoesNotFit):
            await house.load("b")
        house.check("a")


async def test_a_model_that_just_came_stays_a_while(autojump_clock: MockClock) -> None:
    """The next one waits for its turn rather than push it out at once."""
    async with open_house({"a": 700, "b": 700}, settings=resident_for(30)) as (house, _):
        await house.load("a")
        before_s = trio.current_time()
        await house.load("b")
        assert 30 <= trio.current_time() - before_s <= 33
        house.check("b")


async def test_loads_come_in_order(autojump_clock: MockClock) -> None:
    """Three that do not fit together are served in the order in which they were asked for."""
    sizes = {"a": 700, "b": 700, "c": 700, "d": 700}
    async with open_house(sizes, settings=resident_for(5)) as (house, requests):
        await house.load("a")
        for model_id in "bcd":
            requests.start_soon(house.ask, model_id)
            house.want(model_id)
            await wait_all_tasks_blocked()
        await trio.sleep(60)
        assert ["b", "c", "d"] == house.answered
        assert ["a", "b", "c", "d"] == [model_id for model_id, _ in house.loader.attempts]
        house.check("d")


async def test_a_second_load_joins_the_first(autojump_clock: MockClock) -> None:
    """Whoever asks for a model on its way waits for the same worker."""
    async with open_house({"a": 700}) as (house, requests):
        for _ in range(3):
            requests.start_soon(house.load, "a")
        await trio.sleep(0.5)
        assert 700 == house.loader.room.ledger.reserved
        await trio.sleep(1)
        assert 1 == len(house.loader.attempts)
        assert 0 == len(requests.child_tasks)
        house.check("a")


async def test_a_load_that_waits_for_room_can_be_cancelled(autojump_clock: MockClock) -> None:
    """It leaves the line without a trace, and the next in line gets its turn."""
    lives = {"a": [SLOW]}
    async with open_house({"a": 700, "b": 700, "c": 300}, lives=lives) as (house, requests):
        await house.load("a")
        requests.start_soon(house.ask, "a")
        await wait_all_tasks_blocked()
        house.want("b")
        await wait_all_tasks_blocked()
        house.want("c")
        await trio.sleep(1)
        assert ["a"] == [model_id for model_id, _ in house.loader.attempts]
        await house.unload("b")
        await trio.sleep(2)
        assert "ready" == house.states()["c"]
        await trio.sleep(30)
        house.check("c")
        assert (["a"], []) == (house.answered, house.failed)


async def test_swapping_under_load_loses_nothing(autojump_clock: MockClock) -> None:
    """Requests in turns for models that do not fit together are all answered."""
    async with open_house({"a": 700, "b": 700, "c": 700}) as (house, requests):
        for number in range(60):
            requests.start_soon(house.ask, "abc"[number % 3], str(number))
            house.want("abc"[number % 3])
            await trio.sleep(0.3)
        await trio.sleep(600)
        assert [] == house.failed
        assert sorted(map(str, range(60))) == sorted(house.answered)


async def test_whoever_waits_when_its_model_leaves_again_waits_on(
    autojump_clock: MockClock,
) -> None:
    """A model told to leave the moment it is up comes back for those in line."""
    async with open_house({"a": 700}) as (house, requests):
        model = house.want("a")
        for number in range(50):
            requests.start_soon(house.ask, "a", str(number))
        await wait_all_tasks_blocked()
        while model.state is not ModelState.READY:
            await model.wait_change()
        house.loader.unload(model, Leaving(reason="lru", drain_s=FOREVER))
        await trio.sleep(30)
        assert (50, []) == (len(house.answered), house.failed)
        assert 2 == len(house.loader.attempts)


async def test_a_larger_model_than_reserved_is_noted(autojump_clock: MockClock) -> None:
    """What a worker really took replaces the estimate; beyond the budget nobody else comes."""
    ledger = Ledger(1000)
    model = Model(ModelSpec("a", "fake", ""))
    room = Room(ledger, lambda: [model], min_residency_s=0)
    async with room.reserve(model, Demand(weights=600, kv_cache=100)) as reservation:
        reservation.settle(400)
        assert 500 == room.bytes_of(model) == ledger.reserved
        reservation.settle(1200)
        assert (1300, 1000, 300) == (room.bytes_of(model), ledger.reserved, ledger.overdrawn)
        with pytest.raises(DoesNotFit):
            async with room.reserve(
                Model(ModelSpec("b", "fake", "")), Demand(weights=1), may_evict=False
            ):
                pass
    assert [] == ledger.owners


async def test_prefix_caches_are_cut_before_anybody_leaves(autojump_clock: MockClock) -> None:
    """A load takes what it needs of them, and the worker is told what is left to it."""
    models = [Model(ModelSpec(name, "fake", "")) for name in "ab"]
    room = Room(Ledger(1000), lambda: models, min_residency_s=0)
    wish = Demand(weights=300, prefix_cache=600)
    told: list[Shrink] = []
    async with room.reserve(models[0], wish) as first:
        assert 600 == first.take_grant()
        first.settle(250)
        first.connect(told.append)
        assert [] == told
        async with room.reserve(models[1], Demand(weights=500, prefix_cache=300)) as second:
            assert [Shrink(250)] == told
            assert 0 == second.take_grant()
            assert (1000, 0) == (room.ledger.reserved, room.ledger.free)


async def test_a_grant_that_is_cut_during_the_load_is_told_after_it(
    autojump_clock: MockClock,
) -> None:
    """The load command said more; and a model that turns out larger costs its own grant first."""
    model = Model(ModelSpec("a", "fake", ""))
    room = Room(Ledger(1000), lambda: [model], min_residency_s=0)
    told: list[Shrink] = []
    async with room.reserve(model, Demand(weights=300, prefix_cache=700)) as reservation:
        assert 700 == reservation.take_grant()
        room.take_back(100)
        reservation.settle(500)
        reservation.connect(told.append)
    assert [Shrink(500)] == told
