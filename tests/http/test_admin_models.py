"""The admin routes over HTTP: loads and unloads as clients drive them, with exact codes."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_process import Daemon, spawn_daemon
from tests.http.answers import chat, post
from tests.http.shared import shared_daemon
from tests.http.wire import Connection, Reply

SETTINGS = {"LMX_MEMORY__BUDGET_GB": "10", "LMX_WORKER__RESTART_DELAY_S": "60"}
WAIT_S = 10.0
X = "fake:x?tokens=4"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a home of its own, in which models are looked for."""
    home = tmp_path_factory.mktemp("home")
    own = {"HOME": str(home / "user"), "HF_HOME": str(home / "hub"), **SETTINGS}
    with shared_daemon(home, X, settings=own) as spawned:
        yield spawned


@pytest.fixture
def daemon(shared: Daemon) -> Daemon:
    """The same with one model loaded, whatever the test before did."""
    present = get(shared, "/admin/models")
    for row in (*present["loading"], *present["loaded"]):
        if row["id"] != "x":
            assert 200 == unload(shared, model_id=row["id"]).status
    assert 200 == load(shared, X).status
    return shared


def get(daemon: Daemon, path: str) -> Any:
    """The document at a path."""
    with Connection(daemon) as connection:
        reply = connection.ask("GET", path)
    assert (200, "application/json") == (reply.status, reply.headers["content-type"]), reply.body
    return reply.json()


def load(daemon: Daemon, model_id: str, **fields: Any) -> Reply:
    """Load a model and wait for the answer."""
    return post(daemon, "/admin/models/load", model_id=model_id, **fields)


def unload(daemon: Daemon, **fields: Any) -> Reply:
    """Unload a model and wait for the answer."""
    return post(daemon, "/admin/models/unload", **fields)


def codes(reply: Reply) -> tuple[int, str, str]:
    """The status and both codes of a refusal."""
    document = reply.json()
    return reply.status, document["code"], document["error"]["code"]


def loaded(daemon: Daemon) -> list[str]:
    """Ids of the models that answer."""
    return [row["id"] for row in get(daemon, "/admin/models")["loaded"]]


def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait for something that the daemon does by itself."""
    deadline_s = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def in_background(ask: Callable[[], Reply], replies: list[Reply]) -> threading.Thread:
    """Ask in a thread of its own."""
    thread = threading.Thread(target=lambda: replies.append(ask()))
    thread.start()
    return thread


def start_load(daemon: Daemon, spec: str, replies: list[Reply]) -> threading.Thread:
    """A load that is under way, as the status shows."""
    thread = in_background(lambda: load(daemon, spec), replies)
    name = spec.removeprefix("fake:").partition("?")[0]
    wait_until(
        lambda: (
            [("loading", name)]
            == [(r["state"], r["id"]) for r in get(daemon, "/admin/status")["loading"]]
        )
    )
    return thread


def test_a_model_comes_and_goes(daemon: Daemon) -> None:
    """Loaded, listed, used, unloaded, gone; with every client's keys."""
    reply = load(daemon, "fake:y?weight_bytes=2000000000", keep_alive_sec=60, backend="mlx-lm")
    document = reply.json()
    assert (200, True, "y", "y", 2.0) == (
        reply.status,
        document["success"],
        document["model_id"],
        document["model"],
        document["vram_gb"],
    )
    assert document["time_to_load_ms"] == document["load_time_ms"] > 0
    assert document["memory_after_load_gb"] >= 0
    rows = {row["id"]: row for row in get(daemon, "/admin/models")["loaded"]}
    assert (60, 2.0) == (rows["y"]["keep_alive_sec"], rows["y"]["memory_gb"])
    assert 200 == chat(daemon, "y").status
    gone = unload(daemon, model_id="y")
    assert {
        "success": True,
        "model_id": "y",
        "memory_freed_gb": 2.0,
        "freed_vram_gb": 2.0,
    } == gone.json()
    assert ["x"] == loaded(daemon)
    assert (404, "not_found", "model-not-found") == codes(unload(daemon, model_id="y"))


def test_a_loaded_model_is_loaded_at_once(daemon: Daemon) -> None:
    """A second load gives the numbers of the first."""
    first = load(daemon, "fake:y?load_ms=300").json()
    started_s = time.monotonic()
    second = load(daemon, "y").json()
    assert time.monotonic() - started_s < 0.3
    assert first["time_to_load_ms"] == second["time_to_load_ms"] >= 300


