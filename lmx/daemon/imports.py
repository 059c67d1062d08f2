"""Imports seen from the daemon and the command line: start the importer, follow it, end it.

The importer is a child process named by its module string, so that neither numpy nor an engine is
imported here. It lives exactly as long as `run_import`: leaving early, by cancellation or error,
kills its whole process group and reaps it.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Literal

import msgspec
import trio

from lmx.errors import ImportFailed, from_code

IMPORTER = "lmx.engines.importer"
# Enough for the end of a traceback.
STDERR_TAIL_BYTES = 2000

Stage = Literal["wait", "download", "extract", "convert"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class EmbeddedImport(msgspec.Struct, frozen=True):
    """Fetch an embedded model, and convert it where it has to be.

    Attributes:
        word: What it is asked for by, such as ``demo``.
    """

    word: str
    dtype: Dtype = "auto"


class GgufImport(msgspec.Struct, frozen=True):
    """Convert a GGUF file that is on this machine."""

    path: Path
    dtype: Dtype = "auto"


class ImportProgress(msgspec.Struct, frozen=True):
    """How far one stage is, in bytes.

    Attributes:
        stage: `wait` means that another import holds the home.
        total: 0 while unknown.
    """

    stage: Stage
    done: int
    total: int


class _Line(msgspec.Struct, frozen=True):
    """Any line the importer writes; the module docstring of the importer lists the three."""

    stage: Stage | None = None
    done: int = 0
    total: int = 0
    result: str | None = None
    error: str | None = None
    message: str = ""


async def run_import(
    home: Path,
    request: EmbeddedImport | GgufImport,
    on_progress: Callable[[ImportProgress], None],
) -> Path:
    """Run one import to its end in a child process.

    Args:
        home: LMX's directory; the model appears under ``models`` in it.
        request: What to import.
        on_progress: Called in this task for every report, about ten a second.

    Returns:
        The model directory, complete.

    Raises:
        ImportFailed: It could not be fetched, or the child died.
        CorruptModel: The file is damaged.
        UnsupportedModel: The file is of a kind no converter here knows.

    Cancellation:
        The child is killed and reaped. What was downloaded stays and is resumed next time.
    """
    last = _Line()
    # A file and not a pipe, so that nobody has to read it while the child runs.
    with tempfile.TemporaryFile() as stderr:
        async with _open_importer(home, request, stderr) as process:
            async for last in _lines(process):
                if last.stage is not None:
                    on_progress(ImportProgress(stage=last.stage, done=last.done, total=last.total))
            status = await process.wait()
        if last.error is not None:
            raise from_code(last.error, last.message)
        if last.result is None or status != 0:
            raise ImportFailed(_obituary(status, stderr))
    return Path(last.result)


@asynccontextmanager
async def _open_importer(
    home: Path, request: EmbeddedImport | GgufImport, stderr: IO[bytes]
) -> AsyncIterator[trio.Process]:
    """The running child; leaving kills and reaps it if it still runs.

    Its standard input is a pipe that nobody writes to: its end tells the child that we are gone.
    """
    if isinstance(request, EmbeddedImport):
        what = ["--embedded", request.word]
    else:
        what = ["--gguf", str(request.path)]
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", IMPORTER, "--home", str(home), "--dtype", request.dtype, *what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            # Not reaped, so its id still names its group, in which pip may run as well. A group
            # of nothing but an exited child is gone on Linux and not permitted on macOS.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    await stream.aclose()


async def _lines(process: trio.Process) -> AsyncIterator[_Line]:
    """The child's reports until it closes its standard output."""
    held = b""
    if process.stdout is None:
        return
    async for block in process.stdout:
        *whole, held = (held + block).split(b"\n")
        for line in whole:
            yield _parse_line(line)


def _parse_line(line: bytes) -> _Line:
    try:
        return msgspec.json.decode(line, type=_Line)
    except msgspec.DecodeError as error:
        text = line.decode("utf-8", "replace")
        raise ImportFailed(f"the importer wrote a line that is no report: {text}") from error


def _obituary(status: int, stderr: IO[bytes]) -> str:
    """Why the child died, as far as its status and its last words tell."""
    how = f"was ended by signal {-status}" if status < 0 else f"exited with status {status}"
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - STDERR_TAIL_BYTES))
    said = stderr.read().decode("utf-8", "replace").strip()
    return f"the importer {how}" + (f": {said}" if said else "")
