"""What a GGUF model computed outlives it on disk, and a file that is not right is a miss."""

import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from lmx.engines import load_engine
from lmx.engines.base import Choice, Engine, LoadedEngine, PrefixUse, StepResult
from lmx.engines.warmup import NOBODY
from lmx.protocol.messages import Load
from lmx.protocol.values import PrefixDisk, Sampling
from tests.conformance.driving import MAX_STEPS, greedy, step_times
from tests.llama_answers import count_equal, drive, make_request, prompt, scored, tokens
from tests.tiny_gguf import TinyLlama
from tests.tiny_state_gguf import write_recurrent, write_windowed

pytest.importorskip("llama_cpp", exc_type=ImportError)
pytestmark = pytest.mark.gguf

from lmx.engines.llama.disk import model_files  # noqa: E402
from lmx.engines.llama.packing import StatePacker  # noqa: E402
from lmx.engines.llama.states import Block, StateSegment, StateSnapshot  # noqa: E402

MINE = PrefixUse("mine", boundaries=(64,))
SEEDED = Sampling(12, temperature=0.9, seed=5)


def write_plain(path: Path) -> Path:
    """Keys and values of every token in every layer."""
    return TinyLlama().write(path)


WRITERS = {"plain": write_plain, "windowed": write_windowed, "recurrent": write_recurrent}


@pytest.fixture(params=WRITERS)
def load(request: pytest.FixtureRequest, tmp_path: Path) -> Load:
    """Of each kind of state one model, with memory and disk."""
    return load_of(WRITERS[request.param], tmp_path)


def load_of(write: Callable[[Path], Path], directory: Path) -> Load:
    """One model, with memory and disk."""
    return Load(
        "llama",
        str(write(directory / "tiny.gguf")),
        2,
        prefix_cache_bytes=16 << 20,
        prefix_disk=PrefixDisk(str(directory / "cache"), 64 << 20),
    )


def live(load: Load, *prompts: list[int], sampling: Sampling | None = None) -> list[StepResult]:
    """One life of an engine: each prompt after the other; the results of the last one."""
    engine, results = open_engine(load), list[StepResult]()
    for ids in prompts:
        results = ask(engine, ids, sampling)
        while engine.rest():
            pass
    engine.close()
    return results


def open_engine(load: Load) -> Engine:
    """One that answers prompts."""
    loaded = load_engine(load)
    assert isinstance(loaded, LoadedEngine)
    return loaded.engine


def records(load: Load) -> list[Path]:
    """What is on disk."""
    assert load.prefix_disk is not None
    return sorted(Path(load.prefix_disk.path).rglob("*.kv"))


def ask(engine: Engine, ids: list[int], sampling: Sampling | None = None) -> list[StepResult]:
    """All results of a lone prompt."""
    engine.add([Choice(1, sampling or greedy(10))], ids, prefix=MINE)
    return step_times(engine, MAX_STEPS)


def test_the_next_life_goes_on(load: Load) -> None:
    """After a reload all but the last token is read, and the answer is the same."""
    ids = prompt(1, 200)
    first, again = live(load, ids), live(load, ids)
    assert (0, 199) == (first[0].cached_tokens, again[0].cached_tokens)
    assert tokens(first) == tokens(again)


def test_a_load_leaves_nothing(load: Load) -> None:
    """What is computed to see how long it takes is nobody's prompt: neither kept nor written."""
    ids = [0] * 200
    assert 0 == live(load, ids)[0].cached_tokens
    files = records(load)
    engine = open_engine(load)
    assert 0 == engine.foresee(ids, NOBODY).known_tokens
    while engine.rest():
        pass
    engine.close()
    assert files == records(load)


def test_seeded_answers_are_the_same(load: Load) -> None:
    """Also where tokens are drawn."""
    ids = prompt(1, 200)
    first = live(load, ids, sampling=SEEDED)
    assert tokens(first) == tokens(live(load, ids, sampling=SEEDED))


def test_a_conversation_goes_on(load: Load) -> None:
    """The next turn skips the answer, too, and answers as if all had been computed."""
    ids = prompt(1, 150)
    answer = tokens(live(load, ids))
    turn = [*ids, *answer, *prompt(2, 30)]
    cold = live(replace(load, prefix_disk=None), turn)
    results = live(load, turn)
    assert 150 + len(answer) - 1 == results[0].cached_tokens
    assert tokens(cold) == tokens(results)


@pytest.mark.parametrize("kind", ["plain", "windowed"])
def test_any_part_of_a_record_is_of_use(tmp_path: Path, kind: str) -> None:
    """A prompt that parts inside a block of a record takes what it has of it."""
    load = load_of(WRITERS[kind], tmp_path)
    ids = [*prompt(1, 147), *prompt(2, 60)]
    cold = live(replace(load, prefix_disk=None), ids)
    live(load, prompt(1, 200))
    results = live(load, ids)
    assert 147 == results[0].cached_tokens
    assert tokens(cold) == tokens(results)


