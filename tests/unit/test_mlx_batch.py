"""Our batch gives the tokens mlx-lm gives, however sequences come and go."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model

from lmx.engines.base import Choice
from lmx.engines.mlx.engine import MlxEngine
from lmx.engines.mlx.passes import PrefillLimits, plan_group
from lmx.errors import OutOfMemory
from lmx.protocol.values import ModelInfo, Sampling
from tests.tiny_models import build_tiny_llama

TOKENS = 24
PROMPTS = [
    [5, 9, 200, 31, 7, 7, 120],
    [44],
    [3, 250],
    list(range(1, 90)),
    [17, 4, 99, 100, 101],
    list(range(200, 60, -1)),
]
INFO = ModelInfo(context_tokens=512, max_sequences=8)
VOCABULARY = 274
LIMITS = PrefillLimits(chunk_tokens=32, max_rows=8)


class Reference(NamedTuple):
    model: Any
    tokens: list[list[int]]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The model and mlx-lm's own greedy tokens for every prompt; both are only read."""
    directory = build_tiny_llama(tmp_path_factory.mktemp("tiny"))
    model, _ = load_model(directory)
    steps = [generate_step(mx.array(p), model, max_tokens=TOKENS) for p in PROMPTS]
    return Reference(model, [[int(token) for token, _ in step] for step in steps])


@pytest.fixture
def engine(reference: Reference) -> MlxEngine:
    """An engine without end tokens, so that every sequence runs to its limit."""
    return MlxEngine(
        reference.model, INFO, end_ids=frozenset(), limits=LIMITS, vocabulary_size=VOCABULARY
    )


def add(engine: MlxEngine, index: int, max_tokens: int = TOKENS) -> None:
    """Queue a prompt under its number, greedy."""
    engine.add([Choice(index, Sampling(max_tokens, temperature=0.0))], PROMPTS[index])


def steps(engine: MlxEngine, count: int = 500) -> Iterator[tuple[int, int]]:
    """Sequence and token of at most so many steps."""
    for _ in range(count):
        if engine.free_slots == INFO.max_sequences:
            return
        for result in engine.step():
            yield result.sequence_id, result.token_id


def by_sequence(pairs: list[tuple[int, int]]) -> dict[int, list[int]]:
    """Tokens of each sequence in order."""
    found: dict[int, list[int]] = {}
    for sequence_id, token_id in pairs:
        found.setdefault(sequence_id, []).append(token_id)
    return found


@pytest.mark.parametrize("index", range(len(PROMPTS)))
def test_alone(engine: MlxEngine, reference: Reference, index: int) -> None:
    """One sequence gets mlx-lm's greedy tokens, whether its prompt is one token or many chunks."""
    add(engine, index)
    assert {index: reference.tokens[index]} == by_sequence(list(steps(engine)))


def test_together(engine: MlxEngine, reference: Reference) -> None:
    """All at once, prefilled in padded groups and chunks, each gets its own tokens."""
    for index in range(len(PROMPTS)):
        add(engine, index)
    assert dict(enumerate(reference.tokens)) == by_sequence(list(steps(engine)))


def test_together_in_padded_passes(reference: Reference) -> None:
    """Groups that are padded beyond their longest prompt give nobody another token."""
    limits = PrefillLimits(chunk_tokens=256, max_rows=8, grain_tokens=16)
    engine = MlxEngine(
        reference.model, INFO, end_ids=frozenset(), limits=limits, vocabulary_size=VOCABULARY
    )
    for index in range(len(PROMPTS)):
        add(engine, index)
    found: dict[int, list[int]] = {}
    for index, token in steps(engine):
        found.setdefault(index, []).append(token)
    assert dict(enumerate(reference.tokens)) == found


