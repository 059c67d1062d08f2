"""What an agent waits for: a session of growing turns, each of which sends all that was said.

    python scripts/bench_agent.py --model DIR [--turns 20]
    python scripts/bench_agent.py --gguf FILE.gguf --peer-dir DIR

Every turn sends the system prompt, every tool result and every answer so far, and a new result; the
answers in it are the ones that the same server gave. Several agents can work at once, as sub-agents
and side requests do. The peers have whatever cache of prefixes they come with, at its defaults.
Target: LMX is at least three times as fast in total as `mlx_lm.server`.
"""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.bench.asking import ask
from scripts.bench.load import chat_body
from scripts.bench.report import Results, add_json_argument, print_head, print_table, save_results
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
from scripts.bench.workload import Session

COLUMNS = (
    "side",
    "total s",
    "LMX is faster by",
    "first turn s",
    "last turn s",
    "sum of TTFT s",
    "last prompt tokens",
    "of all prompt tokens cached",
    "answer tokens",
)


def run_session(side: Side, server: Server, session: Session, max_tokens: int) -> Results:
    """Play a session to its end; a result per turn, times in seconds."""
    messages = session.opening()
    turns = []
    for turn in range(session.turns):
        messages.append(session.result(turn))
        body = chat_body(messages, model=side.model, max_tokens=max_tokens)
        answer = ask(server.port, body)
        messages.append({"role": "assistant", "content": answer.text or "-"})
        turns.append(
            {
                "total_s": answer.total_s,
                "ttft_s": answer.ttft_s,
                "prompt_tokens": answer.prompt_tokens,
                "cached_tokens": answer.cached_tokens,
                "completion_tokens": answer.completion_tokens,
            }
        )
    return turns


def measure_side(side: Side, sessions: list[Session], max_tokens: int) -> dict[str, Any]:
    """All sessions at once, and how long the whole took."""
    with side.open() as server, ThreadPoolExecutor(len(sessions)) as pool:
        ask(server.port, chat_body("Hi", model=side.model, max_tokens=4))
        began_s = time.perf_counter()
        played = pool.map(lambda one: run_session(side, server, one, max_tokens), sessions)
        turns = [turn for found in played for turn in found]
        seconds = time.perf_counter() - began_s
    progress(f"{side.name}: {seconds:.1f} s")
    return {"side": side.name, "agents": len(sessions), "total_s": seconds, "turns": turns}


def session_cells(results: Results) -> list[list[str]]:
    """A line per side."""
    lines = []
    for result in results:
        turns = result["turns"]
        prompt_tokens = sum(turn["prompt_tokens"] for turn in turns)
        cached = sum(turn["cached_tokens"] for turn in turns)
        lines.append(
            [
                result["side"],
                f"{result['total_s']:.1f}",
                f"**{result['total_s'] / results[0]['total_s']:.2f}**",
                f"{turns[0]['total_s']:.2f}",
                f"{turns[-1]['total_s']:.2f}",
                f"{sum(turn['ttft_s'] for turn in turns):.1f}",
                str(turns[-1]["prompt_tokens"]),
                f"{100 * cached / prompt_tokens:.0f} %" if prompt_tokens else "-",
                str(sum(turn["completion_tokens"] for turn in turns)),
            ]
        )
    return lines


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_side_arguments(parser)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--agents", type=int, default=1, help="sessions at once")
    parser.add_argument("--system-tokens", type=int, default=1000)
    parser.add_argument("--result-tokens", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=32, help="of an answer")
    add_json_argument(parser)
    options = parser.parse_args()
    model = model_of(options)
    sessions = [
        Session(f"agent {n}", options.system_tokens, options.result_tokens, options.turns)
        for n in range(options.agents)
    ]
    turn_tokens = options.result_tokens + options.tokens + 50
    context = options.system_tokens + options.turns * turn_tokens + 512
    print_head(model.name, f"{options.agents} agents, {options.turns} turns each")
    with open_sides(options, context_tokens=context) as sides:
        results = measure_sides(sides, lambda side: measure_side(side, sessions, options.tokens))
    print_table(COLUMNS, session_cells(results))
    save_results(options.json, "agent", results, **facts_of(options))


if __name__ == "__main__":
    main()
