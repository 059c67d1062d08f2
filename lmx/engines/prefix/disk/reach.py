"""How far the records on disk reach into one prompt, and by which chains.

Filled by the index, one record at a time from the prompt's beginning on. It knows positions and
entries and neither digests nor files.
"""

from lmx.engines.prefix.disk.entries import Entry


class Reach:
    """The positions of one prompt to which a chain of records leads, each by its smallest chain.

    Args:
        needs_snapshot: A chain of use ends with a record that has a snapshot.
    """

    def __init__(self, *, needs_snapshot: bool) -> None:
        self._needs_snapshot = needs_snapshot
        self._last: dict[int, Entry] = {}  # by end: the last record of the smallest chain
        self._bytes: dict[int, int] = {0: 0}  # by end: of that chain
        self._useful: dict[int, Entry] = {}  # by end: the same among chains of use
        self._useful_bytes: dict[int, int] = {}

    @property
    def positions(self) -> list[int]:
        """Every position, 0 among them."""
        return list(self._bytes)

    def add(self, entry: Entry) -> None:
        """A record of the prompt that begins at 0 or where one that was added ends."""
        size_bytes = self._bytes[entry.start] + entry.size_bytes
        if size_bytes < self._bytes.get(entry.end, size_bytes + 1):
            self._bytes[entry.end] = size_bytes
            self._last[entry.end] = entry
        if self._needs_snapshot and not entry.has_snapshot:
            return
        if size_bytes < self._useful_bytes.get(entry.end, size_bytes + 1):
            self._useful_bytes[entry.end] = size_bytes
            self._useful[entry.end] = entry

    def longest(self) -> list[Entry]:
        """The chain of use that reaches furthest; empty if there is none."""
        if not self._useful:
            return []
        last = self._useful[max(self._useful)]
        return [*self.to(last.start), last]

    def to(self, position: int) -> list[Entry]:
        """The smallest chain that leads to a position."""
        chain: list[Entry] = []
        while position:
            chain.append(self._last[position])
            position = chain[-1].start
        return chain[::-1]
