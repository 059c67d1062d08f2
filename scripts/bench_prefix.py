"""What a prefix cache saves: time to first token cold, warm and after a restart; and n choices.

    python scripts/bench_prefix.py --model DIR [--sizes 1024 4096 7900] [--repeats 3]
    python scripts/bench_prefix.py --gguf FILE.gguf --peer-dir DIR

*Cold* is a prompt that the server has never seen, *warm* the same prompt again, *restarted* the
same prompt after the server was stopped and started. LMX's answers of all three must be the same
to the letter, which is checked in the run; its drafts are off for that, because llama.cpp rounds by
the rows of a pass and a draft's check has other rows than a step. Targets at the longest prompt:
warm within 5 % of cold, restarted within 15 %. Then eight choices of one prompt against one: the
prompt's work, which is the time until every choice has begun, must be within 1.05 of one choice's.
A peer without `n` gets as many requests at once.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.bench.asking import Answer, ask
from scripts.bench.load import chat_body, run_streams
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
from scripts.bench.sides import (
    Side,
    add_side_arguments,
    facts_of,
    measure_sides,
    model_of,
    open_sides,
    progress,
)
from scripts.bench.workload import long_prompt

SIZES = (1024, 4096, 7900)
ANSWER_TOKENS = 24
CHOICES = 8
WARM_SHARE, RESTARTED_SHARE, CHOICES_SHARE = 0.05, 0.15, 1.05
# For what is written to the disk beside the requests.
SETTLE_S = 2.0
TTFT_COLUMNS = (
    "side",
    "prompt tokens",
    "cold ms",
    "warm ms",
    "warm / cold",
    "restarted ms",
    "restarted / cold",
    "cached warm, restarted",
    "same answers",
)
CHOICE_COLUMNS = ("side", "prompt tokens", "n=1 ms", f"n={CHOICES} ms", "ratio", "within 1.05")


@dataclass(frozen=True)
class Plan:
    """Sizes of the work; `settle_s` is the time between the last request and the stop."""

    sizes: tuple[int, ...]
    choice_tokens: int
    repeats: int
    settle_s: float = SETTLE_S


def _body(side: Side, text: str, max_tokens: int, **fields: Any) -> bytes:
    return chat_body(text, model=side.model, max_tokens=max_tokens, ignore_eos=True, **fields)


def _prompt_body(side: Side, size: int) -> bytes:
    return _body(side, long_prompt(size, seed=f"prefix {size}"), ANSWER_TOKENS)


def measure_ttft(side: Side, plan: Plan) -> Results:
    """Cold and warm in one life of the server, restarted in the next. Times in milliseconds."""
    found: dict[int, list[Answer]] = {}
    with side.open() as server:
        ask(server.port, _body(side, "Hi", 4))
        for size in plan.sizes:
            body = _prompt_body(side, size)
            found[size] = [ask(server.port, body) for _ in range(1 + plan.repeats)]
            progress(f"{side.name}, {size}: {found[size][0].ttft_s:.2f} s cold")
        time.sleep(plan.settle_s)
    with side.open() as server:
        ask(server.port, _body(side, "Hi", 4))
        again = {size: ask(server.port, _prompt_body(side, size)) for size in plan.sizes}
    return [ttft_result(side.name, found[size], again[size]) for size in plan.sizes]


def ttft_result(side: str, answers: list[Answer], again: Answer) -> dict[str, Any]:
    """One size of prompt on one side: the first answer was cold, the others warm."""
    cold, *warm = answers
    texts = {answer.text for answer in [*answers, again]}
    counts = {answer.completion_tokens for answer in [*answers, again]}
    return {
        "side": side,
        "prompt_tokens": cold.prompt_tokens,
        "cold": 1000 * cold.ttft_s,
        "warm": 1000 * median(answer.ttft_s for answer in warm),
        "restarted": 1000 * again.ttft_s,
        "cached": [warm[-1].cached_tokens, again.cached_tokens],
        "is_same": len(texts) == len(counts) == 1,
    }


def measure_choices(side: Side, plan: Plan) -> dict[str, Any]:
    """One choice and many of prompts that are all new, in turn. Times in milliseconds."""
    with side.open() as server:
        return _measure_choices(side, server, plan)


def _measure_choices(side: Side, server: Server, plan: Plan) -> dict[str, Any]:
    ask(server.port, _body(side, "Hi", 4))
    one, many, tokens = [], [], 0
    for repeat in range(plan.repeats):
        texts = [
            long_prompt(plan.choice_tokens, seed=f"choices {repeat} {count}") for count in (1, 2)
        ]
        single = ask(server.port, _body(side, texts[0], 2, temperature=0.8))
        tokens = single.prompt_tokens
        one.append(1000 * single.all_begun_s)
        many.append(1000 * _all_begun_s(side, server, texts[1]))
        progress(f"{side.name}: n=1 {one[-1]:.0f} ms, n={CHOICES} {many[-1]:.0f} ms")
    return {"side": side.name, "prompt_tokens": tokens, "one": one, "many": many}


def _all_begun_s(side: Side, server: Server, text: str) -> float:
    if side.is_lmx:
        body = _body(side, text, 2, temperature=0.8, n=CHOICES)
        answer = ask(server.port, body)
        if len(answer.first_s) != CHOICES:
            progress(f"{side.name}: {len(answer.first_s)} of {CHOICES} choices said something")
        return answer.all_begun_s
    result = run_streams(server.port, [_body(side, text, 2, temperature=0.8)] * CHOICES)
    return max(result.ttft_ms()) / 1000


def ttft_cells(results: Results) -> list[list[str]]:
    """The table of `measure_ttft`; targets are judged at LMX's longest prompt."""
    lines = []
    longest = max((result["prompt_tokens"] for result in results), default=0)
    for result in results:
        warm, restarted = result["warm"] / result["cold"], result["restarted"] / result["cold"]
        is_judged = result["side"] == "LMX" and result["prompt_tokens"] == longest
        lines.append(
            [
                result["side"],
                str(result["prompt_tokens"]),
                *(f"{result[key]:.0f}" for key in ("cold", "warm")),
                _share(warm, WARM_SHARE, is_judged=is_judged),
                f"{result['restarted']:.0f}",
                _share(restarted, RESTARTED_SHARE, is_judged=is_judged),
                ", ".join(map(str, result["cached"])),
                verdict(is_met=result["is_same"]),
            ]
        )
    return lines


