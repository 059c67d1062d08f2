"""Clients that read slowly, or never: they get every byte or a reset, and nobody else waits."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest

from tests.daemon_process import Daemon
from tests.http.shared import shared_daemon
from tests.http.wire import (
    CHAT_PATH,
    Connection,
    chat_body,
    chat_request,
    deltas,
    event_blocks,
    wait_until,
)

WRITE_TIMEOUT_S = 1.5
HEARTBEAT_S = 0.1
PREFILL_S = 1.0
LONG_TOKENS = 20_000
# What an event costs around its text; a client in step with the model reads one per token.
EVENT_BYTES = 200
SMALLEST_BUFFER = 4096
LONG = f"fake:long?tokens={LONG_TOKENS}&context=65536"
# The prompt of "hi" is one chunk.
PROMPT_TOKENS = len("user: hi\nassistant:")
PREFILL = f"fake:prefill?prefill_ms={PREFILL_S * 1000}&chunk={PROMPT_TOKENS}&text=ready"
SETTINGS = {
    "LMX_SERVER__WRITE_TIMEOUT_S": str(WRITE_TIMEOUT_S),
    "LMX_SERVER__HEARTBEAT_S": str(HEARTBEAT_S),
    "LMX_MODELS__MAX_WAITING": "0",
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with long answers, one of them from a single slot, and a slow prefill."""
    models = (LONG, f"{LONG.replace('long', 'single')}&max_sequences=1", PREFILL)
    with shared_daemon(tmp_path_factory.mktemp("home"), *models, settings=SETTINGS) as shared:
        assert wait_until(lambda: shared.get_json("/healthz")[1]["loaded_models"] == len(models))
        yield shared


def long_request(model: str = "long") -> bytes:
    """A streamed request for the longest answer."""
    return chat_request(model, stream=True, max_tokens=LONG_TOKENS + 1, temperature=0)


def status_of_short_chat(daemon: Daemon, model: str) -> int:
    """The status that a request for one token gets now."""
    with Connection(daemon) as connection:
        return connection.ask("POST", CHAT_PATH, chat_body(model, max_tokens=1)).status


def resident_bytes(daemon: Daemon) -> int:
    """Memory of the daemon process, its workers apart."""
    return int(psutil.Process(daemon.pid).memory_info().rss)


def test_a_client_that_never_reads_is_reset(daemon: Daemon) -> None:
    """It is given up after the write deadline; what was under way breaks off with a reset."""
    with Connection(daemon, receive_buffer_bytes=SMALLEST_BUFFER) as stuck:
        started_s = time.monotonic()
        stuck.send(long_request())
        assert wait_until(lambda: bool(daemon.events("client lost")), limit_s=WRITE_TIMEOUT_S * 4)
        assert time.monotonic() - started_s > WRITE_TIMEOUT_S
        with pytest.raises(ConnectionResetError):
            stuck.read_until_closed()


def test_a_stuck_client_does_not_keep_its_slot(daemon: Daemon) -> None:
    """The slot is free once the model is done, while the client still has not read a byte."""
    with Connection(daemon, receive_buffer_bytes=SMALLEST_BUFFER) as stuck:
        stuck.send(long_request("single"))
        assert wait_until(lambda: status_of_short_chat(daemon, "single") == 429)
        lost_before = len(daemon.events("client lost"))
        assert wait_until(lambda: status_of_short_chat(daemon, "single") == 200, limit_s=10)
        assert lost_before == len(daemon.events("client lost"))
        assert 200 == stuck.read_head().status


def test_a_slow_client_gets_every_byte(daemon: Daemon) -> None:
    """Text merges while the client is behind, and in the end it equals the whole answer."""
    with Connection(daemon) as quick:
        body = chat_body("long", max_tokens=LONG_TOKENS + 1, temperature=0)
        whole = quick.ask("POST", CHAT_PATH, body).json()
    with Connection(daemon, receive_buffer_bytes=SMALLEST_BUFFER) as slow:
        slow.send(long_request())
        assert 200 == slow.read_head().status
        chunks = []
        for chunk in slow.iterate_chunks():
            chunks.append(chunk)
            time.sleep(0.001)  # this is what slow means
    streamed = b"".join(chunks)
    assert whole["choices"][0]["message"]["content"] == "".join(deltas(streamed))
    assert LONG_TOKENS + 1 == whole["usage"]["completion_tokens"]
    assert len(streamed) < LONG_TOKENS * EVENT_BYTES / 2


def test_many_stuck_clients_take_little_memory(daemon: Daemon) -> None:
    """Each costs the daemon about the text of its answer, far less than its events would."""
    count = 12
    before = resident_bytes(daemon)
    lost_before = len(daemon.events("client lost"))
    with ExitStack() as stack:
        for _ in range(count):
            client = Connection(daemon, receive_buffer_bytes=SMALLEST_BUFFER)
            stack.enter_context(client).send(long_request())
        peak = before
        limit_s = time.monotonic() + 30
        while (
            len(daemon.events("client lost")) < lost_before + count and time.monotonic() < limit_s
        ):
            peak = max(peak, resident_bytes(daemon))
            assert 200 == daemon.get_json("/healthz", timeout_s=2)[0]
    assert lost_before + count == len(daemon.events("client lost"))
    assert peak - before < count * LONG_TOKENS * EVENT_BYTES / 6


def test_the_head_comes_at_once_and_comments_fill_the_prefill(daemon: Daemon) -> None:
    """Headers and the role do not wait for the prompt; silence is filled with comments."""
    with Connection(daemon) as connection:
        started_s = time.monotonic()
        connection.send(chat_request("prefill", stream=True))
        assert 200 == connection.read_head().status
        chunks = connection.iterate_chunks()
        first = next(chunks)
        assert time.monotonic() - started_s < PREFILL_S / 2
        assert b'"role":"assistant"' in first
        body = first + b"".join(chunks)
        assert time.monotonic() - started_s >= PREFILL_S
    blocks = event_blocks(body)
    first_text = next(at for at, block in enumerate(blocks) if b'"content":"r' in block)
    assert {b": keep-alive"} == set(blocks[1:first_text])
    assert 3 <= first_text - 1 <= PREFILL_S / HEARTBEAT_S + 1
    assert "ready" == "".join(deltas(body))