def test_a_load_survives_its_client(daemon: Daemon) -> None:
    """The client drops the connection and finds the model in the list later."""
    body = json.dumps({"model_id": "fake:y?load_ms=500"}).encode()
    with Connection(daemon) as connection:
        fields = f"host: lmx\r\ncontent-length: {len(body)}\r\n\r\n"
        head = f"POST /admin/models/load HTTP/1.1\r\n{fields}"
        connection.send(head.encode() + body)
        wait_until(lambda: get(daemon, "/admin/status")["loading"] != [])
    wait_until(lambda: loaded(daemon) == ["x", "y"])


def test_a_second_load_joins_the_first(daemon: Daemon) -> None:
    """Both are answered alike, and one worker came up."""
    replies: list[Reply] = []
    thread = start_load(daemon, "fake:joined?load_ms=500", replies)
    replies.append(load(daemon, "joined"))
    thread.join()
    assert [200, 200] == [reply.status for reply in replies]
    rows = get(daemon, "/admin/models/compatibility?model_id=joined")
    assert 1 == rows["total"]


def test_a_load_is_cancelled_by_an_unload(daemon: Daemon) -> None:
    """Long before it would have been done, and whoever waits for it is told."""
    replies: list[Reply] = []
    thread = start_load(daemon, "fake:y?load_ms=60000", replies)
    (row,) = get(daemon, "/admin/models")["loading"]
    assert ("y", 0) == (row["id"], row["waiting"])
    assert abs(time.time() - row["since"]) < WAIT_S
    assert 200 == unload(daemon, model_id="y").status
    thread.join(WAIT_S)
    assert [(409, "conflict", "load_cancelled")] == [codes(reply) for reply in replies]
    assert [] == get(daemon, "/admin/status")["loading"]


def test_requests_that_wait_are_counted(daemon: Daemon) -> None:
    """A chat waits for its model, and is answered once it is there."""
    replies: list[Reply] = []
    loading = start_load(daemon, "fake:y?load_ms=1000&tokens=2", replies)
    waiting = in_background(lambda: chat(daemon, "y"), replies)
    wait_until(lambda: get(daemon, "/admin/status")["waiting_requests"] == 1)
    loading.join()
    waiting.join()
    assert [200, 200] == [reply.status for reply in replies]
    assert 0 == get(daemon, "/admin/status")["waiting_requests"]


@pytest.mark.parametrize("body", [None, b"", b"{}", b'{"model_id": null}'])
def test_no_name_unloads_the_current_model(daemon: Daemon, body: bytes | None) -> None:
    """The one that was used last."""
    assert 200 == load(daemon, "fake:y").status
    assert 200 == chat(daemon, "x").status
    with Connection(daemon) as connection:
        reply = connection.ask("POST", "/admin/models/unload", body)
    assert (200, "x") == (reply.status, reply.json()["model_id"])
    assert ["y"] == loaded(daemon)


def test_nothing_is_loaded_after_the_last_unload(daemon: Daemon) -> None:
    """A request that names no model does not bring it back."""
    assert 200 == unload(daemon, model="x").status
    refusal = chat(daemon, "auto")
    assert (503, "no-model-loaded", "no-model-loaded") == codes(refusal)
    assert "No model loaded" in refusal.json()["error"]["message"]
    assert 404 == unload(daemon).status
    assert 200 == load(daemon, "x").status


REFUSED: list[tuple[dict[str, Any], tuple[int, str, str], str | None]] = [
    ({"model_id": "org/nowhere"}, (404, "not_found", "model-not-found"), "model_id"),
    (
        {"model": "nowhere", "auto_download": True},
        (404, "not_found", "model-not-found"),
        "model_id",
    ),
    ({"model_id": "x", "backend": "torch"}, (422,) + ("model_unsupported",) * 2, "backend"),
    ({"model_id": "fake:y?nonsense=1"}, (422,) + ("model_unsupported",) * 2, None),
    ({"model_id": "fake:y?fail=exit"}, (409, "model_unstable", "loader_crashed"), None),
    ({"model_id": "fake:y?fail=oom"}, (507, "out_of_memory", "insufficient_memory"), None),
    ({"model_id": 1}, (400,) + ("invalid-request",) * 2, "model_id"),
    ({}, (400,) + ("invalid-request",) * 2, "model_id"),
]


@pytest.mark.parametrize(("fields", "expected", "param"), REFUSED)
def test_what_cannot_be_loaded_says_why(
    daemon: Daemon, fields: dict[str, Any], expected: tuple[int, str, str], param: str | None
) -> None:
    """With codes that clients branch on, and never a status that they would repeat."""
    reply = post(daemon, "/admin/models/load", **fields)
    assert (expected, param) == (codes(reply), reply.json()["error"]["param"])
    assert ["x"] == loaded(daemon)


