"""The disk tier through its door: what is found, what is refused, what survives, what it costs."""

import os
from pathlib import Path

import msgspec
import pytest

from lmx.engines.prefix.disk.cache import DiskCache
from lmx.engines.prefix.disk.entries import TEMPORARY_PREFIX
from lmx.engines.prefix.disk.records import Namespace
from tests.prefix_records import (
    NAMESPACE,
    SALT,
    Clock,
    content,
    disk_bytes,
    load,
    open_cache,
    record,
    record_files,
    store,
)

PROMPT = [5, 6, 7, 8]
CHAIN = [record(PROMPT[:2]), record(PROMPT[:3], 2, has_snapshot=True), record(PROMPT, 3)]


def reopened(cache: DiskCache, root: Path, **options: object) -> DiskCache:
    """The cache after a restart of the process."""
    cache.close(10)
    return open_cache(root, **options)


def test_a_chain_is_read_back(tmp_path: Path) -> None:
    """Records that continue each other are found in order and hold what was written."""
    cache = open_cache(tmp_path)
    assert [True] * 3 == store(cache, *CHAIN)
    assert [content(each) for each in CHAIN] == load(cache, [*PROMPT, 9])
    reading = cache.statistics()
    assert (3, 3, 1, 0) == (
        reading.entry_count,
        reading.read_count,
        reading.hit_count,
        reading.miss_count,
    )
    assert reading.problem is None
    cache.close(10)


def test_it_survives_a_restart(tmp_path: Path) -> None:
    """Another process with the same namespace finds the same, from the directory alone."""
    cache = open_cache(tmp_path)
    store(cache, *CHAIN)
    cache = reopened(cache, tmp_path)
    assert [content(each) for each in CHAIN] == load(cache, PROMPT)
    assert disk_bytes(tmp_path) == cache.statistics().total_bytes
    cache.close(10)


def test_only_whole_prefixes_are_found(tmp_path: Path) -> None:
    """A prompt that ends or differs inside a record gets the records before it."""
    cache = open_cache(tmp_path)
    store(cache, *CHAIN)
    found = {
        tuple(prompt): [handle.end for handle in cache.find(prompt, SALT)]
        for prompt in ([], [5], [5, 6], [5, 6, 9, 8], [5, 9, 7, 8], PROMPT)
    }
    assert {
        (): [],
        (5,): [],
        (5, 6): [2],
        (5, 6, 9, 8): [2],
        (5, 9, 7, 8): [],
        (5, 6, 7, 8): [2, 3, 4],
    } == found
    assert 3 == cache.statistics().miss_count
    cache.close(10)


def test_a_snapshot_ends_the_chain(tmp_path: Path) -> None:
    """Who needs a snapshot gets no further than the last record that has one."""
    cache = open_cache(tmp_path)
    store(cache, *CHAIN)
    assert [2, 3] == [h.end for h in cache.find(PROMPT, SALT, needs_snapshot=True)]
    assert [] == cache.find(PROMPT[:2], SALT, needs_snapshot=True)
    cache.close(10)


@pytest.mark.parametrize(
    "namespace",
    [
        Namespace("another model", NAMESPACE.dtype, NAMESPACE.library),
        Namespace(NAMESPACE.model, "float32", NAMESPACE.library),
        Namespace(NAMESPACE.model, NAMESPACE.dtype, "mlx 1.1"),
    ],
)
def test_another_namespace_finds_nothing(tmp_path: Path, namespace: Namespace) -> None:
    """Other weights, another type or another version of the library: a miss, and no deletion."""
    cache = open_cache(tmp_path)
    store(cache, *CHAIN)
    other = reopened(cache, tmp_path, namespace=namespace)
    assert [] == other.find(PROMPT, SALT)
    assert 3 == len(record_files(tmp_path))
    assert (0, disk_bytes(tmp_path)) == (
        other.statistics().entry_count,
        other.statistics().total_bytes,
    )
    cache = reopened(other, tmp_path)
    assert [content(each) for each in CHAIN] == load(cache, PROMPT)
    cache.close(10)


def test_a_file_moved_to_another_namespace_is_refused(tmp_path: Path) -> None:
    """Not even a file put where another model looks is believed."""
    cache = open_cache(tmp_path)
    store(cache, CHAIN[0])
    (mine,) = record_files(tmp_path)
    other = reopened(cache, tmp_path, namespace=Namespace("another", "float16", "mlx 1.0"))
    store(other, CHAIN[0])
    (theirs,) = [path for path in record_files(tmp_path) if path != mine]
    theirs.write_bytes(mine.read_bytes())
    assert [None] == load(other, PROMPT)
    assert (1, False) == (other.statistics().damaged_count, theirs.exists())
    other.close(10)


def test_tenants_do_not_see_each_other(tmp_path: Path) -> None:
    """The same prompt under another salt is a miss, and holds its own bytes when written."""
    cache = open_cache(tmp_path)
    theirs = record(PROMPT, salt=b"another tenant")
    store(cache, record(PROMPT))
    assert [] == cache.find(PROMPT, b"another tenant")
    store(cache, theirs)
    assert [content(record(PROMPT))] == load(cache, PROMPT)
    assert [content(theirs)] == load(cache, PROMPT, b"another tenant")
    cache.close(10)


