"""Folders of manifests, read again when something in them changed. Blocking: for a thread.

A look costs one `stat` per file. A file that stops being readable or correct, such as one that an
editor is writing, keeps its last good skill, and the error is told until it is good again.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lmx.errors import ConfigError
from lmx.skills.manifest import Manifest
from lmx.skills.reading import MAX_MANIFEST_BYTES, parse_manifest
from lmx.skills.service import BrokenManifest

SUFFIXES = (".yaml", ".yml")
MAX_FILES = 2000
PACKAGED = Path(__file__).parent / "builtin"

Signature = tuple[int, ...]


class Found(NamedTuple):
    """What is in the folders now."""

    manifests: tuple[Manifest, ...]
    broken: tuple[BrokenManifest, ...]


class FileState(NamedTuple):
    """One file as last read.

    Attributes:
        signature: What tells whether it changed.
        manifest: The last good one.
        error: Why it cannot be used now; `None` iff it can.
    """

    signature: Signature
    manifest: Manifest | None
    error: str | None


class ManifestFolders:
    """Reads manifests.

    Args:
        folders: Where they are, and in folders right below; what is not there counts as empty.
            Earlier ones win where two have the same skill.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._files: dict[Path, FileState] = {}

    def read(self) -> Found:
        """All manifests, of which only changed files are read again."""
        files: dict[Path, FileState] = {}
        troubles: list[BrokenManifest] = []
        for path in self._paths(troubles):
            files[path] = self._look(path)
        self._files = files
        return _combine(files, troubles)

    def _paths(self, troubles: list[BrokenManifest]) -> Iterator[Path]:
        """Every file that should be a manifest; what is in the way becomes a trouble."""
        count = 0
        for folder in (PACKAGED, *self._folders):
            for path in _manifest_paths(folder, troubles):
                count += 1
                if count > MAX_FILES:
                    error = f"more than {MAX_FILES} manifests; the others are not read"
                    troubles.append(BrokenManifest(_shown(folder), error))
                    return
                yield path

    def _look(self, path: Path) -> FileState:
        before = self._files.get(path, FileState((), None, None))
        signature: Signature = ()
        try:
            status = path.stat()
            signature = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns)
            if signature == before.signature:
                return before
            return FileState(signature, _read_manifest(path, status), None)
        except OSError as error:
            return FileState((), before.manifest, error.strerror or str(error))
        except ConfigError as error:
            return FileState(signature, before.manifest, error.message)


def _read_manifest(path: Path, status: os.stat_result) -> Manifest:
    """The manifest in a file.

    Raises:
        ConfigError: There is none that can be used.
        OSError: The file cannot be read.
    """
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError("is not a file")
    if status.st_size > MAX_MANIFEST_BYTES:
        raise ConfigError(f"has more than {MAX_MANIFEST_BYTES} bytes")
    folder = path.resolve().parent
    if _shown(folder) != str(folder):
        raise ConfigError("the name of its folder is no UTF-8")
    return parse_manifest(_read_bytes(path), folder=folder, is_builtin=path.parent == PACKAGED)


def _manifest_paths(folder: Path, troubles: list[BrokenManifest]) -> Iterator[Path]:
    """Manifests in a folder in order, then those in folders right below it."""
    below: list[Path] = []
    for entry in _entries(folder, troubles):
        if entry.name.startswith((".", "__")):
            continue
        if Path(entry.name).suffix in SUFFIXES:
            yield Path(entry.path)
        elif _is_folder(entry):
            below.append(Path(entry.path))
    for inner in below:
        for entry in _entries(inner, troubles):
            if Path(entry.name).suffix in SUFFIXES and not entry.name.startswith("."):
                yield Path(entry.path)


def _entries(folder: Path, troubles: list[BrokenManifest]) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        troubles.append(BrokenManifest(_shown(folder), error.strerror or str(error)))
        return []


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether it is one, or a link to one; what cannot be looked at, such as a circle, is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _read_bytes(path: Path) -> bytes:
    """A file's content; a pipe that took its place since it was looked at is not waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MAX_MANIFEST_BYTES + 1)


def _shown(path: Path) -> str:
    """A path as text, which the name of a file need not be."""
    return os.fsencode(path).decode(errors="replace")


def _combine(files: dict[Path, FileState], troubles: Iterable[BrokenManifest]) -> Found:
    broken = list(troubles)
    owners: dict[str, Path] = {}
    manifests: list[Manifest] = []
    for path, state in files.items():
        if state.error is not None:
            broken.append(BrokenManifest(_shown(path), state.error))
        if state.manifest is None:
            continue
        owner = owners.setdefault(state.manifest.reference, path)
        if owner == path:
            manifests.append(state.manifest)
        else:
            error = f"name: {_shown(owner)} has {state.manifest.reference} already"
            broken.append(BrokenManifest(_shown(path), error))
    return Found(tuple(manifests), tuple(broken))
