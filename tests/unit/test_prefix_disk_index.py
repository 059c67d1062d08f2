"""The index: which records lead furthest into a prompt, and which leave first."""

import hashlib
import random

import hypothesis.strategies as st
from hypothesis import given, settings

from lmx.engines.prefix.disk.digests import PrefixDigests, token_bytes
from lmx.engines.prefix.disk.entries import Entry, Place, parse_entry
from lmx.engines.prefix.disk.index import Index


def digests(token_ids: list[int], salt: bytes = b"") -> PrefixDigests:
    """Of a prompt."""
    return PrefixDigests("namespace", salt, token_bytes(token_ids))


def entry(token_ids: list[int], start: int, used_ns: int = 0, *, kind: str = "k") -> Entry:
    """The file of the tokens `start` to the end, as listed."""
    of = digests(token_ids)
    end = len(token_ids)
    place = Place(of.at(start), of.at(end), start, end, kind == "s")
    return parse_entry("/root/own/00", place.name, size_bytes=100, used_ns=used_ns)


def index_of(*entries: Entry) -> Index:
    """An index with these files."""
    index = Index("/root/own")
    for each in entries:
        index.add(each)
    return index


def evict_all(index: Index) -> list[Entry]:
    """Everything, in the order in which it leaves."""
    order = []
    for each in index.leaving():
        order.append(each)
        index.remove(each)
    return order


Prompts = st.lists(
    st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=6), st.integers(0, 5)).filter(
        lambda pair: pair[1] < len(pair[0])
    ),
    max_size=12,
)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=40), st.randoms())
def test_digests_do_not_depend_on_the_order_of_asking(
    token_ids: list[int], rng: random.Random
) -> None:
    """A position's digest is that of the tokens before it, whichever were asked for first."""
    of = digests(token_ids)
    positions = list(range(len(token_ids) + 1)) * 2
    rng.shuffle(positions)
    for position in positions:
        plain = hashlib.sha256(b"namespace" + token_bytes(token_ids[:position]))
        assert plain.hexdigest()[:32] == of.at(position)


@settings(max_examples=300)
@given(
    Prompts,
    st.lists(st.integers(0, 1), max_size=7),
    st.sampled_from(["", "k", "s", "ks"]),
    st.booleans(),
)
def test_the_longest_chain_is_found(
    records: list[tuple[list[int], int]],
    prompt: list[int],
    kinds: str,
    needs_snapshot: bool,  # noqa: FBT001 - hypothesis passes it
) -> None:
    """Against a search of all chains: no gap, only records of this prompt, none longer."""
    held = [(ids, start, kinds[i % len(kinds)]) for i, (ids, start) in enumerate(records) if kinds]
    index = index_of(*(entry(ids, start, kind=kind) for ids, start, kind in held))
    usable = [(start, len(ids), kind) for ids, start, kind in held if ids == prompt[: len(ids)]]
    reach, frontier = {0}, {0}
    while frontier:
        frontier = {end for start, end, _ in usable if start in reach} - reach
        reach |= frontier
    ends = {
        end
        for start, end, kind in usable
        if start in reach and kind in "s" + "k" * (not needs_snapshot)
    }
    chain = index.reach(digests(prompt), needs_snapshot=needs_snapshot).longest()
    assert max(ends, default=0) == (chain[-1].end if chain else 0)
    assert [0, *(each.end for each in chain[:-1])] == [each.start for each in chain] or not chain
    assert all((e.start, e.end, "s" if e.has_snapshot else "k") in usable for e in chain)
    assert not chain or not needs_snapshot or chain[-1].has_snapshot


def test_the_smallest_chain_is_taken() -> None:
    """Of two chains of the same length the one with fewer bytes is read."""
    whole = entry([1, 2, 3, 4], 0)
    whole.size_bytes = 1000
    halves = [entry([1, 2], 0), entry([1, 2, 3, 4], 2)]
    index = index_of(whole, *halves)
    assert halves == index.reach(digests([1, 2, 3, 4, 5]), needs_snapshot=False).longest()


