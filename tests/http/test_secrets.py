"""No key, configured, right or wrong, gets into the log, however badly it is sent."""

from pathlib import Path

import trio

from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.test_http2 import Http2Client
from tests.http.test_keys import ask, upgrade
from tests.http.wire import CHAT_PATH, Connection, chat_body, wait_until

# One mark in all of them is easily looked for.
MARK = "MARK7f3a"
ADMIN, INFERENCE, GUESS = f"{MARK}-admin", f"opta_sk_{MARK}", f"{MARK}-guess"
FILE = f"security:\n  admin_key: {ADMIN}\n  inference_api_key: {INFERENCE}\n"
PLACES = [
    {"x_admin_key": "{}"},
    {"authorization": "Bearer {}"},
    {"authorization": "Basic {}"},
    {"authorization": "{}"},
    {"x_api_key": "{}"},
    {"cookie": "key={}"},
]
SETTINGS = {
    "LMX_LOGGING__LEVEL": "debug",
    "LMX_SECURITY__INFERENCE_API_KEYS": f"[{MARK}-more]",
    "LMX_SECURITY__WRONG_KEYS_PER_MINUTE": "40",
}


def broken_requests() -> list[bytes]:
    """Requests that parsers give up on, with a key in each."""
    key = ADMIN.encode()
    head = b"GET /admin/status HTTP/1.1\r\nhost: lmx\r\n"
    return [
        head + b"x-admin-key: " + key + b"\x00\r\n\r\n",
        head + b"x-admin-key " + key + b"\r\n\r\n",
        head + b"x-admin-key: " + key + b"\r\ncontent-length: " + key + b"\r\n\r\n",
        head + b"x-admin-key: " + key + b"\r\ntransfer-encoding: " + key + b"\r\n\r\n",
        head + b"upgrade: h2c\r\nhttp2-settings: " + key + b"\r\n\r\n",
        b"GET /admin/events?admin_key=" + key + b"\xff HTTP/1.1\r\nhost: lmx\r\n\r\n",
        b"GET http://[::1?admin_key=" + key + b" HTTP/1.1\r\nhost: lmx\r\n\r\n",
        b"x-admin-key: " + key + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + key * 9,
        head + b"x-admin-key: " + key * 4000 + b"\r\n\r\n",
    ]


def provoke(daemon: Daemon, home: Path) -> None:
    """Use keys in every place on every kind of route, and make errors of all kinds."""
    for key in (ADMIN, INFERENCE, GUESS):
        for place in PLACES:
            headers = {name: value.format(key) for name, value in place.items()}
            ask(daemon, "/admin/status", **headers)
            ask(daemon, "/v1/models", **headers)
        for path in ("/admin/events?admin_key=", "/v1/models?api_key=", "/nowhere?x_admin_key="):
            ask(daemon, path + key)
        ask(daemon, "/admin/models/load", method="POST", body=b"{", x_admin_key=key)
        ask(daemon, CHAT_PATH, method="POST", body=chat_body("no"), x_api_key=key)
        ask(daemon, CHAT_PATH, method="POST", body=chat_body("x"), authorization=f"Bearer {key}")
        ask(daemon, "/admin/status", host=f"{key}.example")
        ask(daemon, CHAT_PATH, method="POST", body=b"{}", origin=f"https://{key}.example")
    for request in broken_requests():
        with Connection(daemon) as connection:
            connection.send(request)
            connection.socket.settimeout(1)
            try:
                connection.socket.recv(65536)
            except OSError:
                continue
    with Http2Client(daemon) as client:
        client.send("GET", f"/admin/events\u00ff{ADMIN}")
        assert wait_until(lambda: len(daemon.events("connection dropped")) > 1)
    for text in (FILE + "  admin_key:" + GUESS, "security: {admin_key:" + ADMIN + "}", FILE):
        (home / "config.yaml").write_text(text)
        ask(daemon, "/admin/config/reload", method="POST", body=b"", x_admin_key=ADMIN)


async def provoke_sockets(daemon: Daemon) -> None:
    """The same by upgrades."""
    for key in (ADMIN, INFERENCE, GUESS):
        await upgrade(daemon, f"/v1/chat/stream?api_key={key}")
        await upgrade(daemon, "/v1/chat/stream", (b"authorization", f"Bearer {key}".encode()))


def test_no_key_is_ever_logged(tmp_path: Path) -> None:
    """At the most talkative level, up to the daemon's last line."""
    (tmp_path / "config.yaml").write_text(FILE)
    with shared_daemon(tmp_path, "fake:x", settings=SETTINGS) as daemon:
        assert 200 == ask(daemon, "/admin/status", x_admin_key=ADMIN).status
        assert 200 == ask(daemon, "/v1/models", x_api_key=f"{MARK}-more").status
        provoke(daemon, tmp_path)
        trio.run(provoke_sockets, daemon)
        assert daemon.events("wrong key")
        assert daemon.events("config reloaded")
        log_path = daemon.log_path
    text = log_path.read_text("utf-8", "replace")
    assert [] == [line for line in text.splitlines() if MARK.lower() in line.lower()]
    state = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".yaml"]
    assert [] == [path for path in state if MARK.encode() in path.read_bytes()]
