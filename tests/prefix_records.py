"""Records for the disk tier of the prefix cache, each a function of where it is in which prompt.

A reader who knows the prompt knows every byte a record of it must hold.
"""

import errno
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from lmx.engines.prefix.disk.cache import DiskCache
from lmx.engines.prefix.disk.files import Files
from lmx.engines.prefix.disk.records import (
    Array,
    Buffer,
    DiskSettings,
    Namespace,
    Record,
    StoredRecord,
)

NAMESPACE = Namespace("a model", "float16", "mlx 1.0")
SALT = b"a tenant"
QUEUE_BYTES = 10_000_000


def state(token_ids: Sequence[int], start: int, salt: bytes, size_bytes: int) -> bytes:
    """What stands for the state of the tokens from `start` on: of these tokens and no others."""
    seed = repr((list(token_ids), start, salt)).encode()
    return hashlib.shake_128(seed).digest(size_bytes)


def record(
    token_ids: Sequence[int],
    start: int = 0,
    *,
    salt: bytes = SALT,
    size_bytes: int = 1000,
    has_snapshot: bool = False,
) -> Record:
    """The record of the tokens `start` to the end."""
    data = state(token_ids, start, salt, size_bytes)
    arrays = {
        "layers.0.keys": Array("bfloat16", (1, 2, len(token_ids) - start, 4), data),
        "layers.0.values": Array("float32", (0,), b""),
    }
    snapshot = {"layers.1": Array("float16", (7,), data[:7])} if has_snapshot else {}
    return Record(list(token_ids), start, salt, arrays, snapshot)


def content(found: StoredRecord | Record | None) -> object:
    """All of a record that must be equal."""
    if found is None:
        return None
    return [
        [(name, a.dtype, a.shape, bytes(a.data)) for name, a in group.items()]
        for group in (found.arrays, found.snapshot)
    ]


def open_cache(root: Path, *, cap_bytes: int = 10_000_000, **options: object) -> DiskCache:
    """A cache that keeps little in memory and pauses shortly."""
    files = options.pop("files", None)
    namespace = options.pop("namespace", NAMESPACE)
    assert files is None or isinstance(files, Files)
    assert isinstance(namespace, Namespace)
    settings = DiskSettings(cap_bytes=cap_bytes, **{"queue_bytes": QUEUE_BYTES, **options})  # type: ignore[arg-type]
    return DiskCache.open(root, namespace, settings=settings, files=files)


def store(cache: DiskCache, *records: Record) -> list[bool]:
    """Write records now; for each, whether the cache took it."""
    taken = [cache.offer(each) for each in records]
    cache.flush(10)
    return taken


def load(cache: DiskCache, token_ids: Sequence[int], salt: bytes = SALT) -> list[object]:
    """What the cache has of a prompt: the content of each record of the chain."""
    return [content(cache.read(handle)) for handle in cache.find(token_ids, salt)]


def disk_bytes(root: Path) -> int:
    """Bytes of all files, half written ones too."""
    total = 0
    for path in root.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def record_files(root: Path) -> list[Path]:
    """Every record's file."""
    return sorted(root.rglob("*.kv"))


class Clock:
    """A wall clock that moves a second at every reading."""

    def __init__(self) -> None:
        self._now_ns = 1_700_000_000_000_000_000

    def __call__(self) -> int:
        self._now_ns += 1_000_000_000
        return self._now_ns


class FullDisk(Files):
    """A disk with room for so many bytes, then `ENOSPC` in the middle of a file."""

    def __init__(self, room_bytes: int) -> None:
        self.room_bytes = room_bytes

    def write(self, path: str, buffers: Iterable[Buffer], used_ns: int) -> None:
        buffers = list(buffers)
        size_bytes = sum(len(buffer) for buffer in buffers)
        if size_bytes > self.room_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room_bytes -= size_bytes
        super().write(path, buffers, used_ns)


class ReadOnlyDisk(Files):
    """A disk that can be read and nothing else."""

    def make_directory(self, path: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def write(self, path: str, buffers: Iterable[Buffer], used_ns: int) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def touch(self, path: str, used_ns: int) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def remove(self, path: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system")
