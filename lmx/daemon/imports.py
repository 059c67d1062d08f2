"""Imports seen from the daemon and the command line: start the importer, follow it, end it.

The importer is a child process, so that neither numpy nor an engine is imported here. It lives
exactly as long as `run_import`.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from lmx.daemon.children import obituary, open_child, read_lines
from lmx.errors import ImportFailed, from_code

IMPORTER = "lmx.engines.importer"

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
    if isinstance(request, EmbeddedImport):
        what = ["--embedded", request.word]
    else:
        what = ["--gguf", str(request.path)]
    arguments = ["--home", str(home), "--dtype", request.dtype, *what]
    with tempfile.TemporaryFile() as stderr:
        async with open_child(IMPORTER, arguments, stderr) as process:
            async for line in read_lines(process):
                last = _parse_line(line)
                if last.stage is not None:
                    on_progress(ImportProgress(stage=last.stage, done=last.done, total=last.total))
            status = await process.wait()
        if last.error is not None:
            raise from_code(last.error, last.message)
        if last.result is None or status != 0:
            raise ImportFailed(f"the importer {obituary(status, stderr)}")
    return Path(last.result)


def _parse_line(line: bytes) -> _Line:
    try:
        return msgspec.json.decode(line, type=_Line)
    except msgspec.DecodeError as error:
        text = line.decode("utf-8", "replace")
        raise ImportFailed(f"the importer wrote a line that is no report: {text}") from error
