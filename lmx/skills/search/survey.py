"""Which documents there are and which have changed. Blocking: for a thread."""

import os
import re
import stat
from pathlib import Path

MAX_FILES = 5000
MAX_FILE_BYTES = 2_000_000
DOCUMENT = re.compile(
    r".*\.(txt|text|md|markdown|rst|org|adoc|tex|x?html?|csv|tsv|json|ya?ml|toml|ini|cfg|xml|py|pyi|"
    r"m?js|jsx|tsx?|c|h|cc|[ch]pp|mm?|swift|rs|go|java|kt|rb|php|pl|lua|[zb]?a?sh|sql|r|jl|scala|cs|"
    r"css|el|clj|hs|ml|zig)",
    re.IGNORECASE | re.DOTALL,
)
SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "site-packages"})

Signature = tuple[int, ...]


def survey(folder: Path) -> dict[str, Signature]:
    """Paths of documents below a folder, in order, with what tells whether they changed.

    Links are not followed, so nothing outside the folder is found. Hidden files and folders, files
    that are too large, and those beyond `MAX_FILES` are left out.
    """
    found: dict[str, Signature] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in SKIPPED_FOLDERS
        )
        for name in sorted(names):
            if name.startswith(".") or not DOCUMENT.fullmatch(name):
                continue
            path = str(Path(place) / name)
            signature = _signature(path)
            if signature is not None:
                found[path] = signature
            if len(found) >= MAX_FILES:
                return found
    return found


def _signature(path: str) -> Signature | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= MAX_FILE_BYTES:
        return None
    return (status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)


def size_of(signature: Signature) -> int:
    """The size of the file, in bytes."""
    return signature[0]
