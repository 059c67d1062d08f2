"""The limits of the disk tier: its cap, its queue, a disk that is full or cannot be written."""

import os
import time
from pathlib import Path

import pytest

from lmx.engines.prefix.disk.cache import DiskCache
from lmx.engines.prefix.disk.entries import TEMPORARY_PREFIX
from lmx.engines.prefix.disk.files import Files
from lmx.engines.prefix.disk.survey import LOCK_NAME
from tests.prefix_records import (
    SALT,
    Clock,
    FullDisk,
    ReadOnlyDisk,
    content,
    disk_bytes,
    load,
    open_cache,
    record,
    record_files,
    store,
)

FILE_BYTES = 1600  # of a record of 1000 bytes, less than this and more than half of it


def found(cache: DiskCache, prompts: range) -> list[int]:
    """Which of the prompts of one token each are there."""
    return [i for i in prompts if cache.find([i], SALT)]


def test_the_cap_holds_and_the_least_recently_used_leaves(tmp_path: Path) -> None:
    """After every write the files fit, and a hit keeps a record longer than its age would."""
    cache = open_cache(tmp_path, cap_bytes=5 * FILE_BYTES, clock_ns=Clock())
    for i in range(20):
        assert [True] == store(cache, record([i]))
        assert [content(record([0]))] == load(cache, [0])
        assert 5 * FILE_BYTES >= disk_bytes(tmp_path)
    kept = found(cache, range(20))
    assert [0, *range(21 - len(kept), 20)] == kept
    assert 20 - len(kept) == cache.statistics().evicted_count
    assert disk_bytes(tmp_path) == cache.statistics().total_bytes
    cache.close(10)


def test_a_smaller_cap_takes_effect_at_the_start(tmp_path: Path) -> None:
    """What is over it leaves before anything is written."""
    cache = open_cache(tmp_path)
    store(cache, *(record([i]) for i in range(10)))
    cache.close(10)
    cache = open_cache(tmp_path, cap_bytes=2 * FILE_BYTES)
    assert 2 * FILE_BYTES >= disk_bytes(tmp_path) > 0
    cache.close(10)


def test_a_chain_is_cut_from_its_far_end(tmp_path: Path) -> None:
    """However long a conversation grows, what is kept of it is its beginning, all usable."""
    cache = open_cache(tmp_path, cap_bytes=4 * FILE_BYTES, clock_ns=Clock())
    prompt = list(range(10))
    for end in range(1, 5):
        store(cache, record(prompt[:end], end - 1))
    before = len(cache.find(prompt, SALT))  # without a read, which would make all equally recent
    store(cache, *(record([100 + i]) for i in range(2)))
    chain = load(cache, prompt)
    assert [content(record(prompt[: i + 1], i)) for i in range(len(chain))] == chain
    assert before - 2 <= len(chain) < before
    cache.close(10)


def test_what_a_record_continues_is_not_evicted_for_it(tmp_path: Path) -> None:
    """If both do not fit, the beginning stays and the new record is dropped."""
    cache = open_cache(tmp_path, cap_bytes=2 * FILE_BYTES, clock_ns=Clock())
    store(cache, record([1], size_bytes=1800), record([1, 2], 1, size_bytes=1800))
    assert [content(record([1], size_bytes=1800))] == load(cache, [1, 2])
    assert (1, 1, 0) == (
        cache.statistics().written_count,
        cache.statistics().dropped_count,
        cache.statistics().evicted_count,
    )
    cache.close(10)


def test_a_record_over_the_cap_is_not_written(tmp_path: Path) -> None:
    """It costs nothing that is there."""
    cache = open_cache(tmp_path, cap_bytes=2 * FILE_BYTES)
    store(cache, record([1]), record([2], size_bytes=2 * FILE_BYTES))
    assert [1] == found(cache, range(1, 3))
    assert (1, 0) == (cache.statistics().dropped_count, cache.statistics().evicted_count)
    assert cache.statistics().problem is None
    cache.close(10)


def test_two_caches_share_one_cap(tmp_path: Path) -> None:
    """Each sees what the other wrote when it makes room, and evicts what was used longest ago."""
    clock = Clock()
    caches = [open_cache(tmp_path, cap_bytes=6 * FILE_BYTES, clock_ns=clock) for _ in range(2)]
    for i in range(20):
        store(caches[i % 2], record([i]))
        assert 6 * FILE_BYTES >= disk_bytes(tmp_path)
    kept = len(record_files(tmp_path))
    assert kept >= 6
    late = open_cache(tmp_path)
    assert list(range(20 - kept, 20)) == found(late, range(20))
    for cache in (*caches, late):
        cache.close(10)


def test_a_hit_in_one_cache_keeps_the_file_from_another(tmp_path: Path) -> None:
    """Recency crosses processes through the file's time."""
    clock = Clock()
    first = open_cache(tmp_path, clock_ns=clock)
    store(first, *(record([i]) for i in range(4)))
    size_bytes = disk_bytes(tmp_path)
    second = open_cache(tmp_path, cap_bytes=size_bytes, clock_ns=clock)
    assert [content(record([0]))] == load(first, [0])
    first.close(10)  # tells the file
    store(second, record([4]))
    assert [0, 2, 3, 4] == found(second, range(5))
    second.close(10)


