"""The log file: rotated, found again when others move it, and never worth a daemon."""

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lmx.cli.log_file import LogFile


@contextmanager
def opened(
    path: Path, standby: io.StringIO | None = None, *, max_bytes: int = 0, backups: int = 2
) -> Iterator[LogFile]:
    """A log file that is closed at the end."""
    file = LogFile(path, max_bytes=max_bytes, backups=backups, standby=standby or io.StringIO())
    try:
        yield file
    finally:
        file.close()


def test_lines_are_appended(tmp_path: Path) -> None:
    """In a folder that is made, after what stands there, all of them, in order."""
    path = tmp_path / "new" / "lmx.log"
    for start in (0, 500):
        with opened(path) as file:
            for number in range(start, start + 500):
                file.write(f"line {number} \u00e9")
    assert [f"line {n} \u00e9" for n in range(1000)] == path.read_text("utf-8").splitlines()
    assert 0o640 == path.stat().st_mode & 0o777


def test_a_full_file_is_put_away(tmp_path: Path) -> None:
    """Files keep their size, the newest lines are in the last one, the oldest go."""
    path = tmp_path / "lmx.log"
    with opened(path, max_bytes=100, backups=2) as file:
        for number in range(40):
            file.write(f"line {number:04}")
    files = [path, Path(f"{path}.1"), Path(f"{path}.2")]
    assert sorted(files) == sorted(tmp_path.iterdir())
    assert all(file.stat().st_size <= 100 for file in files)
    kept = "".join(file.read_text() for file in reversed(files)).splitlines()
    assert [f"line {n:04}" for n in range(40)][-len(kept) :] == kept
    with opened(path, max_bytes=20, backups=0) as file:
        file.write("x" * 50)
        file.write("last")
    assert "last\n" == path.read_text()


def test_a_file_that_cannot_be_written_is_told_of_once(tmp_path: Path) -> None:
    """The lines go to the standby stream."""
    standby = io.StringIO()
    with opened(tmp_path, standby) as file:
        for number in range(3):
            file.write(f"line {number}")
    told, *lines = standby.getvalue().splitlines()
    assert f"lmx: {tmp_path} cannot be written" in told
    assert ["line 0", "line 1", "line 2"] == lines


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    """Every line is somewhere, and the file goes on once there is room."""
    path, standby = tmp_path / "lmx.log", io.StringIO()
    path.symlink_to("/dev/full")
    with opened(path, standby) as file:
        file.write("lost")
        while "lost" not in standby.getvalue():
            threading.Event().wait(0.01)
        path.unlink()
        while not path.exists():
            file.write("found")
            threading.Event().wait(0.05)
    assert set(path.read_text().split()) == {"found"}
    assert 1 == standby.getvalue().count("cannot be written")
    assert 1 == standby.getvalue().count("is written again")


def test_a_line_that_was_cut_is_ended(tmp_path: Path) -> None:
    """So that the next one stands on a line of its own."""
    path = tmp_path / "lmx.log"
    path.write_text("whole\ncut he")
    with opened(path) as file:
        file.write("next")
    assert ["whole", "cut he", "next"] == path.read_text().splitlines()


def test_a_file_that_was_moved_away_is_opened_anew(tmp_path: Path) -> None:
    """Other programs rotate logs, too."""
    path, moved = tmp_path / "lmx.log", tmp_path / "moved"
    with opened(path) as file:
        file.write("first")
        while not path.exists() or not path.read_text():
            threading.Event().wait(0.01)
        path.rename(moved)
        while not path.exists():
            file.write("second")
            threading.Event().wait(0.05)
    assert "first" == moved.read_text().splitlines()[0]
    assert {"second"} == set(path.read_text().split())


def test_a_folder_that_allows_no_rotation_lets_the_file_grow(tmp_path: Path) -> None:
    """It is told of once, and no line is lost."""
    path, standby = tmp_path / "lmx.log", io.StringIO()
    (tmp_path / "lmx.log.1").mkdir()
    (tmp_path / "lmx.log.1" / "x").touch()
    with opened(path, standby, max_bytes=20, backups=1) as file:
        for number in range(9):
            file.write(f"line {number:04}")
    assert 9 == len(path.read_text().splitlines())
    assert 1 == standby.getvalue().count("cannot be rotated")


def test_writers_wait_for_nothing(tmp_path: Path) -> None:
    """Not for a disk that takes no byte; what is too much is dropped and counted."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        file = LogFile(path, max_bytes=0, backups=0, standby=io.StringIO())
        for _ in range(100_000):
            file.write("x" * 100)
        os.set_blocking(reader, True)
        threading.Thread(target=file.close).start()
        said = b""
        while data := os.read(reader, 1 << 20):
            said += data
    finally:
        os.close(reader)
    dropped = [line for line in said.decode().splitlines() if "dropped" in line]
    assert dropped
    counted = sum(int(line.split()[0]) for line in dropped)
    assert 100_000 == counted + said.count(b"\n") - len(dropped)
