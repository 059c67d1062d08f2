"""Readiness says whether a request would be taken now, and if not, why."""

from typing import TYPE_CHECKING, Any

import msgspec
import trio
from trio.testing import MockClock

from lmx.web.health import HealthRoutes
from tests.lifecycle import House, open_house

if TYPE_CHECKING:
    from lmx.web.exchange import Exchange


async def ready(house: House) -> tuple[int, dict[str, Any]]:
    """Status and body of ``/readyz``."""
    unused: Any = None
    exchange: Exchange = unused  # probes look at nothing of it
    answer = await HealthRoutes(house.loader, house.dispatch).ready(exchange)
    return answer.status, msgspec.json.decode(answer.body)


async def test_a_model_that_answers_makes_ready(autojump_clock: MockClock) -> None:
    """Before, the reason is that nothing is loaded, or that something is on its way."""
    async with open_house({"a": 1}) as (house, requests):
        status, body = await ready(house)
        assert (503, "no_models_loaded", []) == (status, body["reason"], body["loading"])
        house.want("a")
        await trio.sleep(0.1)
        status, body = await ready(house)
        assert (503, "loading", ["a"]) == (status, body["reason"], body["loading"])
        await house.load("a")
        status, body = await ready(house)
        assert (200, True, "a", 1) == (status, body["ready"], body["model"], body["models_loaded"])
        requests.cancel_scope.cancel()


async def test_want_of_memory_is_no_readiness(autojump_clock: MockClock) -> None:
    """While requests are refused for it, nothing is routed here; then it is as before."""
    async with open_house({"a": 1}) as (house, requests):
        await house.load("a")
        house.dispatch.set_admitting(is_admitting=False)
        status, body = await ready(house)
        assert (503, "memory_critical", "oom-unloaded") == (status, body["reason"], body["error"])
        house.dispatch.set_admitting(is_admitting=True)
        assert 200 == (await ready(house))[0]
        requests.cancel_scope.cancel()


async def test_a_stopping_daemon_is_not_ready(autojump_clock: MockClock) -> None:
    """Whatever is loaded."""
    async with open_house({"a": 1}) as (house, requests):
        await house.load("a")
        house.dispatch.drain()
        assert (503, "draining") == ((await ready(house))[0], (await ready(house))[1]["reason"])
        requests.cancel_scope.cancel()
