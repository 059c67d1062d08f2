"""A chat client for tests that start a real daemon: one streamed or whole answer, fully recorded.

It is deliberately thin: raw SSE frames stay visible, because they are what the tests are about.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import httpx2
import psutil
import trio

from tests.daemon_process import Daemon

NO_LIMIT = httpx2.Timeout(30.0)


def chat_body(content: str = "hi", **fields: Any) -> dict[str, Any]:
    """A minimal chat request."""
    return {"messages": [{"role": "user", "content": content}], **fields}


@dataclass
class Answer:
    """One streamed answer: its frames in order, and when it ended."""

    frames: list[Any] = field(default_factory=list)
    status: int = 0
    ended_s: float = 0.0

    @property
    def text(self) -> str:
        """All visible text."""
        deltas = [c["delta"] for f in self.frames if "choices" in f for c in f["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def finish_reason(self) -> str | None:
        """The last finish reason that was sent."""
        reasons = [c["finish_reason"] for f in self.frames if "choices" in f for c in f["choices"]]
        return next((reason for reason in reversed(reasons) if reason), None)

    @property
    def error(self) -> dict[str, Any] | None:
        """The error frame, if one came."""
        return next((frame["error"] for frame in self.frames if "error" in frame), None)


class ChatClient:
    """Talks to one daemon over its own connections."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._http = httpx2.AsyncClient(base_url=daemon.url, timeout=NO_LIMIT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ask(self, content: str = "hi", **fields: Any) -> httpx2.Response:
        """A whole answer."""
        return await self._http.post("/v1/chat/completions", json=chat_body(content, **fields))

    async def get(self, path: str) -> httpx2.Response:
        """A plain GET on the shared connections."""
        return await self._http.get(path)

    async def post(self, path: str) -> httpx2.Response:
        """A POST with an empty body."""
        return await self._http.post(path)

    @asynccontextmanager
    async def open_stream(self, content: str = "hi", **fields: Any) -> AsyncIterator[Any]:
        """A streamed answer's raw response; leaving hangs up."""
        body = chat_body(content, stream=True, **fields)
        async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
            yield response

    async def stream(
        self,
        content: str = "hi",
        *,
        into: Answer | None = None,
        first_text: trio.Event | None = None,
        **fields: Any,
    ) -> Answer:
        """Read a streamed answer to its end.

        Args:
            content: What the user says.
            into: Filled while frames arrive, so that a test can look earlier.
            first_text: Set with the first frame that carries text.
            fields: Further request fields.
        """
        answer = into if into is not None else Answer()
        async with self.open_stream(content, **fields) as response:
            answer.status = response.status_code
            async for line in response.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    answer.frames.append(json.loads(line.removeprefix("data: ")))
                    if first_text is not None and answer.text:
                        first_text.set()
        answer.ended_s = trio.current_time()
        return answer


async def wait_until(condition: Callable[[], Any]) -> Any:
    """Wait for what another process will make true, and give what the condition gave."""
    # No event of ours crosses a process boundary.
    while not (value := condition()):  # noqa: ASYNC110
        await trio.sleep(0.02)
    return value


async def wait_gone(process: psutil.Process) -> None:
    """Wait until a process has ended, reaped or not."""
    await wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def worker_processes(daemon: Daemon) -> list[psutil.Process]:
    """The daemon's living worker processes."""
    children = psutil.Process(daemon.pid).children()
    return [child for child in children if "lmx.worker" in child.cmdline()]
