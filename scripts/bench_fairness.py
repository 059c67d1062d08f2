"""What one long prompt does to a running stream and to a new short request, and what it pays.

    python scripts/bench_fairness.py --model small32k [--chunk-tokens 256] [--chunks 64]
    python scripts/bench_fairness.py --gguf FILE.gguf --chunk-tokens 512 --peer-dir DIR

Each side alone: a stream, short requests, the long prompt. Then the long prompt, new each time,
beside a running stream, and beside short requests that arrive one after the other while it is
processed. A chunk is what the engine prefills in one pass; its time is taken from the long prompt
alone. Targets: the stream's gaps (ITL, p99) and the short request's TTFT stay within twice what
they are alone plus one chunk, and the long prompt takes at most 15 % longer.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.bench.load import Fleet, Stream, chat_body
from scripts.bench.report import (
    Results,
    add_json_argument,
    median,
    percentile,
    print_head,
    print_table,
    save_results,
    verdict,
)
from scripts.bench.servers import Server
from scripts.bench.sides import (
    Side,
    add_side_arguments,
    facts_of,
    measure_sides,
    model_of,
    open_sides,
    progress,
)
from scripts.bench.workload import long_prompt, prompts

# Left out: a stream's first texts come with its prompt.
FIRST_GAPS = 5
SOLO_GAPS = 128
SHORT_COUNT = 4
SHORT_TOKENS = 8
PROMPT_SHARE = 1.15
STREAM_COLUMNS = (
    "side",
    "ITL alone p50 / p99 ms",
    "beside the long prompt p50 / p99 ms",
    "longest gap ms",
    "p99 within 2x + a chunk",
    "long prompt alone s",
    "beside the stream s",
    "it pays",
)
SHORT_COLUMNS = (
    "side",
    "short TTFT alone ms",
    "beside the long prompt, median / longest ms",
    "within 2x + a chunk",
    "long prompt beside them s",
    "it pays",
)


@dataclass(frozen=True)
class Plan:
    """Sizes of the work; the running stream must outlast the long prompt."""

    chunk_tokens: int
    chunks: int
    repeats: int = 1
    stream_tokens: int = 6000

    @property
    def long_tokens(self) -> int:
        """Of the long prompt."""
        return self.chunk_tokens * self.chunks

    @property
    def context_tokens(self) -> int:
        """What the model must hold: LMX's cache has room for one whole context at least."""
        return self.long_tokens + self.stream_tokens + 1024


class Trial:
    """The measurements of one side; every prompt in it is new to the server."""

    def __init__(self, side: Side, server: Server, plan: Plan) -> None:
        self._side = side
        self._port = server.port
        self._plan = plan
        self._count = 0

    def _body(self, text: str, max_tokens: int) -> bytes:
        return chat_body(text, model=self._side.model, max_tokens=max_tokens, ignore_eos=True)

    def _number(self) -> int:
        self._count += 1
        return self._count

    def _send_long(self, fleet: Fleet) -> Stream:
        text = long_prompt(self._plan.long_tokens, seed=f"long {self._number()}")
        return fleet.send(self._body(f"{self._count} {text}", 1))

    def _send_short(self, fleet: Fleet) -> Stream:
        return fleet.send(self._body(prompts(1, run=1000 + self._number())[0], SHORT_TOKENS))

    def _start_stream(self, fleet: Fleet) -> Stream:
        stream = fleet.send(self._body(prompts(1, run=self._number())[0], self._plan.stream_tokens))
        fleet.read_until(lambda: len(stream.arrivals_s) >= FIRST_GAPS or stream.ended_s > 0)
        return stream

    def short_alone(self) -> list[float]:
        """TTFT of short requests, one after the other, in milliseconds."""
        found = []
        with Fleet(self._port) as fleet:
            for _ in range(SHORT_COUNT + 1):
                stream = self._send_short(fleet)
                fleet.read_all()
                found.append(stream.ttft_ms)
        return found[1:]  # the first one warms up

    def stream_alone(self) -> list[float]:
        """Gaps of a stream that has the server for itself, in milliseconds."""
        with Fleet(self._port) as fleet:
            stream = self._start_stream(fleet)
            wanted = len(stream.arrivals_s) + SOLO_GAPS
            fleet.read_until(lambda: len(stream.arrivals_s) >= wanted or stream.ended_s > 0)
            fleet.hang_up(stream)
        return stream.itl_ms(since_s=stream.arrivals_s[FIRST_GAPS - 1])

    def long_alone(self) -> float:
        """TTFT of the long prompt in milliseconds."""
        with Fleet(self._port, timeout_s=1800) as fleet:
            long = self._send_long(fleet)
            fleet.read_all()
        return long.ttft_ms

    def beside_stream(self) -> tuple[list[float], float]:
        """Gaps of a stream while the long prompt is processed, and the prompt's TTFT."""
        with Fleet(self._port, timeout_s=1800) as fleet:
            stream = self._start_stream(fleet)
            long = self._send_long(fleet)
            fleet.read_until(lambda: bool(long.arrivals_s) or long.ended_s > 0)
            # The gap that the prompt's last pass has opened is part of it.
            seen = len(stream.arrivals_s)
            fleet.read_until(lambda: len(stream.arrivals_s) > seen or stream.ended_s > 0)
            if stream.ended_s:
                progress(f"{self._side.name}: the stream ended before the long prompt began")
            fleet.hang_up(stream)
        return stream.itl_ms(long.started_s, long.arrivals_s[0]), long.ttft_ms

    def beside_shorts(self, long_ms: float) -> tuple[list[float], float]:
        """TTFT of short requests spread over a long prompt's time, and that prompt's TTFT."""
        shorts = []
        with Fleet(self._port, timeout_s=1800) as fleet:
            long = self._send_long(fleet)
            for _ in range(SHORT_COUNT):
                fleet.read_for(long_ms / 1000 / (SHORT_COUNT + 1))
                if not long.arrivals_s:
                    shorts.append(self._send_short(fleet))
            fleet.read_all()
        return [short.ttft_ms for short in shorts], long.ttft_ms


