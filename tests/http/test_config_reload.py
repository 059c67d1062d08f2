"""`POST /admin/config/reload`: what the operator writes takes effect; mistakes take none."""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import CHAT_PATH, Connection, Reply, chat_body, encode_request, wait_until

RELOAD = "/admin/config/reload"
# As many wrong keys as tests want to try.
START = "security:\n  admin_key: adm\n  wrong_keys_per_minute: 0\nserver:\n  heartbeat_s: 7\n"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a file."""
    home = tmp_path_factory.mktemp("home")
    (home / "config.yaml").write_text(START)
    with shared_daemon(home, "fake:x", "fake:slow?step_ms=10") as own:
        yield own


@pytest.fixture
def daemon(house: Daemon) -> Iterator[Daemon]:
    """A daemon whose file says `START`, and which the test may rewrite."""
    yield house
    write(house, START)
    send_signal(house, "config reloaded")
    assert 200 == ask(house, "GET", "/admin/status", x_admin_key="adm").status


def write(daemon: Daemon, text: str) -> None:
    """Replace the file."""
    (daemon.log_path.parent / "config.yaml").write_text(text)


def ask(daemon: Daemon, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
    """One request; underscores in header names are hyphens."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    with Connection(daemon) as connection:
        return connection.ask(method, path, body, headers=fields)


def send_signal(daemon: Daemon, event: str) -> None:
    """Have the file read again, and wait for the line of the log that says what came of it."""
    count = len(daemon.events(event))
    os.kill(daemon.pid, signal.SIGHUP)
    assert wait_until(lambda: len(daemon.events(event)) > count), event


def reload(daemon: Daemon, key: str = "adm") -> Any:
    """The answer to a reload, as the CLI sends it: JSON by its type, without a body."""
    reply = ask(daemon, "POST", RELOAD, b"", x_admin_key=key)
    assert 200 == reply.status, reply.body
    return reply.json()


def test_a_created_key_works(daemon: Daemon) -> None:
    """What `opta key create` does: insert a line, reload, check with the key."""
    assert 200 == ask(daemon, "GET", "/v1/models").status
    write(daemon, START.replace("security:\n", "security:\n  inference_api_key: opta_sk_new\n"))
    expected = {
        "success": True,
        "updated": ["security"],
        "needs_restart": [],
        "updated_keys": ["security.inference_api_key"],
        "needs_restart_keys": [],
        "warnings": [],
    }
    assert expected == reload(daemon)
    assert 200 == ask(daemon, "GET", "/v1/models", authorization="Bearer opta_sk_new").status
    assert 401 == ask(daemon, "GET", "/v1/models").status
    assert 200 == ask(daemon, "GET", "/admin/status", x_admin_key="adm").status
    assert "local-key" == ask(daemon, "GET", "/v1/discovery").json()["security_profile"]


def test_a_changed_admin_key(daemon: Daemon) -> None:
    """The old one opens nothing from the next request on, not even another reload."""
    write(daemon, START.replace(": adm", ": new"))
    assert ["security"] == reload(daemon)["updated"]
    assert 403 == ask(daemon, "POST", RELOAD, b"", x_admin_key="adm").status
    assert [] == reload(daemon, "new")["updated"]


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
    text = START + "device: {role: lab}\nworker: {lease: shared}\nmodels: {lode: [x]}\n"
    write(daemon, text)
    answer = reload(daemon)
    assert (["device"], ["worker"]) == (answer["updated"], answer["needs_restart"])
    assert ["worker.lease"] == answer["needs_restart_keys"]
    (warning,) = answer["warnings"]
    assert "line 8: unknown setting models.lode; did you mean models.load?" in warning
    assert "lab" == ask(daemon, "GET", "/admin/device", x_admin_key="adm").json()["role"]
    assert ["worker"] == reload(daemon)["needs_restart"]


