"""The client contract on a real daemon: what the routes that manage models answer, and when twice.

`tests/contract.py` lists the promises; here stand those that no other test checks.
"""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lmx import __version__
from tests.daemon_process import Daemon
from tests.http.answers import post
from tests.http.shared import shared_daemon
from tests.http.wire import Connection, Reply, chat_request, encode_request, wait_until
from tests.model_folders import make_mlx
from tests.shapes import assert_fits

JSON = {"content-type": "application/json"}
X = "fake:org/x-7B?tokens=4&weight_bytes=1000000000"
# As the Opta CLI's type has it: what is not chosen is null.
LOAD_NULLS = dict.fromkeys(
    [
        "backend",
        "auto_download",
        "performance_overrides",
        "keep_alive_sec",
        "allow_unsupported_runtime",
        "max_context_length",
    ]
)
# Clients retry these with any method, and lose the code.
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
LIMIT_S = 15.0

STATISTICS = {
    "total_requests": int,
    "total_tokens_generated": int,
    "avg_tokens_per_second": float,
    "last_used_at": float,
}
READINESS = {"state": str, "reason": (str, None), "crash_count": int}
LOADED_ROW = {
    "id": str,
    "model_id": str,
    "loaded": True,
    "memory_gb": float,
    "memory_used_gb": float,
    "loaded_at": float,
    "last_used_at": float,
    "request_count": int,
    "context_length": (int, None),
    "use_batching": bool,
    "backend": str,
    "backend_type": str,
    "keep_alive_sec": float,
    "performance": dict,
    "performance_overrides": dict,
    "stats": STATISTICS,
    "readiness": READINESS,
    "speculative": dict,
}
INVENTORY_ROW = {
    "id": str,
    "path": str,
    "loaded": bool,
    "vram_gb": (float, None),
    "format": str,
}
MACHINE = dict.fromkeys(
    ["total_gb", "used_gb", "available_gb", "usage_percent", "used_percent", "threshold_percent"],
    float,
)


class House(NamedTuple):
    """A daemon and its home."""

    daemon: Daemon
    home: Path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A daemon with a model that answers, one that answers slowly, and a home of its own."""
    home = tmp_path_factory.mktemp("home")
    own = {"HOME": str(home / "user"), "HF_HOME": str(home / "hub")}
    own |= {"LMX_MEMORY__BUDGET_GB": "10"}
    with shared_daemon(home, X, settings=own) as daemon:
        yield House(daemon, home)


@pytest.fixture
def daemon(house: House) -> Daemon:
    """The same with one model loaded, whatever the test before did."""
    present = get(house.daemon, "/admin/models")
    for row in (*present["loading"], *present["loaded"]):
        if row["id"] != "org/x-7B":
            post(house.daemon, "/admin/models/unload", model_id=row["id"])
    assert 200 == post(house.daemon, "/admin/models/load", model_id=X).status
    return house.daemon


def get(daemon: Daemon, path: str) -> Any:
    """The document at a path."""
    with Connection(daemon) as connection:
        reply = connection.ask("GET", path, headers=JSON)
    assert (200, "application/json") == (reply.status, reply.headers["content-type"]), reply.body
    return reply.json()


def at_once(*asks: Callable[[], Reply]) -> list[Reply]:
    """Ask in threads of their own, and wait for all."""
    replies: list[Reply] = []
    threads = [threading.Thread(target=lambda ask=ask: replies.append(ask())) for ask in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    return replies


def test_the_status(daemon: Daemon) -> None:
    """Ids for the CLI, counts and percentages under both clients' names."""
    status = get(daemon, "/admin/status")
    assert_fits(
        {
            "version": __version__,
            "uptime_seconds": float,
            "loaded_models": 1,
            "models_loaded": 1,
            "models": [str],
            "memory": MACHINE,
            "in_flight_requests": int,
            "max_concurrent_requests": int,
        },
        status,
    )
    assert ["org/x-7B"] == status["models"]


def test_the_models(daemon: Daemon) -> None:
    """Rows of what answers with all that clients read, and the inventory beside them."""
    document = get(daemon, "/admin/models")
    shape = {"loaded": [LOADED_ROW], "count": 1, "models": [INVENTORY_ROW], "loading": list}
    assert_fits(shape, document)
    assert ["org/x-7B"] == [row["id"] for row in document["loaded"]]
    assert [("x-7B", "org/x-7B", True)] == [
        (row["id"], row["path"], row["loaded"]) for row in document["models"]
    ]


