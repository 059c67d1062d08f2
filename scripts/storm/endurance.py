"""Whether the daemon is after many cycles and requests what it was before them.

Samples are taken while nothing is asked. A quantity is flat if its median over the last quarter of
them is not above that over the first by more than its allowance.
"""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import trio

from scripts.storm.clients import Asker, open_http, post
from scripts.storm.daemon import Daemon, StormFailed, open_daemon
from scripts.storm.storm import make_prompt

COUNTED = ("-m", "scripts.storm.counted")
BASE = "fake:base?tokens=16"
LOAD_LIMIT_S = 60.0
BATCHES = 40
MEGABYTE = 1e6
# Trio keeps idle threads for ten seconds, so their number moves by itself.
THREAD_ALLOWANCE = 2
# What an interpreter's heap moves by between two quarters without a leak.
MEMORY_ALLOWANCE_MB = 3.0


@dataclass(frozen=True)
class Sample:
    """The daemon at one moment, without its workers but for their number."""

    descriptors: int
    threads: int
    tasks: int
    rss_mb: float
    processes: int


@dataclass(frozen=True)
class Allowance:
    """By how much a quantity may end higher than it began."""

    name: str
    more: float


QUANTITIES = (
    Allowance("descriptors", 0),
    Allowance("threads", THREAD_ALLOWANCE),
    Allowance("tasks", 0),
    Allowance("rss_mb", MEMORY_ALLOWANCE_MB),
    Allowance("processes", 0),
)


@dataclass
class Endurance:
    """One stretch of the same thing over and over.

    Attributes:
        name: What was done.
        count: How often.
        samples: In order.
        failures: What went wrong meanwhile.
    """

    name: str
    count: int
    samples: list[Sample] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def quarters(self, quantity: str) -> tuple[float, float]:
        """The medians over the first and the last quarter."""
        values = [getattr(sample, quantity) for sample in self.samples]
        size = max(1, len(values) // 4)
        return statistics.median(values[:size]), statistics.median(values[-size:])

    def violations(self) -> list[str]:
        """What failed, and what grew."""
        found = [f"{self.name}: {failure}" for failure in self.failures]
        for quantity in QUANTITIES:
            first, last = self.quarters(quantity.name)
            if last > first + quantity.more:
                found.append(f"{self.name}: {quantity.name} went from {first:.4g} to {last:.4g}")
        return found

    def cells(self) -> list[str]:
        """A row of the table."""
        pairs = (self.quarters(quantity.name) for quantity in QUANTITIES)
        return [self.name, str(self.count), *(f"{a:.4g} → {b:.4g}" for a, b in pairs)]


async def sample(daemon: Daemon) -> Sample:
    """Look at the daemon."""
    process = psutil.Process(daemon.process.pid)
    return Sample(
        process.num_fds(),
        process.num_threads(),
        await trio.to_thread.run_sync(_ask_tasks, daemon),
        process.memory_info().rss / MEGABYTE,
        len(daemon.workers()),
    )


async def run_cycles(home: Path, model: str, name: str, *, count: int) -> Endurance:
    """Load a model, ask it once and unload it, over and over, beside one that stays.

    Args:
        home: The daemon's.
        model: What to load.
        name: Its id.
        count: How often.
    """
    result = Endurance(f"load and unload {name}", count)
    async with open_daemon(home, [BASE], command=COUNTED) as daemon:
        await _wait_base(daemon)
        async with open_http(daemon.url) as http:
            asker = Asker(http)
            for number in range(count):
                await post(http, "load", model, expected=200)
                prompt = make_prompt(f"cycle {number}", 40)
                answer = await asker.ask(name, prompt, max_tokens=4, is_streamed=True)
                if answer.ending != "completed":
                    result.failures.append(f"cycle {number}: {answer.code} {answer.detail}")
                await post(http, "unload", name, expected=200)
                result.samples.append(await sample(daemon))
        await _stop(daemon, result)
    return result


async def run_requests(home: Path, *, count: int, clients: int) -> Endurance:
    """Many requests, in batches with a sample after each."""
    result = Endurance("requests", count)
    async with open_daemon(home, [BASE], command=COUNTED) as daemon:
        await _wait_base(daemon)
        async with open_http(daemon.url) as http:
            asker = Asker(http)
            share = -(-count // (BATCHES * clients))
            result.count = share * clients * BATCHES
            for batch in range(BATCHES):
                names = [f"{batch}.{client}" for client in range(clients)]
                await _ask_together(asker, names, share, result)
                result.samples.append(await sample(daemon))
        await _stop(daemon, result)
    return result


async def _ask_together(asker: Asker, names: list[str], count: int, result: Endurance) -> None:
    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(_ask, asker, name, count, result)


async def _ask(asker: Asker, name: str, count: int, result: Endurance) -> None:
    chance = random.Random(name)  # noqa: S311  # no secret
    for number in range(count):
        answer = await asker.ask(
            "base",
            make_prompt(f"{name}.{number}", 40),
            max_tokens=chance.randint(1, 16),
            is_streamed=chance.choice((True, False)),
        )
        if answer.ending != "completed":
            result.failures.append(f"request {name}.{number}: {answer.code} {answer.detail}")


async def _wait_base(daemon: Daemon) -> None:
    await daemon.log.wait(
        lambda line: line.event.startswith("Model loaded: base "),
        after_s=0.0,
        limit_s=LOAD_LIMIT_S,
        what="the first load",
    )


async def _stop(daemon: Daemon, result: Endurance) -> None:
    status = await daemon.stop()
    if status != 0:
        result.failures.append(f"the daemon ended with {status}")
    if orphans := daemon.survivors():
        result.failures.append(f"{len(orphans)} processes outlived the daemon")


def _ask_tasks(daemon: Daemon) -> int:
    """How many tasks the daemon has; see `scripts.storm.counted`."""
    asked, told = daemon.process.stdin, daemon.process.stdout
    if asked is None or told is None:
        raise StormFailed("the daemon has no pipes")
    asked.write(b"\n")
    asked.flush()
    return int(told.readline())


def render(results: Sequence[Endurance]) -> str:
    """The results as a table: medians of the first and the last quarter."""
    heads = ["", "times", "descriptors", "threads", "tasks", "RSS MB", "processes"]
    lines = [heads, ["---"] * len(heads), *(result.cells() for result in results)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
