"""Entries by digest, where nearly every digest has one entry.

A table of tables would take up more memory than all else in the index; so one entry stands for
itself, and only several get a table.
"""

from collections.abc import Collection

from lmx.engines.prefix.disk.entries import Entry


class Groups:
    """Any number of entries for each digest."""

    def __init__(self) -> None:
        self._by_digest: dict[str, Entry | dict[Entry, None]] = {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._by_digest

    def at(self, digest: str) -> Collection[Entry]:
        """The entries of a digest. Not to be kept while others are added or removed."""
        group = self._by_digest.get(digest, ())
        return (group,) if isinstance(group, Entry) else group

    def add(self, digest: str, entry: Entry) -> None:
        """One more; nothing happens if it is there."""
        group = self._by_digest.get(digest)
        if group is None:
            self._by_digest[digest] = entry
        elif isinstance(group, dict):
            group[entry] = None
        elif group is not entry:
            self._by_digest[digest] = {group: None, entry: None}

    def discard(self, digest: str, entry: Entry) -> None:
        """One less; nothing happens if it is not there."""
        group = self._by_digest.get(digest)
        if group is entry:
            del self._by_digest[digest]
        elif isinstance(group, dict):
            group.pop(entry, None)
            if not group:
                del self._by_digest[digest]
