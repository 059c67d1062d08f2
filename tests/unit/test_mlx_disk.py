"""What MLX computed once is read from disk after a restart, and only if it is what was written."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.models.cache import make_prompt_cache

from lmx.engines import load_engine
from lmx.engines.base import Choice, Engine, LoadedEngine, PrefixUse
from lmx.engines.mlx.caches import can_pad
from lmx.engines.mlx.engine import MlxEngine, Savings
from lmx.engines.mlx.keeper import MlxTier, make_store
from lmx.engines.mlx.leaves import leaves_of
from lmx.engines.mlx.packing import MlxPacker
from lmx.engines.mlx.passes import PrefillLimits
from lmx.engines.prefix.disk.cache import DiskCache
from lmx.engines.prefix.disk.records import DiskSettings, Namespace
from lmx.engines.warmup import NOBODY
from lmx.protocol.messages import Load
from lmx.protocol.values import ModelInfo, PrefixDisk, Sampling
from tests.random_models import COMMON, KINDS, random_model
from tests.tiny_models import build_tiny_llama

TOKENS, SLOTS = 12, 4
LONG = [(7 * i * i + 3 * i) % 199 + 1 for i in range(150)]
MINE, YOURS = PrefixUse("mine", (40, 90)), PrefixUse("yours", (40, 90))
SETTINGS = DiskSettings(cap_bytes=50_000_000)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """One random model of each kind; they are only read."""
    return {kind: random_model(kind) for kind in KINDS}


def open_engine(model: Any, root: Path, *, library: str = "one") -> MlxEngine:
    """An engine as a fresh worker has it: nothing in memory, and what is on disk."""
    store = make_store(model, 64 << 20)
    namespace = Namespace(model="random", dtype="float32", library=library)
    cache = DiskCache.open(root, namespace, settings=SETTINGS)
    disk = MlxTier(store, cache, MlxPacker(leaves_of(make_prompt_cache(model))))
    disk.note_computed(1, 3600.0)  # reading always pays
    return MlxEngine(
        model,
        ModelInfo(context_tokens=512, max_sequences=SLOTS),
        end_ids=frozenset(),
        limits=PrefillLimits(chunk_tokens=32, max_rows=8 if can_pad(model) else 1),
        vocabulary_size=COMMON["vocab_size"],
        savings=Savings(store, disk=disk),
    )


def ask(
    engine: Engine, prompt: list[int], *, prefix: PrefixUse = MINE, seed: int | None = None
) -> tuple[list[int], int]:
    """The answer to a lone prompt, and how much of the prompt was skipped."""
    sampling = Sampling(TOKENS, temperature=0.0 if seed is None else 1.0, seed=seed)
    engine.add([Choice(1, sampling)], prompt, prefix=prefix)
    results = []
    while engine.free_slots < engine.info.max_sequences:
        results += engine.step()
    return [result.token_id for result in results], results[0].cached_tokens


def end(engine: Engine) -> None:
    """End a worker that had time to write."""
    until_s = time.monotonic() + 20
    while engine.rest() and time.monotonic() < until_s:
        time.sleep(0.01)
    engine.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [None, 3])
def test_a_restart_forgets_nothing(
    models: dict[str, Any], tmp_path: Path, kind: str, seed: int | None
) -> None:
    """The same prompt and the next turn skip what was computed before, and answer the same."""
    first = open_engine(models[kind], tmp_path / "cache")
    cold, skipped = ask(first, LONG, seed=seed)
    following = [*LONG, *cold, 5, 6, 7]
    assert 0 == skipped
    end(first)
    other = open_engine(models[kind], tmp_path / "other")
    cold_next, _ = ask(other, following, seed=seed)
    end(other)
    second = open_engine(models[kind], tmp_path / "cache")
    assert (cold, len(LONG) - 1) == ask(second, LONG, seed=seed)
    end(second)
    third = open_engine(models[kind], tmp_path / "cache")
    assert (cold_next, len(LONG) + TOKENS - 1) == ask(third, following, seed=seed)
    assert 0 == ask(third, LONG, prefix=YOURS)[1]
    end(third)


@pytest.mark.parametrize("kind", KINDS)
def test_branches_of_a_conversation_are_all_found(
    models: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    """Where prompts part their common beginning is split, in memory and on disk."""
    first = open_engine(models[kind], tmp_path)
    prompts = [[*LONG[:90], *range(10 * n, 10 * n + 30)] for n in range(1, 5)]
    cold = [ask(first, prompt)[0] for prompt in prompts]
    end(first)
    for prompt, expected in zip(prompts, cold, strict=True):
        fresh = open_engine(models[kind], tmp_path)
        assert (expected, len(prompt) - 1) == ask(fresh, prompt)
        other = [*prompt[:100], *LONG[:20]]
        assert ask(fresh, other)[1] >= 90
        end(fresh)


@pytest.mark.parametrize("kind", ["plain", "windowed", "hybrid"])
def test_damaged_files_cost_time_and_nothing_else(
    models: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    """Flipped bits and torn files are misses: the tokens are those of a cold run."""
    first = open_engine(models[kind], tmp_path)
    cold, _ = ask(first, LONG)
    end(first)
    draw = random.Random(kind)  # noqa: S311
    files = sorted(tmp_path.rglob("*.kv"))
    assert files
    for path in files:
        data = bytearray(path.read_bytes())
        if draw.random() < 0.5:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        else:
            del data[draw.randrange(len(data)) :]
        path.write_bytes(data)
    skipped = []
    for _ in range(len(files) + 1):
        engine = open_engine(models[kind], tmp_path)
        tokens, count = ask(engine, LONG)
        assert cold == tokens
        skipped.append(count)
        end(engine)
    # A damaged file is found out when it is read, and written anew.
    assert (0, len(LONG) - 1) == (skipped[0], skipped[-1])


def test_another_version_reads_nothing(models: dict[str, Any], tmp_path: Path) -> None:
    """Libraries may lay out and compute things differently."""
    first = open_engine(models["plain"], tmp_path)
    cold, _ = ask(first, LONG)
    end(first)
    second = open_engine(models["plain"], tmp_path, library="two")
    assert (cold, 0) == ask(second, LONG)
    end(second)


def test_a_prompt_is_read_while_others_decode(models: dict[str, Any], tmp_path: Path) -> None:
    """Neighbours go on, and a prompt that is removed meanwhile is no trouble."""
    first = open_engine(models["plain"], tmp_path)
    cold, _ = ask(first, LONG)
    end(first)
    second = open_engine(models["plain"], tmp_path)
    greedy = Sampling(40, temperature=0.0)
    second.add([Choice(0, greedy)], LONG[:5])
    second.step()
    second.step()
    second.add([Choice(1, greedy)], LONG, prefix=MINE)
    second.add([Choice(2, greedy)], LONG[:100], prefix=MINE)
    second.step()
    second.remove(2)
    tokens: list[int] = []
    while second.free_slots < SLOTS:
        tokens += [r.token_id for r in second.step() if r.sequence_id == 1]
    assert cold == tokens[:TOKENS]
    end(second)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., LoadedEngine]:
    """Loads a tiny model as a worker does."""
    directory = build_tiny_llama(tmp_path / "model")

    def make(*, cap_bytes: int = 10**7, granted_bytes: int = 10**8) -> LoadedEngine:
        disk = PrefixDisk(str(tmp_path / "cache"), cap_bytes)
        found = load_engine(
            Load("mlx", str(directory), 2, prefix_cache_bytes=granted_bytes, prefix_disk=disk)
        )
        assert isinstance(found, LoadedEngine)
        return found

    return make


def test_a_loaded_model_finds_its_own_files(
    load: Callable[..., LoadedEngine], tmp_path: Path
) -> None:
    """As long as its weights are the same; after a change of one of them it begins anew."""
    first = load().engine
    ask(first, LONG)
    end(first)
    (namespace,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert list(namespace.rglob("*.kv"))
    second = load().engine
    second.close()
    assert [namespace] == [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    weights = tmp_path / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    third = load().engine
    assert 0 == ask(third, LONG)[1]
    end(third)
    assert 2 == sum(path.is_dir() for path in (tmp_path / "cache").iterdir())


def test_a_load_leaves_nothing(load: Callable[..., LoadedEngine], tmp_path: Path) -> None:
    """What is computed to see how long it takes is nobody's prompt: neither kept nor written."""
    for _ in range(2):
        loaded = load()
        assert 0 == loaded.engine.foresee([0] * 300, NOBODY).known_tokens
        assert len(loaded.pass_samples) > 1
        end(loaded.engine)
    assert not list(tmp_path.rglob("*.kv"))


def test_without_memory_there_is_no_disk(load: Callable[..., LoadedEngine], tmp_path: Path) -> None:
    """What is read has to be put somewhere."""
    engine = load(granted_bytes=0).engine
    ask(engine, LONG)
    end(engine)
    assert not (tmp_path / "cache").exists()


def test_a_directory_that_cannot_be_made_is_told(
    load: Callable[..., LoadedEngine], tmp_path: Path
) -> None:
    """The model loads, answers, and says why nothing is on disk."""
    (tmp_path / "cache").write_text("a file")
    loaded = load()
    assert any("cache" in note for note in loaded.notes)
    cold = ask(loaded.engine, LONG)
    assert (cold[0], len(LONG) - 1) == ask(loaded.engine, LONG)
    end(loaded.engine)