def test_the_salt_is_written_nowhere(tmp_path: Path) -> None:
    """Neither a file's bytes nor its name show it, and only the owner may look."""
    cache = open_cache(tmp_path)
    salt = b"sk-a-key-of-a-client"
    store(cache, record(PROMPT, salt=salt))
    cache.close(10)
    for path in tmp_path.rglob("*"):
        assert salt.hex() not in str(path)
        assert salt.decode() not in str(path)
        assert 0 == path.stat().st_mode & 0o077
        assert path.is_dir() or salt not in path.read_bytes()


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "longer", "swapped"])
def test_a_damaged_file_is_a_miss_and_leaves(tmp_path: Path, damage: str) -> None:
    """Whatever happened to the first file of a chain, nothing of it is used."""
    cache = open_cache(tmp_path)
    store(cache, *CHAIN)
    first = cache.find(PROMPT[:2], SALT)[0].entry.path
    data = bytearray(Path(first).read_bytes())
    if damage == "torn":
        del data[-1:]
    elif damage == "flipped":
        data[len(data) // 2] ^= 4
    elif damage == "empty":
        data.clear()
    elif damage == "longer":
        data += bytes(64)
    else:
        store(cache, record([1]))
        data[:] = Path(cache.find([1], SALT)[0].entry.path).read_bytes()
    Path(first).write_bytes(data)
    assert None is load(cache, PROMPT)[0]
    assert [] == cache.find(PROMPT, SALT)
    assert not Path(first).exists()
    assert 1 == cache.statistics().damaged_count
    assert store(cache, CHAIN[0])
    assert [content(each) for each in CHAIN] == load(cache, PROMPT)
    cache.close(10)


def test_a_file_that_vanished_is_a_miss(tmp_path: Path) -> None:
    """What another process evicted after the lookup is neither an answer nor damage."""
    cache = open_cache(tmp_path)
    store(cache, CHAIN[0])
    (handle,) = cache.find(PROMPT, SALT)
    record_files(tmp_path)[0].unlink()
    assert None is cache.read(handle)
    assert [] == cache.find(PROMPT, SALT)
    assert (0, 0, 0) == msgspec.structs.astuple(cache.statistics())[:3]
    assert 0 == cache.statistics().damaged_count
    cache.close(10)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A link in place of a record reads nothing, wherever it leads."""
    cache = open_cache(tmp_path / "cache")
    store(cache, CHAIN[0])
    (path,) = record_files(tmp_path)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert [None] == load(cache, PROMPT)
    cache = reopened(cache, tmp_path / "cache")
    assert [] == cache.find(PROMPT, SALT)
    cache.close(10)


def test_a_record_is_written_once(tmp_path: Path) -> None:
    """Offered again it is taken and not written; with a snapshot it replaces the one without."""
    cache = open_cache(tmp_path)
    assert [True, True] == store(cache, CHAIN[0], CHAIN[0])
    assert [True] == store(cache, CHAIN[0])
    assert 1 == cache.statistics().written_count
    with_snapshot = record(PROMPT[:2], has_snapshot=True)
    assert not cache.contains(PROMPT[:2], SALT, start=0, needs_snapshot=True)
    assert [True] == store(cache, with_snapshot)
    assert cache.contains(PROMPT[:2], SALT, start=0, needs_snapshot=True)
    assert [True] == store(cache, CHAIN[0])
    assert 1 == len(record_files(tmp_path))
    assert [content(with_snapshot)] == load(cache, PROMPT)
    assert 2 == cache.statistics().written_count
    assert 0 == cache.statistics().evicted_count
    cache.close(10)


def test_half_written_files_of_a_dead_process_leave_at_the_start(tmp_path: Path) -> None:
    """They are removed before anything else, and never found."""
    cache = open_cache(tmp_path)
    store(cache, CHAIN[0])
    (path,) = record_files(tmp_path)
    half = path.with_name(f"{TEMPORARY_PREFIX}1-{path.name}")
    half.write_bytes(path.read_bytes())
    cache = reopened(cache, tmp_path)
    assert not half.exists()
    assert [content(CHAIN[0])] == load(cache, PROMPT)
    cache.close(10)


def test_files_of_another_version_stay_until_room_is_needed(tmp_path: Path) -> None:
    """What this version cannot read counts against the cap and leaves by its age, not at once."""
    newer = tmp_path / "0123" / "layout-of-a-newer-version" / "entry.kv9"
    newer.parent.mkdir(parents=True)
    newer.write_bytes(bytes(3000))
    os.utime(newer, (1, 1))
    cache = open_cache(tmp_path, cap_bytes=6000)
    assert (3000, 0) == (cache.statistics().total_bytes, cache.statistics().entry_bytes)
    store(cache, record([1]))
    assert newer.exists()
    store(cache, record([2]), record([3]), record([4]))
    assert not newer.exists()
    assert not newer.parent.exists()
    assert 4 == cache.statistics().entry_count
    cache.close(10)


def test_a_prompt_of_ids_that_are_none_is_the_callers_mistake(tmp_path: Path) -> None:
    """An id that does not fit and a record of no tokens are said, not written."""
    cache = open_cache(tmp_path)
    with pytest.raises(OverflowError):
        cache.offer(record([-1]))
    with pytest.raises(ValueError, match="holds no token"):
        cache.offer(record([1, 2], 2))
    assert 0 == cache.statistics().queued_bytes
    cache.close(10)


def test_recency_survives_a_restart(tmp_path: Path) -> None:
    """A hit is known to the next process: what was read last leaves last."""
    clock = Clock()
    cache = open_cache(tmp_path, clock_ns=clock)
    store(cache, *(record([i]) for i in range(4)))
    assert [content(record([0]))] == load(cache, [0])
    size_bytes = cache.statistics().total_bytes
    cache = reopened(cache, tmp_path, cap_bytes=size_bytes // 2, clock_ns=clock)
    assert [[], [], [content(record([0]))], [content(record([3]))]] == [
        load(cache, [i]) for i in (1, 2, 0, 3)
    ]
    cache.close(10)
