"""A chat client on a real WebSocket, thin enough that every message stays visible."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from tests.daemon_process import Daemon
from tests.http.answers import HELLO, Told

ENDS = frozenset({"chat.done", "chat.error"})
MAX_MESSAGE_BYTES = 1 << 27


class ChatSocketClient:
    """One socket.

    Attributes:
        socket: The connection itself.
        messages: All that came, in order.
    """

    def __init__(self, socket: WebSocketConnection) -> None:
        self.socket = socket
        self.messages: list[dict[str, Any]] = []

    async def send(self, message_type: str | None = "chat.request", **fields: Any) -> None:
        """One message; `None` for no type."""
        head = {} if message_type is None else {"type": message_type}
        await self.send_text(json.dumps({**head, **fields}))

    async def send_text(self, text: str) -> None:
        """Anything."""
        await self.socket.send_message(text)

    async def ask(self, model: str, **fields: Any) -> None:
        """One chat of a single user message unless the fields say otherwise."""
        await self.send(**{"model": model, "messages": HELLO, **fields})

    async def next(self) -> dict[str, Any]:
        """The next message."""
        message: dict[str, Any] = json.loads(await self.socket.get_message())
        self.messages.append(message)
        return message

    async def until(self, *types: str) -> list[dict[str, Any]]:
        """Every message up to and with the first of these types."""
        found = [await self.next()]
        while found[-1].get("type") not in types:
            found.append(await self.next())
        return found

    async def answer(self, model: str, **fields: Any) -> list[dict[str, Any]]:
        """Ask, and read to the end of the answer."""
        await self.ask(model, **fields)
        return await self.until(*ENDS)

    async def wait_closed(self) -> int:
        """Read on until the server closes, and give its code."""
        with suppress(ConnectionClosed):
            while True:
                await self.next()
        reason = self.socket.closed
        return 0 if reason is None else int(reason.code)


@asynccontextmanager
async def open_socket(
    daemon: Daemon, path: str = "/v1/chat/stream", *, limit_s: float = 30, **headers: str
) -> AsyncIterator[ChatSocketClient]:
    """A connected client, within a limit."""
    url = daemon.url.replace("http", "ws", 1) + path
    extra = [(name.replace("_", "-"), value) for name, value in headers.items()]
    with trio.fail_after(limit_s):
        async with open_websocket_url(
            url, extra_headers=extra, max_message_size=MAX_MESSAGE_BYTES, disconnect_timeout=1
        ) as socket:
            yield ChatSocketClient(socket)


def fold(messages: list[dict[str, Any]], index: int = 0) -> Told:
    """What a choice says, as `answers.fold_chat` has it of a stream of events."""
    mine = [m for m in messages if m.get("index", 0) == index]
    calls = [m["tool_call"] for m in mine if m["type"] == "chat.tool_call"]
    content = "".join(m["content"] for m in mine if m["type"] == "chat.token")
    scores = [m["logprobs"]["content"] for m in mine if "logprobs" in m]
    end = messages[-1]
    reasons = end.get("finish_reasons") or [end["finish_reason"]]
    return Told(
        None if calls and not content else content,
        "".join(m["content"] for m in mine if m["type"] == "chat.reasoning"),
        [(call["id"], call["name"], call["arguments"]) for call in calls],
        [score for some in scores for score in some],
        reasons[index],
    )
