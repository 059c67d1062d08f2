"""A program that kills writers of the disk tier, again and again, and checks what they leave.

    python -m tests.prefix_kills kills DIRECTORY KILLS SEED    forks writers, kills them, checks
    python -m tests.prefix_kills write DIRECTORY FIRST COUNT   writes conversations and ends
    python -m tests.prefix_kills limited DIRECTORY BYTES       writes under a limit of file size

It prints what it saw as JSON and judges nothing. A program of its own, so that it may fork: it has
no thread of its own at that moment, which a test runner cannot promise.
"""

import functools
import json
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

import msgspec

from lmx.engines.prefix.disk.cache import DiskCache
from lmx.engines.prefix.disk.entries import TEMPORARY_PREFIX
from lmx.engines.prefix.disk.files import Files
from lmx.engines.prefix.disk.records import Buffer, Namespace, Record
from tests.prefix_records import NAMESPACE, content, disk_bytes, open_cache, record, record_files

CAP_BYTES = 12_000_000
CONVERSATIONS = 4
TURNS = 5
TURN_TOKENS = 5
# Large: the longer a write takes, the more kills hit one.
LARGEST_BYTES = 2_000_000
# Long enough for a writer to fill the cap and evict; the shortest hit it while it starts.
LONGEST_LIFE_S = 0.1
SALTS = (b"one tenant", b"another tenant")
VERSIONS = (NAMESPACE, msgspec.structs.replace(NAMESPACE, library="mlx 1.1"))


@functools.cache
def turn(conversation: int, number: int, salt: bytes, version: Namespace) -> Record:
    """The record of one turn; all of it follows from the arguments, its size too."""
    token_ids = [conversation, *range(1, (number + 1) * TURN_TOKENS)]
    size_bytes = 1 + random.Random(f"{conversation} {number}").randrange(LARGEST_BYTES)  # noqa: S311
    # The version is told apart by the bytes, so that a hit across versions would be seen.
    of_version = f"{version.library} ".encode() + salt
    written = record(
        token_ids,
        number * TURN_TOKENS,
        salt=of_version,
        size_bytes=size_bytes,
        has_snapshot=number % 2 == 0,
    )
    return msgspec.structs.replace(written, salt=salt)