@pytest.mark.parametrize("gap", [1, 2, 5])
def test_staggered(engine: MlxEngine, reference: Reference, gap: int) -> None:
    """Joining a running batch changes nothing."""
    pairs: list[tuple[int, int]] = []
    for index in range(len(PROMPTS)):
        add(engine, index)
        pairs += steps(engine, gap)
    pairs += steps(engine)
    assert dict(enumerate(reference.tokens)) == by_sequence(pairs)


@pytest.mark.parametrize("victim", [0, 3, 5])
@pytest.mark.parametrize("after", [0, 1, 3, 8])
def test_one_removed(engine: MlxEngine, reference: Reference, victim: int, after: int) -> None:
    """Removing one in the queue, in prefill or in decode leaves the others as they are alone."""
    for index in range(len(PROMPTS)):
        add(engine, index)
    pairs = list(steps(engine, after))
    engine.remove(victim)
    pairs += steps(engine)
    found = by_sequence(pairs)
    got = found.pop(victim, [])
    assert reference.tokens[victim][: len(got)] == got
    assert {i: t for i, t in enumerate(reference.tokens) if i != victim} == found


def test_different_lengths_leave_one_by_one(engine: MlxEngine, reference: Reference) -> None:
    """Each sequence ends at its own limit, and leaving changes no one else."""
    limits = [3, 1, 24, 10, 11, 2]
    for index, limit in enumerate(limits):
        add(engine, index, limit)
    expected = {i: reference.tokens[i][:limit] for i, limit in enumerate(limits)}
    assert expected == by_sequence(list(steps(engine)))


def test_end_tokens_end_a_sequence(reference: Reference) -> None:
    """The first end token is delivered with `stop` and is the last."""
    tokens = reference.tokens[0]
    end = next(
        token for index, token in enumerate(tokens) if index >= 5 and token not in tokens[:5]
    )
    ending = MlxEngine(
        reference.model, INFO, end_ids=frozenset({end}), limits=LIMITS, vocabulary_size=VOCABULARY
    )
    add(ending, 0)
    results = [result for _ in range(60) for result in ending.step()]
    expected = tokens[: tokens.index(end) + 1]
    assert expected == [result.token_id for result in results]
    assert [*[None] * (len(expected) - 1), "stop"] == [result.finish for result in results]
    assert INFO.max_sequences == ending.free_slots


def test_an_end_token_among_neighbours(reference: Reference) -> None:
    """A sequence that ends says nothing more, though its row is in the pass already launched."""
    end = reference.tokens[0][6]
    ending = MlxEngine(
        reference.model, INFO, end_ids=frozenset({end}), limits=LIMITS, vocabulary_size=VOCABULARY
    )
    for index in range(len(PROMPTS)):
        add(ending, index)
    expected = {
        index: tokens[: tokens.index(end) + 1] if end in tokens else tokens
        for index, tokens in enumerate(reference.tokens)
    }
    assert expected == by_sequence(list(steps(ending)))
    assert TOKENS in {len(tokens) for tokens in expected.values()}


class CountingModel:
    """A model that counts the rows of its decode passes, and may run out of memory."""

    def __init__(self, model: Any, *, fails_at: int = -1) -> None:
        self._model = model
        self._fails_at = fails_at
        self.layers = model.layers
        self.make_cache = model.make_cache
        self.decoded_rows: list[int] = []

    def __call__(self, inputs: mx.array, cache: Any) -> mx.array:
        if inputs.shape[1] == 1:
            if len(self.decoded_rows) == self._fails_at:
                raise RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory")
            self.decoded_rows.append(inputs.shape[0])
        logits: mx.array = self._model(inputs, cache=cache)
        return logits


def test_no_pass_is_wasted_on_a_known_end(reference: Reference) -> None:
    """A row that reaches its limit is gone before the next pass is launched."""
    model = CountingModel(reference.model)
    engine = MlxEngine(model, INFO, end_ids=frozenset(), limits=LIMITS, vocabulary_size=VOCABULARY)
    add(engine, 0, 5)
    add(engine, 4, 3)
    assert 8 == len(list(steps(engine)))
    assert [2, 2, 2, 1, 1] == model.decoded_rows


