"""The disk tier among real processes: killed at any point, several at once, in numbers."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmx.engines.prefix.disk.digests import (
    PrefixDigests,
    namespace_digest,
    salt_digest,
    token_bytes,
)
from lmx.engines.prefix.disk.entries import TEMPORARY_PREFIX, Place
from lmx.engines.prefix.disk.files import Files
from lmx.engines.prefix.disk.survey import LOCK_NAME
from tests.daemon_process import REPOSITORY
from tests.prefix_kills import CAP_BYTES, SALTS, turn
from tests.prefix_records import (
    NAMESPACE,
    SALT,
    content,
    disk_bytes,
    load,
    open_cache,
    record,
    record_files,
)

ENTRIES = 100_000
CHAIN = 4


def start(mode: str, root: Path, *numbers: int) -> subprocess.Popen[str]:
    """The program beside this test."""
    command = [sys.executable, "-m", "tests.prefix_kills", mode, str(root), *map(str, numbers)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, object]:
    """What it saw."""
    with process:
        assert process.stdout is not None
        output = process.stdout.read()
    assert 0 == process.returncode
    seen: dict[str, object] = json.loads(output)
    return seen


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_writers_may_be_killed_at_any_point(tmp_path: Path) -> None:
    """500 kills, with flipped, torn and swapped files in between: no wrong byte is ever read.

    Nor is the cap exceeded at any of the deaths, and what they left half written is gone after.
    """
    seen = result(start("kills", tmp_path, 500, 1))
    assert (0, 0, 0) == (seen.get("wrong", 0), seen.get("left", 0), seen.get("miscounted", 0))
    assert 0 == seen.get("died", 0)
    assert CAP_BYTES >= seen["most_bytes"]
    # Or none of this was put to the test.
    assert seen["kills"] >= 500
    assert seen["right"] >= 1500
    assert seen["torn"] >= 25
    assert seen["damaged"] >= 20


def test_two_processes_share_one_cap(tmp_path: Path) -> None:
    """Both write as fast as they can, and together never more than the cap."""
    writers = [start("write", tmp_path, first, 60) for first in (0, 1000)]
    while any(writer.poll() is None for writer in writers):
        # The lock keeps both between two writes, so that the sum is of one moment.
        with Files().lock(str(tmp_path / LOCK_NAME), 10):
            assert CAP_BYTES >= disk_bytes(tmp_path)
        time.sleep(0.005)
    seen = [result(writer) for writer in writers]
    assert [(60, None)] * 2 == [(each["written_count"], each["problem"]) for each in seen]
    assert CAP_BYTES >= disk_bytes(tmp_path)
    kept = len(record_files(tmp_path))
    assert 120 - kept == sum(int(str(each["evicted_count"])) for each in seen)
    cache = open_cache(tmp_path, cap_bytes=CAP_BYTES)
    found = 0
    for conversation in (*range(60), *range(1000, 1060)):
        expected = turn(conversation, 0, SALTS[0], NAMESPACE)
        for each in load(cache, expected.token_ids, SALTS[0]):
            assert content(expected) == each
            found += 1
    assert kept == found
    cache.close(10)


def test_a_file_that_the_system_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    """A write that fails in its middle is no record, no half file, and not the end of the cache."""
    seen = result(start("limited", tmp_path, 100_000))
    assert (2, 1, 1) == (seen["written_count"], seen["dropped_count"], seen["failed_count"])
    assert "Writing the prefix cache to disk paused: File too large" == seen["problem"]
    assert [] == list(tmp_path.rglob(f"{TEMPORARY_PREFIX}*"))
    cache = open_cache(tmp_path)
    assert [
        [content(record([1], size_bytes=50_000))],
        [],
        [content(record([3], size_bytes=50_000))],
    ] == [load(cache, [token]) for token in (1, 2, 3)]
    cache.close(10)


@pytest.mark.slow
def test_a_hundred_thousand_entries_are_indexed_fast(tmp_path: Path) -> None:
    """The index of 100,000 files, in chains of four, comes from their names alone."""
    namespace = namespace_digest(NAMESPACE)
    made: set[Path] = set()
    for conversation in range(ENTRIES // CHAIN):
        token_ids = [conversation, *range(CHAIN - 1)]
        digests = PrefixDigests(namespace, salt_digest(SALT), token_bytes(token_ids))
        for at in range(CHAIN):
            place = Place(digests.at(at), digests.at(at + 1), at, at + 1, has_snapshot=False)
            directory = tmp_path / namespace / place.shard
            if directory not in made:
                directory.mkdir(parents=True)
                made.add(directory)
            (directory / place.name).touch()
    started_s = time.perf_counter()
    cache = open_cache(tmp_path)
    took_s = time.perf_counter() - started_s
    assert ENTRIES == cache.statistics().entry_count
    # About 0.7 s on two idle cores; the bound is for a machine that is busy.
    assert took_s < 10
    assert [1, 2, 3, 4] == [h.end for h in cache.find([77, 0, 1, 2, 9], SALT)]
    assert [None] * 4 == load(cache, [77, 0, 1, 2])
    cache.close(10)
