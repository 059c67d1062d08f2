"""A worn worker is replaced by a fresh one, and no request is lost by it."""

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.config import ModelSettings, Settings, WorkerSettings
from lmx.daemon.model import Leaving
from lmx.daemon.supervisor import RENEWAL_PAUSE_S
from lmx.errors import WorkerBroken
from lmx.protocol.messages import Vitals
from lmx.protocol.values import Kept, Memory
from tests.fakes import USAGE
from tests.lifecycle import FICKLE, FOREVER, HOME, PROMPTLY, STEADY, House, Life, open_house

GB = 10**9
# Two answers wear a worker out.
SETTINGS = msgspec.structs.replace(
    FICKLE, worker=WorkerSettings(recycle_tokens=2 * USAGE.completion_tokens)
)
SLOW = Life(1, FOREVER, answer_s=20)


async def wear_out(house: House) -> None:
    """As many answers as a worker gives, and the time until that is noticed."""
    await house.ask("a")
    await house.ask("a")
    await trio.sleep(1.1)  # it is looked for once a second


async def test_beside(autojump_clock: MockClock) -> None:
    """With room for both, the model answers all the time, first from the one, then the other."""
    async with open_house({"a": 400}, settings=SETTINGS) as (house, _):
        await house.load("a")
        await wear_out(house)
        assert {"a": "ready"} == house.states()
        assert (2, 800) == (house.workshop.open_count, house.loader.room.ledger.reserved)
        await trio.sleep(3)
        assert house.loader.models["a"].ready is not None
        assert house.loader.models["a"].ready.worker is house.worker("a")
        assert 1 == house.workshop.open_count
        house.check("a")
        assert ["loading"] == house.telemetry.of("model_state", "state")
        await house.ask("a")
        assert (3, []) == (len(house.answered), house.failed)


async def test_the_old_one_finishes_what_it_has(autojump_clock: MockClock) -> None:
    """Requests that run when the new worker takes over end on the old one, however long."""
    slow = Life(1, FOREVER, answer_s=25)
    async with open_house({"a": 400}, settings=SETTINGS, lives={"a": [slow]}) as (house, requests):
        await house.load("a")
        for number in range(2):
            requests.start_soon(house.ask, "a", f"old{number}")
        await trio.sleep(24)
        requests.start_soon(house.ask, "a", "late")  # ends long after the takeover
        await trio.sleep(4)
        assert ["old0", "old1"] == sorted(house.answered)
        await house.ask("a", "new")
        assert "new" == house.answered[-1]
        assert 2 == house.workshop.open_count
        await trio.sleep(25)
        assert ("late", []) == (house.answered[-1], house.failed)
        house.check("a")


async def test_without_room_it_drains_and_comes_back(autojump_clock: MockClock) -> None:
    """Requests that run finish, those that come wait, and nobody else has to leave."""
    lives = {"a": [Life(1, FOREVER, answer_s=5), STEADY]}
    async with open_house({"a": 600, "b": 200}, settings=SETTINGS, lives=lives) as (
        house,
        requests,
    ):
        await house.load("b", "a")
        for number in range(2):
            requests.start_soon(house.ask, "a", f"old{number}")
        await trio.sleep(4)
        requests.start_soon(house.ask, "a", "late")
        await trio.sleep(3)
        assert {"b": "ready", "a": "draining"} == house.states()
        requests.start_soon(house.ask, "a", "new")
        await wait_all_tasks_blocked()
        assert 1 == house.loader.models["a"].waiting_count
        await trio.sleep(10)
        assert ["old0", "old1"] == sorted(house.answered[:2])
        assert (["late", "new"], []) == (house.answered[2:], house.failed)
        house.check("a", "b")
        assert ["recycle"] == house.telemetry.of("model_unloaded", "reason")


