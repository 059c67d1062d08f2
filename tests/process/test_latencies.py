"""What the daemon says of its latencies is what a client with a clock of its own measures."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.daemon_process import HOST, Daemon, open_daemon
from tests.scrapes import Scraped

# A prefill makes the first text late enough for a few hundred microseconds of wire to be little.
TOKENS = 30
MODEL = f"fake:x?step_ms=20&tokens={TOKENS}&prefill_ms=60&max_sequences=4"
CLIENTS = 4
ROUNDS = 10
BODY = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
TEXT = b'"content":" '


class Timed:
    """What clients measured, in seconds."""

    def __init__(self) -> None:
        self.first_text: list[float] = []
        self.between_texts: list[float] = []
        self.whole: list[float] = []


class Line:
    """One kept connection; it reads frames and looks at the clock, and does nothing else."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def ask(self, timed: Timed) -> None:
        """One streamed request, timed from sending it to its last frame."""
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: lmx\r\ncontent-length: %d\r\n\r\n"
        sent_s = last_s = trio.current_time()
        await self._stream.send_all(head % len(BODY) + BODY)
        is_first, tail = True, b""
        while not tail.endswith(b"0\r\n\r\n"):
            data = bytes(await self._stream.receive_some())
            now_s = trio.current_time()
            assert data, "the daemon closed in the middle of an answer"
            if TEXT in data:
                (timed.first_text if is_first else timed.between_texts).append(now_s - last_s)
                is_first, last_s = False, now_s
            tail = (tail + data)[-16:]
        timed.whole.append(now_s - sent_s)


@asynccontextmanager
async def open_line(daemon: Daemon) -> AsyncIterator[Line]:
    """A connection that is there before anything is timed."""
    async with await trio.open_tcp_stream(HOST, daemon.port) as stream:
        yield Line(stream)


async def scrape(daemon: Daemon) -> Scraped:
    """What the daemon says of itself now."""
    async with await trio.open_tcp_stream(HOST, daemon.port) as stream:
        await stream.send_all(b"GET /metrics HTTP/1.1\r\nhost: lmx\r\nconnection: close\r\n\r\n")
        reply = b"".join([bytes(chunk) async for chunk in stream])
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"200" in head.split(b"\r\n")[0]
    return Scraped(body.decode())


async def measure(daemon: Daemon) -> Timed:
    """Forty streamed requests, four at a time."""
    timed = Timed()

    async def repeat() -> None:
        async with open_line(daemon) as line:
            for _ in range(ROUNDS):
                await line.ask(timed)

    async with trio.open_nursery() as nursery:
        for _ in range(CLIENTS):
            nursery.start_soon(repeat)
    return timed


async def test_histograms_agree_with_a_client(tmp_path: Path) -> None:
    """TTFT, ITL and end to end: their counts, and sums within 5 % of a client's."""
    async with open_daemon(tmp_path, MODEL) as daemon:
        await daemon.wait_ready()
        with trio.fail_after(50):
            async with open_line(daemon) as line:
                await line.ask(Timed())  # the first request pays for what is made once
            before = await scrape(daemon)
            timed = await measure(daemon)
            after = await scrape(daemon)
    requests = CLIENTS * ROUNDS
    # Sums are compared, not means: a client that is late reads two tokens at once.
    for name, measured, expected in (
        ("vllm:time_to_first_token_seconds", timed.first_text, requests),
        ("vllm:inter_token_latency_seconds", timed.between_texts, requests * (TOKENS - 1)),
        ("vllm:e2e_request_latency_seconds", timed.whole, requests),
    ):
        counted, total_s = (
            after.value(f"{name}_{part}", model_name="x")
            - before.value(f"{name}_{part}", model_name="x")
            for part in ("count", "sum")
        )
        assert expected == counted, name
        assert sum(measured) == pytest.approx(total_s, rel=0.05), name
