"""What prompt lookup gains where an answer copies from its prompt, and costs where it does not.

    python scripts/bench_lookup.py --model DIR [--tokens 128] [--streams 1 4] [--repeats 3]
    python scripts/bench_lookup.py --gguf FILE.gguf --peer-dir DIR

The same requests with lookup and without, in turn on the same server; the answers must be the same
to the letter. *Copy*: repeat a list that is in the prompt. *Loop*: a greedy story, which a small
model ends in a circle. *Free*: a story at temperature 1 with a seed, which does not repeat itself.
How much of an answer a lookup of the last words could foretell at best is measured on the text.
Speeds are of the decode alone, from the first text to the last. Targets: 1.8 for copies, and at
least 0.98 for free text.
"""

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.bench.asking import Answer, ask
from scripts.bench.load import chat_body
from scripts.bench.report import (
    Results,
    add_json_argument,
    median,
    print_head,
    print_table,
    ratio,
    save_results,
    verdict,
)
from scripts.bench.servers import Server
from scripts.bench.sides import Side, add_side_arguments, facts_of, model_of, open_sides, progress
from scripts.bench.workload import copied_share, prompts, words

# The request's field, and its value by what results call it.
SPECULATION = "speculation"
ON, OFF = "with", "without"
VALUES = {ON: "auto", OFF: "off"}
LISTED_WORDS = 160
TARGETS = {"copy": 1.8, "free": 0.98}
COLUMNS = (
    "work",
    "streams",
    "answer tokens",
    "foretellable",
    "LMX without tok/s",
    "LMX with lookup tok/s",
    "with / without",
    "target met",
    "same answers",
    "peer",
    "peer tok/s",
)


@dataclass(frozen=True)
class Work:
    """Requests of one kind: their prompts and further fields."""

    name: str
    texts: list[str]
    fields: dict[str, Any]


def make_work(name: str, streams: int, repeat: int) -> Work:
    """Prompts that no repeat has twice."""
    run = f"{name} {streams} {repeat}"
    if name == "copy":
        lists = [words(LISTED_WORDS, seed=f"{run} {n}") for n in range(streams)]
        return Work(name, [f"Repeat this text exactly, word for word:\n\n{t}" for t in lists], {})
    texts = prompts(streams, run=repeat + 1)
    if name == "loop":
        return Work(name, texts, {})
    return Work(name, texts, {"temperature": 1.0, "seed": 7 + repeat})


def knows_speculation(side: Side, server: Server) -> bool:
    """Whether the server takes the field; one that does not refuses it by name."""
    for value in VALUES.values():
        body = chat_body("Hi", model=side.model, max_tokens=4, **{SPECULATION: value})
        try:
            ask(server.port, body)
        except RuntimeError as error:
            if SPECULATION not in str(error):
                raise
            return False
    return True


def run_work(
    side: Side, server: Server, work: Work, *, max_tokens: int, fields: dict[str, Any]
) -> list[Answer]:
    """All requests of the work at once."""
    bodies = [
        chat_body(
            text,
            model=side.model,
            max_tokens=max_tokens,
            **{"ignore_eos": True, **work.fields, **fields},
        )
        for text in work.texts
    ]
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: ask(server.port, body), bodies))


def decode_speed(answers: list[Answer]) -> float:
    """Tokens per second after each answer's first, over all of them."""
    tokens = sum(answer.completion_tokens - 1 for answer in answers)
    spans = [answer.total_s - answer.ttft_s for answer in answers]
    return tokens / max(spans) if max(spans) > 0 else 0.0


