"""What the llama.cpp engine does beyond the contract: a full cache, reuse, interrupted passes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmx.engines.base import Choice, PrefillShare, StepResult
from lmx.protocol.values import GgufOptions, ModelInfo, Sampling
from tests.conformance.driving import MAX_STEPS, collect, greedy, step_times
from tests.tiny_gguf import TOKENS, TinyLlama

pytest.importorskip("llama_cpp", exc_type=ImportError)
pytestmark = pytest.mark.gguf

from lmx.engines.llama.batch import RowBatch  # noqa: E402
from lmx.engines.llama.cells import make_cells  # noqa: E402
from lmx.engines.llama.engine import LlamaEngine  # noqa: E402
from lmx.engines.llama.library import (  # noqa: E402
    ABORTED,
    NO_FREE_CELLS,
    ContextSize,
    LlamaContext,
    LlamaModel,
)

END_ID = 2
Open = Callable[..., LlamaEngine]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama as a file."""
    return TinyLlama().write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def open_engine(path: Path) -> Iterator[Open]:
    """Opens engines on the tiny Llama and closes them at the end."""
    opened: list[LlamaEngine] = []

    def make(*, cells: int = 2048, sequences: int = 4, batch_tokens: int = 64) -> LlamaEngine:
        model = LlamaModel(str(path), GgufOptions())
        context = LlamaContext(model, ContextSize(cells, sequences, batch_tokens, threads=1))
        info = ModelInfo(256, sequences, engine="llama")
        cells_held = make_cells(model, context, info)
        ends = frozenset({END_ID})
        opened.append(LlamaEngine(model, context, info, cells=cells_held, end_ids=ends))
        return opened[-1]

    yield make
    for engine in opened:
        engine.close()


def prompt(seed: int, length: int) -> list[int]:
    """Ids without a pattern, none of them special."""
    return [3 + (seed * 97 + i * i * 7 + i * 31) % (len(TOKENS) - 3) for i in range(length)]


def alone(
    open_engine: Open, requests: dict[int, tuple[list[int], Sampling]]
) -> dict[int, list[StepResult]]:
    """Each request's results with a fresh engine for itself."""
    found: dict[int, list[StepResult]] = {}
    for number, (ids, sampling) in requests.items():
        engine = open_engine()
        engine.add([Choice(number, sampling)], ids)
        collect(found, step_times(engine, MAX_STEPS))
    return found


def tokens(results: list[StepResult]) -> list[int]:
    """Only the ids."""
    return [result.token_id for result in results]


def test_a_full_cache_preempts_and_everybody_gets_their_tokens(open_engine: Open) -> None:
    """Four answers that need twice the cells there are end as they do alone."""
    requests = {
        i: (
            prompt(i, 50),
            Sampling(70, temperature=0.8, seed=i, ignore_eos=True),
        )
        for i in range(4)
    }
    expected = alone(open_engine, requests)
    engine = open_engine(cells=256)
    for number, (ids, sampling) in requests.items():
        engine.add([Choice(number, sampling)], ids)
    found = collect({}, step_times(engine, MAX_STEPS))
    assert engine.preemption_count > 0
    assert {i: tokens(r) for i, r in found.items()} == {i: tokens(r) for i, r in expected.items()}
    assert engine.free_slots == 4


def test_idle_prefixes_go_before_anybody_is_preempted(open_engine: Open) -> None:
    """Ended conversations fill the cache; a new one takes their cells, not a neighbour's."""
    engine = open_engine(cells=256)
    for i in range(3):
        engine.add([Choice(i, greedy(10))], prompt(i, 70))
        step_times(engine, MAX_STEPS)
    engine.add([Choice(9, greedy(60))], prompt(9, 150))
    results = collect({}, step_times(engine, MAX_STEPS))[9]
    assert results[-1].finish is not None
    assert engine.preemption_count == 0


def test_the_oldest_is_never_preempted(open_engine: Open) -> None:
    """The first to come delivers a token in every step once it decodes."""
    engine = open_engine(cells=256)
    for i in range(4):
        sampling = Sampling(100, temperature=0.0, ignore_eos=True)
        engine.add([Choice(i, sampling)], prompt(i, 40))
    engine.step()
    for _ in range(90):
        assert 0 in {result.sequence_id for result in engine.step()}
    assert engine.preemption_count > 0


