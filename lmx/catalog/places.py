"""Walking the folders with models: which directories there are and which files are in each.

Looks at names, sizes and times and opens nothing, so that ten thousand directories take a second.
A place is what `lmx.catalog.locate` would look into for an id; what is in it is not judged here.
"""

import os
import stat
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from lmx.catalog.folders import HUB_PREFIX, Root, hub_id
from lmx.catalog.gguf_names import is_gguf, parse_variant
from lmx.catalog.locate import find_snapshot
from lmx.catalog.manifest import PARTIAL
from lmx.catalog.mlx_files import CONFIG_FILE, WEIGHTS_SUFFIX

# Folders below a root: publisher, repository, quantisation, and one to spare.
MAX_DEPTH = 4
# Of all roots together. Folders full of links to one another end here.
MAX_FOLDERS = 100_000
# What downloads are called until they are done.
UNFINISHED = (".incomplete", ".part", ".download", ".crdownload", ".aria2")

# A file's state, or `None` for a link that leads nowhere.
Files = dict[str, os.stat_result | None]
_Key = tuple[int, int]


class Place:
    """One directory.

    Attributes:
        id: What it is called by its place, or empty if it cannot be called by an id.
        path: Absolute.
        files: Regular files by name.
        inner_files: GGUF files of the folders in it that are named like a quantisation, by a name
            such as ``Q8_0/name``.
        unfinished: When each unfinished download into it was last written to, in seconds.
        is_plain: It is not in the Hugging Face cache.
        is_inside: It is a part of the model in the folder around it.
    """

    def __init__(self, place_id: str, path: str, *, is_plain: bool) -> None:
        self.id = place_id
        self.path = path
        self.files: Files = {}
        self.inner_files: Files = {}
        self.unfinished: list[float] = []
        self.is_plain = is_plain
        self.is_inside = False

    def enter(self, name: str) -> "Place":
        """A directory in this one."""
        inner_id = f"{self.id}/{name}".removeprefix("/") if self.is_plain else ""
        inner = Place(inner_id, f"{self.path}/{name}", is_plain=self.is_plain)
        inner.is_inside = self.is_inside or self.is_mlx
        return inner

    @cached_property
    def is_mlx(self) -> bool:
        """`locate` takes it for an MLX directory."""
        has_weights = any(name.endswith(WEIGHTS_SUFFIX) for name in self.files)
        return has_weights and self.files.get(CONFIG_FILE) is not None

    @cached_property
    def gguf_files(self) -> Files:
        """GGUF files in it and in its folders that are named like a quantisation."""
        own = {name: state for name, state in self.files.items() if is_gguf(name)}
        return own | self.inner_files


class Repository:
    """A folder in the Hugging Face cache that leads to no place: an unfinished download, mostly.

    Attributes:
        id: Such as ``org/name``.
        path: Absolute.
        blobs: Contents by name.
        unfinished: When each unfinished download was last written to, in seconds.
        fault: Why it cannot be read, or empty.
    """

    def __init__(self, path: str) -> None:
        self.id = hub_id(Path(path).name)
        self.path = path
        self.blobs: Files = {}
        self.unfinished: list[float] = []
        self.fault = ""


class Walk:
    """One walk over all roots.

    Attributes:
        places: In the order in which `locate` looks at them.
        repositories: Of the Hugging Face cache, without a place.
        problems: Sentences about what could not be looked at.
    """

    def __init__(self, roots: Sequence[Root]) -> None:
        self.places: list[Place] = []
        self.repositories: list[Repository] = []
        self.problems: list[str] = []
        self._folders_left = MAX_FOLDERS
        for root in roots:
            self._walk_root(root)
        if self._folders_left <= 0:
            self.problems.append(f"only the first {MAX_FOLDERS} folders were looked at")

    def _walk_root(self, root: Root) -> None:
        path = str(root.path)
        try:
            if root.layout == "plain":
                self._walk(Place("", path, is_plain=True), MAX_DEPTH, [_key(root.path.stat())])
            else:
                for entry in _scan(path):
                    if entry.name.startswith(HUB_PREFIX) and self._is_readable(path, entry.name):
                        self._walk_repository(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            if root.is_configured:
                self.problems.append(f"{path} is configured, but there is no such folder")
        except OSError as error:
            self._refused(path, error)

    def _walk_repository(self, path: str) -> None:
        repository = Repository(path)
        self._folders_left -= 1
        try:
            blobs = _scan_if_there(f"{path}/blobs")
            growing = [_state(entry) for entry in blobs if entry.name.endswith(UNFINISHED)]
            repository.unfinished = [state.st_mtime for state in growing if state is not None]
            snapshot = find_snapshot(Path(path))
            if snapshot is not None and snapshot.is_dir():
                place = Place(repository.id, str(snapshot), is_plain=False)
                place.unfinished = repository.unfinished
                self._walk(place, MAX_DEPTH, [_key(snapshot.stat())])
                return
            repository.blobs = {entry.name: _state(entry) for entry in blobs}
        except OSError as error:
            repository.fault = f"it cannot be read: {error.strerror}"
        self.repositories.append(repository)

    def _walk(self, place: Place, depth: int, above: list[_Key]) -> None:
        """Note a directory and those below it.

        Args:
            place: The directory.
            depth: How many levels below it to look at.
            above: It and the directories around it; a link to one of them is not followed.
        """
        entries = _scan(place.path)
        self.places.append(place)
        folders: list[tuple[str, _Key]] = []
        for entry in entries:
            name, state = entry.name, _state(entry)
            if not self._is_readable(place.path, name):
                continue
            if state is None or stat.S_ISREG(state.st_mode):
                place.files[name] = state
                if state is not None and name.endswith(UNFINISHED):
                    place.unfinished.append(state.st_mtime)
            elif stat.S_ISDIR(state.st_mode) and name[0] != "." and PARTIAL not in name:
                folders.append((name, _key(state)))
        for name, key in sorted(folders) if depth else ():
            if key not in above and self._folders_left > 0:
                inner = place.enter(name)
                self._walk_inner(inner, depth - 1, [*above, key])
                if parse_variant(name):
                    place.inner_files |= {
                        f"{name}/{file}": found
                        for file, found in inner.files.items()
                        if is_gguf(file)
                    }

    def _walk_inner(self, place: Place, depth: int, above: list[_Key]) -> None:
        self._folders_left -= 1
        try:
            self._walk(place, depth, above)
        except OSError as error:
            self._refused(place.path, error)

    def _is_readable(self, folder: str, name: str) -> bool:
        """Whether a name can be told to anybody: ids and paths travel as UTF-8."""
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(name).decode("utf-8", "replace")
            self.problems.append(f"{folder}/{shown} is left out: its name is not UTF-8")
            return False
        return True

    def _refused(self, path: str, error: OSError) -> None:
        self.problems.append(f"{path} cannot be read: {error.strerror}")


def _scan(path: str) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return list(entries)


def _scan_if_there(path: str) -> list[os.DirEntry[str]]:
    try:
        return _scan(path)
    except FileNotFoundError:
        return []


def _state(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Of what a link leads to; `None` if it leads nowhere."""
    try:
        return entry.stat()
    except OSError:
        return None


def _key(state: os.stat_result) -> _Key:
    """What makes a directory the same one under any name."""
    return state.st_dev, state.st_ino
