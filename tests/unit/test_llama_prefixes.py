"""What leaves llama.cpp's cache comes back, and nobody's answer shows it."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from lmx.engines.base import Choice, PrefillShare, PrefixUse, StepResult
from lmx.engines.warmup import NOBODY, sample_passes
from lmx.protocol.values import GgufOptions, ModelInfo, Sampling
from tests.conformance.driving import MAX_STEPS, collect, greedy, step_times
from tests.llama_answers import Request, count_equal, drive, make_request, prompt, scored, tokens
from tests.tiny_gguf import TinyLlama
from tests.tiny_state_gguf import write_recurrent, write_windowed

pytest.importorskip("llama_cpp", exc_type=ImportError)
pytestmark = pytest.mark.gguf

from lmx.engines.llama.cells import Cells, forget, make_cells  # noqa: E402
from lmx.engines.llama.engine import LlamaEngine  # noqa: E402
from lmx.engines.llama.library import ContextSize, LlamaContext, LlamaModel  # noqa: E402
from lmx.engines.llama.states import LlamaStore, Tiers  # noqa: E402

END_ID = 2
BUDGET = 16 << 20
MINE, YOURS = PrefixUse("mine"), PrefixUse("yours")
Open = Callable[..., LlamaEngine]


def write_plain(path: Path) -> Path:
    """Keys and values of every token in every layer."""
    return TinyLlama().write(path)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each kind of state."""
    directory = tmp_path_factory.mktemp("tiny")
    return {
        "plain": write_plain(directory / "plain.gguf"),
        "windowed": write_windowed(directory / "windowed.gguf"),
        "recurrent": write_recurrent(directory / "recurrent.gguf"),
    }


def build(
    path: Path, *, cells: int = 2048, sequences: int = 4, budget: int = BUDGET
) -> tuple[LlamaEngine, Cells]:
    """An engine, and what it computes into."""
    model = LlamaModel(str(path), GgufOptions())
    context = LlamaContext(model, ContextSize(cells, sequences + 1, 64, threads=1))
    info = ModelInfo(256, sequences, kv_bytes_per_token=256, engine="llama")
    store = LlamaStore(budget, needs_snapshots=not model.can_rewind)
    held = make_cells(model, context, info, kept=Tiers(store))
    ends = frozenset({END_ID})
    return LlamaEngine(model, context, info, cells=held, end_ids=ends), held


@pytest.fixture
def open_engine(paths: dict[str, Path]) -> Iterator[Open]:
    """Opens engines and closes them at the end."""
    opened: list[LlamaEngine] = []

    def make(
        kind: str = "plain", *, cells: int = 2048, sequences: int = 4, budget: int = BUDGET
    ) -> LlamaEngine:
        engine, _ = build(paths[kind], cells=cells, sequences=sequences, budget=budget)
        opened.append(engine)
        return engine

    yield make
    for engine in opened:
        engine.close()


def ask(engine: LlamaEngine, ids: list[int], prefix: PrefixUse = MINE) -> list[StepResult]:
    """All results of a lone prompt."""
    engine.add([Choice(1, greedy(10))], ids, prefix=prefix)
    return step_times(engine, MAX_STEPS)


def cold(open_engine: Open, requests: dict[int, Request], kind: str) -> dict[int, list[int]]:
    """Each request's answer by an engine that keeps nothing, alone."""
    engine = open_engine(kind, budget=0)
    found = {}
    for number, (ids, sampling) in requests.items():
        engine.add([Choice(number, sampling)], ids, prefix=PrefixUse(str(number)))
        found[number] = tokens(step_times(engine, MAX_STEPS))
    return found


def displace(engine: LlamaEngine) -> None:
    """Fill every slot with other conversations."""
    for number in range(engine.info.max_sequences + 1):
        ask(engine, prompt(50 + number, 150), YOURS)


@pytest.mark.parametrize("kind", ["plain", "windowed", "recurrent"])
def test_what_left_the_cache_comes_back(open_engine: Open, kind: str) -> None:
    """A conversation whose slot was taken skips all but its last token, and answers the same."""
    engine = open_engine(kind, sequences=2)
    ids = prompt(1, 200)
    first = ask(engine, ids)
    displace(engine)
    assert 199 == engine.foresee(ids, MINE).cached_tokens
    again = ask(engine, ids)
    assert (0, 199) == (first[0].cached_tokens, again[0].cached_tokens)
    assert tokens(first) == tokens(again)


