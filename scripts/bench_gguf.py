"""What serving a GGUF model costs: LMX over HTTP against llama.cpp without it, and against a peer.

    python scripts/bench_gguf.py --model FILE.gguf [--peer-dir DIR] [--tokens 64] [--repeats 3]

The sides take turns within one run, each in a process of its own that ends before the next starts,
with the same file, threads, cache, prompts and lengths, greedily; quote the ratios, because speeds
belong to the machine of the day. LMX and the peer, `xllamacpp`, are streamed over HTTP by the same
client; the bare loop and llama-cpp-python's high-level API are called in their process. That API is
measured as it comes, which is with half the cores, and tuned to the threads and passes of the rest.
The peer is for measuring only, and kept out of the environment:

    python -m pip install --target DIR xllamacpp
"""

import argparse
import importlib.metadata
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.bench.gguf import Setup
from scripts.bench.load import chat_body, run_streams
from scripts.bench.report import (
    add_json_argument,
    is_monotonic,
    print_head,
    print_table,
    save_results,
    verdict,
)
from scripts.bench.servers import Server, lmx_server, piped_engine, xllamacpp_server
from scripts.bench.sides import GGUF_BATCH_TOKENS, gguf_settings, peer_version, usable_cores
from scripts.bench.workload import prompts, words

STREAMS = (1, 2, 4, 8, 16, 32)
# A prompt of 2,000 tokens, an answer and the template.
CONTEXT_TOKENS = 2560
PREFILL_WORDS = 1960
BARE, LMX, PEER = "bare loop", "LMX", "xllamacpp"
HIGH_LEVEL, TUNED = "high-level API", "high-level API, tuned"
COMPARED = (BARE, HIGH_LEVEL, TUNED, PEER)


@dataclass(frozen=True)
class Work:
    """What every side is asked for at once."""

    prompts: list[str]
    max_tokens: int


@dataclass(frozen=True)
class Outcome:
    """What one side did: `prompt_tokens` is 0 where it does not say."""

    tokens: int
    seconds: float
    prompt_tokens: int = 0


Measure = Callable[[Setup, Work], Outcome]


@dataclass
class Row:
    """One piece of work, new in each repeat, and what every side made of it."""

    name: str
    sides: tuple[str, ...]
    make: Callable[[int], Work]
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)

    def speed(self, side: str) -> str:
        """Median tokens per second, or a dash."""
        return _median((o.tokens / o.seconds for o in self.outcomes.get(side, [])), "{:.1f}")

    def result(self) -> dict[str, Any]:
        """Tokens per second of every side in every repeat."""
        speeds = {s: [o.tokens / o.seconds for o in found] for s, found in self.outcomes.items()}
        names = {"bare": BARE, "lmx": LMX, "peer": PEER}
        return {"streams": int(self.name)} | {k: speeds.get(s, []) for k, s in names.items()}

    def ratio(self, side: str) -> str:
        """LMX's speed over the side's: the median of the ratios within each repeat."""
        pairs = zip(self.outcomes[LMX], self.outcomes.get(side, []), strict=False)
        ratios = ((o.tokens / o.seconds) / (p.tokens / p.seconds) for o, p in pairs)
        return _median(ratios, "**{:.3f}**")


def _median(values: Iterable[float], form: str) -> str:
    found = list(values)
    return form.format(statistics.median(found)) if found else "-"


def measure_piped(module: str, *arguments: str) -> Measure:
    """A loop in a process of its own."""

    def measure(setup: Setup, work: Work) -> Outcome:
        with piped_engine(module, setup.as_argument(), *arguments) as engine:
            engine.run(["Hi"] * len(work.prompts), 4)
            answer = engine.run(work.prompts, work.max_tokens)
        return Outcome(answer["tokens"], answer["seconds"], answer["prompt_tokens"])

    return measure


def measure_lmx(setup: Setup, work: Work) -> Outcome:
    """The daemon on an empty home."""
    with (
        tempfile.TemporaryDirectory() as home,
        lmx_server(Path(home), [setup.model], gguf_settings(setup)) as server,
    ):
        return _stream(server, work)


def measure_peer(folder: Path) -> Measure:
    """The peer with as many slots as there are streams."""

    def measure(setup: Setup, work: Work) -> Outcome:
        slots = replace(setup, sequences=len(work.prompts))
        with xllamacpp_server(slots, folder) as server:
            return _stream(server, work)

    return measure


