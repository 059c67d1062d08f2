"""Which models loaded on which backends, and why others did not: a bounded list of attempts.

Theory of operation. A reader takes the loader's events off the bus without ever waiting, so that it
is not dropped; a writer appends what came to a file of JSON lines, in a thread. The file outlives
the daemon and nothing depends on it: damaged lines are skipped, and a disk that is full costs the
memory of these attempts and nothing else.
"""

import importlib.metadata
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

import msgspec
import structlog
import trio
from msgspec import Struct

from lmx import __version__
from lmx.daemon.replacing import replace_file
from lmx.daemon.telemetry import DaemonEvent, Telemetry

FILE_NAME = "compatibility.jsonl"
ROW_LIMIT = 1000
# The file is written anew once it has this many lines; what is read of one is bounded, too.
FILE_ROW_LIMIT = 2 * ROW_LIMIT
READ_LIMIT_BYTES = 4 * 1024 * 1024
REASON_LIMIT_CHARACTERS = 1000

# Backends under the names that clients know, and the library whose version is the backend's.
BACKENDS = {"mlx": "mlx", "llama": "gguf"}
LIBRARIES = {"mlx": "mlx-lm", "gguf": "llama-cpp-python"}
# What says nothing about whether the two fit together: memory was short.
INCONCLUSIVE = frozenset({"insufficient_memory", "oom-unloaded"})
UNTRIED = frozenset({"model-not-found"})

NOTED_EVENTS = frozenset({"model_loaded", "model_failed"})

Outcome = Literal["pass", "fail", "unknown"]

log = structlog.get_logger("lmx.compatibility")


class Attempt(Struct, frozen=True, kw_only=True):
    """How a load went.

    Attributes:
        ts: Epoch seconds.
        backend: ``mlx``, ``gguf``, ``fake``, or ``auto`` where it was not decided yet.
        backend_version: Of the library behind it; empty if it is not installed.
        reason: Why it failed.
        metadata: JSON-ready details.
    """

    ts: float
    model_id: str
    backend: str
    backend_version: str
    outcome: Outcome
    reason: str | None = None
    metadata: dict[str, Any] = {}


class Compatibility:
    """The list.

    Args:
        home: ``LMX_HOME``.
        telemetry: Tells of loads.
        backend_of: The backend of a model by its id.
    """

    def __init__(
        self, home: Path, telemetry: Telemetry, *, backend_of: Callable[[str], str]
    ) -> None:
        self._path = home / "state" / FILE_NAME
        self._telemetry = telemetry
        self._backend_of = backend_of
        self._versions = {"fake": __version__} | {
            backend: _version(library) for backend, library in LIBRARIES.items()
        }
        self._attempts: deque[Attempt] = deque(maxlen=ROW_LIMIT)
        self._unwritten: deque[Attempt] = deque(maxlen=ROW_LIMIT)
        self._recorded = trio.Event()
        self._is_read = False
        self._file_rows = 0
        self._can_write = True

    async def run(self) -> NoReturn:
        """Note every load."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_file)
            while True:  # a subscriber that fell behind starts again
                with self._telemetry.subscribe(NOTED_EVENTS) as events:
                    async for event in events:
                        self._note(event)

    def record(
        self,
        model_id: str,
        backend: str,
        outcome: Outcome,
        *,
        reason: str | None = None,
        **metadata: Any,
    ) -> None:
        """Add an attempt. Never waits."""
        attempt = Attempt(
            ts=round(time.time(), 3),
            model_id=model_id,
            backend=backend,
            backend_version=self._versions.get(backend, ""),
            outcome=outcome,
            reason=reason and reason[:REASON_LIMIT_CHARACTERS],
            metadata=metadata,
        )
        self._attempts.append(attempt)
        self._unwritten.append(attempt)
        self._recorded.set()

    def attempts(self) -> list[Attempt]:
        """Everything known, the latest first."""
        return list(reversed(self._attempts))

    def _note(self, event: DaemonEvent) -> None:
        fields = event.fields
        if event.type == "model_loaded":
            model_id = fields["model_id"]
            details = {name: fields[name] for name in ("memory_gb", "duration_sec")}
            self.record(model_id, self._backend_of(model_id), "pass", **details)
        elif event.type == "model_failed" and fields["code"] not in UNTRIED:
            model_id, code = fields["model_id"], fields["code"]
            outcome: Outcome = "unknown" if code in INCONCLUSIVE else "fail"
            backend = self._backend_of(model_id)
            self.record(model_id, backend, outcome, reason=fields["reason"], code=code)

    async def _keep_file(self) -> NoReturn:
        if not self._is_read:
            await self._read()
        while True:
            await self._recorded.wait()
            self._recorded = trio.Event()
            await self._write()

    async def _read(self) -> None:
        known, self._file_rows = await trio.to_thread.run_sync(read_attempts, self._path)
        newer = list(self._attempts)
        self._attempts.clear()
        self._attempts.extend([*known, *newer])
        self._is_read = True

    async def _write(self) -> None:
        attempts = list(self._unwritten)
        is_full = self._file_rows + len(attempts) > FILE_ROW_LIMIT
        rows = list(self._attempts) if is_full else attempts
        write = partial(write_attempts, self._path, rows, is_whole=is_full)
        try:
            await trio.to_thread.run_sync(write)
        except OSError as error:
            if self._can_write:
                log.warning("attempts to load models cannot be noted", reason=str(error))
            self._can_write = False
            return
        self._can_write = True
        self._file_rows = len(rows) if is_full else self._file_rows + len(rows)
        for attempt in attempts:
            if self._unwritten and self._unwritten[0] is attempt:
                self._unwritten.popleft()


def backend_name(engine: str) -> str:
    """What clients call an engine."""
    return BACKENDS.get(engine, engine)


def read_attempts(path: Path) -> tuple[Sequence[Attempt], int]:
    """The latest attempts of a file, and how many lines it has; too many if it is damaged.

    Never fails.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - READ_LIMIT_BYTES))
            data = file.read(READ_LIMIT_BYTES)
    except OSError:
        return (), 0
    *lines, rest = data.split(b"\n")
    attempts = [attempt for line in lines if (attempt := _parse(line)) is not None]
    is_sound = len(attempts) == len(lines) and not rest and size <= READ_LIMIT_BYTES
    return attempts[-ROW_LIMIT:], len(lines) if is_sound else FILE_ROW_LIMIT


def write_attempts(path: Path, attempts: Iterable[Attempt], *, is_whole: bool) -> None:
    """Append to a file, or replace it whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    data = b"".join(msgspec.json.encode(attempt) + b"\n" for attempt in attempts)
    if is_whole:
        replace_file(path, data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(data)


def _parse(line: bytes) -> Attempt | None:
    try:
        return msgspec.json.decode(line, type=Attempt)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""
