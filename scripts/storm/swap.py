"""Swap under load: more models than fit, asked for at random by many clients at once.

The models are fake and only claim their size, so that the ledger and the choice of who leaves are
what is exercised. Nothing but an answer counts: a request that has to wait for its model waits.
"""

import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import trio

from scripts.storm.clients import Asker, Outcome, open_http
from scripts.storm.daemon import Daemon, open_daemon

MODELS = 5
WEIGHT_BYTES = 4_000_000_000
# Nine tenths of it, less the daemon's own bytes, hold two models and not three.
BUDGET_GB = 10
TOKENS = 16
QUERY = f"tokens={TOKENS}&step_ms=1&load_ms=50&weight_bytes={WEIGHT_BYTES}"
LOAD_LIMIT_S = 30.0
SETTINGS = {
    "LMX_MEMORY__BUDGET_GB": str(BUDGET_GB),
    # Long enough to serve whoever waits, short enough to see many swaps.
    "LMX_MODELS__MIN_RESIDENCY_S": "0.2",
}
FIRST_SERVER_ERROR = 500


@dataclass(frozen=True)
class SwapResult:
    """What came of it.

    Attributes:
        outcomes: One per request.
        seconds: From the first request to the last answer.
        loads: How often a model came up meanwhile.
        most_resident: Most models that were up at one time.
        exit_status: The daemon's, when it was told to stop.
        orphans: Processes that outlived it.
    """

    outcomes: list[Outcome]
    seconds: float
    loads: int
    most_resident: int
    exit_status: int | None
    orphans: int

    def violations(self) -> list[str]:
        """What should not have happened."""
        found = [
            f"{count} requests ended {ending} {status} {code}"
            for (ending, status, code), count in Counter(
                (o.ending, o.status, o.code) for o in self.outcomes if o.ending != "completed"
            ).items()
        ]
        if self.exit_status != 0:
            found.append(f"the daemon ended with {self.exit_status}")
        if self.orphans:
            found.append(f"{self.orphans} processes outlived the daemon")
        if self.most_resident > BUDGET_GB * 1e9 // WEIGHT_BYTES:
            found.append(f"{self.most_resident} models were up at once")
        return found

    def table(self) -> str:
        """The result for a person."""
        waits_ms = sorted(1000 * (o.ended_s - o.began_s) for o in self.outcomes)
        statuses = sum(outcome.status >= FIRST_SERVER_ERROR for outcome in self.outcomes)
        rows = (
            ("requests", len(self.outcomes)),
            ("completed", sum(outcome.ending == "completed" for outcome in self.outcomes)),
            ("5xx", statuses),
            ("models, room for", f"{MODELS}, 2"),
            ("most up at once", self.most_resident),
            ("loads", self.loads),
            ("seconds", f"{self.seconds:.1f}"),
            ("requests/s", f"{len(self.outcomes) / self.seconds:.1f}"),
            ("answer p50 / p99 ms", f"{middle(waits_ms, 0.5):.0f} / {middle(waits_ms, 0.99):.0f}"),
        )
        lines = "\n".join(f"| {name} | {value} |" for name, value in rows)
        return f"| swap under load | |\n|---|---|\n{lines}"


def middle(ordered: list[float], share: float) -> float:
    """The value below which `share` of the ordered values lie; 0 without values."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


async def run_swap(home: Path, *, requests: int, clients: int, seed: int) -> SwapResult:
    """Start a daemon with all models, ask, and stop it."""
    names = [f"swap{number}" for number in range(MODELS)]
    models = [f"fake:{name}?{QUERY}" for name in names]
    async with open_daemon(home, models, settings=SETTINGS) as daemon:
        await _wait_known(daemon, names)
        outcomes: list[Outcome] = []
        began_s = time.time()
        async with open_http(daemon.url) as http:
            asker = Asker(http)
            shares = [requests // clients + (n < requests % clients) for n in range(clients)]
            async with trio.open_nursery() as nursery:
                for number, share in enumerate(shares):
                    chance = random.Random(f"{seed}.{number}")  # noqa: S311  # no secret
                    nursery.start_soon(_ask, asker, names, chance, share, outcomes)
        seconds = time.time() - began_s
        workers = daemon.workers()
        exit_status = await daemon.stop()
        loads, most_resident = count_residents(daemon, began_s)
        orphans = sum(worker.is_running() for worker in workers)
    return SwapResult(outcomes, seconds, loads, most_resident, exit_status, orphans)


async def _ask(
    asker: Asker,
    names: list[str],
    chance: random.Random,
    count: int,
    outcomes: list[Outcome],
) -> None:
    for number in range(count):
        outcome = await asker.ask(
            chance.choice(names),
            f"{number}: {chance.random()}",
            max_tokens=TOKENS,
            is_streamed=chance.choice((True, False)),
        )
        outcomes.append(outcome)


async def _wait_known(daemon: Daemon, names: list[str]) -> None:
    """Until every model has been up once, one after the other."""
    for name in names:
        await daemon.log.wait(
            lambda line, name=name: line.event.startswith(f"Model loaded: {name} "),  # type: ignore[misc]
            after_s=0.0,
            limit_s=LOAD_LIMIT_S,
            what=f"a load of {name}",
        )


def count_residents(daemon: Daemon, after_s: float) -> tuple[int, int]:
    """Loads since then, and the most models that were up at one time, from the log."""
    up: set[str] = set()
    loads, most = 0, 0
    for line in daemon.log.lines:
        if line.event.startswith("Model loaded: "):
            up.add(line.event.split()[2])
            loads += line.at_s >= after_s
        elif line.event.startswith("Model unloaded"):
            up.discard(str(line.fields["model"]))
        most = max(most, len(up))
    return loads, most
