"""``/mcp``: the MCP server over streamable HTTP, with the limits of all requests.

The body is read here, so that its size and its time are bounded like any other's; the SDK sees it
whole. A client that leaves, or a daemon that stops, cancels the request and the run it asked for;
only the request that opens a session goes on when its connection ends.
"""

from collections.abc import Awaitable, Callable

import msgspec
import trio
from msgspec import Struct

from lmx.config import Settings
from lmx.daemon.waiting import wait_first
from lmx.errors import Draining, LmxError
from lmx.skills.mcp.host import MESSAGE_BYTES, McpHost
from lmx.web.exchange import Answer, Exchange

MCP_PATH = "/mcp"
MCP_METHODS = ("GET", "POST", "DELETE")
MCP_BODY_BYTES = MESSAGE_BYTES


class _Message(Struct):
    """What is looked at of a message."""

    method: str = ""


class McpRoute:
    """The route over a host.

    Args:
        host: Serves MCP.
        settings: As they are now; how long a body may take to arrive.
        wait_stop: Returns when streams have to end, because the daemon stops.
    """

    def __init__(
        self, host: McpHost, settings: Settings, wait_stop: Callable[[], Awaitable[object]]
    ) -> None:
        self._host = host
        self._settings = settings
        self._wait_stop = wait_stop

    async def __call__(self, exchange: Exchange) -> Answer | None:
        """Handle one exchange."""
        body = await exchange.body.read(timeout_s=self._settings.server.body_timeout_s)
        refusals: list[LmxError] = []

        async def serve() -> None:
            try:
                await exchange.hand_over(self._host.handle, body)
            except LmxError as error:
                refusals.append(error)

        # Clients close the connection as soon as they have read the answer, with which the SDK is
        # not done yet; cancelled then, it would forget the session.
        with trio.CancelScope(shield=_opens_session(body)):
            await wait_first(self._wait_stop, serve)
        if refusals:
            raise refusals[0]
        if not exchange.is_streaming:
            raise Draining("The MCP server is stopping")
        return None


def _opens_session(body: bytes) -> bool:
    try:
        return msgspec.json.decode(body, type=_Message).method == "initialize"
    except (ValueError, RecursionError):
        return False
