"""Priorities over the wire: who waits for the only slot is answered in their order."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import trio
from trio_websocket import open_websocket_url

from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import CHAT_PATH, Connection, chat_body

MODEL = "fake:slow?step_ms=20&tokens=25&max_sequences=1"
COMPLETIONS = "/v1/completions"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose model answers one request at a time, each in half a second."""
    with shared_daemon(tmp_path_factory.mktemp("home"), MODEL) as shared:
        yield shared


def ask(daemon: Daemon, path: str, body: bytes, headers: dict[str, str]) -> float:
    """When the whole answer was there."""
    with Connection(daemon) as connection:
        assert 200 == connection.ask("POST", path, body, headers=headers).status
    return time.monotonic()


def test_who_is_urgent_goes_first(daemon: Daemon) -> None:
    """By a field or a header, of chats and of completions; the field counts more."""
    text = b'{"model": "slow", "prompt": "a", "max_tokens": 25%s}'
    requests = [
        (CHAT_PATH, chat_body("slow"), {"x-serving-lane": "throughput"}),
        (CHAT_PATH, chat_body("slow", priority=5), {"x-priority": "-50"}),
        (COMPLETIONS, text % b"", {"x-priority": "nonsense"}),
        (CHAT_PATH, chat_body("slow"), {"x-priority": "-5"}),
        (COMPLETIONS, text % b', "priority": "interactive"', {}),
    ]
    with ThreadPoolExecutor(len(requests) + 1) as pool:
        first = pool.submit(ask, daemon, CHAT_PATH, chat_body("slow"), {})
        time.sleep(0.2)
        others = [pool.submit(ask, daemon, *request) for request in requests]
        times = [other.result() for other in others]
        assert first.result() < min(times)
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("priority", ["101", "-101", '"soon"', "true", "1.5"])
def test_a_priority_that_makes_no_sense_is_refused(daemon: Daemon, priority: str) -> None:
    """With a 400 that names the field."""
    body = chat_body("slow")[:-1] + f', "priority": {priority}}}'.encode()
    with Connection(daemon) as connection:
        reply = connection.ask("POST", CHAT_PATH, body)
    assert (400, "priority") == (reply.status, reply.json()["error"]["param"])


def test_on_a_socket_messages_have_priorities(daemon: Daemon) -> None:
    """Of their own, or else that of the handshake."""

    async def run() -> None:
        url = f"ws://127.0.0.1:{daemon.port}/v1/chat/stream"
        message = '{"type": "chat.request", "request_id": "%s", "model": "slow"%s, "messages": %s}'
        prompt = '[{"role": "user", "content": "a"}]'
        names, ended = ["running", "normal", "batch"], list[str]()
        async with open_websocket_url(url, extra_headers=[(b"x-priority", b"batch")]) as socket:
            await socket.send_message(message % ("running", "", prompt))
            await trio.sleep(0.2)
            await socket.send_message(message % ("batch", "", prompt))
            await socket.send_message(message % ("normal", ', "priority": 0', prompt))
            with trio.fail_after(20):
                while len(ended) < len(names):
                    said = json.loads(await socket.get_message())
                    if said["type"] == "chat.done":
                        ended.append(said["request_id"])
        assert names == ended

    trio.run(run)
