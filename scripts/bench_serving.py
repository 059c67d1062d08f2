"""What serving costs: LMX over HTTP against the bare engine loop and against `mlx_lm.server`.

Everything is measured in one run, the sides in turn, and printed as one Markdown table; quote the
ratios, because absolute speeds belong to the machine of the day. All sides are timed over the same
span, from the prompts to the last token, prefill included.

    python scripts/bench_serving.py --home DIR [--tokens 48] [--repeats 3] [--streams 1 8 32]
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.bench.load import LoadResult, chat_body, run_streams
from scripts.bench.report import (
    Results,
    add_json_argument,
    is_monotonic,
    median,
    percentile,
    print_head,
    print_table,
    ratio,
    save_results,
    verdict,
)
from scripts.bench.servers import PipedEngine, Server, lmx_server, mlx_lm_server, piped_engine
from scripts.bench.sides import progress
from scripts.bench.workload import prompts

STREAMS = (1, 2, 4, 8, 16, 32)
FAKE_MODEL = "fake:paced{n}?step_ms={step_ms}&tokens={tokens}&max_sequences={n}"
FREE_MODEL = "fake:free?step_ms=0&tokens=2000&max_sequences=256"
SHORT_MODEL = "fake:short?tokens=1"
MODEL_COLUMNS = (
    "streams",
    "bare tok/s",
    "LMX tok/s",
    "LMX / bare",
    "mlx_lm.server tok/s",
    "LMX / it",
    "TTFT p50 / p99 ms",
    "ITL p50 / p99 ms",
    "LMX total grows",
)
DAEMON_COLUMNS = (
    "fake engine",
    "streams",
    "tokens/s",
    "SSE events/s",
    "daemon µs/token",
    "µs/SSE event",
    "ITL p50 / p99 ms",
    "RSS MB",
)
# Of each answer in such a round.
WARM_UP_TOKENS = 16


@dataclass
class Row:
    """Repeated measurements of one number of streams."""

    streams: int
    bare: list[float] = field(default_factory=list)
    lmx: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    ttft_ms: list[float] = field(default_factory=list)
    itl_ms: list[float] = field(default_factory=list)

    def result(self) -> dict[str, Any]:
        """Plain values, for tables and plots."""
        return {
            "streams": self.streams,
            "bare": self.bare,
            "lmx": self.lmx,
            "peer": self.peer,
            "ttft_ms": [percentile(self.ttft_ms, share) for share in (0.5, 0.99)],
            "itl_ms": [percentile(self.itl_ms, share) for share in (0.5, 0.99)],
        }


class Sides(NamedTuple):
    """What is compared, on which model."""

    bare: PipedEngine
    lmx: Server
    peer: Server | None
    model: Path


def model_cells(results: Results) -> list[list[str]]:
    """Medians of speeds and of the ratios within each repeat, a line per number of streams."""
    lines = []
    totals = [median(result["lmx"]) for result in results]
    for place, result in enumerate(results):
        grows = is_monotonic(totals[max(0, place - 1) : place + 1])
        lines.append(
            [
                str(result["streams"]),
                f"{median(result['bare']):.1f}",
                f"{totals[place]:.1f}",
                f"**{ratio(result['lmx'], result['bare']):.3f}**",
                f"{median(result['peer']):.1f}" if result["peer"] else "-",
                f"**{ratio(result['lmx'], result['peer']):.2f}**" if result["peer"] else "-",
                *(" / ".join(f"{v:.0f}" for v in result[k]) for k in ("ttft_ms", "itl_ms")),
                verdict(is_met=grows) if place else "-",
            ]
        )
    return lines


def measure_model(options: argparse.Namespace, model: Path) -> Results:
    """The serving ratio at each number of streams."""
    rows = [Row(streams) for streams in options.streams]
    with ExitStack() as stack:
        bare = stack.enter_context(piped_engine("bare", str(model)))
        lmx = stack.enter_context(lmx_server(options.home, [str(model)]))
        peer = None if options.no_peer else stack.enter_context(mlx_lm_server(model))
        _warm_up(bare, lmx, peer, model)
        sides = Sides(bare, lmx, peer, model)
        try:
            _measure_rows(rows, sides, options)
        except KeyboardInterrupt:
            progress("Interrupted: the table has what was measured until now")
        rss_mb = lmx.rss_mb()
    results = [row.result() for row in rows if row.lmx]
    print_table(MODEL_COLUMNS, model_cells(results))
    print(f"\nDaemon RSS with one model: {rss_mb:.0f} MB\n")
    return results


def _measure_rows(rows: list[Row], sides: Sides, options: argparse.Namespace) -> None:
    """Every number of streams in turn, first with short answers that do not count."""
    for number in range(options.warm_ups):
        for row in rows:
            texts = prompts(row.streams, run=f"{number} of warming up {row.streams}")
            _measure_row(Row(row.streams), texts, WARM_UP_TOKENS, sides)
            progress(f"warmed up with {row.streams} streams, round {number + 1}")
    for number in range(options.repeats):
        for row in rows:
            texts = prompts(row.streams, run=f"{number} of {row.streams}")
            _measure_row(row, texts, options.tokens, sides)
            progress(f"{row.streams} streams: {row.bare[-1]:.0f} bare, {row.lmx[-1]:.0f} LMX tok/s")


def _warm_up(bare: PipedEngine, lmx: Server, peer: Server | None, model: Path) -> None:
    bare.run(prompts(2), 4)
    for server in (lmx, peer):
        if server is not None:
            run_streams(
                server.port, [chat_body("Hi", model=_name(server, lmx, model), max_tokens=4)]
            )


def _name(server: Server, lmx: Server, model: Path) -> str:
    """`mlx_lm.server` knows its model by path."""
    return "auto" if server is lmx else str(model)


def _measure_row(row: Row, texts: list[str], tokens: int, sides: Sides) -> None:
    """Nothing is noted of a round that was interrupted."""
    answer = sides.bare.run(texts, tokens)
    bodies = [chat_body(text, model="auto", max_tokens=tokens) for text in texts]
    result = run_streams(sides.lmx.port, bodies)
    if sides.peer is not None:
        bodies = [chat_body(text, model=str(sides.model), max_tokens=tokens) for text in texts]
        theirs = run_streams(sides.peer.port, bodies)
        row.peer.append(theirs.tokens / theirs.seconds)
    row.bare.append(answer["tokens"] / answer["seconds"])
    row.lmx.append(result.tokens / result.seconds)
    row.ttft_ms += result.ttft_ms()
    row.itl_ms += result.itl_ms()


def measure_daemon(home: Path, *, repeats: int) -> None:
    """The daemon's own cost, on the fake engine."""
    rows = []
    for streams, step_ms, tokens in ((32, 10, 500), (256, 40, 200)):
        model = FAKE_MODEL.format(n=streams, step_ms=step_ms, tokens=tokens)
        with lmx_server(home, [model]) as server:
            rows.append(
                _daemon_row(f"paced, {step_ms} ms step", server, streams, tokens, repeats=repeats)
            )
    with lmx_server(home, [FREE_MODEL]) as server:
        rows += [_daemon_row("free running", server, n, 2000, repeats=repeats) for n in (32, 256)]
    print_table(DAEMON_COLUMNS, rows)
    with lmx_server(home, [SHORT_MODEL]) as server:
        print(f"\nDaemon CPU per request (one token): {_request_us(server):.0f} µs\n")


