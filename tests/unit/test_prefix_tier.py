"""What leaves memory is on disk, and comes back from there if that is faster than computing it."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from lmx.engines.prefix.disk.cache import DiskCache
from lmx.engines.prefix.disk.records import Array, DiskSettings, Namespace
from lmx.engines.prefix.fingerprint import fingerprint_files
from lmx.engines.prefix.store import PrefixStore
from lmx.engines.prefix.tier import DiskTier
from lmx.engines.prefix.tree import make_key

LONG = list(range(100, 200))
FOREVER = 1e9


class Bytes:
    """A payload of one byte per token, which says which token it is."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def split(self, tokens: int) -> tuple["Bytes", "Bytes"]:
        return Bytes(self.data[:tokens]), Bytes(self.data[tokens:])


class BytePacker:
    """Packs it as it is."""

    def pack(self, segment: Bytes) -> Mapping[str, Array]:
        return {"bytes": Array("u8", (len(segment.data),), segment.data)}

    def pack_state(self, state: Bytes) -> Mapping[str, Array]:
        return {"state": Array("u8", (len(state.data),), state.data)}

    def unpack(self, arrays: Mapping[str, Array]) -> Bytes:
        return Bytes(bytes(arrays["bytes"].data))

    def unpack_state(self, arrays: Mapping[str, Array], tokens: int) -> Bytes:
        assert tokens
        return Bytes(bytes(arrays["state"].data))

    def join(self, segments: list[Bytes]) -> Bytes:
        return Bytes(b"".join(segment.data for segment in segments))


class Bench:
    """A store over a disk, as one life of a worker has them."""

    def __init__(
        self, root: Path, *, budget: int = 10_000, marks: bool = False, cap: int = 10**7
    ) -> None:
        self.now_s = 0.0
        self.store: PrefixStore[Bytes, Bytes] = PrefixStore(budget, needs_snapshots=marks)
        namespace = Namespace(model="m", dtype="u8", library="l")
        self.cache = DiskCache.open(root, namespace, settings=DiskSettings(cap_bytes=cap))
        self.tier = DiskTier(self.store, self.cache, BytePacker(), clock=lambda: self.now_s)

    def keep(self, tokens: list[int], *, state: str = "") -> None:
        """Compute a prompt."""
        ids = make_key(tokens)
        wanted = self.store.wanted(ids, "me")
        assert wanted is not None
        rest = bytes(tokens[wanted.start :])
        segment = Bytes(rest) if rest else None
        snapshot = Bytes(state.encode()) if state else None
        self.store.keep(ids, "me", segment=segment, snapshot=snapshot)

    def recall(self, tokens: list[int]) -> int:
        """Read what is on disk of a prompt; how much of it can be skipped then."""
        ids = make_key(tokens)
        found = self.tier.look_up(ids, "me")
        if found is not None:
            assert found.read(FOREVER)
        return self.store.usable_tokens(ids, "me")

    def held(self, tokens: list[int]) -> bytes:
        """The payload of what can be skipped."""
        found = self.store.find(make_key(tokens), "me")
        return b"" if found is None else b"".join(s.data[:count] for s, count in found.pieces)


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    """In the next life, in pieces, each with its own tokens."""
    first = Bench(tmp_path)
    first.keep(LONG[:40])
    first.keep(LONG)
    first.tier.close(5)
    second = Bench(tmp_path)
    assert 99 == second.recall(LONG)
    assert bytes(LONG[:99]) == second.held(LONG)
    assert None is second.store.next_fresh()  # it is on disk already
    second.tier.close(5)


def test_a_parted_prompt_takes_a_part(tmp_path: Path) -> None:
    """Up to where it parts; what is computed from there is written behind that."""
    first = Bench(tmp_path)
    first.keep(LONG)
    first.tier.close(5)
    parted = [*LONG[:55], *range(60)]
    second = Bench(tmp_path)
    assert 55 == second.recall(parted)
    second.keep(parted)
    second.tier.close(5)
    third = Bench(tmp_path)
    assert len(parted) - 1 == third.recall(parted)
    assert bytes(parted[:-1]) == third.held(parted)
    third.tier.close(5)


def test_snapshots_come_back_with_what_leads_to_them(tmp_path: Path) -> None:
    """Records without one are of use only together with the next that has one."""
    first = Bench(tmp_path, marks=True)
    first.keep(LONG[:70], state="seventy")
    first.keep([*LONG[:30], *range(20)], state="fifty")  # the edge is split where nothing is valid
    first.tier.close(5)
    second = Bench(tmp_path, marks=True)
    assert 70 == second.recall(LONG)
    found = second.store.find(make_key(LONG), "me")
    assert found is not None
    assert found.snapshot is not None
    assert (b"seventy", bytes(LONG[:70])) == (found.snapshot.data, second.held(LONG))
    second.tier.close(5)