def test_what_does_not_fit_says_the_numbers(daemon: Daemon) -> None:
    """So that a person sees what would have to go."""
    reply = load(daemon, "fake:y?weight_bytes=11000000000")
    assert (507, "out_of_memory", "insufficient_memory") == codes(reply)
    message = reply.json()["error"]["message"]
    assert "needs 11.0 GB" in message
    assert "budget " in message


def test_a_body_over_the_limit_is_refused(tmp_path: Path) -> None:
    """In the envelope, as everywhere."""
    settings = {"LMX_SERVER__MAX_BODY_BYTES": "1000"}
    with spawn_daemon(tmp_path, "fake:x", settings=settings) as spawned:
        reply = load(spawned, "y" * 1000)
    assert (413, "body-too-large", "body-too-large") == codes(reply)


@pytest.mark.parametrize("path_id", ["org/name", "org%2Fname", "name"])
def test_ids_have_slashes(daemon: Daemon, path_id: str) -> None:
    """Raw, encoded, and left out where what follows the last one says it all."""
    assert 200 == load(daemon, "fake:org/name", performance_overrides={"a": [1]}).status
    document = get(daemon, f"/admin/models/{path_id}/performance")
    assert ("org/name", {"a": [1]}) == (document["model_id"], document["performance"])


def test_performance_is_of_loaded_models(daemon: Daemon) -> None:
    """Clients turn its times into dates without looking."""
    with Connection(daemon) as connection:
        reply = connection.ask("GET", "/admin/models/nobody/performance")
    assert (404, "not_found", "model-not-found") == codes(reply)


def test_a_probe_leaves_everything_as_it_is(daemon: Daemon) -> None:
    """What is loaded passes at once; the rest is tried in a worker that is gone afterwards."""
    known = post(daemon, "/admin/models/probe", model_id="x").json()
    fresh = post(daemon, "/admin/models/probe", model_id="fake:y?load_ms=50").json()
    broken = post(daemon, "/admin/models/probe", model_id="fake:z?fail=abort").json()
    slow = post(daemon, "/admin/models/probe", model_id="fake:s?load_ms=9000", timeout_sec=1).json()
    big = post(daemon, "/admin/models/probe", model_id="fake:b?weight_bytes=11000000000").json()
    assert ["pass", "pass", "fail", "unknown", "unknown"] == [
        reply["candidates"][0]["outcome"] for reply in (known, fresh, broken, slow, big)
    ]
    assert ("fake", None) == (fresh["recommended_backend"], broken["recommended_backend"])
    assert "needs 11.0 GB" in big["candidates"][0]["reason"]
    assert ["x"] == loaded(daemon)
    assert {"x"} == set(get(daemon, "/admin/memory")["models"])
    assert 0 == get(daemon, "/admin/memory")["budget"]["reserved_gb"]
    assert 404 == post(daemon, "/admin/models/probe", model_id="nobody").status


def test_compatibility_remembers(daemon: Daemon) -> None:
    """Loads, failures and probes, filtered and counted."""
    load(daemon, "fake:odd?fail=exit")
    post(daemon, "/admin/models/probe", model_id="fake:odd")
    document = get(daemon, "/admin/models/compatibility?model_id=odd&include_summary=true")
    assert ["pass", "fail"] == [row["outcome"] for row in document["rows"]]
    assert {"pass": 1, "fail": 1} == document["summary"]["outcomes"]
    failed = get(daemon, "/admin/models/compatibility?outcome=fail&backend=fake&limit=1")
    assert (["odd"], None) == ([row["model_id"] for row in failed["rows"]], failed["summary"])
    with Connection(daemon) as connection:
        reply = connection.ask("GET", "/admin/models/compatibility?limit=many")
    assert (400, "limit") == (reply.status, reply.json()["error"]["param"])


def test_status_and_memory_have_every_clients_keys(daemon: Daemon) -> None:
    """The command line maps over `models`, the dashboard reads its own names."""
    status = get(daemon, "/admin/status")
    assert (["x"], 1, 1) == (status["models"], status["loaded_models"], status["models_loaded"])
    memory = get(daemon, "/admin/memory")
    assert status["memory"].keys() <= memory.keys()
    assert 0 <= memory["used_percent"] == memory["usage_percent"] <= 100
    assert [{"model_id": "x", "memory_gb": 0.0, "backend": "fake"}] == memory["per_model"]
