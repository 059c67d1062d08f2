"""Runs a daemon for long, and many models through little room, and checks that nothing grows.

Four stretches: load and unload, over and over, with the fake engine and with a tiny MLX model; many
requests; and requests to five models of which two fit.

    python scripts/soak.py [--cycles 200] [--mlx-cycles 20] [--requests 20000]
                           [--swap-requests 2000] [--clients 16] [--seed 1]

A count of 0 leaves that stretch out. Exits with status 1 if anything was not as promised;
docs/reliability.md says what is.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import trio

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.storm.endurance import Endurance, render, run_cycles, run_requests
from scripts.storm.models import build_mlx, is_installed
from scripts.storm.report import print_violations
from scripts.storm.swap import run_swap

CYCLED = "fake:cycled?tokens=16"


async def endure(home: Path, options: argparse.Namespace) -> list[Endurance]:
    """Everything but the swap, each with a daemon of its own."""
    results = []
    if options.cycles:
        results.append(await run_cycles(home / "cycles", CYCLED, "cycled", count=options.cycles))
    if options.mlx_cycles and is_installed("mlx_lm"):
        model = str(build_mlx(home / "models" / "tiny-mlx"))
        count = options.mlx_cycles
        results.append(await run_cycles(home / "mlx", model, "tiny-mlx", count=count))
    if options.requests:
        count, clients = options.requests, options.clients
        results.append(await run_requests(home / "requests", count=count, clients=clients))
    return results


async def run(home: Path, options: argparse.Namespace) -> list[str]:
    """Do all that is asked for, print it, and return what was not as promised."""
    found = []
    results = await endure(home, options)
    if results:
        print(render(results), flush=True)
        found += [violation for result in results for violation in result.violations()]
    if options.swap_requests:
        swap = await run_swap(
            home / "swap",
            requests=options.swap_requests,
            clients=options.clients,
            seed=options.seed,
        )
        print(f"\n{swap.table()}")
        found += swap.violations()
    return found


def main() -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--mlx-cycles", type=int, default=20)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--swap-requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = trio.run(run, Path(folder), options)
    print_violations(found)
    print(f"\n{len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
