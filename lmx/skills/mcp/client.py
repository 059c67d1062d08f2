"""One connection to a server of MCP, on the official SDK, from the greeting to the end.

The SDK has the protocol and streamable HTTP; how much may come in, and how long things may take, is
decided here. Results are taken as they come: validating them against the server's own schema would
let the server choose what this process computes.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from math import inf
from typing import Any

import anyio
import httpx2
import mcp_types as types
import msgspec
import pydantic
import trio
from mcp.client._transport import TransportStreams
from mcp.client.client import Client
from mcp.client.session import IncomingMessage
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from lmx import __version__
from lmx.config.skills import McpServerSettings
from lmx.daemon.waiting import wait_first
from lmx.skills.mcp.remote import TOOLS, Limits, Remote, RemoteTool
from lmx.skills.mcp.stdio import StdioServer, server_environment
from lmx.skills.outcome import Outcome

# Lists come in pages, and a server decides how many there are.
PAGES = 32
# Of connecting and of sending.
HTTP_TIMEOUT_S = 30.0
# Silence on a stream that a server may keep open.
STREAM_SILENCE_S = 300.0
ERROR_CHARACTERS = 2000
EVENT_STREAM = "text/event-stream"
LMX = types.Implementation(name="lmx", title="LMX", version=__version__)
# What a connection may end with. Anything else is a mistake of ours and is logged as such.
ENDS = (
    MCPError,
    OSError,
    RuntimeError,
    ValueError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    httpx2.HTTPError,
    httpx2.InvalidURL,
    httpx2.StreamError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
)

Use = Callable[[Remote], Awaitable[None]]
Transport = AbstractAsyncContextManager[TransportStreams]


async def attend(
    settings: McpServerSettings,
    limits: Limits,
    *,
    asks_first: bool,
    use: Use,
    on_change: Callable[[], None],
) -> str:
    """See `lmx.skills.mcp.remote.Attend`."""
    connection = _Connection(settings, limits, asks_first=asks_first, on_change=on_change)
    reasons: list[str] = []
    try:
        if settings.url is None:
            await connection.attend_program(use)
        else:
            await connection.attend_address(settings.url, use)
    except* ENDS as group:
        reasons.append(explain(group))
    return connection.reason or (reasons[0] if reasons else "the connection ended")


def explain(failure: BaseException) -> str:
    """A failure, or the first of a group, in a sentence."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    if isinstance(failure, MCPError):
        return f"it answered with error {failure.code}: {failure.message[:ERROR_CHARACTERS]}"
    if isinstance(failure, pydantic.ValidationError):
        first = failure.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        return f"it answered what is no answer of MCP: {place}: {first['msg']}"[:ERROR_CHARACTERS]
    if isinstance(failure, OSError) and failure.strerror:
        return f"{failure.strerror}: {failure.filename}" if failure.filename else failure.strerror
    return f"{type(failure).__name__}: {failure}".removesuffix(": ")[:ERROR_CHARACTERS]