def test_the_log_level_takes_effect(daemon: Daemon) -> None:
    """For loggers that have written already, in both directions."""
    before = len(daemon.events("wrong key"))
    write(daemon, START + "logging: {level: error}\n")
    assert ["logging"] == reload(daemon)["updated"]
    ask(daemon, "GET", "/admin/status", x_admin_key="guess-1")
    assert before == len(daemon.events("wrong key"))
    write(daemon, START + "logging: {level: debug}\n")
    reload(daemon)
    ask(daemon, "GET", "/admin/status", x_admin_key="guess-2")
    assert before + 1 == len(daemon.events("wrong key"))
    assert ["logging"] == daemon.events("config reloaded")[-1]["updated"]


def test_hosts_and_origins_take_effect(daemon: Daemon) -> None:
    """A dashboard that is added to the list works without a restart."""
    evil = "https://board.example"
    body = chat_body("x")
    assert 403 == ask(daemon, "POST", CHAT_PATH, body, origin=evil).status
    write(daemon, START.replace("server:", f"  cors_allowed_origins: ['{evil}']\nserver:"))
    reload(daemon)
    assert 200 == ask(daemon, "POST", CHAT_PATH, body, origin=evil).status


def test_new_limits_meet_new_requests(daemon: Daemon) -> None:
    """An answer that runs goes on as it began; the next one finds the new settings."""
    alias = "routing:\n  aliases: {fast: x}\n"
    limits = "  max_body_bytes: 200\nmodels:\n  default_max_tokens: 3\n"
    body = chat_body("slow", stream=False, max_tokens=40)
    with Connection(daemon) as running:
        running.send(encode_request("POST", CHAT_PATH, body))
        while not ask(daemon, "GET", "/admin/status", x_admin_key="adm").json()[
            "in_flight_requests"
        ]:
            assert daemon.is_alive
        write(daemon, START + limits + alias)
        assert ["server", "models", "routing"] == reload(daemon)["updated"]
        answer = running.read_reply()
    assert (200, 40) == (answer.status, answer.json()["usage"]["completion_tokens"])
    short = json.dumps({"model": "fast", "messages": [{"role": "user", "content": "a"}]}).encode()
    answer = ask(daemon, "POST", CHAT_PATH, short)
    assert (200, "x") == (answer.status, answer.json()["model"])
    assert 3 == answer.json()["usage"]["completion_tokens"]
    assert 413 == ask(daemon, "POST", CHAT_PATH, short + b" " * 200).status
    assert 413 == ask(daemon, "POST", "/admin/models/probe", b" " * 300, x_admin_key="adm").status
    assert 200 == ask(daemon, "GET", "/v1/models/fast").status
    write(daemon, START)
    reload(daemon)
    assert 404 == ask(daemon, "GET", "/v1/models/fast").status


def test_memory_levels_take_effect(daemon: Daemon) -> None:
    """The budget that models share follows them at once."""
    write(daemon, START + "memory: {budget_gb: 100, critical_percent: 50}\n")
    assert ["memory"] == reload(daemon)["updated"]
    memory = ask(daemon, "GET", "/admin/memory", x_admin_key="adm").json()
    assert (50.0, True) == (memory["threshold_percent"], 45 < memory["budget"]["budget_gb"] <= 50)


def test_a_signal_reloads(daemon: Daemon) -> None:
    """SIGHUP does what the route does, and a mistake is only logged."""
    write(daemon, START + "device: {role: lab}\n")
    send_signal(daemon, "config reloaded")
    assert "lab" == ask(daemon, "GET", "/admin/device", x_admin_key="adm").json()["role"]
    write(daemon, "{")
    send_signal(daemon, "config not reloaded")
    assert "lab" == ask(daemon, "GET", "/admin/device", x_admin_key="adm").json()["role"]


def test_bodies_are_ignored(daemon: Daemon) -> None:
    """There is nothing to say, so anything may be said."""
    for body in (None, b"", b"{}", b"null", json.dumps({"x": 1}).encode(), b"no json"):
        assert 200 == ask(daemon, "POST", RELOAD, body, x_admin_key="adm").status
