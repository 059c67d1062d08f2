"""What is on disk, in memory: which prefix continues which, and who leaves first.

It knows entries and no file system. It has no lock of its own; `DiskCache` holds one around every
call. Who leaves first: files nothing can reach, then by last hit, and of the chain of one hit the
far end first, so that what remains can still be used.
"""

import heapq
from collections.abc import Container, Generator, Iterable, Iterator, Mapping, Sequence

import msgspec

from lmx.engines.prefix.disk.digests import PrefixDigests
from lmx.engines.prefix.disk.entries import Entry, Place, parse_entry
from lmx.engines.prefix.disk.groups import Groups
from lmx.engines.prefix.disk.reach import Reach

# Last hit, then the far end first, then a number that no other entry has.
_Rank = tuple[int, int, int, Entry]
# Each costs a header read on the engine's thread.
_PARTING_COUNT = 8


class Index:
    """Every file under the cap.

    Args:
        namespace_directory: Its files are counted apart.

    Attributes:
        total_bytes: Of all files.
        own_bytes: Of the files below `namespace_directory`.
        own_count: Files below `namespace_directory`.
    """

    def __init__(self, namespace_directory: str) -> None:
        self._own_prefix = namespace_directory + "/"
        self._directories: dict[str, dict[str, Entry]] = {}
        self._after = Groups()  # by `start_digest`
        self._ending = Groups()  # by `end_digest`
        # Files whose `start_digest` no file ends with: no lookup reaches them.
        self._orphans: dict[Entry, None] = {}
        self._ranks: list[_Rank] | None = None  # a heap; `None` until room is needed
        self._rank_count = 0
        self.total_bytes = 0
        self.own_bytes = 0
        self.own_count = 0

    def replace(self, directory: str, listing: Mapping[str, tuple[int, int]]) -> None:
        """Make the index agree with a directory.

        Args:
            directory: Its path.
            listing: By name: bytes, and when it was last used in nanoseconds.
        """
        known = self._directories.setdefault(directory, {})
        for name in [name for name in known if name not in listing]:
            self.remove(known[name])
        for name, (size_bytes, used_ns) in listing.items():
            entry = known.get(name)
            if entry is None:
                self.add(parse_entry(directory, name, size_bytes=size_bytes, used_ns=used_ns))
                continue
            entry.used_ns = max(entry.used_ns, used_ns)
            if entry.size_bytes != size_bytes:
                self._count(entry, size_bytes - entry.size_bytes, files=0)
                entry.size_bytes = size_bytes

    def directories(self) -> set[str]:
        """Every directory that has or had a file."""
        return set(self._directories)

    def forget(self, directory: str) -> None:
        """The directory is gone."""
        for entry in list(self._directories.get(directory, {}).values()):
            self.remove(entry)
        self._directories.pop(directory, None)

    def add(self, entry: Entry) -> None:
        """A file is there; one of the same path is replaced."""
        files = self._directories.setdefault(entry.directory, {})
        if entry.name in files:
            self.remove(files[entry.name])
        files[entry.name] = entry
        self._count(entry, entry.size_bytes, files=1)
        if entry.end_digest:
            self._connect(entry)
        if self._ranks is not None:
            heapq.heappush(self._ranks, self._rank(entry))

    def remove(self, entry: Entry) -> None:
        """The file is gone. Nothing happens if the index does not have it."""
        files = self._directories.get(entry.directory, {})
        if files.get(entry.name) is not entry:
            return
        del files[entry.name]
        self._count(entry, -entry.size_bytes, files=-1)
        self.hide(entry)

    def hide(self, entry: Entry) -> None:
        """Never find it again, though it still takes up room."""
        self._after.discard(entry.start_digest, entry)
        self._ending.discard(entry.end_digest, entry)
        self._orphans.pop(entry, None)
        if entry.end_digest not in self._ending:
            for child in self._after.at(entry.end_digest):
                self._orphans[child] = None

    def get(self, directory: str, place: Place) -> Entry | None:
        """The record that belongs there; one with a snapshot also serves who needs none."""
        files = self._directories.get(directory, {})
        found = files.get(place.name)
        if found is None and not place.has_snapshot:
            found = files.get(msgspec.structs.replace(place, has_snapshot=True).name)
        if found is None or found not in self._ending.at(found.end_digest):
            return None
        return found

    def has_files(self, directory: str) -> bool:
        """Whether anything is in a directory."""
        return bool(self._directories.get(directory))

    def has_continuations(self, digest: str) -> bool:
        """Whether any record begins at this digest."""
        return digest in self._after

    def reach(self, digests: PrefixDigests, *, needs_snapshot: bool) -> Reach:
        """Every chain of records that a prompt begins with.

        Args:
            digests: Of the prompt.
            needs_snapshot: The last record must have a snapshot.
        """
        reach = Reach(needs_snapshot=needs_snapshot)
        waiting = [0]
        done: set[int] = set()
        while waiting:
            position = heapq.heappop(waiting)
            if position in done:
                continue
            done.add(position)
            for entry in self._continuations(digests, position):
                heapq.heappush(waiting, entry.end)
                reach.add(entry)
        return reach

    def parting(self, digests: PrefixDigests, positions: Iterable[int], beyond: int) -> list[Entry]:
        """Records that continue a prompt and end beyond a position, the last used first.

        How far they agree with the prompt is not known here.
        """
        found = [
            entry
            for position in positions
            for entry in self._after.at(digests.at(position))
            if entry.start == position and entry.end > beyond
        ]
        return heapq.nlargest(_PARTING_COUNT, found, key=lambda entry: entry.used_ns)

    def ancestors(self, place: Place) -> Sequence[Entry]:
        """One chain of records that leads to a place, the nearest first; as much as there is."""
        chain: list[Entry] = []
        digest, start = place.start_digest, place.start
        while start:
            # One that reaches back furthest keeps the chain short.
            parent = min(self._ending.at(digest), key=lambda entry: entry.start, default=None)
            if parent is None or parent.start >= start:
                break
            chain.append(parent)
            digest, start = parent.start_digest, parent.start
        return chain

    def touch(self, entry: Entry, used_ns: int) -> None:
        """It was of use."""
        entry.used_ns = max(entry.used_ns, used_ns)

    def leaving(self) -> Generator[Entry]:
        """Every entry, in the order in which they should leave.

        The caller removes or touches what it was given before it asks for the next. An entry
        that was touched comes again in its new turn; one that was left alone does not.
        """
        if self._ranks is None:
            every = (entry for files in self._directories.values() for entry in files.values())
            self._ranks = [self._rank(entry) for entry in every]
            heapq.heapify(self._ranks)
        passed: dict[Entry, None] = {}
        try:
            while (entry := self._next(passed)) is not None:
                seen_ns = entry.used_ns
                passed[entry] = None
                yield entry
                if entry.used_ns != seen_ns:
                    del passed[entry]
                    heapq.heappush(self._ranks, self._rank(entry))
        finally:
            for entry in passed:
                if self._has(entry):
                    heapq.heappush(self._ranks, self._rank(entry))

    def _next(self, passed: Container[Entry]) -> Entry | None:
        orphan = next((entry for entry in self._orphans if entry not in passed), None)
        if orphan is not None:
            return orphan
        while self._ranks:
            used_ns, _, _, entry = heapq.heappop(self._ranks)
            if not self._has(entry) or entry in passed:
                continue
            if used_ns == entry.used_ns:
                return entry
            heapq.heappush(self._ranks, self._rank(entry))
        return None

    def _rank(self, entry: Entry) -> _Rank:
        self._rank_count += 1
        return (entry.used_ns, -entry.end, self._rank_count, entry)

    def _has(self, entry: Entry) -> bool:
        return self._directories.get(entry.directory, {}).get(entry.name) is entry

    def _connect(self, entry: Entry) -> None:
        self._after.add(entry.start_digest, entry)
        self._ending.add(entry.end_digest, entry)
        if entry.start and entry.start_digest not in self._ending:
            self._orphans[entry] = None
        if self._orphans:
            for child in self._after.at(entry.end_digest):
                self._orphans.pop(child, None)

    def _continuations(self, digests: PrefixDigests, position: int) -> Iterator[Entry]:
        here = digests.at(position)
        after = self._after.at(here)
        limit = digests.length_tokens
        for end in sorted({entry.end for entry in after if entry.end <= limit}):
            for entry in self._ending.at(digests.at(end)):
                if entry.start_digest == here and entry.start == position < entry.end == end:
                    yield entry

    def _count(self, entry: Entry, size_bytes: int, *, files: int) -> None:
        self.total_bytes += size_bytes
        if entry.directory.startswith(self._own_prefix):
            self.own_bytes += size_bytes
            self.own_count += files
