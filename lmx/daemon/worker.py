"""Owning a worker process: an async context manager whose exit leaves no process behind.

The child runs in a session of its own, so that Ctrl-C in the daemon's terminal does not reach it
and its whole group can be killed. What it prints is kept for its exit record. No parent-death
signal is used: Trio spawns from a cached thread, whose end the kernel would take for ours; the
worker instead exits when its pipe ends.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Literal

import structlog
import trio
from msgspec import Struct

from lmx.daemon.link import WorkerLink
from lmx.errors import (
    FrameError,
    LmxError,
    OutOfMemory,
    WorkerBroken,
    WorkerClosed,
    WorkerStalled,
)
from lmx.protocol.messages import EXIT_OUT_OF_MEMORY

WORKER_MODULE = "lmx.worker"
OUTPUT_TAIL_BYTES = 64 * 1024
# A worker whose pipe has ended is exiting; this is how long its exit status is waited for before
# its requests are told without it.
EXIT_STATUS_WAIT_S = 0.5
KILL_WAIT_S = 5.0
OOM_KILLED = "the kernel ended the model's process because the machine ran out of memory"

log = structlog.get_logger("lmx.worker")


ExitKind = Literal[
    "exit", "signal", "abort", "killed", "oom_killed", "out_of_memory", "bad_frame", "stall"
]
# Whether the kernel has just ended a process for want of memory.
HasKernelKilled = Callable[[], Awaitable[bool]]
CRASH_SIGNALS = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})


class WorkerExit(Struct, frozen=True, kw_only=True):
    """How a worker ended.

    Attributes:
        pid: Its process id.
        kind: What it was, for events and for whoever counts.
        status: As `subprocess` gives it: negative for a signal, `None` if it did not end by itself.
        reason: One sentence.
        output: The last of what it printed.
        request_ids: Of the requests that it was answering.
    """

    pid: int
    kind: ExitKind
    status: int | None
    reason: str
    output: str
    request_ids: tuple[str, ...] = ()

    @property
    def may_be_a_request(self) -> bool:
        """Whether something it computed may have ended it; a plain kill comes from outside."""
        if self.kind == "exit":
            return self.status not in {None, 0}
        return self.kind != "killed"

    def error(self) -> LmxError:
        """What its requests are told."""
        if self.kind == "stall":
            return WorkerStalled(f"the model's worker delivered nothing any more: {self.reason}")
        if self.kind == "out_of_memory":
            return OutOfMemory("No model loaded: the device ran out of memory, the model reloads")
        if self.kind == "oom_killed":
            return OutOfMemory(f"No model loaded: {self.reason}, the model reloads")
        return WorkerBroken(f"the model's worker ended: {self.reason}")


class Worker:
    """A running worker process and the link to it.

    Attributes:
        link: Speaks with the process.
        ended: How it ended by itself, once it did.
    """

    def __init__(
        self,
        process: trio.Process,
        link: WorkerLink,
        has_kernel_killed: HasKernelKilled | None,
    ) -> None:
        self._process = process
        self._has_kernel_killed = has_kernel_killed
        self._output = bytearray()
        self._has_ended = trio.Event()
        self._condemned: tuple[ExitKind, str] | None = None
        self.link = link
        self.ended: WorkerExit | None = None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def wait_ended(self) -> WorkerExit:
        """Wait until the worker has ended by itself."""
        while self.ended is None:
            await self._has_ended.wait()
        return self.ended

    def condemn(self, kind: ExitKind, reason: str) -> None:
        """Kill it, for a reason that its exit status would not show."""
        self._condemned = (kind, reason)
        _signal_group(self.pid, signal.SIGKILL)

    async def run(self) -> None:
        """Pump the link until the worker ends, then fail what it left undone."""
        try:
            await self.link.run()
        except* FrameError as group:
            self.condemn("bad_frame", f"it sent a bad frame ({group.exceptions[0]})")
        with trio.move_on_after(EXIT_STATUS_WAIT_S):
            await self._process.wait()
        status = self._process.returncode
        if self._condemned is None and status == -signal.SIGKILL:
            await self._blame_the_kernel()
        kind, reason = self._condemned or (classify_status(status), describe_status(status))
        self.ended = WorkerExit(
            pid=self.pid,
            kind=kind,
            status=status,
            reason=reason,
            output=self._output.decode(errors="replace"),
            request_ids=self.link.request_ids,
        )
        self.link.end(self.ended.error())
        self._has_ended.set()

    async def _blame_the_kernel(self) -> None:
        """Of a kill that nobody here has sent: say so if the kernel did it."""
        if self._has_kernel_killed is not None and await self._has_kernel_killed():
            self._condemned = ("oom_killed", OOM_KILLED)

    async def capture_output(self) -> None:
        """Keep the last of what the process prints; each line also goes to the debug log."""
        stdout = self._process.stdout
        if stdout is None:
            return
        async with stdout:  # closed here and now, whoever still holds on to the process
            async for data in stdout:
                self._output += data
                del self._output[:-OUTPUT_TAIL_BYTES]
                for line in bytes(data).decode(errors="replace").splitlines():
                    ids = list(self.link.request_ids)
                    log.debug("worker output", pid=self.pid, request_ids=ids, line=line)

    async def stop(self, grace_s: float) -> None:
        """End the process and everything it started, and reap it."""
        for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_WAIT_S)):
            _signal_group(self.pid, number)
            with trio.move_on_after(wait_s):
                await self._process.wait()
                break
        _signal_group(self.pid, signal.SIGKILL)  # grandchildren


@asynccontextmanager
async def open_worker(
    *,
    environment: Mapping[str, str],
    stop_grace_s: float,
    has_kernel_killed: HasKernelKilled | None = None,
) -> AsyncIterator[Worker]:
    """Start a worker process; leaving the block ends it.

    Args:
        environment: The child's environment.
        stop_grace_s: Time between SIGTERM and SIGKILL.
        has_kernel_killed: Asked when the process got a SIGKILL that we did not send.

    Raises:
        WorkerBroken: The system refuses another process.

    Cancellation:
        The process group is killed and the process reaped, shielded, before this returns.
    """
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        raise WorkerBroken(f"a worker process cannot be started: {error}") from error
    with theirs:
        try:
            # Shielded: cancelled in the middle, the child would exist and nobody know its id.
            with trio.CancelScope(shield=True):
                process = await _spawn(theirs, environment)
        except OSError as error:
            ours.close()
            raise WorkerBroken(f"a worker process cannot be started: {error}") from error
    worker = Worker(process, WorkerLink(ours), has_kernel_killed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.capture_output)
        nursery.start_soon(worker.run)
        try:
            yield worker
        finally:
            with trio.CancelScope(shield=True):
                await worker.stop(stop_grace_s)
            worker.link.end(WorkerClosed("the model's worker was stopped"))
            nursery.cancel_scope.cancel()


async def _spawn(theirs: socket.socket, environment: Mapping[str, str]) -> trio.Process:
    command = [sys.executable, "-m", WORKER_MODULE, str(theirs.fileno())]
    spawn = partial(
        trio.lowlevel.open_process,
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(theirs.fileno(),),
        start_new_session=True,
        env=dict(environment),
    )
    return await spawn()


def classify_status(status: int | None) -> ExitKind:
    """What an exit status says of how a process ended."""
    if status == EXIT_OUT_OF_MEMORY:
        return "out_of_memory"
    if status is None or status >= 0:
        return "exit"
    if status == -signal.SIGABRT:
        return "abort"
    return "signal" if -status in CRASH_SIGNALS else "killed"


def describe_status(status: int | None) -> str:
    """An exit status in words."""
    if status is None:
        return "it closed its pipe but kept running"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exited with status {status}"


def _signal_group(pid: int, number: int) -> None:
    # PermissionError is what macOS says of a group that has only zombies left.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
