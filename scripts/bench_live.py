"""What live connections cost the daemon: WebSockets, resumable streams, event subscribers, probes.

The fake engine, so that only the daemon is measured; every pair of sides in turn in one run. CPU is
the daemon process's own. Quote the ratios.

    python scripts/bench_live.py --home DIR [--repeats 3]
"""

import argparse
import json
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

if __package__ in {None, ""}:
    sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.bench.asking import post
from scripts.bench.load import LoadResult, chat_body, run_streams
from scripts.bench.report import percentile, print_head, print_table
from scripts.bench.servers import Server, lmx_server
from scripts.bench.sockets import event_subscribers, run_on_one_socket
from scripts.bench.workload import prompts
from scripts.bench_serving import timed

MODEL = "fake:paced?step_ms={step_ms}&tokens=4000&max_sequences=128&context=8192"
TOKENS = 300
SUBSCRIBERS = 200
WATCH_S = 10.0
PROBES = 400


def bodies(count: int, **fields: object) -> list[bytes]:
    """Requests of the same length."""
    return [
        chat_body(text, model="auto", max_tokens=TOKENS, ignore_eos=True, **fields)
        for text in prompts(count)
    ]


def as_messages(requests: list[bytes]) -> list[bytes]:
    """The same as WebSocket messages."""
    return [json.dumps({"type": "chat.request", **json.loads(body)}).encode() for body in requests]


def measure_streams(home: Path, *, repeats: int) -> None:
    """CPU per token over each transport, relative to server-sent events."""
    rows = []
    with lmx_server(home, [MODEL.format(step_ms=10)]) as server:
        for count in (32, 100):
            plain, kept = bodies(count), bodies(count, resumable=True)
            sides: dict[str, Callable[[], LoadResult]] = {
                "SSE": partial(run_streams, server.port, plain),
                "SSE, resumable": partial(run_streams, server.port, kept),
                "one WebSocket": partial(run_on_one_socket, server.port, as_messages(plain)),
                "one WebSocket, resumable": partial(
                    run_on_one_socket, server.port, as_messages(kept)
                ),
            }
            rows += _rows(server, sides, count, repeats)
    print_table(("transport", "streams", "tokens/s", "daemon µs/token", "against SSE"), rows)


def _rows(
    server: Server, sides: dict[str, Callable[[], LoadResult]], count: int, repeats: int
) -> list[list[str]]:
    costs: dict[str, list[float]] = {name: [] for name in sides}
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for work in sides.values():
        work()
    for _ in range(repeats):
        for name, work in sides.items():
            result, cpu_s = timed(server, work)
            costs[name].append(1e6 * cpu_s / (count * TOKENS))
            speeds[name].append(count * TOKENS / result.seconds)
    first = costs["SSE"]
    return [
        [
            name,
            str(count),
            f"{statistics.median(speeds[name]):.0f}",
            f"{statistics.median(cost):.1f}",
            f"**{statistics.median(a / b for a, b in zip(cost, first, strict=True)):.2f}**",
        ]
        for name, cost in costs.items()
    ]


def measure_events(home: Path, *, repeats: int) -> None:
    """CPU of subscribers while eight streams run: what they add to the same without them."""
    rows = []
    with lmx_server(home, [MODEL.format(step_ms=50)]) as server:
        for count in (0, SUBSCRIBERS):
            shares = [_busy_share(server, count) for _ in range(repeats)]
            rows.append([str(count), f"{100 * statistics.median(shares):.2f} %"])
    print_table(("subscribers of /admin/events", "share of a core, eight streams running"), rows)


def _busy_share(server: Server, subscribers: int) -> float:
    running = threading.Thread(
        target=run_streams, args=(server.port, bodies(8)), kwargs={"timeout_s": 60}, daemon=True
    )
    with event_subscribers(server.port, subscribers):
        running.start()
        time.sleep(1)
        before_s, began_s = server.cpu_s(), time.monotonic()
        time.sleep(WATCH_S)
        share = (server.cpu_s() - before_s) / (time.monotonic() - began_s)
        running.join()
    return share


def measure_probes(home: Path) -> None:
    """How long liveness takes to answer while 64 streams run and a model loads."""
    with lmx_server(home, [MODEL.format(step_ms=10)]) as server:
        running = threading.Thread(target=run_streams, args=(server.port, bodies(64)), daemon=True)
        running.start()
        load = threading.Thread(
            target=post,
            args=(server.port, "/admin/models/load", {"model_id": "fake:late?load_ms=2000"}),
            daemon=True,
        )
        load.start()
        took_ms = []
        for _ in range(PROBES):
            began_s = time.perf_counter()
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz", timeout=5):
                took_ms.append(1000 * (time.perf_counter() - began_s))
            time.sleep(0.005)
        load.join()
        running.join()
    cells = [f"{percentile(took_ms, share):.1f}" for share in (0.5, 0.99)]
    print_table(("/healthz, 64 streams, a load", "p50 ms", "p99 ms"), [[str(PROBES), *cells]])


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print_head()
    measure_streams(options.home, repeats=options.repeats)
    print()
    measure_events(options.home, repeats=options.repeats)
    print()
    measure_probes(options.home)


if __name__ == "__main__":
    main()
