"""Child processes that do one piece of work and report in lines of JSON.

Each is named by its module string, so that nothing it needs is imported here, and lives exactly as
long as the block that opened it: leaving early, by cancellation or error, kills its whole process
group and reaps it. Its standard input stays open until then: its end tells the child that we are
gone.
"""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import IO

import trio

# Enough for the end of a traceback.
STDERR_TAIL_BYTES = 2000


@asynccontextmanager
async def open_child(
    module: str,
    arguments: Sequence[str],
    stderr: IO[bytes],
    *,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[trio.Process]:
    """A running child with pipes at its standard input and output.

    Args:
        module: What Python runs.
        arguments: After the module's name.
        stderr: Takes what it says on its standard error. A file and not a pipe, so that nobody has
            to read it while the child runs.
        environment: On top of our own.

    Cancellation:
        The child is killed and reaped.
    """
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            # Not reaped, so its id still names its group, in which others may run as well. A group
            # of nothing but an exited child is gone on Linux and not permitted on macOS.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    await stream.aclose()


async def read_lines(process: trio.Process) -> AsyncIterator[bytes]:
    """The child's lines until it closes its standard output."""
    held = b""
    if process.stdout is None:
        return
    async for block in process.stdout:
        *whole, held = (held + block).split(b"\n")
        for line in whole:
            yield line


def obituary(status: int, stderr: IO[bytes]) -> str:
    """How a child ended, as far as its status and its last words tell."""
    how = f"was ended by signal {-status}" if status < 0 else f"exited with status {status}"
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - STDERR_TAIL_BYTES))
    said = stderr.read().decode("utf-8", "replace").strip()
    return how + (f": {said}" if said else "")
