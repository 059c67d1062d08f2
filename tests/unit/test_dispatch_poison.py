"""A request that was running each time a worker died is refused for a while; no other is."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.daemon.worker import ExitKind, WorkerExit
from lmx.errors import OutOfMemory, PoisonRequest, WorkerBroken, WorkerStalled
from tests.lifecycle import FOREVER, House, Life, open_house

SIZES = {"a": 1, "b": 1}
HANGING = Life(1, FOREVER, answer_s=FOREVER)


async def die_with(house: House, requests: trio.Nursery, kind: ExitKind, *texts: str) -> None:
    """The model's worker dies while these are running; it comes back."""
    for text in texts:
        requests.start_soon(house.ask, "a", text, text)
    await trio.sleep(2)
    house.worker("a").finish("boom", kind)
    await trio.sleep(2)


def refused(house: House) -> list[str]:
    """Labels of the requests that were refused for what they had done."""
    return [label for label, error in house.failed if isinstance(error, PoisonRequest)]


TOLD = {"stall": WorkerStalled, "out_of_memory": OutOfMemory, "oom_killed": OutOfMemory}


@pytest.mark.parametrize("kind", ["signal", "abort", "exit", "bad_frame", *TOLD])
async def test_the_second_death_is_one_too_many(kind: ExitKind, autojump_clock: MockClock) -> None:
    """Whatever the worker died of while it computed; other requests and models do not suffer."""
    async with open_house(SIZES, usual=HANGING) as (house, requests):
        await house.load("a", "b")
        for _ in range(2):
            await die_with(house, requests, kind, "evil")
        assert [TOLD.get(kind, WorkerBroken)] * 2 == [type(error) for _, error in house.failed]
        await house.ask("a", "evil", "evil")
        assert ["evil"] == refused(house)
        assert 2 == len(house.workshop.workers["a"]) - 1
        requests.start_soon(house.ask, "a", "good", "good")
        requests.start_soon(house.ask, "b", "elsewhere", "evil")
        await wait_all_tasks_blocked()
        assert ["evil"] == refused(house)
        assert 2 == house.dispatch.in_flight
        requests.cancel_scope.cancel()


async def test_it_is_forgotten_in_time(autojump_clock: MockClock) -> None:
    """The refusal says when, and then the request may try again."""
    async with open_house(SIZES, lives={"a": [HANGING] * 2}) as (house, requests):
        await house.load("a")
        for _ in range(2):
            await die_with(house, requests, "signal", "evil")
        await house.ask("a", "evil", "evil")
        retry_s = house.failed[-1][1].retry_after_s
        assert retry_s is not None
        await trio.sleep(retry_s)
        await house.ask("a", "evil", "evil")
        assert ["evil"] == house.answered


async def test_an_answer_clears(autojump_clock: MockClock) -> None:
    """A bystander that is answered after a death is no suspect at the next."""
    lives = {"a": [HANGING, Life(1, FOREVER)] + [HANGING] * 5}
    async with open_house(SIZES, lives=lives) as (house, requests):
        await house.load("a")
        await die_with(house, requests, "signal", "bystander", "evil")
        await house.ask("a", "bystander", "bystander")
        house.worker("a").finish("boom", "signal")
        await trio.sleep(2)
        await die_with(house, requests, "signal", "bystander", "evil")
        requests.start_soon(house.ask, "a", "bystander", "bystander")
        await house.ask("a", "evil", "evil")
        await wait_all_tasks_blocked()
        assert ["evil"] == refused(house)
        assert (["bystander"], 1) == (house.answered, house.dispatch.in_flight)
        requests.cancel_scope.cancel()


async def test_copies_at_one_death_count_once(autojump_clock: MockClock) -> None:
    """Many equal requests at a time are no more suspect than one."""
    async with open_house(SIZES, usual=HANGING) as (house, requests):
        await house.load("a")
        await die_with(house, requests, "signal", *["same"] * 5)
        requests.start_soon(house.ask, "a", "same", "same")
        await wait_all_tasks_blocked()
        assert ([], 1) == (refused(house), house.dispatch.in_flight)
        requests.cancel_scope.cancel()


async def test_a_plain_kill_is_no_requests_fault(autojump_clock: MockClock) -> None:
    """A kill comes from outside."""
    async with open_house(SIZES, usual=HANGING) as (house, requests):
        await house.load("a")
        for _ in range(2):
            await die_with(house, requests, "killed", "innocent")
        requests.start_soon(house.ask, "a", "innocent", "innocent")
        await wait_all_tasks_blocked()
        assert ([], 1) == (refused(house), house.dispatch.in_flight)
        assert {WorkerBroken} == {type(error) for _, error in house.failed}
        requests.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("kind", "status", "may_be"),
    [
        ("exit", 1, True),
        ("exit", 0, False),
        ("exit", None, False),
        ("killed", -9, False),
        ("oom_killed", -9, True),
        ("out_of_memory", 9, True),
        ("signal", -11, True),
        ("abort", -6, True),
        ("stall", -9, True),
        ("bad_frame", -9, True),
    ],
)
def test_what_a_request_may_have_done(kind: ExitKind, status: int | None, may_be: bool) -> None:  # noqa: FBT001
    """Ends that the worker's own computing may have brought about."""
    ended = WorkerExit(pid=1, kind=kind, status=status, reason="", output="")
    assert may_be is ended.may_be_a_request
