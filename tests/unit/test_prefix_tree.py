"""The prefix tree against a dictionary of every prefix, and its eviction against a plain queue."""

import time
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.engines.prefix.tree import PrefixTree, TokenIds, common_length, make_key

TOKEN_BYTES, SNAPSHOT_BYTES = 10, 7
UNBOUNDED = 10**9

prompts = st.lists(st.integers(0, 2), min_size=1, max_size=12)
salts = st.sampled_from(["", "a"])
entries = st.lists(st.tuples(salts, prompts), max_size=12)


class Piece:
    """A payload that knows which tokens it belongs to."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens

    @property
    def size_bytes(self) -> int:
        return TOKEN_BYTES * len(self.tokens)

    def split(self, tokens: int) -> tuple["Piece", "Piece"]:
        return Piece(self.tokens[:tokens]), Piece(self.tokens[tokens:])


class State:
    """A payload of one position."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens
        self.size_bytes = SNAPSHOT_BYTES


Tree = PrefixTree[Piece, State]


def insert(tree: Tree, salt: str, tokens: list[int], *, with_state: bool = False) -> bool:
    """Insert as an engine does: only what is missing."""
    ids = make_key(tokens)
    covered = tree.match(ids, salt).covered
    piece = Piece(tokens[covered:]) if covered < len(tokens) else None
    return tree.insert(ids, salt, segment=piece, snapshot=State(tokens) if with_state else None)


def held(tree: Tree, salt: str, tokens: list[int]) -> list[int]:
    """The tokens that the payloads of a prompt's usable part belong to."""
    found: list[int] = []
    for piece, count in tree.match(make_key(tokens), salt).segments():
        found += piece.tokens[:count]
    return found


def prefixes(found: list[tuple[str, list[int]]]) -> set[tuple[str, tuple[int, ...]]]:
    """Every prefix of every entry."""
    return {(s, tuple(p[:end])) for s, p in found for end in range(1, len(p) + 1)}


def longest(known: set[tuple[str, tuple[int, ...]]], salt: str, tokens: list[int]) -> int:
    """How many leading tokens of a prompt are a known prefix."""
    return max(e for e in range(len(tokens) + 1) if not e or (salt, tuple(tokens[:e])) in known)


@given(entries, salts, prompts)
def test_the_longest_prefix_is_found(
    found: list[tuple[str, list[int]]], salt: str, asked: list[int]
) -> None:
    """Of the same salt only, at any position, and never the last token."""
    tree = Tree(UNBOUNDED)
    for whose, tokens in found:
        insert(tree, whose, tokens)
    known = prefixes(found)
    match = tree.match(make_key(asked), salt)
    assert longest(known, salt, asked) == match.covered
    assert min(match.covered, len(asked) - 1) == match.usable
    assert asked[: match.usable] == held(tree, salt, asked)


@given(entries)
def test_shared_prefixes_are_kept_once(found: list[tuple[str, list[int]]]) -> None:
    """The bytes are those of the distinct prefixes, whatever was split for them."""
    tree = Tree(UNBOUNDED)
    for whose, tokens in found:
        assert insert(tree, whose, tokens)
    assert TOKEN_BYTES * len(prefixes(found)) == tree.size_bytes
    tree.clear()
    assert (0, 0) == (tree.size_bytes, tree.entry_count)
    assert not tree.match(make_key([0, 1, 2]), "").covered


@given(entries, st.integers(1, 30), st.integers(0, 10))
def test_the_budget_holds_and_what_stays_is_whole(
    found: list[tuple[str, list[int]]], tokens_count: int, rest: int
) -> None:
    """Never more bytes than allowed; the last entry is there, and no path has a gap."""
    tree = Tree(tokens_count * TOKEN_BYTES + rest % TOKEN_BYTES)
    for whose, tokens in found:
        kept = insert(tree, whose, tokens)
        assert tree.size_bytes <= tokens_count * TOKEN_BYTES
        if kept and len(tokens) <= tokens_count:
            assert len(tokens) == tree.match(make_key(tokens), whose).covered
            assert tokens[:-1] == held(tree, whose, tokens)
    still = {p for p in prefixes(found) if len(p[1]) == tree.match(make_key(p[1]), p[0]).covered}
    assert TOKEN_BYTES * len(still) == tree.size_bytes


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_what_was_unused_for_longest_goes_first(uses: list[tuple[bool, int]]) -> None:
    """Entries of one size go in the order of their last use, whether by insertion or by a hit."""
    room = 4
    tree = Tree(room * 3 * TOKEN_BYTES)
    queue: OrderedDict[int, None] = OrderedDict()
    for is_hit, name in uses:
        tokens = [name, 100, 101]
        if is_hit and name in queue:
            tree.touch(tree.match(make_key(tokens), ""))
        elif not is_hit:
            insert(tree, "", tokens)
            queue[name] = None
        if name in queue:
            queue.move_to_end(name)
        while len(queue) > room:
            queue.popitem(last=False)
        found = {n for n in range(10) if tree.match(make_key([n, 100, 101]), "").covered}
        assert set(queue) == found


def test_leaves_go_before_what_they_hang_on() -> None:
    """A prefix that two prompts share outlives the older of them, and the younger outlives it."""
    tree = Tree(12 * TOKEN_BYTES)
    shared = [1] * 6
    insert(tree, "", [*shared, 2, 2, 2])
    insert(tree, "", [*shared, 3, 3, 3])
    insert(tree, "", [4])
    assert [6, 9] == [tree.match(make_key([*shared, n, n, n]), "").covered for n in (2, 3)]
    insert(tree, "", [5] * 6)
    assert [0, 0] == [tree.match(make_key([*shared, n, n, n]), "").covered for n in (2, 3)]
    assert 6 == tree.match(make_key([5] * 6), "").covered


