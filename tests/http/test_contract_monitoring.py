"""The client contract on a real daemon: what a dashboard watches, and what memory does to models.

`tests/contract.py` lists the promises; here stand those that no other test checks. Memory becomes
scarce because the settings say so: a reload lowers the levels below what the machine uses anyway.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lmx import __version__
from tests.daemon_process import Daemon
from tests.http.answers import chat, post
from tests.http.event_client import EventClient, Told
from tests.http.shared import shared_daemon
from tests.http.wire import Connection, wait_until
from tests.scrapes import Scraped
from tests.shapes import Shape, assert_fits

# Of earlier servers' alerts; people have them.
ALERT_METRICS = """
    lmx_requests lmx_errors lmx_request_duration_seconds lmx_loaded_models lmx_memory_used_gb
    lmx_memory_total_gb lmx_in_flight_requests lmx_concurrent_limit lmx_queued_requests
    lmx_request_latency_p95_seconds lmx_model_error_rate lmx_model_queue_wait_seconds
    lmx_model_load_duration_seconds lmx_model_tokens_per_second lmx_model_readiness_state
"""
FLAT_NUMBERS = """
    total_requests total_tokens_generated total_prompt_tokens avg_tokens_per_second
    avg_time_to_first_token_ms avg_total_time_ms p50_tokens_per_second p95_tokens_per_second
    p99_tokens_per_second error_count error_rate requests_per_minute
    totalRequests totalTokens avgLatencyMs errorRate
"""
NESTED = {
    "requests": dict,
    "tokens": dict,
    "per_model": dict,
    "per_client": dict,
    "uptime_seconds": float,
    "schema_version": str,
}
LIMIT_S = 10.0
ENOUGH = "memory: {period_s: 0.05}\n"
SCARCE = "memory: {period_s: 0.05, warning_percent: 0.001, critical_percent: 0.002}\n"


class House(NamedTuple):
    """A daemon and its home."""

    daemon: Daemon
    home: Path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One model, and signs of life more often than in service."""
    home = tmp_path_factory.mktemp("home")
    (home / "config.yaml").write_text(ENOUGH)
    settings = {"LMX_SERVER__EVENTS_HEARTBEAT_S": "0.2"}
    with shared_daemon(home, "fake:x?tokens=4&weight_bytes=1000000000", settings=settings) as one:
        yield House(one, home)


def get(daemon: Daemon, path: str) -> Any:
    """The document at a path."""
    with Connection(daemon) as connection:
        reply = connection.ask("GET", path)
    assert (200, "application/json") == (reply.status, reply.headers["content-type"]), reply.body
    return reply.json()


def test_the_health(house: House) -> None:
    """What the dashboard shows at its top."""
    gigabytes = dict.fromkeys(["active_memory_gb", "peak_memory_gb", "cache_memory_gb"], float)
    assert_fits(
        {
            "status": "ok",
            "version": __version__,
            "reason": None,
            "memory_usage_percent": float,
            "metal": (gigabytes, None),
            "helpers": dict,
            "models_loaded": 1,
            "in_flight_requests": int,
        },
        get(house.daemon, "/admin/health"),
    )


def test_the_device(house: House) -> None:
    """Nested for the CLI, flat for the dashboard."""
    hardware = {
        "hostname": str,
        "chip_name": str,
        "memory_gb": float,
        "cpu_cores": int,
        "metal_available": bool,
        "architecture": str,
        "gpu_family": (str, None),
    }
    identity = dict.fromkeys(["name", "purpose", "role"], str)
    flat = {**identity, "chip": str, "memory_gb": float, "hostname": str, "os_version": str}
    document = get(house.daemon, "/admin/device")
    assert_fits({"hardware": hardware, "identity": identity, **flat}, document)


def test_the_numbers(house: House) -> None:
    """Flat for pages that look at the top level only, nested for those that look below."""
    assert 200 == chat(house.daemon, "x").status
    document = get(house.daemon, "/admin/metrics/json")
    assert_fits(dict.fromkeys(FLAT_NUMBERS.split(), float) | NESTED, document)
    assert 0 <= document["error_rate"] <= 1
    assert document["total_tokens_generated"] > 0


