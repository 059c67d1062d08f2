"""Files that grow until they are whole, and what is in their place already.

A file has three names in a download's directory: with `.part` it grows, with `.whole` it has the
digest that was announced, and under its own name it stands ready to be moved. So a directory that
a killed process leaves never looks like a model, and nothing is fetched or verified twice.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from lmx.catalog.manifest import flush, flush_tree
from lmx.protocol.jobs import PlannedFile

BLOCK_BYTES = 1 << 20
PART = ".part"
WHOLE = ".whole"


class PartFile:
    """One file on its way.

    Args:
        directory: Of the download.
        file: What it is to become.

    Attributes:
        size: Bytes so far.
    """

    def __init__(self, directory: Path, file: PlannedFile) -> None:
        self.file = file
        self.path = directory / f"{file.path}{PART}"
        self._whole = directory / f"{file.path}{WHOLE}"
        self.size = 0
        self._digest = _new_digest(file)
        self._sink: BinaryIO | None = None

    def open(self, on_bytes: Callable[[int], None]) -> None:
        """Take up what is there.

        Args:
            on_bytes: Told of every piece that is read.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.path.stat().st_size > self.file.size_bytes:
            self.path.unlink()
        self._sink = self.path.open("a+b")
        self._sink.seek(0)
        while block := self._sink.read(BLOCK_BYTES):
            self._digest.update(block)
            self.size += len(block)
            on_bytes(len(block))

    @property
    def is_full(self) -> bool:
        """Whether it is as long as it should be."""
        return self.size == self.file.size_bytes

    @property
    def is_right(self) -> bool:
        """Whether its content has the digest that was announced."""
        return self.is_full and self._digest.hexdigest() == _expected(self.file)

    def append(self, block: bytes) -> None:
        """Write what comes next."""
        self._opened.write(block)
        self._digest.update(block)
        self.size += len(block)

    def restart(self) -> None:
        """Drop what is there."""
        self._opened.truncate(0)
        self._opened.seek(0)
        self.size = 0
        self._digest = _new_digest(self.file)

    def finish(self) -> None:
        """Note that it is right, once its bytes are on the disk."""
        self._opened.flush()
        os.fsync(self._opened.fileno())
        self.close()
        self.path.replace(self._whole)

    def flush(self) -> None:
        """Hand to the system what was written, so that it outlives this process."""
        self._opened.flush()

    def close(self) -> None:
        """Leave it for another time."""
        if self._sink is not None:
            self._sink.close()
            self._sink = None

    @property
    def _opened(self) -> BinaryIO:
        if self._sink is None:
            raise RuntimeError("the part is not open")
        return self._sink


def is_whole(directory: Path, file: PlannedFile) -> bool:
    """Whether a file of a download has been verified before."""
    names = (directory / f"{file.path}{WHOLE}", directory / file.path)
    return any(name.is_file() and name.stat().st_size == file.size_bytes for name in names)


def is_in_place(target: Path, file: PlannedFile, on_bytes: Callable[[int], None]) -> bool:
    """Whether a file of the same content stands where it is to appear.

    Args:
        target: The model's directory; it need not exist.
        file: What is wanted.
        on_bytes: Told of every piece that is read.
    """
    path = target / file.path
    if not path.is_file() or path.stat().st_size != file.size_bytes:
        return False
    digest = _new_digest(file)
    with path.open("rb") as source:
        while block := source.read(BLOCK_BYTES):
            digest.update(block)
            on_bytes(len(block))
    return digest.hexdigest() == _expected(file)


def publish(partial: Path, target: Path, files: list[PlannedFile], *, weights: set[str]) -> None:
    """Move verified files into their place.

    A directory that is not there yet appears whole. Into one that is there the weights come first
    and `config.json` last, and MLX weights that no longer belong to it go.

    Args:
        partial: Has the files, each with `.whole` or moved halfway before.
        target: The model's directory.
        files: What is to be moved.
        weights: Names of all MLX weights that belong to the revision.
    """
    for file in files:
        whole = partial / f"{file.path}{WHOLE}"
        if whole.exists():
            whole.replace(partial / file.path)
    flush_tree(partial)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        with suppress(OSError):  # another download of it may just have made the directory
            partial.rename(target)
            flush(target.parent)
            return
    for file in sorted(files, key=_rank):
        place = target / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        if (partial / file.path).exists():
            (partial / file.path).replace(place)
    if weights.intersection(file.path for file in files):
        for stale in target.glob("*.safetensors"):
            if stale.name not in weights:
                stale.unlink()
    flush(target)


def _rank(file: PlannedFile) -> tuple[int, str]:
    """Weights first, and of a split the part last that a model is found by; then what says more."""
    is_json = file.path.endswith(".json")
    is_first = "-00001-of-" in file.path
    return (3 if file.path == "config.json" else 2 if is_json else 1 if is_first else 0, file.path)


def _new_digest(file: PlannedFile) -> "hashlib._Hash":
    if file.sha256:
        return hashlib.sha256()
    # What git names a content by; it says only that nothing was garbled.
    return hashlib.sha1(b"blob %d\0" % file.size_bytes, usedforsecurity=False)


def _expected(file: PlannedFile) -> str:
    return file.sha256 or file.git_sha1