@pytest.mark.parametrize("life", [Life(1), Life(1, error=WorkerBroken("x"), kind="signal")])
async def test_a_renewal_that_fails_keeps_the_old_one(
    life: Life, autojump_clock: MockClock
) -> None:
    """The model goes on answering, and the next attempt comes a while later."""
    lives = {"a": [STEADY, life]}
    async with open_house({"a": 400}, settings=SETTINGS, lives=lives) as (house, _):
        await house.load("a")
        await wear_out(house)
        await trio.sleep(5)
        assert ({"a": "ready"}, 0) == (house.states(), house.loader.models["a"].failures)
        house.check("a")
        await house.ask("a")
        assert (3, []) == (len(house.answered), house.failed)
        assert 2 == len(house.loader.attempts)
        await trio.sleep(RENEWAL_PAUSE_S + 5)
        assert 3 == len(house.loader.attempts)
        house.check("a")


async def test_a_slow_renewal_is_not_started_twice(autojump_clock: MockClock) -> None:
    """However long the fresh worker takes to load, there is one."""
    lives = {"a": [STEADY, Life(5 * RENEWAL_PAUSE_S, FOREVER)]}
    async with open_house({"a": 300}, settings=SETTINGS, lives=lives) as (house, _):
        await house.load("a")
        await wear_out(house)
        await trio.sleep(4 * RENEWAL_PAUSE_S)
        assert (2, 2) == (house.workshop.open_count, len(house.loader.attempts))
        await trio.sleep(2 * RENEWAL_PAUSE_S)
        house.check("a")


async def test_told_to_go_in_the_middle_of_a_renewal(autojump_clock: MockClock) -> None:
    """The fresh worker ends with the old one; neither comes up afterwards."""
    lives = {"a": [STEADY, Life(50, FOREVER)]}
    async with open_house({"a": 400}, settings=SETTINGS, lives=lives) as (house, _):
        await house.load("a")
        await wear_out(house)
        await trio.sleep(1)
        assert 2 == house.workshop.open_count
        with trio.fail_after(1):
            await house.unload("a")
        house.check()
        await trio.sleep(100)
        assert ({"a": "absent"}, 2) == (house.states(), len(house.loader.attempts))


async def test_dismissed_while_its_renewal_waits_for_the_turn(autojump_clock: MockClock) -> None:
    """A model that leaves for another is not brought up by its own renewal."""
    worn = msgspec.structs.replace(SETTINGS, worker=WorkerSettings(recycle_growth_gb=1))
    lives = {"a": [Life(1, FOREVER, answer_s=10)]}
    async with open_house({"a": 600, "b": 600}, settings=worn, lives=lives) as (house, requests):
        await house.load("a")
        pid = house.worker("a").pid
        house.footprints[pid] = 0
        await trio.sleep(2)
        requests.start_soon(house.ask, "a")
        await wait_all_tasks_blocked()
        house.footprints[pid] = 2 * GB
        house.want("b")
        await trio.sleep(30)
        house.check("b")
        assert ["a", "b"] == [model_id for model_id, _ in house.loader.attempts]
        assert (["a"], []) == (house.answered, house.failed)


async def test_a_crash_of_the_old_one_ends_the_life(autojump_clock: MockClock) -> None:
    """Should the worn worker die before the fresh one is up, the model restarts as ever."""
    lives = {"a": [STEADY, Life(50, FOREVER)]}
    async with open_house({"a": 400}, settings=SETTINGS, lives=lives) as (house, _):
        await house.load("a")
        await wear_out(house)
        house.workshop.workers["a"][0].finish("boom", "signal")
        await trio.sleep(5)
        assert 3 == len(house.loader.attempts)
        house.check("a")


async def test_a_crash_of_a_retired_worker_harms_only_its_requests(
    autojump_clock: MockClock,
) -> None:
    """The model stays ready, the failure counts for nothing, and it is told."""
    lives = {"a": [SLOW]}
    async with open_house({"a": 400}, settings=SETTINGS, lives=lives) as (house, requests):
        await house.load("a")
        for number in range(2):
            requests.start_soon(house.ask, "a", f"old{number}")
        await trio.sleep(19)
        requests.start_soon(house.ask, "a", "late")
        await trio.sleep(5)
        assert 2 == house.workshop.open_count
        house.workshop.workers["a"][0].finish("boom", "signal")
        await trio.sleep(1)
        assert [("late", WorkerBroken)] == [(label, type(e)) for label, e in house.failed]
        assert ["signal"] == house.telemetry.of("worker_exited", "kind")
        assert ({"a": "ready"}, 0) == (house.states(), house.loader.models["a"].failures)
        house.check("a")


