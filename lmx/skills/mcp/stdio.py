"""A server of MCP that is a program: messages are lines on its standard streams.

Replaces the SDK's own transport, which holds a line of any length, whole and then again. The
program has a session and a process group of its own, an environment of what it is given by name,
and a guard: a shell that kills the group when the daemon is gone, however it went.
"""

import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from subprocess import DEVNULL, PIPE
from typing import TypeVar

import anyio
import mcp_types as types
import trio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client._transport import TransportStreams
from mcp.shared.message import SessionMessage

# What programs need to find themselves and each other.
PASSED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER")
# LMX's own settings, which hold its keys.
WITHHELD = ("LMX_", "OPTA_")
GUARD = 'read _; kill -s KILL -- "-$1"'
# Between closing its input and SIGTERM, and between that and SIGKILL.
STOP_GRACE_S = 0.5
KILLED_LIMIT_S = 2.0
# Messages that wait for a program that does not read; then it counts as hung.
WAITING_MESSAGES = 256
# So many messages are taken in one go; a flood is thereby read at a pace that others can live with.
BURST_MESSAGES = 50
BURST_PAUSE_S = 0.01
# Programs print what is no message; so much of it in a row says that they speak no MCP.
BAD_LINES = 100
PARSE_IN_THREAD_BYTES = 64 * 1024
KEPT_ERROR_BYTES = 2000
SHOWN_ERROR_CHARACTERS = 300

Incoming = SessionMessage | Exception
T = TypeVar("T")


def server_environment(names: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """What a server's program sees: what all programs need, and what is named for it.

    Args:
        names: As the settings name them; LMX's own are withheld all the same.
        environment: The daemon's.
    """
    given = {*PASSED, *(name for name in names if not name.startswith(WITHHELD))}
    return {name: environment[name] for name in sorted(given) if name in environment}


class StdioServer:
    """One life of a program.

    Args:
        command: Program and arguments.
        environment: All of it.
        message_bytes: Most bytes of one message.

    Attributes:
        is_over: Nothing more comes from it.
        reason: Why, once it is over.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, message_bytes: int
    ) -> None:
        self._command = command
        self._environment = environment
        self._message_bytes = message_bytes
        self._said = b""
        self.is_over = trio.Event()
        self.reason = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[TransportStreams]:
        """Run the program within the block; afterwards it and all it started are gone.

        Raises:
            OSError: It cannot be started.
        """
        process = await trio.lowlevel.open_process(
            self._command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=self._environment,
            start_new_session=True,
        )
        try:
            async with _guarded(process.pid), trio.open_nursery() as nursery:
                incoming, read = anyio.create_memory_object_stream[Incoming](0)
                write, outgoing = anyio.create_memory_object_stream[SessionMessage](
                    WAITING_MESSAGES
                )
                nursery.start_soon(self._read, process, incoming)
                nursery.start_soon(self._write, process, outgoing)
                nursery.start_soon(self._read_errors, process)
                with read, write:
                    yield read, write
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await _stop(process)

    async def _read(
        self, process: trio.Process, incoming: MemoryObjectSendStream[Incoming]
    ) -> None:
        """Hand on message after message, until there is no more or it is too much."""
        reason = ""
        buffer = bytearray()
        with incoming:
            try:
                async for chunk in _pipe(process.stdout):
                    buffer += chunk
                    if len(buffer) > self._message_bytes:
                        reason = f"it sent a message of over {self._message_bytes} bytes"
                        break
                    if b"\n" in chunk and not await self._hand_on(buffer, incoming):
                        reason = "it prints what is no message of MCP"
                        break
            except trio.BrokenResourceError:
                pass
            except anyio.BrokenResourceError:
                return  # the session is gone
            self.reason = reason or await self._last_words(process)
            self.is_over.set()

    async def _hand_on(self, buffer: bytearray, incoming: MemoryObjectSendStream[Incoming]) -> bool:
        """Take the whole lines out of the buffer; false if they are no messages."""
        *lines, rest = bytes(buffer).split(b"\n")
        buffer[:] = rest
        bad_lines = 0
        for number, line in enumerate(lines, start=1):
            if number % BURST_MESSAGES == 0:
                await trio.sleep(BURST_PAUSE_S)
            if not line.strip():
                continue
            try:
                message = await _parse(line)
            except ValueError:
                bad_lines += 1
                if bad_lines >= BAD_LINES:
                    return False
                continue
            await incoming.send(SessionMessage(message))
        return True

    async def _write(
        self, process: trio.Process, outgoing: MemoryObjectReceiveStream[SessionMessage]
    ) -> None:
        with outgoing, suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for message in outgoing:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                await _pipe(process.stdin).send_all(text.encode() + b"\n")

    async def _read_errors(self, process: trio.Process) -> None:
        """What it says on standard error, whose end may say why it failed."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for chunk in _pipe(process.stderr):
                self._said = (self._said + bytes(chunk))[-KEPT_ERROR_BYTES:]

    async def _last_words(self, process: trio.Process) -> str:
        with trio.move_on_after(STOP_GRACE_S):
            await process.wait()
        status = process.returncode
        end = "it closed its output" if status is None else f"it ended with status {status}"
        said = self._said.decode(errors="replace").strip().replace("\n", " ")
        return f"{end}: {said[-SHOWN_ERROR_CHARACTERS:]}" if said else end


def _pipe(stream: T | None) -> T:
    """A stream of a process that was started with pipes, which types do not know."""
    if stream is None:
        raise RuntimeError("the process has no such pipe")
    return stream


async def _parse(line: bytes) -> types.JSONRPCMessage:
    """A message.

    Raises:
        ValueError: It is none.
    """
    if len(line) > PARSE_IN_THREAD_BYTES:
        return await trio.to_thread.run_sync(_parse_now, line)
    return _parse_now(line)


def _parse_now(line: bytes) -> types.JSONRPCMessage:
    return types.jsonrpc_message_adapter.validate_json(line, by_name=False)


@asynccontextmanager
async def _guarded(group: int) -> AsyncIterator[None]:
    """Within the block, the group does not outlive this process."""
    guard = await trio.lowlevel.open_process(
        ["/bin/sh", "-c", GUARD, "lmx-guard", str(group)],
        stdin=PIPE,
        stdout=DEVNULL,
        stderr=DEVNULL,
        env={},
        start_new_session=True,
    )
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            guard.kill()  # before its input ends, which would tell it to do its duty
            await guard.wait()
            if guard.stdin is not None:
                await guard.stdin.aclose()


async def _stop(process: trio.Process) -> None:
    """End a program by asking, by SIGTERM and by SIGKILL, and all that it started."""
    await _pipe(process.stdin).aclose()
    for number in (signal.SIGTERM, signal.SIGKILL):
        with trio.move_on_after(STOP_GRACE_S):
            await process.wait()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
    with trio.move_on_after(KILLED_LIMIT_S):
        await process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            await stream.aclose()