def test_a_hit_that_no_listing_shows_keeps_the_file(tmp_path: Path) -> None:
    """The time of the file is looked at once more before it would leave."""
    first = open_cache(tmp_path)
    store(first, *(record([i]) for i in range(4)))
    second = open_cache(tmp_path, cap_bytes=disk_bytes(tmp_path))
    time.sleep(0.2)  # until the directories count as settled
    store(second, record([3], salt=b"another"))  # lists them all for the last time
    assert [1, 2, 3] == found(second, range(4))
    assert [content(record([1]))] == load(first, [1])
    first.close(10)  # tells the file
    store(second, record([4]))
    assert [1, 3, 4] == found(second, range(5))
    second.close(10)


def test_a_long_write_of_another_process_holds_up_writes_alone(tmp_path: Path) -> None:
    """Opening and hits go on; the record is written when the other is done, and not before."""
    cache = open_cache(tmp_path)
    store(cache, record([1]))
    cache.close(10)
    half = record_files(tmp_path)[0].with_name(f"{TEMPORARY_PREFIX}another")
    with Files().lock(str(tmp_path / LOCK_NAME), 10):
        half.write_bytes(bytes(100))
        late = open_cache(tmp_path, lock_wait_s=5.0)
        assert [content(record([1]))] == load(late, [1])
        assert late.offer(record([2]))
        assert not late.flush(0.1)
        assert half.exists()
    assert late.flush(10)
    assert not half.exists()
    assert [1, 2] == found(late, range(1, 3))
    assert late.statistics().problem is None
    late.close(10)


def test_a_process_that_never_lets_go_is_waited_for_shortly(tmp_path: Path) -> None:
    """Then the record is dropped and the reason kept."""
    cache = open_cache(tmp_path, lock_wait_s=0.02)
    with Files().lock(str(tmp_path / LOCK_NAME), 10):
        assert cache.offer(record([1]))
        assert not cache.flush(10)
    assert (1, 0) == (cache.statistics().dropped_count, cache.statistics().queued_bytes)
    assert "another process kept" in str(cache.statistics().problem)
    cache.close(10)


def test_writes_within_one_tick_are_seen(tmp_path: Path) -> None:
    """On a file system that counts whole seconds, too, a cache sees what another just wrote."""

    class WholeSeconds(Files):
        def modified_ns(self, path: str) -> int:
            return super().modified_ns(path) // 1_000_000_000 * 1_000_000_000

    first, second = (open_cache(tmp_path, files=WholeSeconds()) for _ in range(2))
    for i in range(0, 20, 2):
        store(first, record([i]))
        store(second, record([i + 1]))
        assert disk_bytes(tmp_path) == second.statistics().total_bytes
    assert list(range(20)) == found(second, range(20))
    for cache in (first, second):
        cache.close(10)


def test_an_idle_cache_learns_what_another_wrote(tmp_path: Path) -> None:
    """What the worker before it wrote at its end is found without a write of its own."""
    late = open_cache(tmp_path, survey_s=0.01)
    late.allow()
    early = open_cache(tmp_path)
    store(early, record([1]))
    early.close(10)
    while not late.find([1], SALT):
        os.sched_yield()
    assert [content(record([1]))] == load(late, [1])
    for path in record_files(tmp_path):
        path.unlink()
    while late.statistics().entry_count:
        os.sched_yield()
    late.close(10)


def test_files_removed_by_hand_free_their_room(tmp_path: Path) -> None:
    """What somebody deleted does not count any more, and nothing is evicted for it."""
    cache = open_cache(tmp_path, cap_bytes=4 * FILE_BYTES)
    store(cache, *(record([i]) for i in range(3)))
    for path in record_files(tmp_path):
        path.unlink()
    store(cache, *(record([10 + i]) for i in range(3)))
    assert 0 == cache.statistics().evicted_count
    assert disk_bytes(tmp_path) == cache.statistics().total_bytes
    cache.close(10)


def test_the_whole_directory_may_vanish(tmp_path: Path) -> None:
    """It is made again at the next write."""
    root = tmp_path / "cache" / "prefix"
    cache = open_cache(root)
    store(cache, record([1]))
    (tmp_path / "cache").rename(tmp_path / "old")
    assert [True] == store(cache, record([2]))
    assert [2] == found(cache, range(1, 3))
    cache.close(10)


