"""A name for a model's files that changes when they do, without reading gigabytes.

It covers small files whole, and of large ones the size, the time of change, the beginning, which in
weight files lists every tensor, and blocks all over the rest. It knows no formats.
"""

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

WHOLE_BYTES = 1 << 20
BLOCK_COUNT, BLOCK_BYTES = 64, 4096


def fingerprint_files(paths: Iterable[Path]) -> str:
    """The same for the same files.

    Args:
        paths: Files in any order.

    Raises:
        OSError: One of them cannot be read.
    """
    found = blake2b(digest_size=16)
    for path in sorted(paths):
        state = path.stat()
        found.update(f"{path.name}\0{state.st_size}\0".encode())
        with path.open("rb") as file:
            found.update(file.read(WHOLE_BYTES))
            if state.st_size > WHOLE_BYTES:
                found.update(f"{state.st_mtime_ns}\0".encode())
                for index in range(BLOCK_COUNT):
                    file.seek(state.st_size * index // BLOCK_COUNT)
                    found.update(file.read(BLOCK_BYTES))
    return found.hexdigest()
