"""Files that are replaced whole or not at all, such as what the daemon notes for its next start."""

from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Write a file; its folder is made if it is not there.

    Raises:
        OSError: It cannot be written; what was there before stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(data)
    partial.replace(path)