def test_what_is_available(house: House) -> None:
    """A bare array; only a model that is not complete has a status."""
    make_mlx(house.home / "models/org/whole")
    missing = {"weight_map": {"a": "model-00002.safetensors"}}
    part = make_mlx(house.home / "models/org/part")
    (part / "model.safetensors.index.json").write_text(json.dumps(missing))
    with Connection(house.daemon) as connection:  # looks at the disk anew
        assert 404 == connection.ask("DELETE", "/admin/models/nobody", b"").status
    row = {
        "repo_id": str,
        "local_path": str,
        "size_bytes": int,
        "downloaded_at": float,
        "backend": str,
        "format": str,
    }

    document = get(house.daemon, "/admin/models/available")
    assert_fits([row], document)
    listed = {row["repo_id"]: row for row in document}
    assert "status" not in listed["org/whole"]
    assert listed["org/part"]["status"] not in {"downloading", "download_required"}


def test_a_load_as_the_command_line_sends_it(daemon: Daemon) -> None:
    """Nulls for all that was not chosen; a library's name for the format; every answer's key."""
    fields = {**LOAD_NULLS, "model_id": "fake:org/y", "backend": "vllm-mlx"}
    reply = post(daemon, "/admin/models/load", **fields)
    assert 200 == reply.status
    assert_fits(
        {
            "success": True,
            "model_id": "org/y",
            "model": "org/y",
            "memory_after_load_gb": float,
            "time_to_load_ms": float,
            "load_time_ms": float,
            "vram_gb": float,
        },
        reply.json(),
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "fake:org/y"},
        {"model_id": "fake:org/y", "backend_hint": "gguf"},
        {"model_id": "fake:org/y", "keep_alive_sec": 0, "performance_overrides": {"kv_bits": 8}},
        {"model_id": "fake:org/y", "max_context_length": 1024, "allow_unsupported_runtime": True},
    ],
)
def test_every_way_to_ask_for_a_load(daemon: Daemon, fields: dict[str, Any]) -> None:
    """The help pages' key, the tutorials' key, and what the dashboard adds."""
    reply = post(daemon, "/admin/models/load", **fields)
    assert (200, "org/y") == (reply.status, reply.json()["model_id"])


def test_a_load_is_followed_as_the_command_line_does(daemon: Daemon) -> None:
    """The connection is dropped, a second client joins, and the list tells when it answers."""
    slow = {"model_id": "fake:org/slow?load_ms=700"}
    with Connection(daemon) as connection:
        body = json.dumps(slow).encode()
        connection.send(encode_request("POST", "/admin/models/load", body))
        assert wait_until(lambda: get(daemon, "/admin/models")["loading"] != [])
    assert "org/slow" not in [row["id"] for row in get(daemon, "/admin/models")["loaded"]]
    joined = post(daemon, "/admin/models/load", model_id="org/slow")
    assert (200, "org/slow") == (joined.status, joined.json()["model_id"])
    assert "org/slow" in [row["id"] for row in get(daemon, "/admin/models")["loaded"]]
    assert 1 == get(daemon, "/admin/models/compatibility?model_id=org%2Fslow")["total"]


def test_unloads_join(daemon: Daemon) -> None:
    """Whoever asks while a model leaves is told that it left; later it is not there."""
    spec = "fake:org/busy?tokens=40&step_ms=20&weight_bytes=2000000000"
    assert 200 == post(daemon, "/admin/models/load", model_id=spec).status
    with Connection(daemon) as connection:
        connection.send(chat_request("org/busy", stream=True))
        assert 200 == connection.read_head().status
        replies = at_once(*(lambda: post(daemon, "/admin/models/unload", model_id="org/busy"),) * 2)
        assert b"[DONE]" in b"".join(connection.iterate_chunks())
    freed = {"success": True, "model_id": "org/busy"}
    for reply in replies:
        assert 200 == reply.status
        assert_fits(freed | {"memory_freed_gb": 2.0, "freed_vram_gb": 2.0}, reply.json())
    late = post(daemon, "/admin/models/unload", model_id="org/busy")
    assert (404, "not_found") == (late.status, late.json()["code"])


