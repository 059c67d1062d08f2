"""The audit log: one line for every call of a skill, in the daemon's log and in a file of its own.

A line holds the digest of the arguments and never the arguments, for these are what users and
models wrote. The file is written in a thread; a full or slow disk delays nobody and costs lines of
the file alone.
"""

import os
import time
from collections import deque
from pathlib import Path

import msgspec
import structlog
import trio
from msgspec import Struct

from lmx.skills.outcome import Ending

MAX_FILE_BYTES = 10_000_000
MAX_PENDING = 10_000
FLUSH_LIMIT_S = 1.0

log = structlog.get_logger("lmx.audit")
trouble_log = structlog.get_logger("lmx.skills")


class AuditLine(Struct, frozen=True, kw_only=True):
    """One call.

    Attributes:
        skill: Its reference.
        request_id: Of the request that called it.
        arguments_sha256: Digest of the arguments' canonical JSON.
        arguments_bytes: Size of that.
        duration_ms: From the call to its end.
        outcome: How it ended.
    """

    skill: str
    request_id: str
    arguments_sha256: str
    arguments_bytes: int
    duration_ms: float
    outcome: Ending


class AuditLog:
    """Writes lines.

    Args:
        path: The file; the one before it ends in ``.1``.
        max_bytes: Size at which a new file is begun.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._pending: deque[bytes] = deque(maxlen=MAX_PENDING)
        self._wake = trio.Event()
        self._is_failing = False

    def record(self, line: AuditLine) -> None:
        """Log a call. Never blocks."""
        fields = msgspec.structs.asdict(line)
        log.info("skill run", **fields)
        self._pending.append(msgspec.json.encode({"ts": round(time.time(), 3), **fields}) + b"\n")
        self._wake.set()

    async def run(self) -> None:
        """Write to the file what is recorded, for ever.

        Cancellation:
            Writes what is left, within a second.
        """
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                await self._flush()
        finally:
            with trio.move_on_after(FLUSH_LIMIT_S, shield=True):
                await self._flush()

    async def _flush(self) -> None:
        try:
            await trio.to_thread.run_sync(self._write_pending, abandon_on_cancel=True)
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                trouble_log.warning("audit file cannot be written", reason=error.strerror)
            self._is_failing = True

    def _write_pending(self) -> None:
        """Taken here, so that a thread that never came to start loses nothing."""
        lines: list[bytes] = []
        while self._pending:
            lines.append(self._pending.popleft())
        if lines:
            self._write(b"".join(lines))

    def _write(self, data: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            with os.fdopen(descriptor, "ab", closefd=False) as file:
                file.write(data)
        finally:
            os.close(descriptor)
        if size + len(data) > self._max_bytes:
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
