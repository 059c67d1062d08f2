"""The prefix cache of one model: the tree behind a lock, and why a prompt is not wholly in it.

The intake thread asks `foresee`; everything else is the engine thread's. Payloads are never touched
here, so that no device library is entered with the lock held. It does not know what a payload is.
"""

from collections.abc import Sequence
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

from lmx.engines.base import PrefixOutlook, PrefixUse
from lmx.engines.prefix.tree import (
    Mark,
    Match,
    Node,
    PrefixTree,
    Segment,
    Snapshot,
    TokenIds,
    make_key,
)

S = TypeVar("S", bound=Segment)
P = TypeVar("P", bound=Snapshot)

# Fewer tokens are computed faster than they are looked for, and prompts that short are better
# computed together than one by one.
LEAST_TOKENS = 16
# What is told of an entry that a prompt parts from: enough for a line of text.
CONTINUATION_TOKENS = 48
OFF = PrefixOutlook(0, "off")


class Found(NamedTuple, Generic[S, P]):
    """What a prompt can go on from.

    Attributes:
        tokens: Leading tokens that can be skipped, at least `LEAST_TOKENS`.
        pieces: Their payloads, each with how many of its tokens to take.
        snapshot: What is valid after them, for models that need it.
    """

    tokens: int
    pieces: list[tuple[S, int]]
    snapshot: P | None


class Wanted(NamedTuple):
    """What would have to be stored of a prefix.

    Attributes:
        start: Tokens that are there already.
        snapshot: A snapshot of its end is missing.
    """

    start: int
    snapshot: bool


class Fresh(NamedTuple, Generic[S, P]):
    """A node that is not on disk.

    Attributes:
        ids: All tokens up to its end.
        salt: Whose.
        start: Where its segment begins.
        segment: Payload of the tokens from there.
        snapshot: What is valid at its end.
        node: Its place.
    """

    ids: TokenIds
    salt: str
    start: int
    segment: S
    snapshot: P | None
    node: Node[S, P]


class StoreState(NamedTuple):
    """Sizes and counts; see `PrefixTree`."""

    size_bytes: int
    entry_count: int
    evicted_count: int


class PrefixStore(Generic[S, P]):
    """Entries of one model.

    Args:
        budget_bytes: What all entries together may take; 0 keeps nothing.
        needs_snapshots: A prompt can go on only from a snapshot.
    """

    def __init__(self, budget_bytes: int, *, needs_snapshots: bool = False) -> None:
        self._is_on = budget_bytes > 0
        self._tree: PrefixTree[S, P] = PrefixTree(budget_bytes, needs_snapshots=needs_snapshots)
        self._lock = Lock()

    @property
    def is_on(self) -> bool:
        """Anything can be kept."""
        return self._is_on

    @property
    def needs_snapshots(self) -> bool:
        """A prompt can go on only from a snapshot."""
        return self._tree.needs_snapshots

    @property
    def state(self) -> StoreState:
        """How full it is."""
        with self._lock:
            tree = self._tree
            return StoreState(tree.size_bytes, tree.entry_count, tree.evicted_count)

    def foresee(self, token_ids: Sequence[int], prefix: PrefixUse) -> PrefixOutlook:
        """How much of a prompt is there, and why not more. From any thread."""
        if not self._is_on:
            return OFF
        ids = make_key(token_ids)
        with self._lock:
            match = self._tree.match(ids, prefix.salt)
            reason = self._reason(ids, prefix, match)
            told = self._tree.continuation(match, CONTINUATION_TOKENS)
        cached = match.usable if match.usable >= LEAST_TOKENS else 0
        continues = tuple(told) if reason == "diverged" else ()
        return PrefixOutlook(cached, reason, match.covered, continues)

    def usable_tokens(self, ids: TokenIds, salt: str) -> int:
        """Leading tokens of a prompt that can be skipped; refreshes nothing."""
        if not self._is_on:
            return 0
        with self._lock:
            usable = self._tree.match(ids, salt).usable
        return usable if usable >= LEAST_TOKENS else 0

    def find(self, ids: TokenIds, salt: str, *, beyond: int = 0) -> Found[S, P] | None:
        """What a prompt can go on from, which counts as a use.

        Args:
            ids: The prompt.
            salt: Whose it is.
            beyond: Tokens that are computed; less than `LEAST_TOKENS` more is nothing.
        """
        if not self._is_on:
            return None
        with self._lock:
            match = self._tree.match(ids, salt)
            if match.usable < beyond + LEAST_TOKENS:
                return None
            self._tree.touch(match)
            mark: Mark[S, P] | None = match.mark
            pieces = list(match.segments())
            return Found(match.usable, pieces, None if mark is None else mark.snapshot)

    def wanted(self, ids: TokenIds, salt: str) -> Wanted | None:
        """What is missing of a prefix, or `None` if nothing is, or it is not worth keeping."""
        if not self._is_on or len(ids) < LEAST_TOKENS:
            return None
        with self._lock:
            covered = self._tree.match(ids, salt).covered
            wants_snapshot = self.needs_snapshots and not self._tree.has_snapshot(ids, salt)
        if covered == len(ids) and not wants_snapshot:
            return None
        return Wanted(covered, wants_snapshot)

    def keep(
        self,
        ids: TokenIds,
        salt: str,
        *,
        segment: S | None,
        snapshot: P | None = None,
        is_stored: bool = False,
    ) -> bool:
        """Remember what `wanted` asked for, evicting what was unused for longest.

        Args:
            ids: All tokens up to there.
            salt: Whose.
            segment: Of those that are missing; `None` if none are.
            snapshot: What is valid at its end.
            is_stored: It came from disk.

        Returns:
            Whether it fits the budget at all.
        """
        with self._lock:
            return self._tree.insert(
                ids, salt, segment=segment, snapshot=snapshot, is_stored=is_stored
            )

    def next_fresh(self) -> Fresh[S, P] | None:
        """What should go to disk next; what it continues was here before it."""
        with self._lock:
            node = self._tree.next_fresh()
            if node is None or node.segment is None:
                return None
            snapshot = None if node.mark is None else node.mark.snapshot
            return Fresh(node.path_tokens(), node.salt, node.start, node.segment, snapshot, node)

    def settle(self, fresh: Fresh[S, P]) -> None:
        """It is on its way to disk."""
        with self._lock:
            self._tree.settle(fresh.node)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._tree.clear()

    def shrink(self, budget_bytes: int | None) -> None:
        """Change the budget, evicting what is over it; one that was 0 stays 0.

        Args:
            budget_bytes: The new one; with `None` it stays, and everything is forgotten.
        """
        if budget_bytes is None:
            self.clear()
        elif self._is_on:
            with self._lock:
                self._tree.set_budget(budget_bytes)

    def _reason(self, ids: TokenIds, prefix: PrefixUse, match: Match[S, P]) -> str:
        if match.usable >= len(ids) - 1:
            return "full" if len(ids) > LEAST_TOKENS else "short"
        if self._tree.was_evicted(ids, prefix.salt, match):
            return "evicted"
        if match.covered < LEAST_TOKENS:
            return "short" if len(ids) <= LEAST_TOKENS else "no-entry"
        last = match.path[-1]
        is_all_used = match.covered == last.end and not last.children
        if is_all_used or 0 < prefix.turn_start <= match.covered:
            return "new"
        return "diverged"
