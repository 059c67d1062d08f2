"""Models and workers that are exchanged under load: nobody is refused, nobody is cut off."""

from pathlib import Path

import pytest
import trio

from scripts.storm.clients import Asker, Outcome, open_http
from scripts.storm.daemon import Daemon, open_daemon
from scripts.storm.swap import run_swap
from tests.chat_client import wait_until

CLIENTS = 8
RENEWALS = 3


@pytest.mark.slow
async def test_models_that_do_not_fit_together_come_and_go_and_every_request_is_answered(
    tmp_path: Path,
) -> None:
    """200 requests at random over five models: all answered, never more than two models up."""
    result = await run_swap(tmp_path, requests=200, clients=16, seed=3)
    assert [] == result.violations(), result.table()
    assert 200 == len(result.outcomes)
    assert 2 == result.most_resident
    assert result.loads >= 5


async def test_a_worn_worker_is_renewed_without_a_failed_request(tmp_path: Path) -> None:
    """A fresh worker takes over beside the old one, again and again, while streams run."""
    settings = {"LMX_WORKER__RECYCLE_TOKENS": "200"}
    outcomes: list[Outcome] = []
    with trio.fail_after(40):
        async with open_daemon(tmp_path, ["fake:worn?step_ms=5"], settings=settings) as daemon:
            async with open_http(daemon.url) as http, trio.open_nursery() as nursery:
                renewed = trio.Event()
                for number in range(CLIENTS):
                    nursery.start_soon(_ask_until, renewed, Asker(http), number, outcomes)
                await wait_until(lambda: _renewals(daemon) >= RENEWALS)
                renewed.set()
            assert 0 == await daemon.stop()
    assert [] == [outcome for outcome in outcomes if outcome.ending != "completed"]
    assert {200} == {outcome.status for outcome in outcomes}


def _renewals(daemon: Daemon) -> int:
    return sum(line.event == "worker is renewed" for line in daemon.log.lines)


async def _ask_until(stop: trio.Event, asker: Asker, number: int, outcomes: list[Outcome]) -> None:
    while not stop.is_set():
        prompt = f"{number}: {len(outcomes)}"
        outcomes.append(await asker.ask("worn", prompt, max_tokens=40, is_streamed=True))