def measure_side(side: Side, plan: Plan) -> dict[str, Any]:
    """All of it on one side. Times in milliseconds."""
    with side.open() as server:
        return _measure(Trial(side, server, plan), side, plan)


def _measure(trial: Trial, side: Side, plan: Plan) -> dict[str, Any]:
    result: dict[str, Any] = {"side": side.name, "chunks": plan.chunks}
    # Whatever comes later finds such a prompt in the server's cache, so what is alone has to, too;
    # and shapes that a GPU plans anew are known to all.
    trial.long_alone()
    result["short_alone"] = trial.short_alone()
    result["stream_alone"] = trial.stream_alone()
    keys = ("long_alone", "stream_beside", "long_by_stream", "short_beside", "long_by_shorts")
    result |= {key: [] for key in keys}
    for _ in range(plan.repeats):
        result["long_alone"].append(trial.long_alone())
        gaps, long_ms = trial.beside_stream()
        result["stream_beside"] += gaps
        result["long_by_stream"].append(long_ms)
        shorts, long_ms = trial.beside_shorts(median(result["long_alone"]))
        result["short_beside"] += shorts
        result["long_by_shorts"].append(long_ms)
        progress(f"{side.name}: {result['long_alone'][-1] / 1000:.1f} s for the long prompt alone")
    return result


def chunk_ms(result: dict[str, Any]) -> float:
    """What a chunk of the long prompt takes."""
    return median(result["long_alone"]) / int(result["chunks"])


def _pays(result: dict[str, Any], key: str) -> str:
    share = median(result[key]) / median(result["long_alone"])
    return f"{100 * (share - 1):+.1f} % ({verdict(is_met=share <= PROMPT_SHARE)})"


def _pair(values: list[float], *, of: Callable[[list[float]], float]) -> str:
    return f"{median(values):.0f} / {of(values):.0f}"


def _p99(values: list[float]) -> float:
    return percentile(values, 0.99)


def stream_cells(results: Results) -> list[list[str]]:
    """What the long prompt does to a running stream."""
    lines = []
    for result in results:
        alone, beside = result["stream_alone"], result["stream_beside"]
        limit_ms = 2 * _p99(alone) + chunk_ms(result)
        lines.append(
            [
                result["side"],
                _pair(alone, of=_p99),
                _pair(beside, of=_p99),
                f"{max(beside, default=0):.0f}",
                f"{limit_ms:.0f}: {verdict(is_met=_p99(beside) <= limit_ms)}",
                f"{median(result['long_alone']) / 1000:.2f}",
                f"{median(result['long_by_stream']) / 1000:.2f}",
                _pays(result, "long_by_stream"),
            ]
        )
    return lines


def short_cells(results: Results) -> list[list[str]]:
    """What the long prompt does to new short requests."""
    lines = []
    for result in results:
        alone, beside = result["short_alone"], result["short_beside"]
        limit_ms = 2 * median(alone) + chunk_ms(result)
        is_met = bool(beside) and max(beside) <= limit_ms
        lines.append(
            [
                result["side"],
                f"{median(alone):.0f}",
                _pair(beside, of=lambda values: max(values, default=0)),
                f"{limit_ms:.0f}: {verdict(is_met=is_met)}",
                f"{median(result['long_by_shorts']) / 1000:.2f}",
                _pays(result, "long_by_shorts"),
            ]
        )
    return lines


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_side_arguments(parser)
    parser.add_argument("--chunk-tokens", type=int, default=256, help="of the engine's passes")
    parser.add_argument("--chunks", type=int, default=64, help="of the long prompt")
    parser.add_argument("--stream-tokens", type=int, default=6000, help="longest running stream")
    parser.add_argument("--repeats", type=int, default=1)
    add_json_argument(parser)
    options = parser.parse_args()
    plan = Plan(
        options.chunk_tokens,
        options.chunks,
        repeats=options.repeats,
        stream_tokens=options.stream_tokens,
    )
    model = model_of(options)
    print_head(model.name, f"a prompt of {plan.chunks} chunks of {plan.chunk_tokens} tokens")
    with open_sides(options, context_tokens=plan.context_tokens) as sides:
        results = measure_sides(sides, lambda side: measure_side(side, plan))
    print_table(STREAM_COLUMNS, stream_cells(results))
    print()
    print_table(SHORT_COLUMNS, short_cells(results))
    save_results(options.json, "fairness", results, **facts_of(options))


if __name__ == "__main__":
    main()