def test_memory(daemon: Daemon) -> None:
    """Numbers under both clients' names, and each model's part as a table and as rows."""
    document = get(daemon, "/admin/memory")
    total = document["total_gb"]
    assert_fits(
        {
            "total_unified_memory_gb": total,
            "used_gb": float,
            "available_gb": float,
            "threshold_percent": 90.0,
            "used_percent": float,
            "models": {"org/x-7B": {"memory_gb": 1.0, "loaded": True}},
            "per_model": [{"model_id": "org/x-7B", "memory_gb": 1.0, "backend": str}],
        },
        document,
    )
    assert abs(total - document["used_gb"] - document["available_gb"]) < 0.01


def test_performance(daemon: Daemon) -> None:
    """Its time is a number, of which clients make a date without looking."""
    shape = {
        "model_id": "org/x-7B",
        "backend_type": str,
        "loaded_at": float,
        "request_count": int,
        "last_used_at": float,
        "memory_gb": float,
        "context_length": int,
        "use_batching": bool,
        "performance": dict,
        "global_defaults": dict,
        "speculative": dict,
        "readiness": READINESS,
    }
    assert_fits(shape, get(daemon, "/admin/models/org%2Fx-7B/performance"))


def test_a_probe_and_what_is_remembered(daemon: Daemon) -> None:
    """A recommendation with reasons, and rows that a client filters."""
    probed = post(daemon, "/admin/models/probe", model_id="org/x-7B", timeout_sec=5)
    candidate = {"backend": str, "outcome": "pass", "reason": (str, None)}
    assert 200 == probed.status
    assert_fits(
        {"model_id": "org/x-7B", "recommended_backend": (str, None), "candidates": [candidate]},
        probed.json(),
    )
    row = {
        "ts": float,
        "model_id": "org/x-7B",
        "backend": "fake",
        "backend_version": str,
        "outcome": "pass",
        "reason": (str, None),
        "metadata": dict,
    }
    query = "model_id=org%2Fx-7B&backend=fake&outcome=pass&since_ts=0&limit=1&include_summary=true"
    document = get(daemon, f"/admin/models/compatibility?{query}")
    assert_fits({"total": int, "rows": [row], "summary": dict}, document)
    assert 1 == len(document["rows"]) <= document["total"]


@pytest.mark.parametrize("path_id", ["org/gone", "org%2Fgone"])
def test_a_deletion(house: House, path_id: str) -> None:
    """With a JSON content type and nothing in it; what is loaded stays."""
    model = make_mlx(house.home / "models/org/gone")
    size = sum(path.stat().st_size for path in model.iterdir())
    with Connection(house.daemon) as connection:
        gone = connection.ask("DELETE", f"/admin/models/{path_id}", b"")
        again = connection.ask("DELETE", f"/admin/models/{path_id}", b"")
        busy = connection.ask("DELETE", "/admin/models/org%2Fx-7B", b"")
    assert 200 == gone.status
    assert_fits({"success": True, "model_id": "org/gone", "freed_bytes": size}, gone.json())
    assert (404, "not_found") == (again.status, again.json()["code"])
    assert (409, "conflict") == (busy.status, busy.json()["code"])


OUTCOMES: list[tuple[str, dict[str, Any]]] = [
    ("/admin/models/load", {"model_id": "org/nowhere"}),
    ("/admin/models/load", {"model_id": "fake:big?weight_bytes=11000000000"}),
    ("/admin/models/load", {"model_id": "fake:a?fail=exit"}),
    ("/admin/models/load", {"model_id": "fake:b?fail=raise"}),
    ("/admin/models/load", {"model_id": "fake:c?fail=abort"}),
    ("/admin/models/load", {"model_id": "fake:d?fail=oom"}),
    ("/admin/models/load", {"model_id": "org/x-7B", "backend": "torch"}),
    ("/admin/models/load/confirm", {"confirmation_token": "none"}),
    ("/admin/models/unload", {"model_id": "org/nowhere"}),
    ("/admin/models/probe", {"model_id": "org/nowhere"}),
    ("/admin/models/download", {"repo_id": "org/nowhere"}),
    ("/admin/quantize", {"source_model": "org/nowhere"}),
]


@pytest.mark.parametrize(("path", "fields"), OUTCOMES)
def test_no_outcome_is_taken_for_a_broken_line(
    daemon: Daemon, path: str, fields: dict[str, Any]
) -> None:
    """Clients repeat some statuses and forget what they said; an outcome has none of them."""
    reply = post(daemon, path, **fields)
    assert 400 <= reply.status
    assert reply.status not in RETRIED
    assert {"code", "error"} == set(reply.json())
