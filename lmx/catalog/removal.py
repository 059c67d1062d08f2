"""Deleting a model's files: what may be deleted, and how much that gives back.

Only below the folders that are LMX's or the user's for models; what belongs to another program is
left alone. A symbolic link is never followed: one that stands for a model goes, and what it points
to stays. Reads and deletes files, so it runs off the event loop.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from lmx.catalog.folders import LM_STUDIO, Root, model_roots
from lmx.catalog.gguf_names import parse_split
from lmx.errors import NotDeletable


class Removal(Struct, frozen=True):
    """What is to go.

    Attributes:
        root: The folder of models it is in.
        paths: A directory, or the files of one model.
    """

    root: Path
    paths: tuple[Path, ...]

    def holds(self, path: Path) -> bool:
        """Whether a file or directory would go with it."""
        real = path.resolve()
        return any(real.is_relative_to(gone.resolve()) for gone in self.paths)


def plan_removal(path: Path, home: Path, folders: Sequence[str] = ()) -> Removal:
    """What goes with a model.

    Args:
        path: An MLX directory, or a GGUF file or any part of one.
        home: ``LMX_HOME``.
        folders: Configured folders of models.

    Raises:
        NotDeletable: It is in none of the folders in which LMX deletes.
    """
    root = next((root for root in _roots(home, folders) if _is_below(path, root.path)), None)
    if root is None:
        raise NotDeletable(
            f"{path} is not deleted: it is neither in LMX's own folder of models, nor in ~/models, "
            "nor in the Hugging Face cache, nor in a configured folder",
            param="model_id",
        )
    if root.layout == "hub":  # snapshots point to files beside them: the repository goes whole
        return Removal(root.path, (root.path / path.relative_to(root.path).parts[0],))
    return Removal(root.path, _files(path))


def remove(removal: Removal) -> int:
    """Delete, and give the bytes that came free.

    Raises:
        NotDeletable: The system refuses; some of it may be gone.
    """
    freed = 0
    for path in removal.paths:
        sizes = _owned_bytes(path)
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise NotDeletable(f"{path} cannot be deleted: {error.strerror}") from error
        freed += sizes
    _remove_empty_parents(removal)
    return freed


def _roots(home: Path, folders: Sequence[str]) -> Iterator[Root]:
    own = {root.path for root in model_roots(home, folders)[: 2 + len(folders)]}
    foreign = {Path(os.path.expanduser(path)).absolute() for path in LM_STUDIO}  # noqa: PTH111
    for root in model_roots(home, folders):
        if root.path in own or root.path not in foreign:
            yield root


def _is_below(path: Path, root: Path) -> bool:
    """Whether it is truly inside, without a link on the way that leads out, and not the root."""
    inside = path.is_relative_to(root) and path != root and ".." not in path.parts
    return inside and path.parent.resolve().is_relative_to(root.resolve())


def _files(path: Path) -> tuple[Path, ...]:
    split = parse_split(path.name)
    if split is None or path.is_dir():
        return (path,)
    return tuple(path.with_name(split.part(index)) for index in range(1, split.count + 1))


def _owned_bytes(path: Path) -> int:
    """Lengths of the files that are nowhere else: one with a hard link outside stays."""
    seen: Counter[tuple[int, int]] = Counter()
    freed = 0
    for file in _walk(path):
        with suppress(FileNotFoundError):
            found = file.lstat()
            seen[found.st_dev, found.st_ino] += 1
            if seen[found.st_dev, found.st_ino] == found.st_nlink and not file.is_symlink():
                freed += found.st_size
    return freed


def _walk(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for directory, _, names in os.walk(path):
        yield from (Path(directory, name) for name in names)


def _remove_empty_parents(removal: Removal) -> None:
    """The folder of a publisher goes with its last model."""
    for path in {path.parent for path in removal.paths}:
        for parent in (path, *path.parents):
            if parent == removal.root or not parent.is_relative_to(removal.root):
                break
            with suppress(OSError):
                parent.rmdir()
