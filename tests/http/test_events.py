"""``GET /admin/events`` on a real daemon: live, resumed, dropped when not read, ended at a stop."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmx.schema.events import FLEETING
from tests.daemon_process import STOP_LIMIT_S, Daemon, spawn_daemon
from tests.http.event_client import EventClient
from tests.http.shared import shared_daemon
from tests.http.wire import Connection, chat_request, encode_request, wait_until

HEARTBEAT_S = 0.2


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One model, and signs of life more often than in service."""
    settings = {"LMX_SERVER__EVENTS_HEARTBEAT_S": str(HEARTBEAT_S)}
    with shared_daemon(
        tmp_path_factory.mktemp("home"), "fake:x?tokens=3", settings=settings
    ) as one:
        yield one


def load(daemon: Daemon, model_id: str) -> None:
    """Load a model and wait for it."""
    with Connection(daemon) as connection:
        body = json.dumps({"model_id": model_id}).encode()
        assert 200 == connection.ask("POST", "/admin/models/load", body).status


def test_the_stream_begins_at_once(daemon: Daemon) -> None:
    """Its head and a sign of life are there before anything happens, both named and unnamed."""
    with Connection(daemon) as connection:
        client = EventClient(connection)
        assert (200, "text/event-stream; charset=utf-8") == (
            client.head.status,
            client.head.headers["content-type"],
        )
        first = [client.next() for _ in range(4)]
    assert ["heartbeat", ""] * 2 == [told.name for told in first]
    assert all(told.data["type"] == "heartbeat" for told in first)
    assert first[0].data["uptime"] < first[2].data["uptime"]


def test_what_happens_is_told(daemon: Daemon) -> None:
    """A load shows its states and its end."""
    with Connection(daemon) as connection:
        client = EventClient(connection)
        load(daemon, "fake:told")
        told = client.until_type("model_loaded")
    states = [t.data["state"] for t in told if t.data["type"] == "model_state"]
    assert "loading" in states
    assert ("model_loaded", "told") == (told[-1].name, told[-1].data["model_id"])


def test_who_comes_back_misses_nothing(daemon: Daemon) -> None:
    """What happened while the client was away comes first, in order and with the same ids."""
    with Connection(daemon) as first, Connection(daemon) as staying:
        client, witness = EventClient(first), EventClient(staying)
        load(daemon, "fake:before")
        last_id = client.until_type("model_loaded")[-1].id
        first.close()
        load(daemon, "fake:between")
        with Connection(daemon) as second:
            back = EventClient(second, last_id=last_id).until_type("model_loaded")
        seen = witness.until_type("model_loaded") + witness.until_type("model_loaded")
    live = [told for told in seen if told.id and told.data["type"] not in FLEETING]
    after = live[[told.id for told in live].index(last_id) + 1 :]
    assert after == [told for told in back if told.id]
    assert "between" == back[-1].data["model_id"]


def test_a_subscriber_that_does_not_read_is_closed(tmp_path: Path) -> None:
    """Its connection ends while the daemon goes on telling others; nothing piles up for it."""
    with spawn_daemon(tmp_path, "fake:x?tokens=1") as daemon:
        daemon.wait_ready_blocking()
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect((daemon.host, daemon.port))
            slow.sendall(encode_request("GET", "/admin/events"))
            assert wait_until(lambda: _is_reset_under_load(daemon, slow), limit_s=40)
        assert daemon.is_alive
        with Connection(daemon) as connection:
            assert "heartbeat" == EventClient(connection).next().data["type"]


def _is_reset_under_load(daemon: Daemon, slow: socket.socket) -> bool:
    """Make a hundred things happen, then look whether the connection still stands."""
    with Connection(daemon) as connection:
        for _ in range(100):
            connection.send(chat_request("x"))
            assert 200 == connection.read_reply().status
    return 0 != slow.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def test_the_stream_ends_when_the_daemon_stops(tmp_path: Path) -> None:
    """In an orderly way, and it does not hold the daemon up."""
    with spawn_daemon(tmp_path, "fake:x") as daemon, Connection(daemon) as connection:
        client = EventClient(connection)
        assert "heartbeat" == client.next().data["type"]
        os.kill(daemon.pid, signal.SIGTERM)
        client.read_to_end()
        assert 0 == daemon.process.wait(STOP_LIMIT_S)


def test_a_head_request_is_answered(daemon: Daemon) -> None:
    """With the stream's head and without the stream."""
    with Connection(daemon) as connection:
        connection.send(encode_request("HEAD", "/admin/events"))
        head = connection.read_head()
        assert 200 == head.status
        assert 200 == connection.ask("GET", "/healthz").status
