"""`POST /admin/config/reload`: what the operator writes takes effect; mistakes take none."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import CHAT_PATH, Connection, Reply, chat_body

RELOAD = "/admin/config/reload"
START = "security:\n  admin_key: adm\nserver:\n  heartbeat_s: 7\n"


@pytest.fixture
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a file, which the test may rewrite."""
    home = tmp_path_factory.mktemp("home")
    (home / "config.yaml").write_text(START)
    with shared_daemon(home, "fake:x") as own:
        yield own


def write(daemon: Daemon, text: str) -> None:
    """Replace the file."""
    (daemon.log_path.parent / "config.yaml").write_text(text)


def ask(daemon: Daemon, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
    """One request; underscores in header names are hyphens."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    with Connection(daemon) as connection:
        return connection.ask(method, path, body, headers=fields)


def reload(daemon: Daemon, key: str = "adm") -> Any:
    """The answer to a reload, as the CLI sends it: JSON by its type, without a body."""
    reply = ask(daemon, "POST", RELOAD, b"", x_admin_key=key)
    assert 200 == reply.status, reply.body
    return reply.json()


def test_a_created_key_works(daemon: Daemon) -> None:
    """What `opta key create` does: insert a line, reload, check with the key."""
    assert 200 == ask(daemon, "GET", "/v1/models").status
    write(daemon, START.replace("security:\n", "security:\n  inference_api_key: opta_sk_new\n"))
    assert {"success": True, "updated": ["security"], "needs_restart": []} == reload(daemon)
    assert 200 == ask(daemon, "GET", "/v1/models", authorization="Bearer opta_sk_new").status
    assert 401 == ask(daemon, "GET", "/v1/models").status
    assert 200 == ask(daemon, "GET", "/admin/status", x_admin_key="adm").status
    assert "local-key" == ask(daemon, "GET", "/v1/discovery").json()["security_profile"]


def test_a_changed_admin_key(daemon: Daemon) -> None:
    """The old one opens nothing from the next request on, not even another reload."""
    write(daemon, START.replace(": adm", ": new"))
    assert ["security"] == reload(daemon)["updated"]
    assert 403 == ask(daemon, "POST", RELOAD, b"", x_admin_key="adm").status
    assert {"success": True, "updated": [], "needs_restart": []} == reload(daemon, "new")


def test_the_reload_needs_the_admin_key(daemon: Daemon) -> None:
    """And changes nothing without it."""
    write(daemon, "")
    assert 403 == ask(daemon, "POST", RELOAD, b"").status
    assert 403 == ask(daemon, "GET", "/admin/status").status


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("security:\n  admin_key: new\n   inference_api_key: x\n", "line 3"),
        ("security: {admin_key: 5}\n", "admin_key"),
        ("security: {admin_key: new, admin_kee: x}\n", "admin_kee"),
        ("security: {admin_key: new}\nlogging: {level: loud}\n", "level"),
        ("security: {admin_key: new}\nmodels: {max_waiting: -1}\n", "max_waiting"),
        (None, "config.yaml"),
    ],
)
def test_a_mistake_changes_nothing(daemon: Daemon, text: str | None, names: str) -> None:
    """It is named in a refusal that no client repeats, and the keys stay."""
    if text is None:
        (daemon.log_path.parent / "config.yaml").unlink()
    else:
        write(daemon, text)
    reply = ask(daemon, "POST", RELOAD, b"", x_admin_key="adm")
    assert (422, "bad-config") == (reply.status, reply.json()["code"])
    assert names in reply.json()["error"]["message"]
    assert 200 == ask(daemon, "GET", "/admin/status", x_admin_key="adm").status
    assert 403 == ask(daemon, "GET", "/admin/status", x_admin_key="new").status
    write(daemon, START)
    assert [] == reload(daemon)["updated"]


def test_what_needs_a_restart_is_told(daemon: Daemon) -> None:
    """It does not take effect, and does not hide what does."""
    text = START.replace("heartbeat_s: 7", "heartbeat_s: 8") + "device: {role: lab}\n"
    write(daemon, text)
    assert {"success": True, "updated": ["device"], "needs_restart": ["server"]} == reload(daemon)
    assert "lab" == ask(daemon, "GET", "/admin/device", x_admin_key="adm").json()["role"]
    assert ["server"] == reload(daemon)["needs_restart"]


def test_the_log_level_takes_effect(daemon: Daemon) -> None:
    """For loggers that have written already, in both directions."""
    write(daemon, START + "logging: {level: error}\n")
    assert ["logging"] == reload(daemon)["updated"]
    ask(daemon, "GET", "/admin/status", x_admin_key="guess-1")
    assert [] == daemon.events("wrong key")
    write(daemon, START + "logging: {level: debug}\n")
    reload(daemon)
    ask(daemon, "GET", "/admin/status", x_admin_key="guess-2")
    assert 1 == len(daemon.events("wrong key"))
    assert ["logging"] == daemon.events("config reloaded")[-1]["updated"]


def test_hosts_and_origins_take_effect(daemon: Daemon) -> None:
    """A dashboard that is added to the list works without a restart."""
    evil = "https://board.example"
    body = chat_body("x")
    assert 403 == ask(daemon, "POST", CHAT_PATH, body, origin=evil).status
    write(daemon, START.replace("server:", f"  cors_allowed_origins: ['{evil}']\nserver:"))
    reload(daemon)
    assert 200 == ask(daemon, "POST", CHAT_PATH, body, origin=evil).status


def test_bodies_are_ignored(daemon: Daemon) -> None:
    """There is nothing to say, so anything may be said."""
    for body in (None, b"", b"{}", b"null", json.dumps({"x": 1}).encode(), b"no json"):
        assert 200 == ask(daemon, "POST", RELOAD, body, x_admin_key="adm").status
