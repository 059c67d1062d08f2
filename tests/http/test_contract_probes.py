"""The client contract on a real daemon: probes, discovery and what every request may look like.

`tests/contract.py` lists the promises; here stand those that no other test checks.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from lmx import __version__
from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import CHAT_PATH, Connection, Reply, chat_body
from tests.shapes import Shape, assert_fits

JSON = {"content-type": "application/json"}
ID = "org/Chat-7B-4bit"
HEALTHY = {"status": "ok", "version": __version__, "uptime_seconds": float, "loaded_models": int}
# What a dashboard asks for all the time, and the Opta CLI's monitors.
POLLED = [
    "/healthz",
    "/readyz",
    "/v1/models",
    "/v1/discovery",
    "/.well-known/opta-lmx",
    "/v1/skills",
    "/admin/health",
    "/admin/status",
    "/admin/memory",
    "/admin/models",
    "/admin/models/available",
    "/admin/models/downloads",
    "/admin/models/downloads?include_inactive=true",
    "/admin/models/compatibility",
    "/admin/metrics/json",
    "/admin/diagnostics",
    "/admin/device",
    "/admin/helpers",
    "/admin/stack",
    "/admin/predictor",
    "/admin/presets",
    "/admin/sessions",
    "/admin/quantize",
]
POLL_LIMIT_S = 0.25
# What clients of several kinds send beside; none of it is known to a daemon without keys.
FOREIGN_HEADERS = [
    {"authorization": "Bearer opta-lmx"},
    {"authorization": "Bearer anything", "x-api-key": "else", "x-admin-key": "more"},
    {
        "x-client-id": "desk",
        "x-opta-bridge-id": "bridge",
        "x-openclaw-agent-id": "agent",
        "x-request-id": "theirs",
        "x-serving-lane": "interactive",
        "x-priority": "high",
    },
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon without keys, with one model whose id has a slash."""
    home = tmp_path_factory.mktemp("home")
    own = {"HOME": str(home / "user"), "HF_HOME": str(home / "hub")}
    model = f"fake:{ID}?tokens=4&weight_bytes=1500000000"
    with shared_daemon(home, model, settings=own) as shared:
        yield shared


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose only model never comes up."""
    home = tmp_path_factory.mktemp("waiting")
    with shared_daemon(home, f"fake:{ID}?load_ms=600000", is_ready=False) as shared:
        yield shared


def get(daemon: Daemon, path: str, **headers: str) -> Reply:
    """A GET as the Opta CLI sends it: with a content type and without content."""
    with Connection(daemon) as connection:
        return connection.ask("GET", path, headers=JSON | headers)


@pytest.mark.parametrize("path", ["/healthz", "/health"])
def test_liveness(daemon: Daemon, path: str) -> None:
    """One word, which the dashboard compares, and the numbers beside it."""
    reply = get(daemon, path)
    assert 200 == reply.status
    assert_fits(HEALTHY | {"loaded_models": 1}, reply.json())


def test_readiness(daemon: Daemon) -> None:
    """The keys of the CLI and of the help pages in one document."""
    reply = get(daemon, "/readyz")
    assert 200 == reply.status
    expected = {"status": "ready", "ready": True, "models_loaded": 1, "model": ID, "vram_gb": 1.5}
    assert_fits(expected | {"version": __version__}, reply.json())


def test_nothing_answers_yet(waiting: Daemon) -> None:
    """Alive at once, not ready, and no list shows a model that does not answer."""
    alive = get(waiting, "/healthz")
    assert 200 == alive.status
    assert_fits(HEALTHY | {"loaded_models": 0}, alive.json())
    unready = get(waiting, "/readyz")
    assert 503 == unready.status
    assert_fits(
        {
            "status": "unavailable",
            "ready": False,
            "reason": "loading",
            "error": "no-model-loaded",
            "models_loaded": 0,
        },
        unready.json(),
    )
    assert [ID] == unready.json()["loading"]
    assert {"object": "list", "data": []} == get(waiting, "/v1/models").json()
    assert [] == get(waiting, "/admin/models").json()["loaded"]
    assert [] == get(waiting, "/admin/status").json()["models"]


def test_models(daemon: Daemon) -> None:
    """OpenAI's list of what answers, and each of them by its id, slashes raw or encoded."""
    row = {"id": ID, "object": "model", "created": int, "owned_by": str, "context_length": int}
    document = get(daemon, "/v1/models").json()
    assert_fits({"object": "list", "data": [row]}, document)
    assert 1 == len(document["data"])
    for path_id in (ID, ID.replace("/", "%2F"), ID.replace("/", "%2f")):
        assert document["data"][0] == get(daemon, f"/v1/models/{path_id}").json()
    missing = get(daemon, "/v1/models/org%2Fother")
    assert (404, "not_found") == (missing.status, missing.json()["code"])