class DyingFiles(Files):
    """A file system whose process is killed in the middle of one of the first calls to it."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._calls_left = rng.randrange(40)

    def write(self, path: str, buffers: Iterable[Buffer], used_ns: int) -> None:
        super().write(path, self._parts(buffers) if self._is_last() else buffers, used_ns)

    def remove(self, path: str) -> None:
        is_last = self._is_last()
        if is_last and self._rng.random() < 0.5:
            os.kill(os.getpid(), signal.SIGKILL)
        super().remove(path)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)

    def _is_last(self) -> bool:
        self._calls_left -= 1
        return self._calls_left < 0

    def _parts(self, buffers: Iterable[Buffer]) -> Iterator[Buffer]:
        """The file up to some byte of it, from none to all."""
        whole = b"".join(buffers)
        yield whole[: self._rng.choice([0, 10, 100, self._rng.randrange(len(whole)), len(whole)])]
        os.kill(os.getpid(), signal.SIGKILL)


def write_for_ever(root: Path, version: Namespace, seed: int) -> None:
    """Write turns of conversations in any order of conversations, and read some, until killed."""
    rng = random.Random(seed)  # noqa: S311
    # Every other one dies by its own hand, in the middle of a call; the others at any moment.
    files = DyingFiles(rng) if rng.random() < 0.5 else Files()
    cache = open_cache(
        root,
        cap_bytes=CAP_BYTES,
        namespace=version,
        queue_bytes=2 * LARGEST_BYTES,
        pause_s=0.01,
        files=files,
    )
    cache.allow()
    reached: Counter[tuple[int, bytes]] = Counter()
    while True:
        which = (rng.randrange(CONVERSATIONS), rng.choice(SALTS))
        number = reached[which] % TURNS
        offered = turn(which[0], number, which[1], version)
        if not cache.offer(offered):
            time.sleep(0.0005)
            continue
        reached[which] += 1
        if rng.random() < 0.1:
            for handle in cache.find(offered.token_ids, which[1]):
                cache.read(handle)


def read_everything(root: Path, version: Namespace, seen: Counter[str]) -> None:
    """Look up every conversation; count what is right, what is not there, and what is wrong."""
    cache = open_cache(root, cap_bytes=CAP_BYTES, namespace=version)
    for conversation, salt, can_cut in product(range(CONVERSATIONS), SALTS, (False, True)):
        whole = turn(conversation, TURNS - 1, salt, version)
        prompt = list(whole.token_ids)[: -2 if can_cut else None]
        for handle in cache.find(prompt, salt, can_cut=can_cut):
            found = cache.read(handle)
            expected = turn(conversation, handle.start // TURN_TOKENS, salt, version)
            is_right = content(found) == content(expected) and handle.end == expected.end
            seen["missed" if found is None else "right" if is_right else "wrong"] += 1
    seen["damaged"] += cache.statistics().damaged_count
    seen["left"] += sum(path.name.startswith(TEMPORARY_PREFIX) for path in root.rglob(".*"))
    seen["miscounted"] += cache.statistics().total_bytes != disk_bytes(root)
    cache.close(0)


def hurt(root: Path, rng: random.Random, seen: Counter[str]) -> None:
    """What a failing disk or a careless person does to one file."""
    files = record_files(root)
    if not files:
        return
    path = rng.choice(files)
    data = bytearray(path.read_bytes())
    if not data:
        return
    kind = rng.choice(["flip", "tear", "zero", "swap"])
    position = rng.randrange(len(data))
    if kind == "flip":
        data[position] ^= 1 << rng.randrange(8)
    elif kind == "tear":
        del data[position:]
    elif kind == "zero":
        data[position:] = bytes(len(data) - position)
    else:
        data[:] = rng.choice(files).read_bytes()
    is_changed = bytes(data) != path.read_bytes()
    path.write_bytes(data)
    seen["hurt"] += is_changed


def kill_writers(root: Path, kills: int, seed: int) -> Counter[str]:
    """Two writers at once, of one version or of two, until so many have been killed."""
    rng = random.Random(seed)  # noqa: S311
    seen: Counter[str] = Counter()
    # Made before the first fork, so that writing is all that children do.
    for where in product(range(CONVERSATIONS), range(TURNS), SALTS, VERSIONS):
        turn(*where)
    while seen["kills"] < kills:
        versions = rng.choice([VERSIONS, VERSIONS[:1] * 2, VERSIONS[1:] * 2])
        children = [fork_writer(root, version, rng.randrange(2**32)) for version in versions]
        for child in children:
            time.sleep(rng.uniform(0, LONGEST_LIFE_S / 2))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            seen["kills"] += os.waitstatus_to_exitcode(status) == -signal.SIGKILL
            seen["died"] += os.waitstatus_to_exitcode(status) != -signal.SIGKILL
        seen["most_bytes"] = max(seen["most_bytes"], disk_bytes(root))
        seen["torn"] += any(path.name.startswith(TEMPORARY_PREFIX) for path in root.rglob(".*"))
        if rng.random() < 0.5:
            hurt(root, rng, seen)
        for version in VERSIONS:
            read_everything(root, version, seen)
    return seen


def fork_writer(root: Path, version: Namespace, seed: int) -> int:
    """The child's process id. Every fourth cannot write large files, as if the disk were full."""
    child = os.fork()
    if child:
        return child
    if seed % 4 == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    write_for_ever(root, version, seed)
    os._exit(1)


def write_all(root: Path, first: int, count: int) -> DiskCache:
    """So many conversations of one turn, each on disk or evicted in the end."""
    cache = open_cache(root, cap_bytes=CAP_BYTES)
    cache.allow()
    for conversation in range(first, first + count):
        while not cache.offer(turn(conversation, 0, SALTS[0], NAMESPACE)):
            time.sleep(0.0005)
    cache.close(30)
    return cache


def write_limited(root: Path, limit_bytes: int) -> DiskCache:
    """A record below the limit, one above it, and another below it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    cache = open_cache(root, pause_s=0.0)
    for token, size_bytes in ((1, limit_bytes // 2), (2, limit_bytes * 2), (3, limit_bytes // 2)):
        cache.offer(record([token], size_bytes=size_bytes))
        cache.flush(10)
    cache.close(10)
    return cache


def main() -> None:
    """One of the three."""
    mode, root, *numbers = sys.argv[1:]
    arguments = [int(number) for number in numbers]
    if mode == "kills":
        seen = dict(kill_writers(Path(root), *arguments))
    elif mode == "write":
        seen = msgspec.structs.asdict(write_all(Path(root), *arguments).statistics())
    else:
        seen = msgspec.structs.asdict(write_limited(Path(root), *arguments).statistics())
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()
