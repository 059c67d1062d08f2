"""What was computed for which token ids: a radix tree with one root per salt. Pure.

An edge owns the payload of exactly its own tokens, so that a prefix of many prompts is kept once. A
node may hold a snapshot besides, a payload that is valid only where the node ends, for models whose
state cannot be cut. It does not know what payloads are, and no threads.

Everything kept stands in one order of last use. A use refreshes the whole path, deepest first, so
that a node always stands behind its descendants: the oldest node is a leaf, and evicting from the
front is true LRU that never cuts a path in the middle.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Generic, NamedTuple, Protocol, Self, TypeAlias, TypeVar

# Of what was evicted; each is 16 bytes and some overhead.
MAX_MEMORIES = 4096
# Tokens of an evicted edge that a prompt must have to be told that it was evicted; fewer if the
# edge was shorter.
PROBE_TOKENS = 8
DIGEST_BYTES = 16


class Segment(Protocol):
    """What belongs to consecutive tokens."""

    @property
    def size_bytes(self) -> int:
        """Bytes that come back when it is dropped."""

    def split(self, tokens: int) -> tuple[Self, Self]:
        """What belongs to the first so many tokens, and the rest; neither keeps this one alive."""


class Snapshot(Protocol):
    """What is valid after exactly so many tokens."""

    @property
    def size_bytes(self) -> int:
        """Bytes that come back when it is dropped."""


S = TypeVar("S", bound=Segment)
P = TypeVar("P", bound=Snapshot)
TokenIds: TypeAlias = "array[int]"  # of type code I


class Mark(Generic[S, P]):
    """A snapshot at the end of a node."""

    __slots__ = ("node", "snapshot")

    def __init__(self, node: "Node[S, P]", snapshot: P) -> None:
        self.node = node
        self.snapshot = snapshot


class Node(Generic[S, P]):
    """The end of an edge.

    Attributes:
        parent: `None` for a root, which has no tokens and no segment.
        start: Tokens before this edge.
        tokens: Of the edge.
        segment: Their payload; `None` iff it is a root.
        children: By the first token of their edges.
        mark: The snapshot at its end, if there is one.
    """

    __slots__ = ("children", "mark", "parent", "salt", "segment", "start", "tokens")

    def __init__(
        self,
        parent: "Node[S, P] | None",
        start: int,
        tokens: TokenIds,
        *,
        segment: S | None,
        salt: str,
    ) -> None:
        self.parent = parent
        self.start = start
        self.tokens = tokens
        self.segment = segment
        self.salt = salt
        self.children: dict[int, Node[S, P]] = {}
        self.mark: Mark[S, P] | None = None

    @property
    def end(self) -> int:
        """Tokens from the root to here."""
        return self.start + len(self.tokens)

    def path_tokens(self) -> TokenIds:
        """All tokens from the root to here."""
        pieces = []
        node: Node[S, P] | None = self
        while node is not None:
            pieces.append(node.tokens)
            node = node.parent
        return array("I", b"".join(piece.tobytes() for piece in reversed(pieces)))


class Match(NamedTuple, Generic[S, P]):
    """How far a prompt is known.

    Attributes:
        path: Nodes whose edges it has, from the root on; the last one perhaps only in part.
        covered: Its leading tokens that are in the tree.
        usable: Of these, those that can be skipped; the last token never can.
        mark: The snapshot to go on from, in trees of models that need one.
    """

    path: list[Node[S, P]]
    covered: int
    usable: int
    mark: Mark[S, P] | None

    def segments(self) -> Iterator[tuple[S, int]]:
        """Payloads of the usable tokens, each with how many of its tokens are."""
        for node in self.path:
            if node.start < self.usable and node.segment is not None:
                yield node.segment, min(node.end, self.usable) - node.start


class PrefixTree(Generic[S, P]):
    """Entries of many prompts within one budget of bytes.

    Args:
        budget_bytes: What all payloads together may take.
        needs_snapshots: A prompt can go on only from a snapshot. Every leaf has one then.
    """

    def __init__(self, budget_bytes: int, *, needs_snapshots: bool = False) -> None:
        self._budget_bytes = budget_bytes
        self._needs_snapshots = needs_snapshots
        self._roots: dict[str, Node[S, P]] = {}
        self._order: OrderedDict[Node[S, P] | Mark[S, P], None] = OrderedDict()  # oldest first
        self._memories: OrderedDict[bytes, None] = OrderedDict()
        # Not on any disk; what a node continues comes before it.
        self._fresh: dict[Node[S, P], None] = {}
        self._size_bytes = 0
        self._evicted_count = 0

    @property
    def size_bytes(self) -> int:
        """Of all payloads; at most the budget."""
        return self._size_bytes

    @property
    def entry_count(self) -> int:
        """Segments and snapshots."""
        return len(self._order)

    @property
    def evicted_count(self) -> int:
        """Segments and snapshots dropped so far for want of room, or by `clear`."""
        return self._evicted_count

    @property
    def needs_snapshots(self) -> bool:
        """A prompt can go on only from a snapshot."""
        return self._needs_snapshots

    def match(self, ids: TokenIds, salt: str) -> Match[S, P]:
        """How far a prompt is known. Refreshes nothing."""
        path, covered = self._walk(ids, salt)
        limit = min(covered, len(ids) - 1)
        if not self._needs_snapshots:
            return Match(path, covered, limit, None)
        marks = (node.mark for node in reversed(path) if node.end <= limit)
        mark = next((mark for mark in marks if mark is not None), None)
        return Match(path, covered, 0 if mark is None else mark.node.end, mark)

    def touch(self, match: Match[S, P]) -> None:
        """A prompt uses this."""
        if match.mark is not None:
            self._order.move_to_end(match.mark)
        for node in reversed(match.path):
            if node.start < match.usable:
                self._order.move_to_end(node)

    def insert(
        self,
        ids: TokenIds,
        salt: str,
        *,
        segment: S | None,
        snapshot: P | None = None,
        is_stored: bool = False,
    ) -> bool:
        """Remember a prompt as far as it is computed.

        Args:
            ids: All its tokens up to there, at least one.
            salt: Whose it is.
            segment: Payload of the tokens that `match` does not cover; `None` if it covers all.
            snapshot: What is valid at its end; ignored if there is one already.
            is_stored: It came from where `fresh` nodes go.

        Returns:
            Whether there is room for it; if not, nothing has changed.
        """
        path, covered = self._walk(ids, salt)
        if (segment is None) != (covered == len(ids)):
            raise ValueError(f"{covered} of {len(ids)} tokens are covered")
        added = sum(part.size_bytes for part in (segment, snapshot) if part is not None)
        if added > self._budget_bytes or (segment and self._needs_snapshots and snapshot is None):
            return False
        at = path[-1] if path else self._root(salt)
        if at.end > covered:
            at = self._split(at, covered - at.start)
        if segment is not None:
            node = Node(at, covered, ids[covered:], segment=segment, salt=salt)
            at.children[node.tokens[0]] = node
            self._size_bytes += segment.size_bytes
            at = node
        if snapshot is not None and at.mark is None:
            at.mark = Mark(at, snapshot)
            self._size_bytes += snapshot.size_bytes
        elif segment is None:
            is_stored = True  # nothing was added
        if is_stored:
            self._fresh.pop(at, None)
        else:
            self._fresh[at] = None
        self._refresh(at)
        while self._size_bytes > self._budget_bytes:
            self._evict_oldest()
        return True

    def has_snapshot(self, ids: TokenIds, salt: str) -> bool:
        """There is a snapshot exactly at the end of these tokens."""
        path, covered = self._walk(ids, salt)
        return bool(path) and covered == len(ids) == path[-1].end and path[-1].mark is not None

    def was_evicted(self, ids: TokenIds, salt: str, match: Match[S, P]) -> bool:
        """More of this prompt was here, as far as is remembered."""
        if not self._memories:
            return False
        ends = [node.end for node in match.path if match.usable < node.end <= match.covered]
        probes = range(match.covered + 1, min(match.covered + PROBE_TOKENS, len(ids)) + 1)
        return any(digest(ids[:end], salt) in self._memories for end in (*ends, *probes))

    def continuation(self, match: Match[S, P], tokens: int) -> TokenIds:
        """What the tree has after a match, along the youngest way; at most so many."""
        if not match.path:
            return array("I")
        node = match.path[-1]
        found = node.tokens[match.covered - node.start :]
        while len(found) < tokens and node.children:
            node = next(reversed(node.children.values()))
            found = found + node.tokens
        return found[:tokens]

    def next_fresh(self) -> Node[S, P] | None:
        """The oldest node that is not on disk."""
        return next(iter(self._fresh), None)

    def settle(self, node: Node[S, P]) -> None:
        """It is on disk, or need not be."""
        self._fresh.pop(node, None)

    def clear(self) -> None:
        """Evict everything."""
        while self._order:
            self._evict_oldest()

    def set_budget(self, budget_bytes: int) -> None:
        """Change the budget, and evict what is over it."""
        self._budget_bytes = budget_bytes
        while self._size_bytes > budget_bytes:
            self._evict_oldest()

    def _root(self, salt: str) -> Node[S, P]:
        return self._roots.setdefault(salt, Node(None, 0, array("I"), segment=None, salt=salt))

    def _walk(self, ids: TokenIds, salt: str) -> tuple[list[Node[S, P]], int]:
        path: list[Node[S, P]] = []
        node, at = self._roots.get(salt), 0
        while node is not None and at < len(ids):
            child = node.children.get(ids[at])
            if child is None:
                break
            path.append(child)
            common = common_length(child.tokens, ids, at)
            at += common
            node = child if common == len(child.tokens) else None
        return path, at

    def _split(self, node: Node[S, P], tokens: int) -> Node[S, P]:
        """Cut an edge; returns the new node, which has its first so many tokens."""
        if node.segment is None or node.parent is None:
            raise ValueError("a root has no edge")
        head_segment, tail_segment = node.segment.split(tokens)
        self._size_bytes += head_segment.size_bytes + tail_segment.size_bytes
        self._size_bytes -= node.segment.size_bytes
        head = Node(
            node.parent, node.start, node.tokens[:tokens], segment=head_segment, salt=node.salt
        )
        node.parent.children[head.tokens[0]] = head
        head.children[node.tokens[tokens]] = node
        node.parent, node.start = head, head.end
        node.tokens, node.segment = node.tokens[tokens:], tail_segment
        # Right behind the other half, and so before every ancestor: the caller refreshes them.
        self._order[head] = None
        # What is on disk of the whole edge serves for its tail alone.
        self._fresh[head] = None
        if node in self._fresh:
            del self._fresh[node]
            self._fresh[node] = None
        return head

    def _refresh(self, node: Node[S, P]) -> None:
        if node.mark is not None:
            self._order[node.mark] = None
            self._order.move_to_end(node.mark)
        at: Node[S, P] | None = node
        while at is not None and at.segment is not None:
            self._order[at] = None
            self._order.move_to_end(at)
            at = at.parent

    def _evict_oldest(self) -> None:
        oldest = next(iter(self._order))
        if isinstance(oldest, Mark):
            self._drop_mark(oldest.node)
            if not oldest.node.children:
                self._drop_leaf(oldest.node)
        else:
            self._drop_leaf(oldest)

    def _drop_leaf(self, node: Node[S, P]) -> None:
        """Drop a leaf, and what it leaves of no use above it."""
        while node.parent is not None and not node.children and node.segment is not None:
            self._drop_mark(node)
            self._remember(node.path_tokens()[: node.start + PROBE_TOKENS], node.salt)
            self._size_bytes -= node.segment.size_bytes
            self._evicted_count += 1
            del self._order[node]
            self._fresh.pop(node, None)
            parent = node.parent
            del parent.children[node.tokens[0]]
            if parent.parent is None and not parent.children:
                del self._roots[parent.salt]
            if not self._needs_snapshots or parent.mark is not None:
                return
            node = parent

    def _drop_mark(self, node: Node[S, P]) -> None:
        if node.mark is not None:
            self._remember(node.path_tokens(), node.salt)
            self._size_bytes -= node.mark.snapshot.size_bytes
            self._evicted_count += 1
            del self._order[node.mark]
            node.mark = None

    def _remember(self, ids: TokenIds, salt: str) -> None:
        self._memories[digest(ids, salt)] = None
        if len(self._memories) > MAX_MEMORIES:
            self._memories.popitem(last=False)


def make_key(token_ids: Sequence[int]) -> TokenIds:
    """Token ids as the tree compares them."""
    return array("I", token_ids)


def common_length(edge: TokenIds, ids: TokenIds, at: int) -> int:
    """How many tokens of an edge stand in a prompt from a position on."""
    end = min(len(edge), len(ids) - at)
    if edge[:end] == ids[at : at + end]:
        return end
    low, high = 0, end  # so many are equal; so many are not
    while high - low > 1:
        middle = (low + high) // 2
        if edge[low:middle] == ids[at + low : at + middle]:
            low = middle
        else:
            high = middle
    return low


def digest(ids: TokenIds, salt: str) -> bytes:
    """A name for a prefix that does not tell what it was."""
    found = blake2b(salt.encode(), digest_size=DIGEST_BYTES)
    found.update(b"\0")  # no salt runs into the ids
    found.update(ids.tobytes())
    return found.digest()