async def test_a_retired_worker_that_hangs_is_ended(autojump_clock: MockClock) -> None:
    """It does not hold its memory for ever."""
    settings = msgspec.structs.replace(FICKLE, worker=WorkerSettings(recycle_growth_gb=1))
    lives = {"a": [Life(1, FOREVER, answer_s=FOREVER)]}
    async with open_house({"a": 400}, settings=settings, lives=lives) as (house, requests):
        await house.load("a")
        pid = house.worker("a").pid
        house.footprints[pid] = 0
        await trio.sleep(2)
        requests.start_soon(house.ask, "a")
        house.footprints[pid] = 2 * GB
        await trio.sleep(10)
        assert 2 == house.workshop.open_count
        await trio.sleep(30)
        house.check("a")
        assert ["worker-stalled"] == [error.code for _, error in house.failed]


async def test_unloading_covers_the_retired_one(autojump_clock: MockClock) -> None:
    """Told to go at once, the model does not wait for requests of its retired worker."""
    lives = {"a": [SLOW]}
    async with open_house({"a": 400}, settings=SETTINGS, lives=lives) as (house, requests):
        await house.load("a")
        for number in range(2):
            requests.start_soon(house.ask, "a", f"old{number}")
        await trio.sleep(19)
        requests.start_soon(house.ask, "a", "late")
        await trio.sleep(5)
        with trio.fail_after(1):
            await house.unload("a", PROMPTLY)
        await wait_all_tasks_blocked()
        assert [("late", "worker-closed")] == [(label, e.code) for label, e in house.failed]
        house.check()


async def test_an_unload_is_not_undone_by_a_renewal(autojump_clock: MockClock) -> None:
    """Whichever comes first: a model told to stay away does."""
    away = Leaving(reason="manual", drain_s=60)
    back = Leaving(reason="recycle", drain_s=30)
    for first, second in ((away, back), (back, away)):
        async with open_house({"a": 400}, usual=SLOW) as (house, requests):
            await house.load("a")
            requests.start_soon(house.ask, "a")
            await trio.sleep(1)
            model = house.loader.models["a"]
            model.leave(first)
            model.leave(second)
            assert not model.is_wanted
            await house.loader.wait_gone(model)
            await trio.sleep(60)
            assert (1, {"a": "absent"}) == (len(house.loader.attempts), house.states())
            assert (["a"], []) == (house.answered, house.failed)


async def test_growth_counts_from_the_first_reading(autojump_clock: MockClock) -> None:
    """A large model is not worn for being large, and without a meter there is no growth."""
    settings = Settings(
        home=HOME,
        models=ModelSettings(min_residency_s=0),
        worker=WorkerSettings(recycle_growth_gb=1, recycle_tokens=0),
    )
    async with open_house({"a": 400}, settings=settings) as (house, _):
        await house.load("a")
        await trio.sleep(10)
        pid = house.worker("a").pid
        house.footprints[pid] = 50 * GB
        await trio.sleep(10)
        house.footprints[pid] = 51 * GB
        await trio.sleep(10)
        await house.ask("a")
        assert 1 == len(house.loader.attempts)
        # What is kept of prompts was granted.
        house.worker("a").link.vitals = Vitals(Memory(kept=Kept(2 * GB)))
        house.footprints[pid] = 53 * GB
        await trio.sleep(10)
        assert 1 == len(house.loader.attempts)
        house.footprints[pid] = 53 * GB + 1
        await trio.sleep(10)
        assert 2 == len(house.loader.attempts)
        house.check("a")
