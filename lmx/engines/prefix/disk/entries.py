"""One file of the disk tier as the index knows it, and the file names that say it all.

A name repeats what the file's header says about its place among the others, so an index is built
from directory listings without opening a file. What a name claims is held against the header when
the file is read.
"""

import re

import msgspec

SUFFIX = ".kv"
TEMPORARY_PREFIX = ".tmp-"

_NAME = re.compile(r"([0-9a-f]{32})-([0-9a-f]{32})-(\d{1,10})-(\d{1,10})-([ks])\.kv")


class Entry(msgspec.Struct, eq=False, gc=False):
    """A file that counts against the cap.

    Args:
        directory: Where it is.
        name: Its name there.
        size_bytes: What the file system says.
        used_ns: The last hit, or when it was written; nanoseconds of the wall clock.
        start_digest: Of the prefix it continues. Empty: not a file of this format.
        end_digest: Of the prefix it completes. Empty: not a file of this format.
        has_snapshot: It also holds what is valid at `end` alone.
    """

    directory: str
    name: str
    size_bytes: int
    used_ns: int
    start_digest: str = ""
    end_digest: str = ""
    start: int = 0
    end: int = 0
    has_snapshot: bool = False

    @property
    def path(self) -> str:
        """The whole path."""
        return f"{self.directory}/{self.name}"


class Place(msgspec.Struct, frozen=True):
    """Where a record belongs: two are the same iff their places are equal."""

    start_digest: str
    end_digest: str
    start: int
    end: int
    has_snapshot: bool

    @property
    def shard(self) -> str:
        """The subdirectory of the namespace: keeps each listing short."""
        return self.end_digest[:2]

    @property
    def name(self) -> str:
        """The file's name."""
        kind = "s" if self.has_snapshot else "k"
        return f"{self.start_digest}-{self.end_digest}-{self.start}-{self.end}-{kind}{SUFFIX}"


def parse_entry(directory: str, name: str, *, size_bytes: int, used_ns: int) -> Entry:
    """The entry of a listed file, whatever its name is."""
    match = _NAME.fullmatch(name)
    if match is None:
        return Entry(directory, name, size_bytes, used_ns)
    start_digest, end_digest, start, end, kind = match.groups()
    return Entry(
        directory,
        name,
        size_bytes,
        used_ns,
        start_digest,
        end_digest,
        int(start),
        int(end),
        kind == "s",
    )