def test_an_eviction_is_remembered() -> None:
    """A prompt whose entry is gone is told so; one that was never there is not, nor others'."""
    tree = Tree(20 * TOKEN_BYTES)
    gone = list(range(20))
    insert(tree, "mine", gone)
    assert not evicted(tree, "mine", gone)
    insert(tree, "", [99] * 20)
    assert [True, False, False] == [
        evicted(tree, "mine", gone),
        evicted(tree, "", gone),
        evicted(tree, "mine", [7, *gone]),
    ]
    assert evicted(tree, "mine", [*gone[:15], 50])
    assert not evicted(tree, "mine", [*gone[:4], 50, 51])


def evicted(tree: Tree, salt: str, tokens: list[int]) -> bool:
    """Whether more of this prompt was there."""
    ids = make_key(tokens)
    return tree.was_evicted(ids, salt, tree.match(ids, salt))


def test_what_is_too_large_changes_nothing() -> None:
    """An entry beyond the whole budget is refused and evicts nobody."""
    tree = Tree(5 * TOKEN_BYTES)
    insert(tree, "", [1, 2, 3])
    assert not insert(tree, "", [4] * 6)
    assert 3 == tree.match(make_key([1, 2, 3]), "").covered
    tree.set_budget(2 * TOKEN_BYTES)
    assert 0 == tree.size_bytes


def test_a_payload_must_fit_what_is_missing() -> None:
    """Inserting what is there already, or nothing where something is missing, is a mistake."""
    tree = Tree(UNBOUNDED)
    insert(tree, "", [1, 2, 3])
    with pytest.raises(ValueError, match="3 of 3"):
        tree.insert(make_key([1, 2, 3]), "", segment=Piece([3]))
    with pytest.raises(ValueError, match="3 of 4"):
        tree.insert(make_key([1, 2, 3, 4]), "", segment=None)


def test_states_are_used_only_where_they_are_valid() -> None:
    """Between two snapshots a prompt goes on from the one before."""
    tree = Tree(UNBOUNDED, needs_snapshots=True)
    insert(tree, "", [1] * 4, with_state=True)
    insert(tree, "", [1] * 9, with_state=True)
    usable = [tree.match(make_key([1] * n), "").usable for n in (4, 5, 9, 10, 12)]
    assert [0, 4, 4, 9, 9] == usable
    match = tree.match(make_key([*[1] * 7, 2]), "")
    assert match.mark is not None
    assert (7, 4, [1] * 4) == (match.covered, match.usable, match.mark.snapshot.tokens)
    assert [1] * 4 == held(tree, "", [*[1] * 7, 2])


def test_without_a_state_nothing_is_kept() -> None:
    """A payload that nobody could go on from would be dead weight; a second state is not needed."""
    tree = Tree(UNBOUNDED, needs_snapshots=True)
    assert not insert(tree, "", [1, 2, 3])
    assert 0 == tree.entry_count
    insert(tree, "", [1, 2, 3], with_state=True)
    insert(tree, "", [1, 2, 3], with_state=True)
    assert 3 * TOKEN_BYTES + SNAPSHOT_BYTES == tree.size_bytes
    assert [False, True] == [tree.has_snapshot(make_key([1] * n + [2, 3]), "") for n in (0, 1)]


@given(entries, st.integers(1, 120))
def test_every_leaf_has_a_state(found: list[tuple[str, list[int]]], room: int) -> None:
    """Whatever is evicted, no payload stays that leads to no snapshot, and bytes are exact."""
    tree = Tree(room, needs_snapshots=True)
    for whose, tokens in found:
        insert(tree, whose, tokens, with_state=True)
        assert tree.size_bytes <= room
    states = [(s, p) for s, p in found if tree.has_snapshot(make_key(p), s)]
    distinct = {(s, tuple(p)) for s, p in states}
    expected = TOKEN_BYTES * len(prefixes(states)) + SNAPSHOT_BYTES * len(distinct)
    assert expected == tree.size_bytes


def test_the_way_on_is_told() -> None:
    """Where a prompt parts, the tree can say what it has instead, the youngest first."""
    tree = Tree(UNBOUNDED)
    insert(tree, "", [1, 2, 3, 4, 5])
    insert(tree, "", [1, 2, 3, 6, 7])
    cases = {(1, 2, 9): [3, 6], (1, 2, 3, 9): [6, 7], (9,): [], (1, 2, 3, 4, 9): [5]}
    for asked, expected in cases.items():
        match = tree.match(make_key(asked), "")
        assert expected == list(tree.continuation(match, 2))


@given(prompts, prompts, st.integers(0, 5))
def test_common_length(edge: list[int], ids: list[int], at: int) -> None:
    """The bisection finds the first difference."""
    at = min(at, len(ids) - 1)
    pairs = zip(edge, ids[at:], strict=False)
    expected = next(
        (index for index, (a, b) in enumerate(pairs) if a != b), min(len(edge), len(ids) - at)
    )
    assert expected == common_length(make_key(edge), make_key(ids), at)


def test_long_prompts_are_matched_at_once() -> None:
    """20,000 tokens take less than a millisecond, also when they part at the last one."""
    tree = Tree(UNBOUNDED)
    tokens = list(range(20_000))
    insert(tree, "", tokens)
    ids: list[TokenIds] = [make_key(tokens), make_key([*tokens[:-1], 5])]
    best_s = 1.0
    for _ in range(20):
        began_s = time.perf_counter()
        found = [tree.match(key, "").covered for key in ids]
        best_s = min(best_s, (time.perf_counter() - began_s) / len(ids))
    assert [20_000, 19_999] == found
    assert best_s < 1e-3
