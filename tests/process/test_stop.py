"""Stopping: running answers finish, stuck clients cannot delay it, and nothing is left behind."""

import json
import signal
import socket
from pathlib import Path

import httpx2
import psutil
import pytest
import trio

from tests.chat_client import (
    Answer,
    ChatClient,
    chat_body,
    wait_gone,
    wait_until,
    worker_processes,
)
from tests.daemon_process import Daemon, open_daemon

LONG = "fake:long?step_ms=10&tokens=3000"


def _open_stuck_reader(daemon: Daemon) -> socket.socket:
    """A client that asks for a long stream and never reads a byte of it."""
    body = json.dumps(chat_body(stream=True)).encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    connection.connect((daemon.host, daemon.port))
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: lmx\r\ncontent-length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    return connection


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_running_answers_finish(tmp_path: Path, signal_number: int) -> None:
    """The stream under way ends whole, new connections are refused, the exit status is 0."""
    async with open_daemon(tmp_path, "fake:calm?step_ms=10&tokens=100") as daemon:
        await daemon.wait_ready()
        (worker,) = worker_processes(daemon)
        async with ChatClient(daemon) as client:
            whole = (await client.stream("same")).text
            answer, flowing = Answer(), trio.Event()
            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:

                    async def run() -> None:
                        await client.stream("same", into=answer, first_text=flowing)

                    nursery.start_soon(run)
                    await flowing.wait()
                    daemon.process.send_signal(signal_number)
                    await wait_until(lambda: daemon.events("stopping"))
                    with pytest.raises(httpx2.ConnectError):
                        await _ask_once(daemon)
                assert 0 == await daemon.wait_exit()
        assert ("stop", whole) == (answer.finish_reason, answer.text)
        assert not psutil.pid_exists(worker.pid)


async def _ask_once(daemon: Daemon) -> None:
    async with ChatClient(daemon) as fresh:
        await fresh.get("/healthz")


async def test_requests_on_open_connections_are_refused_while_draining(tmp_path: Path) -> None:
    """A kept-alive client hears 503 ``draining`` with ``Retry-After``; readiness says the same."""
    async with open_daemon(tmp_path, LONG, settings={"LMX_SERVER__DRAIN_S": "20"}) as daemon:
        await daemon.wait_ready()
        async with ChatClient(daemon) as streamer, ChatClient(daemon) as kept:
            await kept.get("/healthz")
            with trio.fail_after(20):
                async with streamer.open_stream() as response:
                    assert 200 == response.status_code
                    daemon.process.send_signal(signal.SIGTERM)
                    await wait_until(lambda: daemon.events("stopping"))
                    refused = await kept.ask()
                    ready = await kept.get("/readyz")
                    alive = await kept.get("/healthz")
                assert 0 == await daemon.wait_exit()
    assert (503, "draining") == (refused.status_code, refused.json()["error"]["code"])
    assert "retry-after" in refused.headers
    assert (503, "draining") == (ready.status_code, ready.json()["reason"])
    assert 200 == alive.status_code


async def test_answers_that_outlast_the_drain_are_told_why(tmp_path: Path) -> None:
    """After the drain time a running stream gets one error frame, and the exit status is 0."""
    async with open_daemon(tmp_path, LONG, settings={"LMX_SERVER__DRAIN_S": "0.3"}) as daemon:
        await daemon.wait_ready()
        async with ChatClient(daemon) as client:
            answer, flowing = Answer(), trio.Event()
            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:

                    async def run() -> None:
                        await client.stream(into=answer, first_text=flowing)

                    nursery.start_soon(run)
                    await flowing.wait()
                    assert 0 == await daemon.stop()
        assert answer.error is not None
        assert "draining" == answer.error["code"]


async def test_a_client_that_does_not_read_cannot_delay_the_exit(tmp_path: Path) -> None:
    """A stuck reader is reset after drain and grace; the daemon exits 0 and leaves no worker."""
    model = "fake:flood?tokens=200000&context=300000"
    settings = {"LMX_SERVER__DRAIN_S": "0.5", "LMX_SERVER__CLOSE_GRACE_S": "0.5"}
    async with open_daemon(tmp_path, model, settings=settings) as daemon:
        await daemon.wait_ready()
        (worker,) = worker_processes(daemon)
        with _open_stuck_reader(daemon), trio.fail_after(20):
            await trio.sleep(0.5)  # time for the socket's buffers to fill
            stopped_s = trio.current_time()
            assert 0 == await daemon.stop()
        assert trio.current_time() - stopped_s < 8
        assert not psutil.pid_exists(worker.pid)


async def test_a_second_signal_exits_at_once(tmp_path: Path) -> None:
    """The exit status names the signal, and the worker ends with its pipe."""
    async with open_daemon(tmp_path, LONG) as daemon:
        await daemon.wait_ready()
        (worker,) = worker_processes(daemon)
        async with ChatClient(daemon) as client:
            with trio.fail_after(20):
                async with client.open_stream() as response:
                    assert 200 == response.status_code
                    daemon.process.send_signal(signal.SIGTERM)
                    await wait_until(lambda: daemon.events("stopping"))
                    assert 128 + signal.SIGTERM == await daemon.stop()
                await wait_gone(worker)


async def test_stopping_while_a_model_loads_ends_the_load(tmp_path: Path) -> None:
    """A daemon whose only model is still loading stops at once, worker included."""
    async with open_daemon(tmp_path, "fake:slow?load_ms=60000") as daemon:
        with trio.fail_after(20):
            workers = await wait_until(lambda: worker_processes(daemon))
            assert 0 == await daemon.stop()
        assert not any(psutil.pid_exists(worker.pid) for worker in workers)


async def test_liveness_answers_before_any_model_is_loaded(tmp_path: Path) -> None:
    """The port answers while the model loads; readiness names the model that is on its way."""
    async with open_daemon(tmp_path, "fake:slow?load_ms=60000") as daemon:
        assert (200, "ok") == (
            daemon.get_json("/healthz")[0],
            daemon.get_json("/healthz")[1]["status"],
        )
        status, body = daemon.get_json("/readyz")
        assert (503, "loading", ["slow"]) == (status, body["reason"], body["loading"])


async def test_a_request_waits_for_a_model_that_is_loading(tmp_path: Path) -> None:
    """A chat that arrives during the load is answered when the load is done."""
    async with open_daemon(tmp_path, "fake:soon?load_ms=700&tokens=3") as daemon:
        async with ChatClient(daemon) as client:
            with trio.fail_after(20):
                answer = await client.ask()
        assert 200 == answer.status_code