def test_memory_has_more_than_the_disk(tmp_path: Path) -> None:
    """Then nothing is read, and neither is what is hardly more."""
    first = Bench(tmp_path)
    first.keep(LONG[:50])
    first.tier.close(5)
    second = Bench(tmp_path)
    second.keep(LONG[:40])
    assert None is second.tier.look_up(make_key(LONG), "me")
    second.tier.close(5)


def test_reading_has_to_pay(tmp_path: Path) -> None:
    """A fast device computes what a slow disk would take longer to give."""
    first = Bench(tmp_path)
    first.keep(LONG)
    first.tier.close(5)
    second = Bench(tmp_path)
    second.tier.note_computed(10_000, 1e-6)
    assert None is second.tier.look_up(make_key(LONG), "me")
    second.tier.note_computed(1, 1.0)  # what a pass costs besides its tokens is no price of them
    assert None is second.tier.look_up(make_key(LONG), "me")
    for _ in range(40):
        second.tier.note_computed(1, 1.0)
    assert 99 == second.recall(LONG)
    second.tier.close(5)


def test_what_the_engine_does_with_a_record_is_part_of_its_price(tmp_path: Path) -> None:
    """Copies to a device may take longer than the file."""

    class Slow(BytePacker):
        def unpack(self, arrays: Mapping[str, Array]) -> Bytes:
            second.now_s += 1.0
            return super().unpack(arrays)

    first = Bench(tmp_path)
    first.keep(LONG[:40])
    first.keep(LONG)
    first.tier.close(5)
    second = Bench(tmp_path)
    second.tier = DiskTier(second.store, second.cache, Slow(), clock=lambda: second.now_s)
    second.tier.note_computed(1000, 1.0)
    recall = second.tier.look_up(make_key(LONG), "me")
    assert recall is not None
    assert not recall.read(0.0, lambda: 1.0)
    assert 40 == second.store.usable_tokens(make_key(LONG), "me")
    assert None is second.tier.look_up(make_key(LONG), "me")
    second.tier.close(5)


def test_what_is_evicted_while_it_is_read(tmp_path: Path) -> None:
    """A store too small for the prompt ends with what it has, and nothing wrong."""
    first = Bench(tmp_path)
    first.keep(LONG[:40])
    first.keep(LONG)
    first.tier.close(5)
    second = Bench(tmp_path, budget=50)
    assert second.recall(LONG) <= 50
    assert bytes(LONG).startswith(second.held(LONG))
    second.tier.close(5)


def test_a_recall_stops_when_its_time_is_over(tmp_path: Path) -> None:
    """At least one record is read at a time."""
    first = Bench(tmp_path)
    for end in (30, 60, 100):
        first.keep(LONG[:end])
    first.tier.close(5)
    second = Bench(tmp_path)
    ids = make_key(LONG)
    recall = second.tier.look_up(ids, "me")
    assert recall is not None
    usable = []
    while not recall.read(0.0, lambda: 1.0):
        usable.append(second.store.usable_tokens(ids, "me"))
    assert [30, 60] == usable
    assert 99 == second.store.usable_tokens(ids, "me")
    second.tier.close(5)


def test_a_disk_that_takes_nothing_is_left_alone(tmp_path: Path) -> None:
    """What is larger than the cap stays in memory, and the pause comes to an end."""
    bench = Bench(tmp_path, cap=10)
    bench.keep(LONG)
    for _ in range(100):
        if not bench.tier.rest():
            break
    assert not bench.tier.rest() or bench.cache.statistics().queued_bytes
    bench.tier.close(5)
    assert [] == list(tmp_path.rglob("*.kv"))


def test_a_foreign_layout_is_a_miss(tmp_path: Path) -> None:
    """Arrays of other names are not what this engine writes."""

    class Other(BytePacker):
        def pack(self, segment: Bytes) -> Mapping[str, Array]:
            return {"other": Array("u8", (len(segment.data),), segment.data)}

    first = Bench(tmp_path)
    first.tier = DiskTier(first.store, first.cache, Other())
    first.keep(LONG)
    first.tier.close(5)
    second = Bench(tmp_path)
    assert 0 == second.recall(LONG)
    second.tier.close(5)


@pytest.mark.parametrize("size", [100, 3 << 20])
def test_fingerprints_tell_files_apart(tmp_path: Path, size: int) -> None:
    """By name, by size and by what is in them, at the beginning and at the end."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(size))
    first = fingerprint_files([path])
    assert first == fingerprint_files([path])
    found = {first}
    for place in (0, size // 2, size - 1):
        data = bytearray(size)
        data[place] = 1
        path.write_bytes(data)
        found.add(fingerprint_files([path]))
    path.write_bytes(bytes(size + 1))
    found.add(fingerprint_files([path]))
    found.add(fingerprint_files([path.rename(tmp_path / "other")]))
    assert 6 == len(found)