@pytest.mark.parametrize("kind", ["plain", "windowed", "recurrent"])
def test_without_a_store_it_does_not(open_engine: Open, kind: str) -> None:
    """The slots alone have forgotten it, so it was the store."""
    engine = open_engine(kind, sequences=2, budget=0)
    ask(engine, prompt(1, 200))
    displace(engine)
    assert 0 == ask(engine, prompt(1, 200))[0].cached_tokens


@pytest.mark.parametrize("kind", ["plain", "windowed"])
def test_any_part_of_what_was_kept_is_of_use(open_engine: Open, kind: str) -> None:
    """A prompt that parts inside a block skips what is before that, and answers as if cold."""
    engine = open_engine(kind, sequences=2)
    ids = [*prompt(1, 147), *prompt(2, 60)]
    expected = cold(open_engine, {1: (ids, greedy(10))}, kind)[1]
    ask(engine, prompt(1, 200))
    displace(engine)
    results = ask(engine, ids)
    assert 147 == results[0].cached_tokens
    assert expected == tokens(results)


def test_recurrent_state_is_kept_at_boundaries(open_engine: Open) -> None:
    """Another conversation under the same system prompt goes on from where that ended."""
    engine = open_engine("recurrent", sequences=2)
    system = prompt(1, 130)
    use = PrefixUse("mine", boundaries=(130,))
    ask(engine, [*system, *prompt(2, 50)], use)
    ids = [*system, *prompt(3, 50)]
    expected = cold(open_engine, {1: (ids, greedy(10))}, "recurrent")[1]
    results = ask(engine, ids, use)
    assert 130 == results[0].cached_tokens
    assert expected == tokens(results)


def test_an_answer_is_kept_when_there_is_nothing_else_to_do(open_engine: Open) -> None:
    """With the last step or at rest, prompt and answer go to the store, within its budget."""
    engine = open_engine(budget=50_000)
    ask(engine, prompt(1, 100))
    assert not engine.rest()
    kept = engine.memory()
    # 109 tokens have been computed; the last one sampled has not.
    assert 109 * 256 <= kept.cached_bytes <= 50_000
    assert (kept.cached_bytes, 0) == (kept.kept.size_bytes, kept.kept.evicted_count)
    ask(engine, prompt(2, 100))
    assert not engine.rest()
    assert engine.memory().cached_bytes <= 50_000
    assert kept.active_bytes == engine.memory().active_bytes


def test_shrinking_empties_the_store(open_engine: Open) -> None:
    """Memory goes back, and what left the slots is gone."""
    engine = open_engine(sequences=2)
    ids = prompt(1, 200)
    ask(engine, ids)
    displace(engine)
    engine.shrink()
    assert 0 == engine.memory().cached_bytes
    assert "evicted" == engine.foresee(ids, MINE).reason
    assert 0 == ask(engine, ids)[0].cached_tokens


def test_salts_are_apart_in_slots_and_store(open_engine: Open) -> None:
    """Neither what runs, nor what is idle, nor what was kept is anybody else's."""
    engine = open_engine(sequences=3)
    ids = prompt(1, 200)
    engine.add([Choice(1, greedy(40))], ids, prefix=MINE)
    for _ in range(6):
        engine.step()
    assert (0, "no-entry") == engine.foresee(ids, YOURS)[:2]
    engine.add([Choice(2, greedy(5))], ids, prefix=YOURS)
    results = collect_cached(step_times(engine, MAX_STEPS))
    assert 0 == results[2]
    displace(engine)
    assert (0, "no-entry") == engine.foresee(ids, PrefixUse("theirs"))[:2]


def test_another_thread_never_sees_what_is_not_its_own(open_engine: Open) -> None:
    """While slots go from one tenant to another and back, nobody foresees the other one's."""
    engine = open_engine(sequences=2)
    mine = prompt(1, 120)
    seen: set[int] = set()
    is_over = Event()

    def spy() -> None:
        while not is_over.is_set():
            seen.add(engine.foresee(mine, YOURS).known_tokens)

    thread = Thread(target=spy)
    thread.start()
    for number in range(12):
        ask(engine, [*mine, 5 + number], MINE)
        for other in range(2):
            ask(engine, prompt(60 + 2 * number + other, 40), YOURS)
    is_over.set()
    thread.join()
    assert engine.foresee(mine, MINE).known_tokens == 120
    assert max(seen) < 16


def collect_cached(results: list[StepResult]) -> dict[int, int]:
    """What each sequence said it skipped."""
    found: dict[int, int] = {}
    for result in results:
        found.setdefault(result.sequence_id, result.cached_tokens)
    return found