def test_a_repeated_prompt_is_computed_once(open_engine: Open) -> None:
    """The second answer skips all but the last prompt token and is the same."""
    engine = open_engine()
    ids = prompt(1, 120)
    engine.add([Choice(1, greedy(12))], ids)
    first = step_times(engine, MAX_STEPS)
    engine.add([Choice(2, greedy(12))], ids)
    second = step_times(engine, MAX_STEPS)
    assert [0, len(ids) - 1] == [first[0].cached_tokens, second[0].cached_tokens]
    assert tokens(first) == tokens(second)
    assert len(engine.step()) == 0


def test_the_next_turn_skips_the_one_before(open_engine: Open) -> None:
    """A prompt that holds the last prompt and its answer computes only what is new."""
    engine = open_engine()
    ids = prompt(1, 80)
    engine.add([Choice(1, greedy(12))], ids)
    answer = tokens(step_times(engine, MAX_STEPS))
    following = [*ids, *answer, *prompt(5, 9)]
    engine.add([Choice(2, greedy(5))], following)
    found = step_times(engine, MAX_STEPS)
    # The answer's last token was sampled but never computed.
    assert len(ids) + len(answer) - 1 == found[0].cached_tokens
    assert tokens(found) == tokens(alone(open_engine, {2: (following, greedy(5))})[2])


def test_a_running_neighbour_shares_its_prompt(open_engine: Open) -> None:
    """A prompt that begins like a running one skips that beginning, and neither is disturbed."""
    common = prompt(1, 90)
    requests = {1: ([*common, 5], greedy(40)), 2: ([*common, 9, 9], greedy(20))}
    expected = alone(open_engine, requests)
    engine = open_engine()
    engine.add([Choice(1, greedy(40))], requests[1][0])
    found = collect({}, step_times(engine, 6))
    engine.add([Choice(2, greedy(20))], requests[2][0])
    rest = step_times(engine, MAX_STEPS)
    assert len(common) == max(result.cached_tokens for result in rest)
    collect(found, rest)
    assert {i: tokens(r) for i, r in found.items()} == {i: tokens(r) for i, r in expected.items()}


def test_a_prompt_to_be_scored_is_computed_whole(open_engine: Open) -> None:
    """Log-probabilities of a prompt are the same the second time, reuse or not."""
    engine = open_engine()
    ids = prompt(3, 130)
    scored = Sampling(1, temperature=0.0, top_logprobs=1)
    found = []
    for number in (1, 2):
        engine.add([Choice(number, scored)], ids, wants_prompt_logprobs=True)
        found += step_times(engine, MAX_STEPS)
        assert 0 == found[-1].cached_tokens
    first, second = (result.prompt_logprobs for result in found)
    assert first is not None
    assert second is not None
    assert len(first) == len(second) == len(ids)
    for one, other in zip(first[1:], second[1:], strict=True):
        assert one is not None
        assert other is not None
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)


def test_choices_go_on_when_the_one_that_computes_is_removed(open_engine: Open) -> None:
    """The others of the prompt keep what was computed and get the tokens they get alone."""
    ids = prompt(2, 150)
    samplings = [Sampling(8, temperature=1.0, seed=seed) for seed in range(3)]
    expected = alone(open_engine, {i: (ids, s) for i, s in enumerate(samplings)})
    engine = open_engine()
    engine.add([Choice(i, s) for i, s in enumerate(samplings)], ids)
    engine.step()
    engine.remove(0)
    assert engine.free_slots == 2
    found = collect({}, step_times(engine, MAX_STEPS))
    assert {i: tokens(r) for i, r in found.items()} == {i: tokens(expected[i]) for i in (1, 2)}


def test_preempted_choices_keep_their_own_tokens(open_engine: Open) -> None:
    """Answers that share a prompt's cells survive a full cache too."""
    ids = prompt(2, 100)
    samplings = [Sampling(60, temperature=1.0, seed=s, ignore_eos=True) for s in range(4)]
    expected = alone(open_engine, {i: (ids, s) for i, s in enumerate(samplings)})
    engine = open_engine(cells=256)
    engine.add([Choice(i, s) for i, s in enumerate(samplings)], ids)
    found = collect({}, step_times(engine, MAX_STEPS))
    assert engine.preemption_count > 0
    assert {i: tokens(r) for i, r in found.items()} == {i: tokens(r) for i, r in expected.items()}


