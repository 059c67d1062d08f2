"""Records that are used in part: state of which the first tokens can be used without the others."""

from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings

from lmx.engines.prefix.disk.agreement import common_tokens
from lmx.engines.prefix.disk.cache import DiskCache
from lmx.engines.prefix.disk.digests import token_bytes
from lmx.engines.prefix.disk.format import encode_record
from tests.prefix_records import SALT, Clock, content, open_cache, record, record_files, store

Tokens = st.lists(st.integers(0, 2), min_size=1, max_size=6)


def parts(cache: DiskCache, prompt: list[int], salt: bytes = SALT) -> list[tuple[int, int, int]]:
    """Of each record of the lookup: start, end, and how far it is of use."""
    return [(h.start, h.end, h.used_end) for h in cache.find(prompt, salt, can_cut=True)]


@given(st.lists(st.integers(0, 2**32 - 1), max_size=9), st.lists(st.integers(0, 1), max_size=9))
def test_common_tokens(first: list[int], second: list[int]) -> None:
    """As many as are equal one by one, for ids of every size and runs of every length."""
    for a, b in ((first, second), (second, second[: len(first)]), (first, [*first, 1])):
        expected = next(
            (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
        )
        assert expected == common_tokens(token_bytes(a), token_bytes(b))


def test_a_record_is_used_as_far_as_it_agrees(tmp_path: Path) -> None:
    """The last record may reach beyond the prompt, or part from it; it is read whole."""
    cache = open_cache(tmp_path)
    store(cache, record([1, 2]), record([1, 2, 3, 4, 5], 2))
    assert [(0, 2, 2), (2, 5, 5)] == parts(cache, [1, 2, 3, 4, 5, 6])
    assert [(0, 2, 2), (2, 5, 4)] == parts(cache, [1, 2, 3, 4])
    assert [(0, 2, 2), (2, 5, 3)] == parts(cache, [1, 2, 3, 9, 9, 9])
    assert [(0, 2, 2)] == parts(cache, [1, 2, 9])
    assert [(0, 2, 1)] == parts(cache, [1, 9])
    assert [] == parts(cache, [9, 2])
    assert [] == parts(cache, [1, 2, 3], b"another tenant")
    read = [cache.read(handle) for handle in cache.find([1, 2, 3], SALT, can_cut=True)]
    assert [content(record([1, 2])), content(record([1, 2, 3, 4, 5], 2))] == [
        content(each) for each in read
    ]
    cache.close(10)


def test_a_snapshot_cannot_be_cut(tmp_path: Path) -> None:
    """Who needs a snapshot gets whole records only."""
    cache = open_cache(tmp_path)
    store(cache, record([1, 2, 3], has_snapshot=True))
    assert [] == cache.find([1, 2], SALT, needs_snapshot=True, can_cut=True)
    assert [(0, 3, 2)] == parts(cache, [1, 2])
    cache.close(10)


def test_a_long_header_is_read_whole(tmp_path: Path) -> None:
    """More tokens in a record than the first read of its header takes in."""
    prompt = list(range(70_000))
    cache = open_cache(tmp_path)
    store(cache, record(prompt))
    assert [(0, 70_000, 60_000)] == parts(cache, prompt[:60_000])
    assert [(0, 70_000, 60_000)] == parts(cache, [*prompt[:60_000], 1, 2, 3])
    cache.close(10)


def test_a_damaged_header_is_no_part(tmp_path: Path) -> None:
    """Whatever byte of it changed, or however short the file is, it leaves and gives nothing."""
    cache = open_cache(tmp_path)
    for position in (0, 9, 20, 50, 100, 150):
        store(cache, record([1, 2, 3]))
        (path,) = record_files(tmp_path)
        data = bytearray(path.read_bytes())
        data[position] ^= 1
        path.write_bytes(data)
        assert [] == parts(cache, [1, 2])
        assert [] == record_files(tmp_path)
        store(cache, record([1, 2, 3]))
        path.write_bytes(path.read_bytes()[:position])
        assert [] == parts(cache, [1, 2])
        assert [] == record_files(tmp_path)
    assert 12 == cache.statistics().damaged_count
    cache.close(10)


def test_another_records_header_is_no_part(tmp_path: Path) -> None:
    """A whole file under the name of another is refused by what its tokens add up to."""
    cache = open_cache(tmp_path)
    store(cache, record([1, 2, 3]))
    (name,) = record_files(tmp_path)
    store(cache, record([1, 2, 4]))
    (other,) = [path for path in record_files(tmp_path) if path != name]
    name.write_bytes(other.read_bytes())
    assert [(0, 3, 2)] == parts(cache, [1, 2])
    assert [other] == record_files(tmp_path)
    cache.close(10)


def test_a_header_that_lies_is_no_part(tmp_path: Path) -> None:
    """Tokens that do not add up to the digest in the name are refused, though all else is right."""
    cache = open_cache(tmp_path)
    store(cache, record([1, 2, 3]))
    (path,) = record_files(tmp_path)
    (handle,) = cache.find([1, 2, 3], SALT)
    lie = msgspec.structs.replace(handle.identity, ids=token_bytes([1, 2, 9]))
    honest = record([1, 2, 3])
    for identity, expected in ((handle.identity, [(0, 3, 2)]), (lie, [])):
        path.write_bytes(b"".join(encode_record(identity, honest.arrays, honest.snapshot)))
        assert expected == parts(cache, [1, 2])
    assert 1 == cache.statistics().damaged_count
    cache.close(10)


def test_the_records_used_last_are_tried(tmp_path: Path) -> None:
    """Among many that begin alike, no more than eight headers are read: of the newest."""
    cache = open_cache(tmp_path, clock_ns=Clock())
    store(cache, *(record([1, 2, i, 7]) for i in range(10, 20)))
    assert [(0, 4, 3)] == parts(cache, [1, 2, 19])
    assert [(0, 4, 3)] == parts(cache, [1, 2, 12])
    assert [(0, 4, 2)] == parts(cache, [1, 2, 11])
    cache.close(10)


@settings(max_examples=60)
@given(st.lists(st.tuples(Tokens, st.integers(0, 5)), max_size=6), Tokens)
def test_no_longer_part_exists(offered: list[tuple[list[int], int]], prompt: list[int]) -> None:
    """Against a search of all chains: what is found has no gap, is the prompt's, and is longest."""
    held = [(ids, start) for ids, start in offered if start < len(ids)]
    with TemporaryDirectory() as directory:
        cache = open_cache(Path(directory))
        store(cache, *(record(ids, start, size_bytes=10) for ids, start in held))
        found = parts(cache, prompt)
        cache.close(10)
    agreed = [
        (start, len(ids), common_tokens(token_bytes(ids), token_bytes(prompt)))
        for ids, start in held
    ]
    reached = {0}
    for _ in held:
        reached |= {end for start, end, common in agreed if start in reached and common == end}
    best = max((common for start, _, common in agreed if start in reached), default=0)
    assert best == (found[-1][2] if found else 0)
    assert all(end == used_end for _, end, used_end in found[:-1])
    assert [0, *(end for _, end, _ in found[:-1])] == [start for start, _, _ in found] or not found
    assert all(each in agreed for each in found)
