"""The calls to the file system that the disk tier makes, and the lock between processes.

All of them raise `OSError` and nothing else. They stand in one class so that a test can put a
full disk in its place. Nothing is flushed to the medium: a file that lost its end or its middle to
a power failure fails its digests and is a miss, which costs less than waiting for every record.
"""

import fcntl
import mmap
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from lmx.engines.prefix.disk.entries import TEMPORARY_PREFIX
from lmx.engines.prefix.disk.records import Buffer

# Prompts are private: only the account that runs LMX reads them.
_DIRECTORY_MODE = 0o700
_FILE_MODE = 0o600
_LOCK_POLL_S = 0.01
# What a single `write` takes; more only raises how much is lost when it fails.
_WRITE_BYTES = 16 << 20


class Listing(msgspec.Struct, frozen=True):
    """What a directory holds. Links and special files are left out.

    Args:
        files: By name: bytes, and the time of the last change in nanoseconds.
        subdirectories: Their names.
    """

    files: dict[str, tuple[int, int]]
    subdirectories: list[str]


class Files:
    """The file system."""

    def list_directory(self, path: str) -> Listing:
        """Everything in a directory; a file that leaves meanwhile is left out."""
        listing = Listing({}, [])
        with os.scandir(path) as found:
            for item in found:
                try:
                    if item.is_file(follow_symlinks=False):
                        status = item.stat(follow_symlinks=False)
                        listing.files[item.name] = (status.st_size, status.st_mtime_ns)
                    elif item.is_dir(follow_symlinks=False):
                        listing.subdirectories.append(item.name)
                except FileNotFoundError:
                    continue
        return listing

    def modified_ns(self, path: str) -> int:
        """When a file's content or a directory's listing last changed."""
        return Path(path).stat(follow_symlinks=False).st_mtime_ns

    def make_directory(self, path: str) -> None:
        """It exists afterwards, and those above it."""
        Path(path).mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)

    def write(self, path: str, buffers: Iterable[Buffer], used_ns: int) -> None:
        """A new file, whole or not at all unless the process dies.

        Args:
            path: Where.
            buffers: What, one behind the other.
            used_ns: Stands as the time of its last change.
        """
        final = Path(path)
        temporary = final.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{final.name}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, _FILE_MODE)
        try:
            try:
                for buffer in buffers:
                    _write_all(descriptor, buffer)
                os.utime(descriptor, ns=(used_ns, used_ns))
            finally:
                os.close(descriptor)
            temporary.rename(final)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise

    def read(self, path: str, size_bytes: int) -> Buffer:
        """The whole file; of one that is longer than expected, a byte too many."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            view = _room(min(os.fstat(descriptor).st_size, size_bytes + 1))
            filled = 0
            while filled < len(view):
                count = file.readinto(view[filled:])
                if not count:
                    break
                filled += count
        return view[:filled]

    def touch(self, path: str, used_ns: int) -> None:
        """Set the time of its last change."""
        os.utime(path, ns=(used_ns, used_ns), follow_symlinks=False)

    def remove(self, path: str) -> None:
        """The file is gone afterwards, whoever removed it."""
        with suppress(FileNotFoundError):
            Path(path).unlink()

    def remove_directory(self, path: str) -> None:
        """An empty directory is gone afterwards."""
        Path(path).rmdir()

    @contextmanager
    def lock(self, path: str, wait_s: float) -> Iterator[None]:
        """Only one process at a time is inside. The kernel lets go of it for a process that dies.

        Raises:
            TimeoutError: Another process was inside for longer than `wait_s`.
        """
        deadline = time.monotonic() + wait_s
        while (descriptor := _try_lock(path)) is None:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"another process kept {path} locked")
            time.sleep(_LOCK_POLL_S)
        try:
            yield
        finally:
            os.close(descriptor)


def _room(size_bytes: int) -> memoryview:
    """Memory to read into, half as dear as a `bytearray`, which is filled with zeros first.

    In large pages where there are any: a page fault for each small one takes as long as the copy.
    """
    if not size_bytes:
        return memoryview(b"")
    room = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON)
    if sys.platform == "linux":
        with suppress(OSError):  # a kernel without them
            room.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(room)


def _write_all(descriptor: int, buffer: Buffer) -> None:
    view = memoryview(buffer)
    while view:
        view = view[os.write(descriptor, view[:_WRITE_BYTES]) :]


def _try_lock(path: str) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Somebody may have removed the file in between; a lock on that one keeps nobody out.
        if os.path.samestat(os.fstat(descriptor), Path(path).stat(follow_symlinks=False)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