def test_the_names_of_alerts(house: House) -> None:
    """Every metric that alerts were written for is there, with a value."""
    assert 200 == chat(house.daemon, "x").status
    with Connection(house.daemon) as connection:
        scraped = Scraped(connection.ask("GET", "/admin/metrics").body.decode())
    assert set() == set(ALERT_METRICS.split()) - set(scraped.kinds)
    assert 0 < scraped.value("lmx_request_latency_p95_seconds") < LIMIT_S


def test_the_diagnosis(house: House) -> None:
    """The page's own names, errors included."""
    assert 404 == chat(house.daemon, "nowhere").status
    memory = ["used_percent", "used_gb", "total_gb", "threshold_percent"]
    metrics = ["total_requests", "avg_tokens_per_second", "error_rate"]
    model = {"model_id": "x", "backend": str, "memory_gb": 1.0, "loaded_at": float, "requests": int}
    error = {"timestamp": float, "category": str, "message": str}
    assert_fits(
        {
            "verdict": "healthy",
            "reason": (str, None),
            "uptime_seconds": float,
            "memory": dict.fromkeys(memory, float),
            "models": [model],
            "metrics": dict.fromkeys(metrics, float),
            "agents": None,
            "recent_errors": [error],
        },
        get(house.daemon, "/admin/diagnostics"),
    )


# What each event holds beside its type.
EVENTS: dict[str, dict[str, Shape]] = {
    "model_loaded": {"model_id": "y", "format": str, "memory_gb": 2.0, "duration_sec": float},
    "model_unloaded": {"model_id": "y", "memory_freed_gb": 2.0, "reason": "manual"},
    "request_completed": {
        "request_id": str,
        "model_id": "y",
        "prompt_tokens": int,
        "completion_tokens": int,
        "tokens_per_second": float,
        "duration_ms": float,
        "ok": True,
    },
    "config_reloaded": {
        "updated": [str],
        "routing_aliases": dict,
        "memory_threshold": float,
        "log_level": str,
    },
    "heartbeat": {"uptime": float, "timestamp": float},
    "throughput": {"tokens_per_second": float, "active_requests": int, "model": (str, None)},
    "memory": {"vram_used_gb": float, "vram_total_gb": float, "pct": float},
    "model_event": {
        "action": ("loaded", "unloaded"),
        "model": "y",
        "vram_gb": 2.0,
        "load_time_ms": float,
    },
}
NAMED = {"model_loaded", "model_unloaded", "request_completed", "config_reloaded"}
UNNAMED = {"throughput", "memory", "model_event"}


def test_events(house: House) -> None:
    """Each has the name under which its readers listen, its type inside, and their fields."""
    daemon = house.daemon
    with Connection(daemon) as connection:
        client = EventClient(connection)
        spec = "fake:y?tokens=30&step_ms=50&weight_bytes=2000000000"
        assert 200 == post(daemon, "/admin/models/load", model_id=spec).status
        assert 200 == chat(daemon, "y").status
        assert 200 == post(daemon, "/admin/models/unload", model_id="y").status
        (house.home / "config.yaml").write_text(ENOUGH + "routing: {aliases: {code: x}}\n")
        assert 200 == post(daemon, "/admin/config/reload").status
        told = client.until_type("config_reloaded")
    by_type: dict[str, list[Told]] = {}
    for one in told:
        by_type.setdefault(one.data["type"], []).append(one)
    assert set() == set(EVENTS) - set(by_type)
    for event_type, shape in EVENTS.items():
        for one in by_type[event_type]:
            assert_fits({"type": event_type, "ts": float, **shape}, one.data)
    names = {kind: {one.name for one in by_type[kind]} for kind in EVENTS}
    assert {kind: {kind} for kind in NAMED} == {kind: names[kind] for kind in NAMED}
    assert {kind: {""} for kind in UNNAMED} == {kind: names[kind] for kind in UNNAMED}
    assert {"heartbeat", ""} == names["heartbeat"]
    actions = [one.data["action"] for one in by_type["model_event"]]
    assert ["loaded", "unloaded"] == actions


MEMORY_EVENT = {"vram_used_gb": float, "vram_total_gb": float, "pct": float, "message": str}


