"""One connection may be anything at all: the next one is served, and nothing stays behind."""

import contextlib
import socket
from collections.abc import Iterator

import psutil
import pytest

from tests.daemon_process import Daemon
from tests.http.probes import PROBES, Probe
from tests.http.shared import shared_daemon
from tests.http.wire import Connection, wait_until

ROUNDS = 3
# A probe that is left unanswered is given up after this.
LISTEN_S = 0.15


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with one model."""
    with shared_daemon(tmp_path_factory.mktemp("home"), "fake:x?tokens=8") as shared:
        yield shared


def first_status(daemon: Daemon, probe: Probe) -> int | None:
    """Send a probe; the status of what came back, 0 for a close, `None` for silence."""
    received = b""
    with Connection(daemon, timeout_s=LISTEN_S) as connection:
        try:
            for packet in probe.packets:
                connection.send(packet)
            if probe.closes:
                connection.socket.shutdown(socket.SHUT_WR)
            while data := connection.socket.recv(65536):
                received += data
        except TimeoutError:
            return _status(received) if received else None
        except ConnectionError:
            pass  # refused half-way, as it may be
    return _status(received)


def _status(received: bytes) -> int:
    return int(received.split(b" ", 2)[1]) if received.startswith(b"HTTP/1") else 0


def descriptor_count(daemon: Daemon) -> int:
    """Open descriptors of the daemon process."""
    return psutil.Process(daemon.pid).num_fds()


def idle_descriptor_count(daemon: Daemon) -> int:
    """Open descriptors once no client is connected."""
    process = psutil.Process(daemon.pid)

    def is_alone() -> bool:
        return {psutil.CONN_LISTEN} == {c.status for c in process.net_connections(kind="tcp")}

    assert wait_until(is_alone)
    return process.num_fds()


def test_there_are_no_fewer_probes_than_ever() -> None:
    """The list only grows: 31 connections were found deadly or suspect before LMX began."""
    assert len(PROBES) >= 31
    assert len(PROBES) == len({probe.name for probe in PROBES})


def test_no_connection_ends_the_daemon_or_leaks(daemon: Daemon) -> None:
    """After each of the malformed connections, three rounds of them, the daemon answers."""
    assert 200 == daemon.get_json("/healthz")[0]
    assert 200 == daemon.get_json("/v1/models")[0]
    base = idle_descriptor_count(daemon)
    for _ in range(ROUNDS):
        for probe in PROBES:
            first_status(daemon, probe)
            status, health = daemon.get_json("/healthz", timeout_s=2)
            assert (200, "ok") == (status, health["status"]), probe.name
            assert daemon.is_alive, probe.name
    assert wait_until(lambda: descriptor_count(daemon) <= base), descriptor_count(daemon) - base


@pytest.mark.parametrize("probe", [p for p in PROBES if p.statuses], ids=lambda probe: probe.name)
def test_what_must_be_refused_is_refused(daemon: Daemon, probe: Probe) -> None:
    """Malformed requests get their status, and what is merely unusual is served."""
    assert first_status(daemon, probe) in probe.statuses


def test_all_at_once_do_no_more_harm(daemon: Daemon) -> None:
    """The same connections side by side, all held open, still leave room for a good one."""
    base = idle_descriptor_count(daemon)
    with contextlib.ExitStack() as stack:
        for probe in PROBES:
            connection = stack.enter_context(Connection(daemon, timeout_s=LISTEN_S))
            with contextlib.suppress(OSError):
                for packet in probe.packets:
                    connection.send(packet)
        assert 200 == daemon.get_json("/healthz")[0]
    assert wait_until(lambda: descriptor_count(daemon) <= base)


def test_a_refused_handshake_is_closed_at_once(daemon: Daemon) -> None:
    """The client need not leave first, and no handler waits for it."""
    base = idle_descriptor_count(daemon)
    [probe] = [probe for probe in PROBES if probe.name == "websocket upgrade and a frame"]
    with Connection(daemon, timeout_s=5) as connection:
        for packet in probe.packets:
            connection.send(packet)
        received = b""
        while data := connection.socket.recv(65536):
            received += data
        assert 400 == _status(received)
        assert wait_until(lambda: descriptor_count(daemon) <= base)