def test_device_out_of_memory_is_typed(reference: Reference) -> None:
    """MLX's texts about memory become `OutOfMemory`; the scheduler never sees a RuntimeError."""
    model = CountingModel(reference.model, fails_at=2)
    engine = MlxEngine(model, INFO, end_ids=frozenset(), limits=LIMITS, vocabulary_size=VOCABULARY)
    add(engine, 0)
    with pytest.raises(OutOfMemory, match="Insufficient Memory"):
        list(steps(engine))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([5], 1),
        ([0, 0, 0], 3),
        ([8, 8, 8, 8, 8], 4),
        ([100, 5], 1),
        ([5, 100], 1),
        ([10, 11], 2),
        ([1, 1, 12], 2),
        ([2] * 20, 8),
    ],
)
def test_how_prompts_share_a_pass(lengths: list[int], expected: int) -> None:
    """First come first served, within the chunk, with no more padding than tokens."""
    assert expected == plan_group(lengths, LIMITS)


def test_on_a_cpu_a_first_token_waits_for_no_second_step(engine: MlxEngine) -> None:
    """The step behind the last piece of its prompt gives it; from then on steps overlap again."""
    add(engine, 0, max_tokens=4)
    given = [len(engine.step()) for _ in range(6)]
    assert [0, 1, 0, 1, 1, 1] == given


def test_on_a_cpu_a_first_token_waits_for_no_piece(engine: MlxEngine) -> None:
    """Beside others, too: the step that has it computes nothing of a prompt after it."""
    add(engine, 0)
    list(steps(engine, 4))
    add(engine, 1)
    add(engine, 5)
    told = []
    while 1 not in told:
        before = engine.prefilling()
        told += [result.sequence_id for result in engine.step()]
    assert before.get(5, 0) > 0
    assert before == engine.prefilling()


class Recording:
    """A model that remembers the rows and tokens of every pass."""

    def __init__(self, model: Any) -> None:
        self.layers = model.layers
        self.shapes: list[tuple[int, ...]] = []
        self._model = model

    def __call__(self, token_ids: mx.array, cache: Any) -> mx.array:
        self.shapes.append(token_ids.shape)
        logits: mx.array = self._model(token_ids, cache=cache)
        return logits


def test_choices_share_the_pass_over_their_prompts_last_token(reference: Reference) -> None:
    """Beside a row that runs, and from a prompt of one token, too; then each has its own row."""
    model = Recording(reference.model)
    engine = MlxEngine(model, INFO, end_ids=frozenset(), limits=LIMITS, vocabulary_size=VOCABULARY)
    greedy = Sampling(TOKENS, temperature=0.0)
    add(engine, 0)
    found = [pair for _ in range(4) for pair in steps(engine, 1)]
    model.shapes.clear()
    engine.add([Choice(number, greedy) for number in (10, 11, 12)], PROMPTS[1])
    engine.add([Choice(number, greedy) for number in (20, 21)], PROMPTS[2])
    tokens = by_sequence(found + list(steps(engine)))
    decoded = [rows for rows, count in model.shapes if count == 1 and rows > 1]
    assert [3, 6] == decoded[:2]
    expected = {0: 0, 10: 1, 11: 1, 12: 1, 20: 2, 21: 2}
    assert {number: reference.tokens[of] for number, of in expected.items()} == tokens


def test_a_choice_that_leaves_before_its_first_step(
    reference: Reference, engine: MlxEngine
) -> None:
    """The others have their rows."""
    greedy = Sampling(TOKENS, temperature=0.0)
    engine.add([Choice(number, greedy) for number in (1, 2, 3)], PROMPTS[0])
    assert [] == engine.step()
    engine.remove(2)
    tokens = by_sequence(list(steps(engine)))
    assert {1: reference.tokens[0], 3: reference.tokens[0]} == tokens
