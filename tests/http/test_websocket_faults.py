"""Sockets when something goes wrong: readers that do not read, stops, crashes."""

import json
import os
import signal
import socket
from pathlib import Path

import psutil
import trio

from scripts.bench.sockets import connect_websocket, masked_frame
from tests.chat_client import worker_processes
from tests.daemon_process import spawn_daemon
from tests.http.answers import HELLO
from tests.http.shared import shared_daemon
from tests.http.socket_client import ENDS, open_socket
from tests.http.test_websocket import in_flight
from tests.http.wire import wait_until


async def test_a_slow_reader_delays_only_itself(tmp_path: Path) -> None:
    """Others stream on beside it; in the end it is reset, and its requests free their slots."""
    settings = {"LMX_SERVER__WRITE_TIMEOUT_S": "1"}
    model = "fake:x?step_ms=1&tokens=100000&context=200000&max_sequences=64"
    with shared_daemon(tmp_path, model, settings=settings) as daemon:
        with connect_websocket(daemon.port) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = {"type": "chat.request", "model": "x", "messages": HELLO, "max_tokens": 100_000}
            slow.sendall(masked_frame(json.dumps(body).encode()) * 30)
            await trio.sleep(0.5)
            async with open_socket(daemon) as client:
                for _ in range(5):
                    messages = await client.answer("x", max_tokens=50)
                    assert "length" == messages[-1]["finish_reason"]
            assert wait_until(lambda: in_flight(daemon) == 0, limit_s=30)
        rss_mb = psutil.Process(daemon.pid).memory_info().rss / 1e6
        assert rss_mb < 250


async def test_a_stopping_daemon_says_so_on_every_socket(tmp_path: Path) -> None:
    """Each request gets its last message, then the socket closes with the code for a restart."""
    settings = {"LMX_SERVER__DRAIN_S": "0.3"}
    model = "fake:x?step_ms=10&tokens=100000&context=200000"
    with spawn_daemon(tmp_path, model, settings=settings) as daemon:
        daemon.wait_ready_blocking()
        async with open_socket(daemon) as busy, open_socket(daemon) as idle:
            for name in ("a", "b"):
                await busy.ask("x", request_id=name)
            await busy.until("chat.token")
            daemon.process.send_signal(signal.SIGTERM)
            assert 1012 == await busy.wait_closed()
            assert 1012 == await idle.wait_closed()
        ends = [m for m in busy.messages if m["type"] in ENDS]
        assert {("a", "draining"), ("b", "draining")} == {
            (m["request_id"], m["code"]) for m in ends
        }
        assert 0 == daemon.process.wait(15)


async def test_a_crash_is_told_on_the_socket(tmp_path: Path) -> None:
    """With its type; the socket goes on, and the model comes back."""
    settings = {"LMX_WORKER__RESTART_DELAY_S": "0.1"}
    with shared_daemon(tmp_path, "fake:x?step_ms=10&tokens=500", settings=settings) as daemon:
        async with open_socket(daemon) as client:
            await client.ask("x", request_id="a")
            await client.until("chat.token")
            os.kill(worker_processes(daemon)[0].pid, signal.SIGKILL)
            last = (await client.until(*ENDS))[-1]
            assert ("chat.error", "worker-broken") == (last["type"], last["code"])
            again = await client.answer("x", max_tokens=3)
            assert "length" == again[-1]["finish_reason"]