def _stream(server: Server, work: Work) -> Outcome:
    def bodies(texts: list[str], max_tokens: int) -> list[bytes]:
        return [
            chat_body(text, model="auto", max_tokens=max_tokens, ignore_eos=True) for text in texts
        ]

    run_streams(server.port, bodies(["Hi"] * len(work.prompts), 4))
    result = run_streams(server.port, bodies(work.prompts, work.max_tokens))
    return Outcome(result.tokens, result.seconds)


def speed_row(streams: int, max_tokens: int) -> Row:
    """Answers of so many tokens on so many streams; one sequence is all that API can do."""
    sides = [BARE, LMX, PEER]
    if streams == 1:
        sides += [HIGH_LEVEL, TUNED]
    return Row(
        str(streams),
        tuple(sides),
        lambda repeat: Work(prompts(streams, run=repeat), max_tokens),
    )


def prefill_row() -> Row:
    """The first token after a long text that no cache knows."""

    def make(repeat: int) -> Work:
        return Work([words(PREFILL_WORDS, seed=f"prefill {repeat}")], max_tokens=1)

    return Row("prefill", (LMX, *COMPARED), make)


def measure(rows: list[Row], sides: dict[str, Measure], setup: Setup, repeats: int) -> None:
    """Every row in every repeat; the sides' order turns, so that drift favours none of them."""
    for repeat in range(repeats):
        for row in rows:
            work = row.make(repeat)
            names = [name for name in row.sides if name in sides]
            turn = repeat % len(names)
            for name in names[turn:] + names[:turn]:
                outcome = sides[name](setup, work)
                row.outcomes.setdefault(name, []).append(outcome)
                _report(repeat, row, name, outcome, work)


def _report(repeat: int, row: Row, name: str, outcome: Outcome, work: Work) -> None:
    """A line per measurement on standard error, and a warning where lengths differ."""
    print(
        f"repeat {repeat}, {row.name}, {name}: {outcome.tokens} tokens in {outcome.seconds:.2f} s",
        file=sys.stderr,
    )
    if outcome.tokens != len(work.prompts) * work.max_tokens:
        print(f"  {name} ended early: its speed holds for a shorter answer", file=sys.stderr)


def print_results(speeds: list[Row], prefill: Row) -> None:
    """Two Markdown tables."""
    columns = [cell for side in COMPARED for cell in (f"{side} tok/s", "LMX / it")]
    print_table(
        ["streams", "LMX tok/s", *columns],
        [
            [row.name, row.speed(LMX)]
            + [cell for side in COMPARED for cell in (row.speed(side), row.ratio(side))]
            for row in speeds
        ],
    )
    totals = [statistics.median(row.result()["lmx"]) for row in speeds]
    print(f"\nLMX's total grows with the streams: {verdict(is_met=is_monotonic(totals))}")
    tokens = statistics.median(o.prompt_tokens for o in prefill.outcomes[BARE])
    print(f"\nTime to the end of a one-token answer to {tokens:.0f} prompt tokens:\n")
    print_table(
        ("side", "seconds", "prompt tok/s", "LMX / it"),
        [
            [
                name,
                _median((o.seconds for o in outcomes), "{:.2f}"),
                _median((tokens / o.seconds for o in outcomes), "{:.0f}"),
                "" if name == LMX else prefill.ratio(name),
            ]
            for name, outcomes in sorted(prefill.outcomes.items())
        ],
    )


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="the GGUF file")
    parser.add_argument("--peer-dir", type=Path, help="where xllamacpp is installed")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=STREAMS)
    add_json_argument(parser)
    options = parser.parse_args()
    model = str(options.model.absolute())
    setup = Setup(model, options.threads, CONTEXT_TOKENS, max(options.streams), GGUF_BATCH_TOKENS)
    sides = {
        BARE: measure_piped("bare_llama"),
        LMX: measure_lmx,
        HIGH_LEVEL: measure_piped("high_level_llama", "default"),
        TUNED: measure_piped("high_level_llama", "tuned"),
    }
    if options.peer_dir is None:
        print("Without --peer-dir the peer is left out; --help says how to get it", file=sys.stderr)
    else:
        sides[PEER] = measure_peer(options.peer_dir)
    llama = f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}"
    peer = filter(None, [peer_version(options.peer_dir)])
    print_head(f"{setup.threads} threads", options.model.name, llama, *peer)
    speeds, prefill = [speed_row(n, options.tokens) for n in options.streams], prefill_row()
    measure([*speeds, prefill], sides, setup, options.repeats)
    print_results(speeds, prefill)
    results = [row.result() for row in speeds]
    save_results(options.json, "serving", results, engine="GGUF", model=options.model.name)


if __name__ == "__main__":
    main()
