"""Whatever clients and workers do, the books balance in every single scrape."""

from pathlib import Path
from random import Random

import trio

from tests.chat_client import ChatClient, worker_processes
from tests.daemon_process import Daemon, open_daemon
from tests.scrapes import Scraped

MODELS = (
    "fake:quick?step_ms=2&tokens=20&max_sequences=4",
    "fake:slow?step_ms=10&tokens=200&max_sequences=2",
)
SETTINGS = {"LMX_MODELS__MAX_WAITING": "2", "LMX_WORKER__RESTART_DELAY_S": "0.2"}
CLIENTS = 16
RUN_S = 5.0
# Between two requests of a client, so that this process leaves time for scrapes.
PAUSE_S = 0.05


class Watch:
    """Scrapes without a pause and remembers what was wrong."""

    def __init__(self, client: ChatClient) -> None:
        self._client = client
        self.count = 0
        self.faults: list[str] = []
        self.last = Scraped("")

    async def look(self) -> Scraped:
        reply = await self._client.get("/metrics")
        assert 200 == reply.status_code
        now = Scraped(reply.text)
        self.faults += now.imbalances()
        for key, before in self.last.counters().items():
            if now.samples.get(key, 0.0) < before:
                self.faults.append(f"{key} fell from {before} to {now.samples.get(key)}")
        self.last = now
        self.count += 1
        return now

    async def run(self) -> None:
        while True:
            await self.look()
            await trio.sleep(0.01)


async def come_and_go(daemon: Daemon, chance: Random) -> None:
    """Whole answers, streams read to the end, streams hung up on, names that nobody has."""
    while True:
        await trio.sleep(PAUSE_S)
        model = chance.choice(["quick", "quick", "slow", "nowhere"])
        async with ChatClient(daemon) as client:
            if chance.random() < 0.3:
                await client.ask(model=model, max_tokens=chance.randint(1, 30))
                continue
            patience_s = chance.choice([0.005, 0.05, 0.2, 5.0])
            with trio.move_on_after(patience_s):
                await client.stream(model=model, max_tokens=chance.randint(1, 60))


async def kill_workers(daemon: Daemon) -> None:
    """All of them, twice, in the middle of it."""
    for _ in range(2):
        await trio.sleep(RUN_S / 3)
        for worker in worker_processes(daemon):
            worker.kill()


async def test_the_books_balance_in_every_scrape(tmp_path: Path) -> None:
    """Sixteen clients come, go and hang up, workers are killed: nothing is lost, nothing twice."""
    async with open_daemon(tmp_path, *MODELS, settings=SETTINGS) as daemon:
        await daemon.wait_ready()
        async with ChatClient(daemon) as scraper:
            watch = Watch(scraper)
            with trio.fail_after(50):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(watch.run)
                    for number in range(CLIENTS):
                        chance = Random(number)  # noqa: S311  # the same choices in every run
                        nursery.start_soon(come_and_go, daemon, chance)
                    await kill_workers(daemon)
                    await trio.sleep(RUN_S / 3)
                    nursery.cancel_scope.cancel()
                now = await settle(watch)
        assert [] == watch.faults
        assert watch.count > 20
        ended = {name: now.value(f"lmx_requests_{name}_total") for name in ENDS}
        assert all(ended.values()), ended
        exits = [v for (name, _), v in now.samples.items() if name == "lmx_worker_exits_total"]
        assert sum(exits) >= len(MODELS)
        assert now.value("lmx_errors_total", model="(none)", code="model-not-found") > 0


ENDS = ("completed", "failed", "cancelled", "refused")


async def settle(watch: Watch) -> Scraped:
    """Scrape on until nothing is under way."""
    while True:
        now = await watch.look()
        if not now.value("lmx_in_flight_requests") and not now.value("lmx_requests_awaiting_model"):
            return now
        await trio.sleep(0.05)
