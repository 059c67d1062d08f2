"""A mixed load at a share of capacity: short chats, long prompts and agents that come as they like.

    python scripts/bench_load.py --model DIR [--requests 60] [--share 0.8]
    python scripts/bench_load.py --gguf FILE.gguf --peer-dir DIR

Capacity is measured first, on each side: the requests per second of the same mix sent all at once.
Then the mix arrives as a Poisson process at the share of that side's own capacity, the same seed
for all; a request is *good* if its TTFT and its longest wait for a text stay within limits that are
multiples of what LMX needs with nothing else to do, the same limits for every side.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.bench.load import Fleet, LoadResult, Stream, chat_body, run_streams
from scripts.bench.report import (
    Results,
    add_json_argument,
    median,
    percentile,
    print_head,
    print_table,
    save_results,
)
from scripts.bench.servers import Server
from scripts.bench.sides import Side, add_side_arguments, facts_of, model_of, open_sides, progress
from scripts.bench.workload import MIX, Arrival, mixed_load

WARM_UP, CAPACITY, MAIN = 1, 2, 3  # seeds: no prompt is sent twice
GOOD_TTFT, GOOD_GAP = 5.0, 8.0
COLUMNS = (
    "side",
    "capacity requests/s",
    "arrivals/s",
    "TTFT p50 / p99 ms",
    "ITL p50 / p99 ms",
    "tokens/s",
    "good requests",
    "goodput requests/s",
)
KIND_COLUMNS = ("side", "kind", "requests", "TTFT p50 / p99 ms", "ITL p50 / p99 ms")


@dataclass(frozen=True)
class Plan:
    """Sizes of the work.

    Attributes:
        requests: How many arrive in the measured part; half as many measure the capacity.
        share: Of capacity.
        seed: Other loads for another.
        scale: Factor on the lengths of prompts.
    """

    requests: int
    share: float
    seed: int
    scale: float

    def load(self, part: int, count: int) -> list[Arrival]:
        """The load of one part of the measurement."""
        return mixed_load(count, seed=1000 * self.seed + part, scale=self.scale)


@dataclass(frozen=True)
class Limits:
    """What a good request stays within, in milliseconds: TTFT by kind, and every gap."""

    ttft_ms: dict[str, float]
    gap_ms: float


def _body(side: Side, arrival: Arrival) -> bytes:
    return chat_body(
        arrival.messages, model=side.model, max_tokens=arrival.max_tokens, ignore_eos=True
    )


def measure_alone(side: Side, server: Server, plan: Plan) -> dict[str, Any]:
    """TTFT of each kind and the gaps of all, one request at a time. Times in milliseconds."""
    load = plan.load(WARM_UP, 30)
    run_streams(server.port, [_body(side, load[0])])
    ttft_ms, gaps = {}, []
    for kind in MIX:
        found = [arrival for arrival in load[1:] if arrival.kind == kind][:3]
        results = [run_streams(server.port, [_body(side, one)]) for one in found]
        ttft_ms[kind] = median(ttft for result in results for ttft in result.ttft_ms())
        gaps += [gap for result in results for gap in result.itl_ms()]
    return {"ttft": ttft_ms, "gap": median(gaps)}


def make_limits(alone: dict[str, Any]) -> Limits:
    """Limits from what one request at a time needs."""
    chat_ms = alone["ttft"]["chat"]
    # Nobody minds a wait that a short request has anyway.
    ttft_ms = {k: GOOD_TTFT * max(v, chat_ms) for k, v in alone["ttft"].items()}
    return Limits(ttft_ms, GOOD_GAP * alone["gap"])


def measure_capacity(side: Side, server: Server, plan: Plan) -> float:
    """Requests per second of the mix, all sent at once."""
    load = plan.load(CAPACITY, max(2, plan.requests // 2))
    result = run_streams(server.port, [_body(side, one) for one in load], timeout_s=1800)
    return len(load) / result.seconds


def run_arrivals(
    side: Side, server: Server, load: list[Arrival], per_s: float
) -> tuple[list[Stream], float]:
    """Send each request when it is due, whatever came of those before.

    Returns:
        A stream per request, and the seconds from the first request to the last byte.
    """
    streams = []
    with Fleet(server.port, timeout_s=1800) as fleet:
        began_s = due_s = time.perf_counter()
        for arrival in load:
            due_s += arrival.gap / per_s
            fleet.read_for(max(0.0, due_s - time.perf_counter()))
            streams.append(fleet.send(_body(side, arrival)))
        fleet.read_all()
        return streams, time.perf_counter() - began_s


def is_good(stream: Stream, kind: str, limits: Limits) -> bool:
    """Its first text and every other one came in time."""
    is_prompt = stream.ttft_ms <= limits.ttft_ms[kind]
    return is_prompt and max(stream.itl_ms(), default=0.0) <= limits.gap_ms


def measure_side(side: Side, server: Server, plan: Plan, limits: Limits | None) -> Any:
    """Everything on one side; without limits they are made from this side."""
    alone = measure_alone(side, server, plan)
    limits = limits or make_limits(alone)
    capacity = measure_capacity(side, server, plan)
    progress(f"{side.name}: capacity {capacity:.2f} requests/s")
    load = plan.load(MAIN, plan.requests)
    streams, seconds = run_arrivals(side, server, load, plan.share * capacity)
    good = sum(is_good(s, a.kind, limits) for s, a in zip(streams, load, strict=True))
    result = {
        "side": side.name,
        "capacity": capacity,
        "arrivals": plan.share * capacity,
        "seconds": seconds,
        "tokens": LoadResult(streams, seconds).tokens,
        "good": good,
        "kinds": {
            kind: {
                "ttft": [s.ttft_ms for s, a in zip(streams, load, strict=True) if a.kind == kind],
                "itl": [
                    gap
                    for s, a in zip(streams, load, strict=True)
                    if a.kind == kind
                    for gap in s.itl_ms()
                ],
            }
            for kind in MIX
        },
    }
    return result, limits


def _spread(values: list[float]) -> str:
    return " / ".join(f"{percentile(values, share):.0f}" for share in (0.5, 0.99))


def _all(result: dict[str, Any], key: str) -> list[float]:
    return [value for found in result["kinds"].values() for value in found[key]]


def load_cells(results: Results) -> list[list[str]]:
    """A line per side."""
    lines = []
    for result in results:
        count = len(_all(result, "ttft"))
        lines.append(
            [
                result["side"],
                f"{result['capacity']:.2f}",
                f"{result['arrivals']:.2f}",
                _spread(_all(result, "ttft")),
                _spread(_all(result, "itl")),
                f"{result['tokens'] / result['seconds']:.1f}",
                f"{result['good']} of {count}",
                f"{result['good'] / result['seconds']:.2f}",
            ]
        )
    return lines


def kind_cells(results: Results) -> list[list[str]]:
    """A line per side and kind of request."""
    return [
        [
            result["side"],
            kind,
            str(len(found["ttft"])),
            _spread(found["ttft"]),
            _spread(found["itl"]),
        ]
        for kind in MIX
        for result in results
        for found in [result["kinds"][kind]]
    ]


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_side_arguments(parser)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--share", type=float, default=0.8, help="of each side's capacity")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on lengths of prompts")
    add_json_argument(parser)
    options = parser.parse_args()
    plan = Plan(options.requests, options.share, options.seed, options.scale)
    model = model_of(options)
    print_head(model.name, f"{plan.requests} requests at {plan.share:g} of capacity")
    results, limits = [], None
    with open_sides(options, context_tokens=int(2600 * plan.scale) + 256) as sides:
        for side in sides:
            with side.open() as server:
                result, limits = measure_side(side, server, plan, limits)
                results.append(result)
    print_table(COLUMNS, load_cells(results))
    print()
    print_table(KIND_COLUMNS, kind_cells(results))
    if limits is not None:
        kinds = ", ".join(f"{kind} {ms:.0f}" for kind, ms in limits.ttft_ms.items())
        print(f"\nGood: TTFT within {kinds} ms and no gap over {limits.gap_ms:.0f} ms.")
    save_results(options.json, "load", results, **facts_of(options))


if __name__ == "__main__":
    main()
