"""Servers of MCP as programs: one on the official SDK, and some that misbehave.

    python tests/mcp_program.py KIND [FILE]

`good` is the SDK's. The others read and write lines by hand, because the SDK would not let them do
what they do. `FILE` is where some note what happens to them.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add(a: int, b: int) -> dict[str, int]:
    """Adds."""
    return {"sum": a + b}


def greet(who: str) -> str:
    """Greets."""
    return f"Hello {who}"


def serve_well() -> None:
    """Tools of several kinds, on the official SDK; one tool adds another."""
    import anyio  # noqa: PLC0415  # the bad servers start without the SDK, and quickly
    from mcp.server.mcpserver import Context, MCPServer  # noqa: PLC0415
    from mcp_types import ImageContent, TextContent, ToolAnnotations  # noqa: PLC0415

    note = Path(sys.argv[2])
    server = MCPServer("good")

    server.tool()(add)
    server.tool(structured_output=False)(greet)

    @server.tool(structured_output=False)
    def mixed() -> list[Any]:
        """Text and a picture."""
        picture = ImageContent(type="image", data="AAAA", mime_type="image/png")
        return [TextContent(type="text", text="see"), picture]

    @server.tool(annotations=ToolAnnotations(destructive_hint=True))
    def fail() -> str:
        """Fails."""
        raise ValueError("it is broken")

    @server.tool(structured_output=False)
    def large(size: int) -> str:
        """A long text."""
        return "x" * size

    @server.tool()
    async def sleep() -> str:
        """Never returns, and notes when it is told to end."""
        note.write_text("running")  # noqa: ASYNC240  # in no one's way
        try:
            await anyio.sleep_forever()
        finally:
            note.write_text("cancelled")  # noqa: ASYNC240

    @server.tool()
    async def grow(ctx: Context) -> str:
        """Brings one more tool."""
        server.add_tool(greet, name="later", structured_output=False)
        await ctx.session.send_tool_list_changed()
        return "grown"

    @server.tool()
    def environment() -> dict[str, str]:
        """What it was given."""
        return dict(os.environ)

    @server.tool()
    def die() -> str:
        """Ends the program in the middle of a call."""
        sys.stderr.write("so long\n")
        sys.stderr.flush()
        os._exit(3)

    server.run()


def send(message: Any) -> None:
    """One line."""
    sys.stdout.write((message if isinstance(message, str) else json.dumps(message)) + "\n")
    sys.stdout.flush()


def answer(result: Callable[[str], Any]) -> None:
    """Answer every request with what a function of its method gives; `None` for no answer."""
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            given = result(message["method"])
            if given is not None:
                send({"jsonrpc": "2.0", "id": message["id"], **given})


def greeting(version: str = "2025-06-18") -> dict[str, Any]:
    """A result of `initialize`."""
    info = {"name": "bad", "version": "1"}
    can = {"tools": {"listChanged": True}}
    return {"result": {"protocolVersion": version, "capabilities": can, "serverInfo": info}}


def listing(*tools: Any) -> dict[str, Any]:
    """A result of `tools/list`."""
    return {"result": {"tools": list(tools)}}


TOOL = {"name": "t", "inputSchema": {"type": "object"}}
REPLIES: dict[str, dict[str, Any]] = {
    "wrong-version": {"initialize": greeting("1900-01-01")},
    "refuses": {"initialize": {"error": {"code": -32000, "message": "go away"}}},
    "no-list": {"initialize": greeting(), "tools/list": {"result": {"tools": 5}}},
    "bad-result": {
        "initialize": greeting(),
        "tools/list": listing(TOOL),
        "tools/call": {"result": {"content": "nothing"}},
    },
    "mute-call": {"initialize": greeting(), "tools/list": listing(TOOL), "tools/call": None},
    "odd-tools": {
        "initialize": greeting(),
        "tools/list": listing(
            {"name": "a b/c", "inputSchema": {"type": "object"}},
            {"name": "a_b_c", "inputSchema": {"type": "object"}},
            {"name": "large", "inputSchema": {"type": "object", "x": "y" * 70_000}},
        ),
    },
    "endless-list": {
        "initialize": greeting(),
        "tools/list": {"result": {"tools": [TOOL] * 50, "nextCursor": "more"}},
    },
}


def sleep_through() -> None:
    """Whatever it is told."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)


def exit_early() -> None:
    """Say why, and go."""
    sys.stderr.write("no licence found\n")
    sys.exit(7)


def print_garbage() -> None:
    """Lines that are no messages, for ever."""
    while True:
        send("Starting up, please wait ...")


def print_without_end() -> None:
    """One line, for ever."""
    while True:
        sys.stdout.write("x" * 65536)


def stay() -> None:
    """Ignore the end of the input and SIGTERM, with a child that does the same."""
    child = subprocess.Popen([sys.executable, __file__, "sleeps"])
    Path(sys.argv[2]).write_text(f"{os.getpid()} {child.pid}")
    answer({"initialize": greeting(), "tools/list": listing(TOOL)}.get)
    sleep_through()


def flood() -> None:
    """Greet, and then announce changes for ever."""
    answer_one(greeting())
    note = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    while True:
        send(note)


KINDS: dict[str, Callable[[], object]] = {
    "good": serve_well,
    "silent": sys.stdin.read,
    "exits": exit_early,
    "garbage": print_garbage,
    "huge": print_without_end,
    "stays": stay,
    "sleeps": sleep_through,
    "floods": flood,
}


def main(kind: str) -> None:
    """Be a server of a kind until standard input ends, or beyond."""
    if kind in KINDS:
        KINDS[kind]()
        return
    unknown = {"error": {"code": -32601, "message": ""}}
    answer(lambda method: REPLIES[kind].get(method, unknown))


def answer_one(result: dict[str, Any]) -> None:
    """Answer the first request."""
    message = json.loads(sys.stdin.readline())
    send({"jsonrpc": "2.0", "id": message["id"], **result})


if __name__ == "__main__":
    main(sys.argv[1])