def _daemon_row(
    label: str, server: Server, streams: int, tokens: int, *, repeats: int
) -> list[str]:
    bodies = [chat_body(text, model="auto", max_tokens=tokens + 1) for text in prompts(streams)]
    run_streams(server.port, bodies[:2])
    runs = [timed(server, lambda: run_streams(server.port, bodies)) for _ in range(repeats)]
    return [
        label,
        str(streams),
        f"{median(r.tokens / r.seconds for r, _ in runs):.0f}",
        f"{median(r.events / r.seconds for r, _ in runs):.0f}",
        f"{median(1e6 * cpu / r.tokens for r, cpu in runs):.1f}",
        f"{median(1e6 * cpu / r.events for r, cpu in runs):.1f}",
        " / ".join(f"{percentile(runs[-1][0].itl_ms(), share):.1f}" for share in (0.5, 0.99)),
        f"{server.rss_mb():.0f}",
    ]


def timed(server: Server, work: Callable[[], LoadResult]) -> tuple[LoadResult, float]:
    """What `work` gives, and the server's own CPU seconds meanwhile."""
    before_s = server.cpu_s()
    result = work()
    return result, server.cpu_s() - before_s


def _request_us(server: Server) -> float:
    bodies = [chat_body("Hi", model="auto", max_tokens=1)] * 16
    before_s = server.cpu_s()
    for _ in range(40):
        run_streams(server.port, bodies)
    return 1e6 * (server.cpu_s() - before_s) / (40 * len(bodies))


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=Path("~/.opta-lmx").expanduser())
    parser.add_argument("--model", type=Path, help="MLX directory; by default the demo model")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--warm-ups", type=int, default=0, help="unmeasured rounds: CUDA compiles for new shapes"
    )
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--only", choices=["model", "daemon"])
    add_json_argument(parser)
    options = parser.parse_args()
    model = options.model or options.home / "models" / "SmolLM2-135M-Instruct"
    print_head()
    if options.only != "daemon":
        results = measure_model(options, model.absolute())
        save_results(options.json, "serving", results, engine="MLX", model=model.name)
    if options.only != "model":
        measure_daemon(options.home, repeats=options.repeats)


if __name__ == "__main__":
    main()
