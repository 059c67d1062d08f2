"""What the device lease costs a worker that nobody competes with, and one that shares the device.

Real worker processes with the fake engine, one that takes turns and one that need not, are asked in
turns in one run, because a shared machine's speed drifts. The time is the worker's own, from its
first to its last token. With steps that cost nothing the difference is what the lease costs; it is
then set against a step of real length. The second table gives the device to two workers at once.

    python scripts/bench_lease.py [--rounds 9]

Exits with status 1 if the cost is 1 % of a step of `STEP_MS` or more.
"""

import argparse
import os
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import trio

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).parent.parent))

from lmx.config import LeaseMode, WorkerSettings
from lmx.daemon.lease import Lease
from lmx.daemon.worker import Worker, open_worker
from lmx.protocol.messages import Generate, Load, TokenPrompt
from lmx.protocol.values import Sampling

# A 4-bit model of 1 to 8 billion parameters decodes at this pace on current Apple silicon.
STEP_MS = 5.0
FREE_TOKENS = 4000
PACED_TOKENS = 100
LIMIT = 0.01


@asynccontextmanager
async def open_seated(lease: Lease, step_ms: float) -> AsyncIterator[Worker]:
    """A loaded fake worker with a seat at the lease."""
    async with (
        lease.seat("bench") as seat,
        open_worker(environment=os.environ, stop_grace_s=1.0) as worker,
    ):
        seat.connect(worker.link)
        async with seat.for_load():
            query = f"step_ms={step_ms}&context=1000000"
            await worker.link.load(Load("fake", query, 4, lease=lease.is_exclusive))
        yield worker


async def step_us(worker: Worker, tokens: int) -> float:
    """Microseconds per step of one request, as the worker measured it."""
    request = Generate(0, TokenPrompt([104]), [Sampling(tokens, ignore_eos=True)], [])
    (reply,) = worker.link.open_replies(request)
    while not reply.is_over:
        await reply.wait_change()
        reply.take_text()
    if reply.end is None:
        raise SystemExit(f"the request failed: {reply.error}")
    return reply.end.timings.decode_s / (tokens - 1) * 1e6


def new_lease(mode: LeaseMode) -> Lease:
    """A lease with the slice that settings have by default."""
    return Lease(mode, slice_s=WorkerSettings().lease_slice_s)


async def measure_alone(step_ms: float, tokens: int, rounds: int) -> dict[LeaseMode, float]:
    """Median microseconds per step in either mode, without competition."""
    modes: tuple[LeaseMode, ...] = ("shared", "exclusive")
    found: dict[LeaseMode, list[float]] = {mode: [] for mode in modes}
    async with AsyncExitStack() as stack:
        workers = {
            mode: await stack.enter_async_context(open_seated(new_lease(mode), step_ms))
            for mode in modes
        }
        for worker in workers.values():
            await step_us(worker, tokens // 4)
        for number in range(rounds):
            for mode in modes if number % 2 else reversed(modes):
                found[mode].append(await step_us(workers[mode], tokens))
    return {mode: statistics.median(times) for mode, times in found.items()}


async def measure_contended() -> list[float]:
    """Microseconds per step of two workers that both have work, in exclusive mode."""
    lease, found = new_lease("exclusive"), list[float]()
    async with open_seated(lease, STEP_MS) as one, open_seated(lease, STEP_MS) as two:

        async def ask(worker: Worker) -> None:
            found.append(await step_us(worker, 4 * PACED_TOKENS))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, one)
            nursery.start_soon(ask, two)
    return found


async def main(rounds: int) -> int:
    """Measure, print, judge."""
    free = await measure_alone(0, FREE_TOKENS, rounds)
    paced = await measure_alone(STEP_MS, PACED_TOKENS, rounds)
    contended_us = max(await measure_contended())
    cost_us = free["exclusive"] - free["shared"]
    share = cost_us / paced["shared"]
    print("| one worker, medians | shared us/step | exclusive us/step | difference |")
    print("|---|---|---|---|")
    for name, times in (("steps of no length", free), (f"steps of {STEP_MS:g} ms", paced)):
        shared, own = times["shared"], times["exclusive"]
        print(f"| {name} | {shared:.2f} | {own:.2f} | {own - shared:+.2f} |")
    print(f"\ncost of the lease: {cost_us:.2f} us, {share:.4%} of a {STEP_MS:g} ms step")
    idle = contended_us / 2 / paced["shared"] - 1
    print(f"two workers in turns: {contended_us:.0f} us/step each, the device idles {idle:.1%}")
    return 0 if share < LIMIT else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    sys.exit(trio.run(partial(main, parser.parse_args().rounds)))
