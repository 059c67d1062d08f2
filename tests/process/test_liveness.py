"""Liveness answers at once, whatever the models do."""

import json
import statistics
import threading
import time
from pathlib import Path

from scripts.bench.load import chat_body, run_streams
from tests.daemon_process import Daemon, spawn_daemon
from tests.http.wire import Connection
from tests.tiny_models import build_tiny_llama

STREAMS = 64
PROBES = 150
BUSY = "fake:busy?step_ms=20&tokens=300&max_sequences=64&context=8192"


def load(daemon: Daemon, model: Path, statuses: list[int]) -> None:
    """Load a model over HTTP and note how that went."""
    with Connection(daemon, timeout_s=30) as connection:
        body = json.dumps({"model_id": str(model)}).encode()
        statuses.append(connection.ask("POST", "/admin/models/load", body).status)


def test_liveness_answers_while_streams_run_and_a_model_loads(tmp_path: Path) -> None:
    """Sixty-four streams and a real engine's load beside them do not delay it."""
    model = build_tiny_llama(tmp_path / "tiny")
    bodies = [chat_body(f"{n}", model="busy", max_tokens=300) for n in range(STREAMS)]
    took_s: list[float] = []
    loads: list[int] = []
    with spawn_daemon(tmp_path / "home", BUSY) as daemon:
        daemon.wait_ready_blocking()
        work = [
            threading.Thread(target=run_streams, args=(daemon.port, bodies)),
            threading.Thread(target=load, args=(daemon, model, loads)),
        ]
        for thread in work:
            thread.start()
        for _ in range(PROBES):
            asked_s = time.monotonic()
            status, body = daemon.get_json("/healthz")
            took_s.append(time.monotonic() - asked_s)
            assert (200, "ok") == (status, body["status"])
            time.sleep(0.01)
        for thread in work:
            thread.join()
    assert [200] == loads
    # The aim is 50 ms for all but one in a hundred; a busy machine gets more.
    assert statistics.median(took_s) < 0.05
    assert sorted(took_s)[-2] < 0.5
