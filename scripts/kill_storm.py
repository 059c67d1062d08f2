"""Breaks workers in every way, at every moment, and checks that nothing else notices.

A daemon of its own serves a fake model, a tiny MLX model and, where llama.cpp is installed, a tiny
GGUF model. Clients ask all of them without pause while their workers are killed, stopped and made
to fail. The same seed plans the same faults; when exactly they strike is up to the machine.

    python scripts/kill_storm.py [--faults 1000] [--seed 1] [--clients 16] [--limit-s 3600]
                                 [--home DIR]

Exits with status 1 if anything was not as promised; docs/reliability.md says what is.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.storm.daemon import Daemon, open_daemon
from scripts.storm.faults import can_send_garbage
from scripts.storm.models import build_gguf, build_mlx, is_installed
from scripts.storm.plan import plan_storm
from scripts.storm.report import Books, StormResult, print_violations
from scripts.storm.storm import SETTINGS, Storm, Target

FAKE = "fake:fake?tokens=60&step_ms=5&prefill_ms=20&chunk=256&context=16384&fail=asked"
LOAD_LIMIT_S = 60.0
LIMIT_S = 3600.0
SPARES = 1


def build_models(home: Path) -> dict[str, str]:
    """Write what is installed; returns ids and what to ask the daemon for."""
    found = {"fake": FAKE}
    if is_installed("mlx_lm"):
        found["tiny-mlx"] = str(build_mlx(home / "models" / "tiny-mlx"))
    if is_installed("llama_cpp"):
        found["tiny-gguf"] = str(build_gguf(home / "models" / "tiny-gguf.gguf"))
    return found


async def run_storm(
    home: Path,
    models: dict[str, str],
    *,
    faults: int,
    seed: int,
    clients: int,
    limit_s: float = LIMIT_S,
) -> StormResult:
    """Start a daemon with the models, rage, and stop it.

    Args:
        home: The daemon's.
        models: Ids, and what to ask for; as `build_models` gives them.
        faults: How many.
        seed: Of everything that is left to chance.
        clients: How many ask at once.
        limit_s: When it is cut, whatever it has come to.

    Raises:
        StormFailed: A model did not come up.
    """
    is_real = {name: name != "fake" for name in models}
    plan = plan_storm(is_real, faults=faults, seed=seed, has_garbage=can_send_garbage())
    async with open_daemon(home, list(models.values()), settings=SETTINGS) as daemon:
        for name in models:
            await daemon.log.wait(
                lambda line, name=name: line.event.startswith(f"Model loaded: {name} "),  # type: ignore[misc]
                after_s=0.0,
                limit_s=LOAD_LIMIT_S,
                what=f"the load of {name}",
            )
        storm = Storm(daemon, [Target(name, is_real[name]) for name in models], seed=seed)
        began_s = time.time()
        with trio.move_on_after(limit_s) as limit:
            await storm.run(plan, clients=clients)
        seconds = time.time() - began_s
        extra_workers = len(daemon.workers()) - len(models) - SPARES
        exit_status = await daemon.stop()
        orphans = len(daemon.survivors())
    return StormResult(
        storm.outcomes,
        storm.faults,
        seconds,
        exit_status,
        read_books(daemon),
        orphans,
        extra_workers,
        was_cut=limit.cancelled_caught,
    )


def read_books(daemon: Daemon) -> Books | None:
    """What the daemon said it had done, when it stopped."""
    line = daemon.log.last("stopped")
    if line is None:
        return None
    names = ("admitted", "completed", "failed", "cancelled", "in_flight")
    return Books(*(int(line.fields[name]) for name in names))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--limit-s", type=float, default=LIMIT_S)
    parser.add_argument("--home", type=Path, help="where to work; a temporary folder by default")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        home = (options.home or Path(folder)).absolute()
        run = partial(
            run_storm,
            home,
            build_models(home),
            faults=options.faults,
            seed=options.seed,
            clients=options.clients,
            limit_s=options.limit_s,
        )
        result = trio.run(run)
    print(result.tables())
    found = result.violations()
    print_violations(found)
    print(f"\n{len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