def _share(share: float, limit: float, *, is_judged: bool) -> str:
    cell = f"**{100 * share:.1f} %**"
    return f"{cell} ({verdict(is_met=share <= limit)})" if is_judged else cell


def choice_cells(results: Results) -> list[list[str]]:
    """The table of `measure_choices`."""
    lines = []
    for result in results:
        share = ratio(result["many"], result["one"])
        lines.append(
            [
                result["side"],
                str(result["prompt_tokens"]),
                f"{median(result['one']):.0f}",
                f"{median(result['many']):.0f}",
                f"**{share:.3f}**",
                verdict(is_met=share <= CHOICES_SHARE),
            ]
        )
    return lines


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_side_arguments(parser)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="tokens of prompts")
    parser.add_argument("--choice-tokens", type=int, default=900, help="prompt of the choices")
    parser.add_argument("--repeats", type=int, default=3)
    add_json_argument(parser)
    options = parser.parse_args()
    options.setting.insert(0, "models.speculation=false")
    plan = Plan(tuple(options.sizes), options.choice_tokens, options.repeats)
    model = model_of(options)
    print_head(model.name)
    # A little more than the longest prompt and its answer; never more than the demo model has.
    context = max(*plan.sizes, plan.choice_tokens) + 256
    with open_sides(options, context_tokens=context) as sides:
        found = measure_sides(sides, lambda side: measure_ttft(side, plan))
        choices = measure_sides(sides, lambda side: measure_choices(side, plan))
    ttfts = [result for results in found for result in results]
    print_table(TTFT_COLUMNS, ttft_cells(ttfts))
    print()
    print_table(CHOICE_COLUMNS, choice_cells(choices))
    save_results(options.json, "prefix", ttfts, **facts_of(options))
    if options.json is not None:
        beside = options.json.with_stem(options.json.stem + "-choices")
        save_results(beside, "choices", choices, **facts_of(options))


if __name__ == "__main__":
    main()