@pytest.mark.parametrize("budget", [0, BUDGET])
def test_one_computes_what_all_share(open_engine: Open, budget: int) -> None:
    """Four prompts of one beginning come together: it is computed once, and all answer as alone."""
    requests = {i: ([*prompt(1, 150), *prompt(10 + i, 20)], greedy(8)) for i in range(4)}
    expected = cold(open_engine, requests, "plain")
    engine = open_engine(budget=budget)
    for number, (ids, sampling) in requests.items():
        engine.add([Choice(number, sampling)], ids, prefix=MINE)
    assert [0, 1, 2, 3] == list(engine.prefilling())
    results = step_times(engine, MAX_STEPS)
    assert {0: 0, 1: 150, 2: 150, 3: 150} == collect_cached(results)
    assert expected == {i: tokens(found) for i, found in collect({}, results).items()}


def test_nobody_waits_for_one_that_is_gone(open_engine: Open) -> None:
    """When the first is cancelled midway, the second goes on from where it was."""
    engine = open_engine()
    for number in range(3):
        engine.add([Choice(number, greedy(4))], [*prompt(1, 150), 9 + number], prefix=MINE)
    engine.step()
    engine.remove(0)
    assert [1, 2] == list(engine.prefilling())
    cached = collect_cached(step_times(engine, MAX_STEPS))
    assert {1: 64, 2: 150} == cached


def test_who_waits_for_another_passes_its_urgency_on(open_engine: Open) -> None:
    """Only the last one is named, and the first one goes on as far as that one needs it."""
    engine = open_engine()
    for number in range(3):
        ids = [*prompt(1, 150), *prompt(7 + number, 90)]
        engine.add([Choice(number, greedy(4))], ids, prefix=MINE)
    before = engine.prefilling()
    results: list[StepResult] = []
    while not results:
        results = engine.step([PrefillShare(2, 64)])
        after = engine.prefilling()
        assert after.get(2, 0) < before.get(2, 1)  # its last token is no part of a prompt
        before = after
    assert (2, 150) == (results[0].sequence_id, results[0].cached_tokens)
    assert [0, 1] == sorted(before)
    assert 0 < before[0] <= 90


def test_a_preempted_answer_is_not_computed_again(open_engine: Open) -> None:
    """What it had was kept when its cells were taken, and all but its last token comes back."""
    engine = open_engine(cells=256)
    for number in range(4):
        sampling = Sampling(70, temperature=0.0, ignore_eos=True)
        engine.add([Choice(number, sampling)], prompt(number, 50), prefix=MINE)
    begun: set[int] = set()
    missing: list[int] = []
    for _ in range(MAX_STEPS):
        if engine.free_slots == 4:
            break
        begun |= {result.sequence_id for result in engine.step()}
        missing += [left for number, left in engine.prefilling().items() if number in begun]
    assert engine.preemption_count > 0
    assert {1} == set(missing)


@pytest.mark.parametrize("kind", ["plain", "windowed", "recurrent"])
@pytest.mark.parametrize("seed", range(6))
def test_answers_do_not_show_what_was_reused(open_engine: Open, kind: str, seed: int) -> None:
    """Whoever comes, leaves or is preempted, with cells and store too small: answers as alone."""
    rng = random.Random(seed)  # noqa: S311  # for a schedule
    requests = {i: make_request(rng, i) for i in range(24)}
    fresh = open_engine(kind, budget=0)
    expected = {i: scored(fresh, i, request) for i, request in requests.items()}
    engine = open_engine(kind, cells=512, sequences=3, budget=150_000)

    def check_memory() -> None:
        assert engine.memory().cached_bytes <= 150_000

    found, gone = drive(engine, requests, rng, between=check_memory)
    assert engine.free_slots == 3
    assert all(len(expected[i]) == len(found[i]) for i in found if i not in gone)
    assert sum(count_equal(expected[i], results) for i, results in found.items()) > 200


@pytest.mark.parametrize("kind", ["plain", "windowed", "recurrent"])
def test_each_pass_is_timed_whole(paths: dict[str, Path], kind: str) -> None:
    """No sample goes on from the one before it, and nothing of the last one stays."""
    engine, cells = build(paths[kind])
    known = []

    def forget_and_look() -> None:
        known.append(engine.foresee([0] * 256, NOBODY).known_tokens)
        forget(cells)
        known.append(engine.foresee([0] * 256, NOBODY).known_tokens)

    samples = sample_passes(engine, forget_and_look)
    assert [16, 0, 64, 0] == known
    assert [16, 64] == [tokens for tokens, _ in samples]
    assert 0 == engine.memory().cached_bytes
    engine.close()