def test_an_unwanted_prompt_is_not_computed(open_engine: Open) -> None:
    """An interrupted prompt makes its step end early; everybody else goes on unharmed."""
    requests = {1: (prompt(1, 20), greedy(30)), 2: (prompt(2, 200), greedy(5))}
    expected = alone(open_engine, requests)
    engine = open_engine()
    engine.add([Choice(1, greedy(30))], requests[1][0])
    found = collect({}, step_times(engine, 3))
    engine.add([Choice(2, greedy(5))], requests[2][0])
    engine.interrupt(12345)
    collect(found, step_times(engine, 1))
    engine.interrupt(2)
    assert engine.step() == []
    engine.remove(2)
    collect(found, step_times(engine, MAX_STEPS))
    assert tokens(found[1]) == tokens(expected[1])
    assert 2 not in found


def test_a_prompt_is_computed_while_one_choice_still_wants_it(open_engine: Open) -> None:
    """One of two choices leaving does not interrupt the other's prompt."""
    engine = open_engine()
    engine.add([Choice(1, greedy(5)), Choice(2, greedy(5))], prompt(1, 100))
    engine.interrupt(1)
    engine.step()
    engine.remove(1)
    found = step_times(engine, MAX_STEPS)
    assert tokens(found) == tokens(alone(open_engine, {2: (prompt(1, 100), greedy(5))})[2])


def test_an_aborted_pass_can_be_repeated(path: Path) -> None:
    """The flag ends a pass from outside; afterwards the same pass gives the same logits."""
    model = LlamaModel(str(path), GgufOptions())
    logits = []
    for aborts in (False, True):
        context = LlamaContext(model, ContextSize(256, 2, 64, threads=2))
        batch = RowBatch(64)
        batch.append(0, prompt(1, 40), 0, wanted_from=39)
        if aborts:
            context.abort()
            assert context.decode(batch) == ABORTED
            assert context.length(0) == 0
            context.allow()
        assert context.decode(batch) == 0
        logits.append(context.logits(1).copy())
        context.close()
    model.close()
    assert logits[0].tolist() == logits[1].tolist()


def test_cells_run_out_without_harm(path: Path) -> None:
    """A pass that does not fit says so and changes nothing."""
    model = LlamaModel(str(path), GgufOptions())
    context = LlamaContext(model, ContextSize(256, 2, 256, threads=1))
    batch = RowBatch(256)
    batch.append(0, prompt(1, 200), 0, wanted_from=199)
    assert context.decode(batch) == 0
    batch.clear()
    batch.append(1, prompt(2, 100), 0, wanted_from=99)
    assert context.decode(batch) == NO_FREE_CELLS
    assert [context.length(0), context.length(1)] == [200, 0]
    context.close()
    model.close()


def test_a_piece_of_a_prompt_ends_its_pass_with_a_whole_tile(open_engine: Open) -> None:
    """With the rows of those who decode beside it; the end of a prompt is taken as it is."""
    engine = open_engine(batch_tokens=256)
    engine.add([Choice(0, greedy(100))], prompt(0, 5))
    step_times(engine, 3)
    engine.add([Choice(1, greedy(1))], prompt(1, 240))
    for given, left in ((100, 240 - 63), (150, 240 - 63 - 127), (30, 20)):
        engine.step([PrefillShare(1, given)])
        assert {1: left} == engine.prefilling()
    assert tokens(collect({}, step_times(engine, MAX_STEPS))[1]) == tokens(
        alone(open_engine, {1: (prompt(1, 240), greedy(1))})[1]
    )


@pytest.mark.parametrize(
    ("there", "more", "taken"),
    [
        (0, 64, 64),
        (0, 100, 64),
        (1, 100, 63),
        (1, 62, 62),
        (3, 500, 445),
        (64, 63, 63),
        (65, 63, 63),
    ],
)
def test_rows_fill_whole_tiles(there: int, more: int, taken: int) -> None:
    """As many as there are of what comes to less than one."""
    batch = RowBatch(512)
    if there:
        batch.append(0, prompt(0, there), 0, wanted_from=there)
    assert taken == batch.whole_tiles(more)