def test_answers_do_not_show_what_was_read(load: Load) -> None:
    """Three lives, with memory for little, in which requests come and go: all answer as alone."""
    load = replace(load, max_sequences=3, context_tokens=256, prefix_cache_bytes=100_000)
    for seed in range(3):
        rng = random.Random(seed)  # noqa: S311  # for a schedule
        requests = {i: make_request(rng, i) for i in range(20)}
        fresh = open_engine(replace(load, prefix_cache_bytes=0, prefix_disk=None))
        expected = {i: scored(fresh, i, request) for i, request in requests.items()}
        fresh.close()
        engine = open_engine(load)
        found, gone = drive(engine, requests, rng, between=partial(rest_sometimes, engine, rng))
        assert all(len(expected[i]) == len(found[i]) for i in found if i not in gone)
        assert sum(count_equal(expected[i], results) for i, results in found.items()) > 150
        engine.close()
    engine = open_engine(load)
    skipped = []
    for salt in ("", "other"):
        engine.add([Choice(1, greedy(1))], requests[0][0], prefix=PrefixUse(salt))
        skipped.append(step_times(engine, MAX_STEPS)[0].cached_tokens)
    engine.close()
    assert max(skipped) >= 64


def rest_sometimes(engine: Engine, rng: random.Random) -> None:
    """As the worker does between requests."""
    if rng.random() < 0.1:
        engine.rest()


def test_damaged_files_are_misses(load: Load) -> None:
    """Whichever bit is wrong, the answer is the one without the file."""
    ids = prompt(1, 200)
    first = live(load, ids)
    files = records(load)
    assert files
    for number, file in enumerate(files):
        data = bytearray(file.read_bytes())
        data[len(data) // 2 + number] ^= 4
        file.write_bytes(data)
    again = live(load, ids)
    assert 0 == again[0].cached_tokens
    assert tokens(first) == tokens(again)


def test_a_disk_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """The model serves, and the log says why its prompts are not kept beyond its life."""
    load = load_of(write_plain, tmp_path)
    (tmp_path / "cache").write_text("a file where a directory should be")
    loaded = load_engine(load)
    loaded.engine.close()
    assert any("prefix cache on disk" in note for note in loaded.notes)
    assert 10 == len(live(load, prompt(1, 100)))


def test_another_model_of_the_same_name_is_foreign(tmp_path: Path) -> None:
    """Other weights find nothing of what these left."""
    load = load_of(write_plain, tmp_path)
    ids = prompt(1, 200)
    live(load, ids)
    tiny = TinyLlama()
    name = "blk.1.ffn_up.weight"
    tiny.with_tensor(name, tiny.weights[name] * 1.5).write(Path(load.source))
    cold = live(replace(load, prefix_disk=None), ids)
    results = live(load, ids)
    assert 0 == results[0].cached_tokens
    assert tokens(cold) == tokens(results)


def test_another_kind_of_cache_is_foreign(tmp_path: Path) -> None:
    """Eight bits a value and sixteen do not read each other's."""
    load = load_of(TinyLlama().with_wide_heads().write, tmp_path)
    ids = prompt(1, 200)
    live(load, ids)
    other = replace(load, kv_bits=8)
    assert 0 == live(other, ids)[0].cached_tokens
    assert 199 == live(other, ids)[0].cached_tokens


def test_a_moved_model_finds_its_own(tmp_path: Path) -> None:
    """The files count, not where they are."""
    load = load_of(write_plain, tmp_path)
    ids = prompt(1, 200)
    live(load, ids)
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.copy(load.source, tmp_path / "elsewhere")
    assert 199 == live(replace(load, source=str(moved)), ids)[0].cached_tokens


def test_all_parts_of_a_model_count(tmp_path: Path) -> None:
    """A split model is all its files and no others."""
    names = [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for name in (*names, "m-00001-of-00002.gguf", "n-00002-of-00003.gguf", "m.gguf"):
        (tmp_path / name).touch()
    assert names == sorted(file.name for file in model_files(tmp_path / names[0]))
    assert [tmp_path / "m.gguf"] == model_files(tmp_path / "m.gguf")


def block(start: int, end: int) -> Block:
    """Bytes that say where they are from."""
    return Block(start, end, np.arange(start, end, dtype=np.uint8))


def test_packing_and_back() -> None:
    """Blocks, segments without any, snapshots, and segments that follow each other."""
    packer = StatePacker()
    first = StateSegment(3, 12, (block(0, 10), block(10, 20)))
    bare = StateSegment(5, 9)
    for segment in (first, bare):
        found = packer.unpack(packer.pack(segment))
        assert (segment.start, segment.end) == (found.start, found.end)
        assert [b[:2] for b in segment.blocks] == [b[:2] for b in found.blocks]
        assert [b.data.tobytes() for b in segment.blocks] == [
            b.data.tobytes() for b in found.blocks
        ]
    joined = packer.join([first, StateSegment(12, 20, (block(12, 20),))])
    assert (3, 20, 3) == (joined.start, joined.end, len(joined.blocks))
    state = StateSnapshot(np.arange(9, dtype=np.uint8))
    assert state.data.tobytes() == packer.unpack_state(packer.pack_state(state), 9).data.tobytes()


@pytest.mark.parametrize("names", [[], ["0"], ["0.1.2.x"], ["0.9.0.4", "1.9.4.9"]])
def test_foreign_arrays_are_refused(names: list[str]) -> None:
    """What another layout wrote is not taken for a segment."""
    packer = StatePacker()
    arrays = dict.fromkeys(names, packer.pack_state(StateSnapshot(np.zeros(4, np.uint8)))["whole"])
    with pytest.raises((LookupError, ValueError)):
        packer.unpack(arrays)
    with pytest.raises(LookupError):
        packer.unpack_state(arrays, 4)