def measure_lmx(side: Side, server: Server, plan: argparse.Namespace) -> Results:
    """Every kind of work with lookup and without."""
    is_known = knows_speculation(side, server)
    if not is_known:
        progress(f"This LMX does not know `{SPECULATION}`: both sides are the same")
    fields = {name: {SPECULATION: VALUES[name]} if is_known else {} for name in VALUES}

    def measure(name: str, streams: int, repeat: int, value: str) -> list[Answer]:
        work = make_work(name, streams, repeat)
        return run_work(side, server, work, max_tokens=plan.tokens, fields=fields[value])

    results = []
    for name in plan.work:
        for streams in plan.streams:
            results.append(compare(measure, name, streams, plan.repeats))
            gain = ratio(results[-1][ON], results[-1][OFF])
            progress(f"{name}, {streams} streams: {gain:.2f}")
    return results


def compare(
    measure: Callable[[str, int, int, str], list[Answer]], name: str, streams: int, repeats: int
) -> dict[str, Any]:
    """One kind of work with lookup and without, taking turns at being first.

    Args:
        measure: Does the work: its name, streams, repeat, and the value of the field.
        name: Of the work.
        streams: How many requests at once.
        repeats: How often.
    """
    result: dict[str, Any] = {"work": name, "streams": streams, ON: [], OFF: []}
    result |= {"is_same": True, "copied": [], "tokens": 0, "peer": "", "peer_speeds": []}
    for repeat in range(repeats):
        found = {}
        if streams > 1:
            # Where the prompts are new, later ones are computed while the first answers decode.
            measure(name, streams, repeat, OFF)
        for value in (OFF, ON) if repeat % 2 else (ON, OFF):
            found[value] = measure(name, streams, repeat, value)
            result[value].append(decode_speed(found[value]))
        texts = {value: [answer.text for answer in answers] for value, answers in found.items()}
        result["is_same"] &= texts[ON] == texts[OFF]
        result["copied"] += map(copied_share, make_work(name, streams, repeat).texts, texts[OFF])
        result["tokens"] = sum(answer.completion_tokens for answer in found[OFF])
    return result


def measure_peer(side: Side, server: Server, plan: argparse.Namespace, results: Results) -> None:
    """The same work on the peer as it comes; adds to the results."""
    for result in results:
        result["peer"] = side.name
        for repeat in range(plan.repeats):
            work = make_work(result["work"], result["streams"], repeat)
            answers = run_work(side, server, work, max_tokens=plan.tokens, fields={})
            result["peer_speeds"].append(decode_speed(answers))


def lookup_cells(results: Results) -> list[list[str]]:
    """A line per kind of work and number of streams; targets hold for one stream."""
    lines = []
    for result in results:
        gain = ratio(result[ON], result[OFF])
        target = TARGETS.get(result["work"]) if result["streams"] == 1 else None
        lines.append(
            [
                result["work"],
                str(result["streams"]),
                str(result["tokens"]),
                f"{100 * median(result['copied']):.0f} %",
                f"{median(result[OFF]):.1f}",
                f"{median(result[ON]):.1f}",
                f"**{gain:.2f}**",
                "-" if target is None else f"{target:g}: {verdict(is_met=gain >= target)}",
                verdict(is_met=result["is_same"]),
                result["peer"] or "-",
                f"{median(result['peer_speeds']):.1f}" if result["peer"] else "-",
            ]
        )
    return lines


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_side_arguments(parser)
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--streams", type=int, nargs="+", default=(1, 4))
    parser.add_argument("--work", nargs="+", default=("copy", "loop", "free"))
    parser.add_argument("--repeats", type=int, default=3)
    add_json_argument(parser)
    options = parser.parse_args()
    model = model_of(options)
    print_head(model.name)
    results: Results = []
    with open_sides(options, context_tokens=LISTED_WORDS + options.tokens + 512) as sides:
        for side in sides:
            with side.open() as server:
                ask(server.port, chat_body("Hi", model=side.model, max_tokens=8))
                if side.is_lmx:
                    results += measure_lmx(side, server, options)
                else:
                    measure_peer(side, server, options, results)
    print_table(COLUMNS, lookup_cells(results))
    save_results(options.json, "lookup", results, **facts_of(options))


if __name__ == "__main__":
    main()