def test_memory_runs_out_and_comes_back(tmp_path: Path) -> None:
    """A warning, the model leaves, the words that clients know; then it loads again."""
    (tmp_path / "config.yaml").write_text(ENOUGH)
    model = "fake:x?tokens=4&weight_bytes=1000000000"
    with shared_daemon(tmp_path, model) as daemon, Connection(daemon) as connection:
        client = EventClient(connection)
        (tmp_path / "config.yaml").write_text(SCARCE)
        assert 200 == post(daemon, "/admin/config/reload").status
        told = client.until_type("model_unloaded")
        told += [*client.until_type("memory_critical"), client.next()]
        for kind, extra in (
            ("memory_warning", {}),
            ("memory_critical", {"action": "model_unloaded"}),
        ):
            frames = [one for one in told if one.data["type"] == kind]
            assert [kind, ""] == [one.name for one in frames[:2]]
            for one in frames:
                assert_fits({"type": kind, **MEMORY_EVENT, **extra}, one.data)
        left = next(one.data for one in told if one.data["type"] == "model_unloaded")
        assert ("x", "lru") == (left["model_id"], left["reason"])
        _check_exhausted(daemon)
        _check_lines(daemon)
        (tmp_path / "config.yaml").write_text(ENOUGH)
        assert 200 == post(daemon, "/admin/config/reload").status
        assert wait_until(lambda: post(daemon, "/admin/models/load", model_id="x").status == 200)
        assert 200 == chat(daemon, "x").status
        assert 200 == daemon.get_json("/readyz")[0]


def _check_exhausted(daemon: Daemon) -> None:
    refusal = chat(daemon, "x")
    assert (503, "oom-unloaded", "oom-unloaded", "false") == (
        refusal.status,
        refusal.json()["code"],
        refusal.json()["error"]["code"],
        refusal.headers["x-should-retry"],
    )
    assert "No model loaded" in refusal.json()["error"]["message"]
    assert (200, "ok") == (
        daemon.get_json("/healthz")[0],
        daemon.get_json("/healthz")[1]["status"],
    )
    status, unready = daemon.get_json("/readyz")
    assert (503, "memory_critical", "oom-unloaded") == (status, unready["reason"], unready["error"])
    assert "degraded" == get(daemon, "/admin/health")["status"]
    assert "critical" == get(daemon, "/admin/diagnostics")["verdict"]


# What the help pages tell users to look for.
LINES = [
    r"Model loaded: x \(1\.0 GB, \d+\.\d s\)",
    r"Memory usage at \d+\.\d% \(\d+\.\d/\d+\.\d GB\)",
    r"Memory critical at \d+\.\d% — unloading model",
    r"Model unloaded, freed 1\.0 GB",
]


def _check_lines(daemon: Daemon) -> None:
    events = [line["event"] for line in daemon.log_lines() if "event" in line]
    for pattern in LINES:
        assert [one for one in events if re.fullmatch(pattern, one)], (pattern, events)


def test_what_the_log_says_of_a_request(house: House) -> None:
    """The start has the address; each answer has model, tokens and speed."""
    reply = chat(house.daemon, "x")
    (listening,) = house.daemon.events("listening")
    assert [house.daemon.url] == listening["urls"]
    request_id = reply.headers["x-request-id"]

    def lines() -> list[dict[str, Any]]:
        ended = house.daemon.events("request ended")
        return [line for line in ended if line["request_id"] == request_id]

    assert wait_until(lambda: lines() != [])
    usage = reply.json()["usage"]
    assert_fits(
        {
            "model": "x",
            "prompt_tokens": usage["prompt_tokens"],
            "completion_tokens": usage["completion_tokens"],
            "tokens_per_second": float,
        },
        lines()[0],
    )


def test_state_is_kept_in_the_home(house: House) -> None:
    """Where users look for it: settings, lock, what was loaded, and how loads went."""
    files = ["config.yaml", "lmx.lock", "state/loaded.json", "state/compatibility.jsonl"]
    assert wait_until(lambda: all((house.home / name).is_file() for name in files))
    rows = (house.home / "state/compatibility.jsonl").read_text().splitlines()
    assert "x" in {json.loads(row)["model_id"] for row in rows}