class _Connection:
    """One life of a connection.

    Attributes:
        reason: Why it ended, where that is known better than from how it failed.
    """

    def __init__(
        self,
        settings: McpServerSettings,
        limits: Limits,
        *,
        asks_first: bool,
        on_change: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._asks_first = asks_first
        self._on_change = on_change
        self.reason = ""

    async def attend_program(self, use: Use) -> None:
        """Start a program, and use it until it is gone."""
        server = StdioServer(
            self._settings.command,
            server_environment(self._settings.env, os.environ),
            message_bytes=self._limits.message_bytes,
        )

        async def use_until_over(remote: Remote) -> None:
            await wait_first(server.is_over.wait, partial(use, remote))

        try:
            await self._converse(server.open(), use_until_over)
        finally:
            # What the program did says more than what its silence looked like.
            self.reason = server.reason or self.reason

    async def attend_address(self, url: str, use: Use) -> None:
        """Connect to an address, and use it until it no longer answers."""
        # Reading certificates takes long enough to be felt on the event loop.
        inner = await trio.to_thread.run_sync(httpx2.AsyncHTTPTransport)
        silence_s = max(STREAM_SILENCE_S, self._settings.timeout_s + HTTP_TIMEOUT_S)
        limit = self._limits.message_bytes
        async with httpx2.AsyncClient(
            transport=BoundedTransport(inner, limit),
            headers={**self._settings.headers, "accept-encoding": "identity"},
            timeout=httpx2.Timeout(HTTP_TIMEOUT_S, read=silence_s),
        ) as http:
            transport = streamable_http_client(url, http_client=http, max_sse_event_size=limit)
            await self._converse(transport, use)

    async def _converse(self, transport: Transport, use: Use) -> None:
        """Greet, and use what answers."""
        limit_s = self._limits.connect_s
        with trio.CancelScope(deadline=trio.current_time() + limit_s) as scope:
            async with Client(
                transport,
                mode="auto" if self._asks_first else "legacy",
                read_timeout_seconds=limit_s,
                message_handler=self._hear,
                client_info=LMX,
                cache=None,
            ) as client:
                scope.deadline = inf
                await use(SdkRemote(client, self._limits))
        if scope.cancelled_caught:
            self.reason = f"it did not answer the greeting within {limit_s:g} s"

    async def _hear(self, message: IncomingMessage) -> None:
        await trio.lowlevel.checkpoint()
        if isinstance(message, types.ToolListChangedNotification):
            self._on_change()


class SdkRemote:
    """A connected server; see `lmx.skills.mcp.remote.Remote`."""

    def __init__(self, client: Client, limits: Limits) -> None:
        self._session = client.session
        self._limits = limits

    async def list_tools(self) -> Sequence[RemoteTool]:
        """See the protocol."""
        tools: list[RemoteTool] = []
        cursor: str | None = None
        for _ in range(PAGES):
            page = types.PaginatedRequestParams(cursor=cursor)
            result = await self._session.list_tools(params=page)
            tools += [_remote_tool(one) for one in result.tools]
            cursor = result.next_cursor
            if cursor is None or len(tools) > TOOLS:
                break
        return tools[: TOOLS + 1]

    async def call(self, name: str, arguments: dict[str, Any], *, timeout_s: float) -> Outcome:
        """See the protocol."""
        # The typed request, for the SDK's own call computes with the server's schemas.
        request = types.CallToolRequest(
            params=types.CallToolRequestParams(name=name, arguments=arguments)
        )
        try:
            with trio.fail_after(timeout_s):
                result = await self._session.send_request(
                    request, types.CallToolResult, request_read_timeout_seconds=timeout_s + 1
                )
        except trio.TooSlowError:
            error = f"the server did not answer within {timeout_s:g} s"
            return Outcome(ok=False, error=error, timed_out=True)
        except ENDS as failure:
            return Outcome(ok=False, error=f"the server failed: {explain(failure)}")
        return to_outcome(result, self._limits.output_bytes)


def to_outcome(result: types.CallToolResult, limit: int) -> Outcome:
    """What a tool answered: its value if it gave one, otherwise its text, otherwise all of it.

    Args:
        result: As it came.
        limit: Most bytes of the answer as JSON.
    """
    texts = [one.text for one in result.content if isinstance(one, types.TextContent)]
    if result.is_error:
        said = "\n".join(texts) or "the tool failed and did not say why"
        return Outcome(ok=False, error=said[:ERROR_CHARACTERS])
    output: Any = result.structured_content
    if output is None and len(texts) == len(result.content):
        output = "\n".join(texts)
    elif output is None:
        output = [
            one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in result.content
        ]
    try:
        size = len(msgspec.json.encode(output))
    except (ValueError, OverflowError, RecursionError) as error:
        return Outcome(ok=False, error=f"the answer is no JSON: {error}")
    if size > limit:
        return Outcome(ok=False, error=f"the answer is {size} bytes; {limit} are allowed")
    return Outcome(ok=True, output=output)


def _remote_tool(tool: types.Tool) -> RemoteTool:
    hints = tool.annotations
    risks = () if hints is None or not hints.destructive_hint else ("destructive",)
    return RemoteTool(
        name=tool.name,
        description=tool.description or "",
        schema=tool.input_schema,
        risks=risks,
    )


class BoundedTransport(httpx2.AsyncBaseTransport):
    """Ends answers that are too long; streams of events are bounded by their reader.

    Args:
        inner: Does the work.
        limit: Most bytes of one answer.
    """

    def __init__(self, inner: httpx2.AsyncBaseTransport, limit: int) -> None:
        self._inner = inner
        self._limit = limit

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, and bound its answer.

        Raises:
            httpx2.ReadError: The answer is compressed, which nobody asked for and hides its size.
        """
        response = await self._inner.handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise httpx2.ReadError("the answer is compressed", request=request)
        stream = response.stream
        is_bounded = not response.headers.get("content-type", "").startswith(EVENT_STREAM)
        if is_bounded and isinstance(stream, httpx2.AsyncByteStream):
            response.stream = _BoundedStream(stream, self._limit)
        return response

    async def aclose(self) -> None:
        """Close what does the work."""
        await self._inner.aclose()


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, limit: int) -> None:
        self._inner = inner
        self._left = limit
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            self._left -= len(chunk)
            if self._left < 0:
                raise httpx2.ReadError(f"the answer is over {self._limit} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()
