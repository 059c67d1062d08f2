"""A model directory that appears whole or not at all.

Everything is written into a sibling that carries this process's id, flushed, and renamed. A sibling
whose process is gone is litter of a crash and is removed. What the files are is the caller's
business; so is the manifest, which is its last file.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmx.catalog.manifest import MANIFEST_NAME, PARTIAL, flush, flush_tree, read_manifest
from lmx.errors import ImportFailed


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory to fill, which stands at `target` when the block ends without an error.

    An earlier import there is replaced; if the block raises, it stays.

    Raises:
        ImportFailed: Something that is no import of ours stands at `target`.
    """
    _check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_litter(target)
    partial = target.with_name(f"{target.name}{PARTIAL}{os.getpid()}")
    partial.mkdir()
    try:
        yield partial
        _publish(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_replaceable(target: Path) -> None:
    """Refuse to touch a directory that an import did not make."""
    if target.exists() and read_manifest(target) is None:
        raise ImportFailed(
            f"{target} exists and has no {MANIFEST_NAME}, so it is not LMX's to replace; "
            "move it away and try again"
        )


def _remove_litter(target: Path) -> None:
    """Remove unfinished siblings of `target` whose process is gone."""
    for path in target.parent.glob(f"{target.name}{PARTIAL}*"):
        owner = path.name.rpartition(PARTIAL)[2].removesuffix(".old")
        if owner.isdigit() and not _is_other_process(int(owner)):
            shutil.rmtree(path)


def _is_other_process(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _publish(partial: Path, target: Path) -> None:
    """Make the finished directory durable, then put it in place."""
    flush_tree(partial)
    old = partial.with_name(f"{partial.name}.old")
    if target.exists():
        target.rename(old)
    partial.replace(target)
    flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)
