"""Requests of several replies are one to whoever watches, cancels or waits for idleness."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.daemon.origin import Origin
from lmx.errors import Draining, NoModelLoaded, RequestCancelled
from tests.fakes import generate, open_bench

ORIGIN = Origin("req_1", "laptop", "/v1/chat/completions")


async def test_work_between_replies_is_shown(autojump_clock: MockClock) -> None:
    """Under the request's id, with its age; and not while a worker has it or nothing is done."""
    async with open_bench() as (bench, requests):
        with bench.dispatch.hold(ORIGIN, "m") as hold:
            assert [] == bench.dispatch.running
            await trio.sleep(1)
            requests.start_soon(hold.during, trio.sleep_forever)
            await trio.sleep(1)
            [shown] = bench.dispatch.running
            assert ("req_1", "m", "skills", 2.0) == (
                shown.request_id,
                shown.model_id,
                shown.state,
                shown.age_s,
            )
            requests.cancel_scope.cancel()
    assert [] == bench.dispatch.running


async def test_cancelling_ends_the_work_and_all_that_would_follow() -> None:
    """Whoever works or asks to go on is told; a second word finds it still, until it is left."""
    async with open_bench() as (bench, requests):
        with bench.dispatch.hold(ORIGIN, "m") as hold:
            ended = trio.Event()

            async def work() -> None:
                with pytest.raises(RequestCancelled):
                    await hold.during(trio.sleep_forever)
                ended.set()

            requests.start_soon(work)
            await wait_all_tasks_blocked()
            assert bench.dispatch.cancel("req_1")
            await ended.wait()
            with pytest.raises(RequestCancelled):
                hold.check()
        assert not bench.dispatch.cancel("req_1")


async def test_others_are_refused_while_it_drains() -> None:
    """Only the held request's own replies are opened."""
    async with open_bench() as (bench, requests):
        with bench.dispatch.hold(ORIGIN, "m"):
            bench.dispatch.drain()
            for origin in (Origin(), Origin("req_2")):
                with pytest.raises(Draining):
                    async with bench.dispatch.open(generate(), model_name="m", origin=origin):
                        pass

            async def ask() -> None:
                async with bench.dispatch.open(generate(), model_name="m", origin=ORIGIN):
                    pass

            requests.start_soon(ask)
            await wait_all_tasks_blocked()
            assert 1 == bench.dispatch.in_flight
            requests.cancel_scope.cancel()
    with trio.fail_after(1):
        await bench.dispatch.wait_idle()


async def test_the_model_is_found_or_refused() -> None:
    """By its canonical id, before any reply is opened."""
    async with open_bench() as (bench, _):
        with bench.dispatch.hold(ORIGIN, "alias") as hold:
            assert ("alias", "m", "m") == (
                hold.model_id,
                await hold.find_model(),
                hold.model_id,
            )
            bench.loader.error = NoModelLoaded("No model loaded")
            with pytest.raises(NoModelLoaded):
                await hold.find_model()
