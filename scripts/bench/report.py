"""What every benchmark says about its numbers: statistics, Markdown tables, results as JSON.

It measures nothing and knows no server. Plots are drawn from the JSON, so that a figure and its
table are of the same run.
"""

import argparse
import itertools
import json
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil

Results = list[dict[str, Any]]


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which `share` of the values lie; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def median(values: Iterable[float]) -> float:
    """The middle of the values; 0 without values."""
    found = list(values)
    return statistics.median(found) if found else 0.0


def ratio(over: Iterable[float], under: Iterable[float]) -> float:
    """The median of the ratios within each repeat; 0 where a side was not measured."""
    return median(a / b for a, b in zip(over, under, strict=False))


def is_monotonic(speeds: Sequence[float], *, slack: float = 0.03) -> bool:
    """Whether each speed is at least the one before, but for noise of `slack` of it."""
    return all(b >= a * (1 - slack) for a, b in itertools.pairwise(speeds))


def verdict(*, is_met: bool) -> str:
    """How tables say whether a target is reached."""
    return "yes" if is_met else "**no**"


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A Markdown table."""
    for cells in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(cells) + " |", flush=True)


def machine() -> dict[str, str]:
    """Where and when: what numbers are worth nothing without."""
    facts = {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(psutil.cpu_count() or 1),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if tool := shutil.which("nvidia-smi"):
        query = [tool, "--query-gpu=name", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, check=False)  # noqa: S603
        facts["gpu"] = found.stdout.partition("\n")[0].strip()
    return facts


def print_head(*more: str) -> None:
    """A line about the machine and what else is worth knowing of the run."""
    facts = machine()
    facts |= {"cores": f"{facts['cores']} cores", "python": f"Python {facts['python']}"}
    print(", ".join([*filter(None, facts.values()), *more]) + "\n", flush=True)


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """``--json FILE``."""
    parser.add_argument("--json", type=Path, help="also write the results there, for plots")


def save_results(path: Path | None, bench: str, results: Results, **facts: str) -> None:
    """Write results for `scripts.bench.plots`; does nothing without a path.

    Args:
        path: The file, or `None`.
        bench: Which benchmark's they are.
        results: Plain values.
        facts: What else is to be known of the run, such as the model.
    """
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"bench": bench, "machine": machine(), **facts, "results": results}
    path.write_text(json.dumps(document, indent=1) + "\n")
