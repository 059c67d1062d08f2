"""Whether a disk has room for what is coming."""

import shutil
from collections.abc import Callable
from pathlib import Path

import trio

from lmx.errors import StorageFull

FreeBytes = Callable[[Path], int]


def free_bytes(path: Path) -> int:
    """What is free on the disk of a directory that may not exist yet.

    Raises:
        OSError: The system does not say.
    """
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


async def check_space(
    place: Path, needed_bytes: int, *, reserve_bytes: int, free: FreeBytes = free_bytes
) -> None:
    """Refuse what would not fit.

    Args:
        place: Where it is to appear.
        needed_bytes: What is to be written, by this and all others.
        reserve_bytes: What must stay free.
        free: Tells what is free on the disk of a path.

    Raises:
        StorageFull: It does not fit; the message holds the numbers.
    """
    available = await trio.to_thread.run_sync(free, place)
    if available - needed_bytes < reserve_bytes:
        raise StorageFull(
            f"{needed_bytes / 1e9:.1f} GB are needed and {reserve_bytes / 1e9:.1f} GB stay free, "
            f"but the disk of {place} has {available / 1e9:.1f} GB"
        )