def test_least_recently_used_leaves_first() -> None:
    """By last hit, not by age."""
    entries = [entry([i], 0, used_ns=i) for i in range(1, 5)]
    index = index_of(*entries)
    assert entries[0] is next(index.leaving())
    index.touch(entries[0], 9)
    assert [*entries[1:], entries[0]] == evict_all(index)


def test_the_far_end_of_a_chain_leaves_first() -> None:
    """Of records used at the same moment, what others continue stays longest."""
    chain = [entry([1, 2, 3][:n], n - 1, used_ns=5) for n in (1, 2, 3)]
    assert chain[::-1] == evict_all(index_of(*chain))


def test_what_nothing_reaches_leaves_before_all_else() -> None:
    """A record whose beginning is gone leaves first however new it is, then what continued it."""
    chain = [entry([1, 2, 3][:n], n - 1, used_ns=n) for n in (1, 2, 3)]
    old = entry([7], 0, used_ns=0)
    index = index_of(*chain, old)
    index.remove(chain[0])
    assert [chain[1], chain[2], old] == evict_all(index)


def test_a_beginning_that_comes_later_rescues_what_continues_it() -> None:
    """The order in which files are listed does not matter."""
    chain = [entry([1, 2][:n], n - 1, used_ns=n) for n in (1, 2)]
    old = entry([7], 0, used_ns=0)
    index = index_of(chain[1], old, chain[0])
    assert [old, chain[0], chain[1]] == evict_all(index)


@given(Prompts, st.randoms())
def test_totals_are_those_of_the_files(
    records: list[tuple[list[int], int]], rng: random.Random
) -> None:
    """Adding, replacing, hiding and removing in any order keeps count, down to nothing."""
    index = Index("/root/own")
    held: dict[str, Entry] = {}
    for ids, start in records:
        new = entry(ids, start, used_ns=rng.randrange(4))
        index.add(new)
        held[new.name] = new
        if rng.random() < 0.3:
            gone = held.pop(rng.choice(sorted(held)))
            index.remove(gone)
            index.remove(gone)
        if held and rng.random() < 0.3:
            index.hide(held[rng.choice(sorted(held))])
    assert (100 * len(held), 100 * len(held)) == (index.total_bytes, index.own_bytes)
    assert {each.name for each in evict_all(index)} == set(held)
    assert (0, 0) == (index.total_bytes, index.own_count)


def test_files_of_others_count_and_leave_in_turn() -> None:
    """A file of another namespace, and one of no known format, leave by their last use."""
    other = parse_entry("/root/other/00", entry([5], 0).name, size_bytes=7, used_ns=2)
    unknown = parse_entry("/root/own/x", "from-a-newer-version", size_bytes=5, used_ns=1)
    own = entry([1], 0, used_ns=3)
    index = index_of(other, unknown, own)
    assert (112, 105, 2) == (index.total_bytes, index.own_bytes, index.own_count)
    assert [unknown, other, own] == evict_all(index)


def test_a_directory_that_is_gone_takes_its_files_along() -> None:
    """They neither count nor are found any more."""
    index = index_of(entry([1], 0), entry([1, 2], 1))
    index.forget("/root/own/00")
    assert (0, 0, 0) == (index.total_bytes, index.own_bytes, index.own_count)
    assert [] == index.reach(digests([1, 2]), needs_snapshot=False).longest()
    assert [] == evict_all(index)


def test_one_that_cannot_leave_is_passed_over() -> None:
    """A file that could not be removed keeps its place for the next time, and stops nobody."""
    entries = [entry([i], 0, used_ns=i) for i in (1, 2, 3)]
    index = index_of(*entries)
    leaving = index.leaving()
    assert entries[0] is next(leaving)
    assert entries[1] is next(leaving)
    index.remove(entries[1])
    assert entries[2] is next(leaving)
    leaving.close()
    assert entries[0] is next(index.leaving())
