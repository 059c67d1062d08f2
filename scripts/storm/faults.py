"""The ways in which a storm harms a worker or a disk, all from outside the processes it harms."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import psutil

Kind = Literal[
    "SIGKILL",
    "SIGSEGV",
    "SIGABRT",
    "SIGSTOP",
    "garbage frame",
    "abort in a step",
    "exit in a step",
    "exception in a step",
    "exit in the load",
    "full disk",
]
SIGNALS: dict[Kind, signal.Signals] = {
    "SIGKILL": signal.SIGKILL,
    "SIGSEGV": signal.SIGSEGV,
    "SIGABRT": signal.SIGABRT,
    "SIGSTOP": signal.SIGSTOP,
}
# What a prompt says to a fake model so that it fails in a step; see `lmx.engines.fake`.
ASKED: dict[Kind, str] = {
    "abort in a step": "abort",
    "exit in a step": "exit",
    "exception in a step": "raise",
}
HOUSE: tuple[Kind, ...] = ("exit in the load", "full disk")

# Linux's number on every architecture; Python's standard library has no wrapper.
PIDFD_GETFD = 438
# As the length of a frame this is far over the cap.
GARBAGE = b"\xff" * 64


def can_send_garbage() -> bool:
    """Whether this system lets us write on a worker's behalf."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open")


def harm(pid: int, kind: Kind) -> None:
    """Do it to a worker. One that has ended already is left in peace."""
    with suppress(ProcessLookupError, psutil.NoSuchProcess):
        if kind == "garbage frame":
            send_garbage(pid)
        else:
            os.kill(pid, SIGNALS[kind])


def send_garbage(pid: int) -> None:
    """Write bytes that are no frame into the pipe of a worker, as if it had written them.

    Source:
        pidfd_getfd(2). A worker's last argument is the descriptor of its pipe.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    theirs = int(psutil.Process(pid).cmdline()[-1])
    process = os.pidfd_open(pid)
    try:
        ours = libc.syscall(PIDFD_GETFD, process, theirs, 0)
        if ours < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        try:
            # The socket does not block for the daemon's sake; this end's buffer is never full.
            with suppress(BrokenPipeError):
                os.write(ours, GARBAGE)
        finally:
            os.close(ours)
    finally:
        os.close(process)


@contextmanager
def full_disk(home: Path) -> Iterator[None]:
    """While the block runs, the daemon's state cannot be written.

    On Linux the file it writes leads to a device that is always full; elsewhere a file stands in
    the place of the folder.
    """
    state = home / "state"
    state.mkdir(parents=True, exist_ok=True)
    full = Path("/dev/full")
    if full.exists():
        link = state / "loaded.partial"
        link.unlink(missing_ok=True)
        link.symlink_to(full)
        try:
            yield
        finally:
            link.unlink(missing_ok=True)
        return
    kept = home / "state.kept"
    state.rename(kept)
    state.write_text("in the way")
    try:
        yield
    finally:
        state.unlink()
        kept.rename(state)
