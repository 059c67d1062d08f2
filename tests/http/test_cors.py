"""Browsers: preflights without keys, answers that pages may read, pages that may not."""

from collections.abc import Iterator

import pytest

from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import CHAT_PATH, Connection, Reply, chat_body

DASHBOARD, EVIL = "https://lmx.optalocal.com", "https://evil.example"
LOCAL = "http://localhost:3000"
KEY = {"authorization": "Bearer k"}
PREFLIGHT = {"access-control-request-method": "POST"}
HEADERS = {
    "content-type",
    "authorization",
    "x-admin-key",
    "x-api-key",
    "x-client-id",
    "x-opta-bridge-id",
    "idempotency-key",
    "mcp-session-id",
    "mcp-protocol-version",
    "mcp-method",
    "mcp-name",
    "x-priority",
    "x-serving-lane",
    "last-event-id",
}
# One of each kind: raw, streamed, Quart's, and what each of them refuses.
ANSWERS = [
    ("GET", "/healthz", None, 200),
    ("GET", "/v1/models", None, 200),
    ("GET", "/v1/models/nothing", None, 404),
    ("GET", "/nowhere", None, 404),
    ("GET", "/tokenize", None, 405),
    ("POST", CHAT_PATH, chat_body("x"), 200),
    ("POST", CHAT_PATH, chat_body("x", stream=True), 200),
    ("POST", CHAT_PATH, b"{", 400),
    ("POST", "/admin/models/load", b"{", 400),
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with one key for everything."""
    settings = {"LMX_SECURITY__ADMIN_KEY": "k", "LMX_SECURITY__INFERENCE_API_KEY": "k"}
    home = tmp_path_factory.mktemp("home")
    with shared_daemon(home, "fake:x?tokens=3", settings=settings) as shared:
        yield shared


def ask(
    daemon: Daemon, method: str, path: str, body: bytes | None = None, **headers: dict[str, str]
) -> Reply:
    """One request with these headers."""
    fields = {name: value for given in headers.values() for name, value in given.items()}
    with Connection(daemon) as connection:
        return connection.ask(method, path, body, headers=fields)


@pytest.mark.parametrize("path", [CHAT_PATH, "/admin/models/x", "/healthz", "/nowhere"])
@pytest.mark.parametrize("origin", [LOCAL, DASHBOARD, "http://127.0.0.1:5173", "app://lmx"])
def test_preflights(daemon: Daemon, path: str, origin: str) -> None:
    """Answered without a key and without a body, on one connection with what follows."""
    with Connection(daemon) as connection:
        connection.send(
            f"OPTIONS {path} HTTP/1.1\r\nhost: lmx\r\norigin: {origin}\r\n"
            "access-control-request-method: DELETE\r\n"
            "access-control-request-headers: content-type, x-admin-key\r\n\r\n".encode()
        )
        head = connection.read_head()
        assert 204 == head.status
        granted = head.headers
        assert not {"content-length", "transfer-encoding", "content-type"} & set(granted)
        assert origin == granted["access-control-allow-origin"]
        methods = granted["access-control-allow-methods"].split(", ")
        assert ["GET", "POST", "DELETE", "OPTIONS"] == methods
        named = granted["access-control-allow-headers"].lower().split(", ")
        assert HEADERS == set(named)
        assert ("600", "Origin") == (granted["access-control-max-age"], granted["vary"])
        assert "access-control-allow-private-network" not in granted
        assert 200 == connection.ask("GET", "/healthz").status


def test_private_networks(daemon: Daemon) -> None:
    """A public page that may use us is told that a private address may be asked."""
    private = {"access-control-request-private-network": "true"}
    for origin, expected in [(DASHBOARD, "true"), (EVIL, None)]:
        with Connection(daemon) as connection:
            fields = {"origin": origin, **PREFLIGHT, **private}
            lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            connection.send(f"OPTIONS /v1/models HTTP/1.1\r\nhost: lmx\r\n{lines}\r\n".encode())
            headers = connection.read_head().headers
            assert expected == headers.get("access-control-allow-private-network")


@pytest.mark.parametrize("origin", [EVIL, "null"])
def test_preflights_of_foreign_pages_grant_nothing(daemon: Daemon, origin: str) -> None:
    """Their browsers stop there."""
    with Connection(daemon) as connection:
        lines = f"host: lmx\r\norigin: {origin}\r\naccess-control-request-method: POST\r\n\r\n"
        connection.send(f"OPTIONS {CHAT_PATH} HTTP/1.1\r\n{lines}".encode())
        head = connection.read_head()
    assert 204 == head.status
    assert [] == [name for name in head.headers if name.startswith("access-control")]
    assert "Origin" == head.headers["vary"]


@pytest.mark.parametrize(("method", "path", "body", "status"), ANSWERS)
def test_answers_may_be_read(
    daemon: Daemon, method: str, path: str, *, body: bytes | None, status: int
) -> None:
    """Whatever the answer is and whoever makes it, errors included."""
    reply = ask(daemon, method, path, body, key=KEY, origin={"origin": LOCAL})
    assert status == reply.status
    assert (LOCAL, "Origin", "x-request-id, retry-after, x-lmx-cache, mcp-session-id") == (
        reply.headers["access-control-allow-origin"],
        reply.headers["vary"],
        reply.headers["access-control-expose-headers"],
    )
    assert reply.headers["x-request-id"]


def test_refusals_may_be_read(daemon: Daemon) -> None:
    """A page that may use us sees why its key is refused."""
    reply = ask(daemon, "GET", "/admin/status", origin={"origin": DASHBOARD})
    assert (403, "unauthorized") == (reply.status, reply.json()["code"])
    assert DASHBOARD == reply.headers["access-control-allow-origin"]


def test_without_an_origin_nothing_is_added(daemon: Daemon) -> None:
    """Programs are no pages."""
    headers = ask(daemon, "GET", "/healthz").headers
    assert not {"vary", "access-control-allow-origin"} & set(headers)


@pytest.mark.parametrize(("method", "path", "body", "status"), ANSWERS)
def test_foreign_pages(
    daemon: Daemon, method: str, path: str, *, body: bytes | None, status: int
) -> None:
    """They may not read what they get, and may do nothing, whatever key they have."""
    reply = ask(daemon, method, path, body, key=KEY, origin={"origin": EVIL})
    assert [] == [name for name in reply.headers if name.startswith("access-control")]
    if method == "GET":
        assert status == reply.status
        return
    assert (403, "origin-not-allowed") == (reply.status, reply.json()["code"])
    assert "security.cors_allowed_origins" in reply.json()["error"]["message"]


def test_our_own_pages(daemon: Daemon) -> None:
    """A page that we served may use us under the name by which it came."""
    for origin, status in [("http://lmx", 200), ("http://lmx:81", 403)]:
        reply = ask(daemon, "POST", CHAT_PATH, chat_body("x"), key=KEY, at={"origin": origin})
        assert status == reply.status


def test_origins_are_configured(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The list replaces the default one."""
    settings = {"LMX_SECURITY__CORS_ALLOWED_ORIGINS": f"['{EVIL}']"}
    with shared_daemon(tmp_path_factory.mktemp("own"), "fake:x", settings=settings) as own:
        for origin, status in [(EVIL, 200), (LOCAL, 403)]:
            reply = ask(own, "POST", CHAT_PATH, chat_body("x"), at={"origin": origin})
            assert status == reply.status
