"""Temporary directories: making them, and removing what something hostile has filled.

`shutil.rmtree` recurses, keeps a descriptor per level, and stops at a folder without permissions.
This moves what is deep up to the top, so that no depth matters. Nothing else may be using the
directory.
"""

import errno
import os
import stat
import tempfile
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

ABANDONED_S = 86_400.0
_PREFIX = "lmx-run-"
_MINE = stat.S_IRWXU


def make_directory(parent: Path | None) -> Path:
    """Make a directory for one run, readable for its owner alone; the path has no links.

    Args:
        parent: Where; `None` for the system's place.

    Raises:
        OSError: It cannot be made.
    """
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent)).resolve()


def remove_abandoned(parent: Path | None) -> None:
    """Remove directories of daemons that were killed; those of others are let be.

    A process id may be one of another view of them, so only what is old counts as abandoned.
    """
    for path in Path(parent or tempfile.gettempdir()).glob(f"{_PREFIX}[0-9]*-*"):
        with suppress(OSError, ValueError):
            found = path.lstat()
            pid = int(path.name.removeprefix(_PREFIX).partition("-")[0])
            is_old = time.time() - found.st_mtime > ABANDONED_S
            if is_old and found.st_uid == os.geteuid() and not _is_alive(pid):
                remove_tree(path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def remove_tree(top: Path) -> None:
    """Remove a directory and all in it, never following a symbolic link; what fails is left."""
    with suppress(OSError):
        top.chmod(_MINE)
        names = count()
        descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while _empty_once(descriptor, names):
                pass
        finally:
            os.close(descriptor)
        top.rmdir()


def _empty_once(top: int, names: "count[int]") -> bool:
    """Remove the files, and one level of every folder; whether a folder was found."""
    folders: list[str] = []
    for name, is_folder in _list(top):
        if is_folder:
            folders.append(name)
        else:
            os.unlink(name, dir_fd=top)
    for folder in folders:
        _flatten(top, folder, names)
    return bool(folders)


def _flatten(top: int, folder: str, names: "count[int]") -> None:
    os.chmod(folder, _MINE, dir_fd=top)
    descriptor = os.open(
        folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top
    )
    try:
        for name, is_folder in _list(descriptor):
            if is_folder:
                # A folder can only be moved by who may write into it.
                os.chmod(name, _MINE, dir_fd=descriptor)
                _move_up(descriptor, name, top=top, names=names)
            else:
                os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    os.rmdir(folder, dir_fd=top)


def _list(folder: int) -> list[tuple[str, bool]]:
    with os.scandir(folder) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]


def _move_up(source: int, name: str, *, top: int, names: "count[int]") -> None:
    while True:
        try:
            os.rename(name, f"lmx-{next(names)}", src_dir_fd=source, dst_dir_fd=top)
        except (FileExistsError, NotADirectoryError):
            pass  # the skill has used that name
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
        else:
            return
