"""The `Host` header over the wire: our names pass, a rebound name meets a refusal it can read."""

import socket
from collections.abc import Iterator

import pytest

from lmx.schema.openapi import ROUTES
from lmx.schema.route import Route
from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import CHAT_PATH, Connection, chat_body

PROBES = {"/healthz", "/readyz", "/health"}
NAME = socket.gethostname()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that knows one more name, and one more domain."""
    settings = {"LMX_SECURITY__ALLOWED_HOSTS": "[lmx.example.org, .lan]"}
    with shared_daemon(tmp_path_factory.mktemp("home"), "fake:x", settings=settings) as shared:
        yield shared


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:1234",
        "127.0.0.1:1234",
        "[::1]:1234",
        "192.168.1.9:1234",
        NAME,
        f"{NAME.partition('.')[0]}.local:1234",
        "lmx.example.org",
        "a.lan:80",
    ],
)
def test_our_names(daemon: Daemon, host: str) -> None:
    """Loopback, addresses, the machine's names and what is configured."""
    with Connection(daemon) as connection:
        assert 200 == connection.ask("GET", "/v1/models", headers={"host": host}).status


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_foreign_names(daemon: Daemon, route: Route) -> None:
    """Every route but the probes refuses them, also open ones, and says what to do."""
    path, method = route.path.replace("{model}", "x"), route.method.upper()
    body = b"{}" if method == "POST" else None
    with Connection(daemon) as connection:
        reply = connection.ask(method, path, body, headers={"host": "evil.example:1234"})
    if path in PROBES:
        assert 200 == reply.status
        return
    assert (403, "host-not-allowed") == (reply.status, reply.json()["code"])
    assert "security.allowed_hosts" in reply.json()["error"]["message"]


def test_a_rebound_page_is_no_page_of_ours(daemon: Daemon) -> None:
    """For its browser it has our origin; its name gives it away."""
    fields = {"host": "evil.example:1234", "origin": "http://evil.example:1234"}
    with Connection(daemon) as connection:
        reply = connection.ask("POST", CHAT_PATH, chat_body("x"), headers=fields)
    assert "host-not-allowed" == reply.json()["code"]


def test_http_1_0_has_no_host(daemon: Daemon) -> None:
    """Such clients are no browsers."""
    with Connection(daemon) as connection:
        connection.send(b"GET /v1/models HTTP/1.0\r\n\r\n")
        assert 200 == connection.read_reply().status


def test_the_check_can_be_switched_off(tmp_path_factory: pytest.TempPathFactory) -> None:
    """By a star, for whoever has a proxy that knows better."""
    settings = {"LMX_SECURITY__ALLOWED_HOSTS": "['*']"}
    home = tmp_path_factory.mktemp("any")
    with (
        shared_daemon(home, "fake:x", settings=settings) as anyhow,
        Connection(anyhow) as connection,
    ):
        fields = {"host": "evil.example"}
        assert 200 == connection.ask("GET", "/v1/models", headers=fields).status