def test_the_front_door(daemon: Daemon) -> None:
    """Installers look for anything that answers."""
    assert_fits({"service": "opta-lmx", "version": __version__}, get(daemon, "/").json())


@pytest.mark.parametrize("path", POLLED)
def test_what_is_polled_is_quick_json(daemon: Daemon, path: str) -> None:
    """Whatever a dashboard asks for every few seconds costs next to nothing."""
    took_s = []
    with Connection(daemon) as connection:
        for _ in range(5):
            begun_s = time.monotonic()
            reply = connection.ask("GET", path, headers=JSON)
            took_s.append(time.monotonic() - begun_s)
            assert (200, "application/json") == (reply.status, reply.headers["content-type"])
            assert isinstance(reply.json(), dict | list)
    assert min(took_s) < POLL_LIMIT_S


@pytest.mark.parametrize("headers", FOREIGN_HEADERS)
def test_headers_that_mean_nothing_here(daemon: Daemon, headers: dict[str, str]) -> None:
    """Without keys everything is open, and what others route by is no fault."""
    body = chat_body(ID, user="someone")
    with Connection(daemon) as connection:
        assert 200 == connection.ask("POST", CHAT_PATH, body, headers=headers).status
        assert 200 == connection.ask("GET", "/admin/status", headers=headers).status
        assert 200 == connection.ask("GET", "/v1/models", headers=headers).status


EMPTY_POSTS: list[tuple[str, int, Shape]] = [
    ("/admin/config/reload", 200, {"success": True, "updated": [str]}),
    ("/admin/presets/reload", 200, {"success": True, "presets_loaded": int}),
    ("/admin/models/load", 400, {"code": "invalid-request"}),
    ("/admin/models/load/confirm", 400, {"code": "invalid-request"}),
    ("/admin/models/download", 400, {"code": "invalid-request"}),
    ("/admin/models/download/none/cancel", 404, {"code": "not_found"}),
    ("/admin/requests/none/cancel", 404, {"code": "not_found"}),
]


@pytest.mark.parametrize(("path", "status", "shape"), EMPTY_POSTS)
@pytest.mark.parametrize("body", [b"", None])
def test_posts_may_be_empty(
    daemon: Daemon, path: str, body: bytes | None, *, status: int, shape: Shape
) -> None:
    """A JSON content type without content: what needs none works, the rest says what is missing."""
    with Connection(daemon) as connection:
        headers = JSON if body is not None else {**JSON, "content-length": "0"}
        reply = connection.ask("POST", path, body, headers=headers)
    assert status == reply.status
    assert_fits(shape, reply.json())


ENVELOPE = {
    "code": str,
    "error": {"message": str, "type": str, "param": (str, None), "code": str},
}
MISTAKES: list[tuple[str, str, bytes | None]] = [
    ("GET", "/nowhere", None),
    ("GET", "/v1/nowhere/at/all", None),
    ("POST", "/healthz", b""),
    ("GET", "/admin/models/none%2Fnone/performance", None),
    ("DELETE", "/admin/models/none%2Fnone", b""),
    ("POST", CHAT_PATH, b"{"),
    ("POST", CHAT_PATH, b"[]"),
    ("POST", CHAT_PATH, b"{}"),
    ("POST", CHAT_PATH, chat_body("none/none")),
    ("POST", "/admin/models/load", b"no json"),
    ("POST", "/v1/embeddings", b"{}"),
    ("GET", "/admin/models/compatibility?limit=x", None),
]


@pytest.mark.parametrize(("method", "path", "body"), MISTAKES)
def test_mistakes_have_one_envelope(
    daemon: Daemon, method: str, path: str, body: bytes | None
) -> None:
    """Both codes and the words stand where each client looks for them."""
    with Connection(daemon) as connection:
        reply = connection.ask(method, path, body, headers=JSON)
    assert 400 <= reply.status < 500
    document: Any = reply.json()
    assert_fits(ENVELOPE, document)
    assert set(document) == {"code", "error"}
    assert document["error"]["message"]