def test_a_file_that_cannot_be_removed_is_passed_over(tmp_path: Path) -> None:
    """It keeps counting, and another one leaves in its place."""

    class Sticky(FullDisk):
        def remove(self, path: str) -> None:
            if path == stuck:
                raise PermissionError(13, "Permission denied")
            super().remove(path)

    stuck = ""
    cache = open_cache(tmp_path, cap_bytes=4 * FILE_BYTES, files=Sticky(10**9), clock_ns=Clock())
    store(cache, record([0]))
    stuck = str(record_files(tmp_path)[0])
    store(cache, *(record([i]) for i in range(1, 10)))
    assert Path(stuck).exists()
    assert 4 * FILE_BYTES >= disk_bytes(tmp_path) > 2 * FILE_BYTES
    assert [0, 9] == [i for i in found(cache, range(10)) if i in {0, 9}]
    cache.close(10)


def test_nothing_is_written_while_held(tmp_path: Path) -> None:
    """The engine's work comes first; the record waits, and is written when it may be."""
    cache = open_cache(tmp_path)
    assert cache.offer(record([1]))
    assert cache.offer(record([1]))
    assert cache.contains([1], SALT, start=0)
    assert not cache.flush(0)
    assert (0, 1000) == (len(record_files(tmp_path)), cache.statistics().queued_bytes)
    cache.allow()
    assert cache.flush(10)
    cache.hold()
    assert (1, 0) == (len(record_files(tmp_path)), cache.statistics().queued_bytes)
    cache.close(10)


def test_what_waits_is_written_at_the_end(tmp_path: Path) -> None:
    """An engine that was never idle still leaves its records behind."""
    cache = open_cache(tmp_path)
    for i in range(5):
        cache.offer(record([i]))
    cache.close(10)
    assert 5 == len(record_files(tmp_path))


def test_without_time_at_the_end_nothing_is_left_waiting(tmp_path: Path) -> None:
    """A deadline of nothing ends at once and counts what was lost."""
    cache = open_cache(tmp_path)
    for i in range(5):
        cache.offer(record([i]))
    cache.close(0)
    reading = cache.statistics()
    assert (5, 0) == (reading.written_count + reading.dropped_count, reading.queued_bytes)
    assert len(record_files(tmp_path)) == reading.written_count
    assert not cache.offer(record([9]))


def test_the_queue_is_bounded(tmp_path: Path) -> None:
    """What it has no room for is refused and counted; what it took is written."""
    cache = open_cache(tmp_path, queue_bytes=3500)
    assert [True] * 3 + [False] * 2 == [cache.offer(record([i])) for i in range(5)]
    assert (3000, 2) == (cache.statistics().queued_bytes, cache.statistics().dropped_count)
    assert cache.flush(10)
    assert cache.offer(record([4]))
    cache.close(10)
    assert 4 == len(record_files(tmp_path))


def test_a_full_disk_pauses_writing_and_nothing_else(tmp_path: Path) -> None:
    """The failure is counted and said, hits go on, and offers are refused until the pause ends."""
    disk = FullDisk(2 * FILE_BYTES)
    cache = open_cache(tmp_path, files=disk, pause_s=0.2)
    store(cache, record([1]))
    disk.room_bytes = 0
    assert cache.offer(record([2]))
    assert cache.offer(record([3]))
    assert not cache.flush(10)
    reading = cache.statistics()
    assert (1, 2, 0) == (reading.failed_count, reading.dropped_count, reading.queued_bytes)
    assert reading.problem == "Writing the prefix cache to disk paused: No space left on device"
    assert not cache.offer(record([4]))
    assert [content(record([1]))] == load(cache, [1])
    disk.room_bytes = 10**9
    while not cache.offer(record([5])):
        os.sched_yield()
    assert cache.flush(10)
    assert [1, 5] == found(cache, range(6))
    cache.close(10)


def test_a_read_only_disk_still_gives_hits(tmp_path: Path) -> None:
    """Nothing raises, nothing is written, and what is there is used."""
    cache = open_cache(tmp_path)
    store(cache, record([1]), record([2]))
    cache.close(10)
    broken = Path(record_files(tmp_path)[0])
    cache = open_cache(tmp_path, files=ReadOnlyDisk(), pause_s=0.0)
    assert [True, True] == [bool(cache.find([i], SALT)) for i in (1, 2)]
    broken.write_bytes(b"")
    assert 1 == sum(None not in load(cache, [i]) for i in (1, 2))
    assert 1 == len(found(cache, range(1, 3)))
    store(cache, record([3]))
    assert [] == cache.find([3], SALT)
    assert "Read-only file system" in str(cache.statistics().problem)
    cache.close(10)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission(tmp_path: Path) -> None:
    """A directory that may be neither read nor written is an empty cache."""
    root = tmp_path / "cache"
    root.mkdir(mode=0)
    cache = open_cache(root)
    assert [False] == store(cache, record([1])) or not cache.find([1], SALT)
    assert "Permission denied" in str(cache.statistics().problem)
    cache.close(10)
    root.chmod(0o700)


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    """The cache is empty, says why, and the engine goes on."""
    (tmp_path / "cache").write_text("in the way")
    cache = open_cache(tmp_path / "cache")
    assert [] == cache.find([1], SALT)
    store(cache, record([1]))
    assert [] == cache.find([1], SALT)
    assert "Not a directory" in str(cache.statistics().problem)
    cache.close(10)
