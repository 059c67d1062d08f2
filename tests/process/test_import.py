"""The importer as a real child process: what it gives, how it fails, and that it never stays."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import trio

from lmx.catalog.specs import parse_spec
from lmx.daemon.imports import GgufImport, ImportProgress, run_import
from lmx.daemon.sources import find_source
from lmx.errors import CorruptModel, ImportFailed, LmxError, UnsupportedModel
from tests.tiny_gguf import TinyLlama

# The child imports MLX on a machine that may be busy.
PATIENCE_S = 50


@contextmanager
def import_lock(home: Path) -> Iterator[None]:
    """Hold the home's lock, so that an importer started meanwhile waits."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "import.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ignore(_progress: ImportProgress) -> None:
    """Take a report and do nothing."""


def importers(home: Path) -> list[psutil.Process]:
    """Every living importer for this home."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if "lmx.engines.importer" in words and str(home) in words:
            found.append(process)
    return [process for process in found if process.info["status"] != psutil.STATUS_ZOMBIE]


async def test_a_gguf_file_becomes_a_model_and_is_reused(tmp_path: Path) -> None:
    """The first import converts and reports to the end; the second finds it done."""
    source = TinyLlama().write(tmp_path / "tiny.gguf")
    reports: list[ImportProgress] = []
    with trio.fail_after(PATIENCE_S):
        made = await run_import(tmp_path / "home", GgufImport(source), reports.append)
    assert tmp_path / "home" / "models" == made.parent
    assert made.name.startswith("tiny-mlx-")
    assert {"convert"} == {report.stage for report in reports}
    assert reports[-1].total == reports[-1].done
    weights = (made / "model.safetensors").stat()
    reports.clear()
    with trio.fail_after(PATIENCE_S):
        assert made == await run_import(tmp_path / "home", GgufImport(source), reports.append)
    assert [] == reports
    assert weights.st_ino == (made / "model.safetensors").stat().st_ino


async def test_a_gguf_file_is_converted_for_mlx_on_demand(tmp_path: Path) -> None:
    """The backend ``mlx`` makes a file an MLX directory, which is then found again."""
    source = TinyLlama().write(tmp_path / "tiny.gguf")
    spec = parse_spec(str(source), "mlx")
    with trio.fail_after(PATIENCE_S):
        made = await find_source(spec, tmp_path / "home")
        assert made == await find_source(spec, tmp_path / "home")
    assert "mlx" == made.engine
    assert (Path(made.path) / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("model", "cut", "error", "named"),
    [
        (TinyLlama(architecture="gemma3"), None, UnsupportedModel, "gemma3"),
        (TinyLlama(), 9000, CorruptModel, "damaged or incomplete"),
    ],
)
async def test_the_childs_error_is_raised_here(
    tmp_path: Path, model: TinyLlama, cut: int | None, error: type[LmxError], named: str
) -> None:
    """An error in the child arrives as the same class with the same sentence."""
    source = model.write(tmp_path / "tiny.gguf")
    source.write_bytes(source.read_bytes()[:cut])
    with trio.fail_after(PATIENCE_S), pytest.raises(error, match=named):
        await run_import(tmp_path / "home", GgufImport(source), ignore)


async def test_a_home_that_cannot_be_written_fails_the_import(tmp_path: Path) -> None:
    """An error of the file system arrives as a failed import that names the path."""
    home = tmp_path / "home"
    home.write_text("a file")
    with trio.fail_after(PATIENCE_S), pytest.raises(ImportFailed, match=str(home)):
        await run_import(home, GgufImport(tmp_path / "tiny.gguf"), ignore)


async def test_cancelling_kills_and_reaps_the_child(tmp_path: Path) -> None:
    """Leaving by cancellation leaves no importer behind, not even for a moment."""
    home = tmp_path / "home"
    stages: list[str] = []
    with import_lock(home), trio.fail_after(PATIENCE_S), trio.CancelScope() as scope:

        def stop(progress: ImportProgress) -> None:
            stages.append(progress.stage)
            assert 1 == len(importers(home))
            scope.cancel()

        await run_import(home, GgufImport(tmp_path / "tiny.gguf"), stop)
    assert ["wait"] == stages
    assert scope.cancelled_caught
    assert [] == importers(home)


async def test_a_child_that_dies_silently_is_a_failed_import(tmp_path: Path) -> None:
    """If the child is killed, the error says by which signal."""
    home = tmp_path / "home"

    def kill(_progress: ImportProgress) -> None:
        for process in importers(home):
            process.kill()

    died = pytest.raises(ImportFailed, match="ended by signal 9")
    with import_lock(home), trio.fail_after(PATIENCE_S), died:
        await run_import(home, GgufImport(tmp_path / "tiny.gguf"), kill)


async def test_a_crash_in_the_child_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the child ends without a report, the end of its standard error is the message."""
    (tmp_path / "numpy.py").write_text("raise RuntimeError('numpy is out of order')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with trio.fail_after(PATIENCE_S), pytest.raises(ImportFailed, match="out of order"):
        await run_import(tmp_path / "home", GgufImport(tmp_path / "tiny.gguf"), ignore)


async def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    """If the parent is killed, the importer notices and exits by itself."""
    home = tmp_path / "home"
    program = (
        "import sys, pathlib, trio\n"
        "from lmx.daemon.imports import GgufImport, run_import\n"
        "home = pathlib.Path(sys.argv[1])\n"
        "say = lambda progress: print(progress.stage, end='', flush=True)\n"
        "trio.run(run_import, home, GgufImport(home / 'none.gguf'), say)\n"
    )
    with import_lock(home), trio.fail_after(PATIENCE_S):
        command = [sys.executable, "-c", program, str(home)]
        parent = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        assert parent.stdout is not None
        assert b"wait" == await parent.stdout.receive_some()
        [child] = importers(home)
        os.kill(parent.pid, signal.SIGKILL)
        await parent.wait()
        _, alive = await trio.to_thread.run_sync(psutil.wait_procs, [child], 10)
        assert [] == alive
        await parent.stdout.aclose()


async def test_a_second_import_waits_for_the_first(tmp_path: Path) -> None:
    """While another importer holds the home, an import waits, says so, and then succeeds."""
    home = tmp_path / "home"
    source = TinyLlama().write(tmp_path / "tiny.gguf")
    stages: list[str] = []
    waits = trio.Event()

    def note(progress: ImportProgress) -> None:
        stages.append(progress.stage)
        waits.set()

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            with import_lock(home):
                nursery.start_soon(run_import, home, GgufImport(source), note)
                await waits.wait()
                assert ["wait"] == stages
    assert "convert" == stages[-1]
