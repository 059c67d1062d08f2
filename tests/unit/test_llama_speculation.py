"""Drafts change how many passes llama.cpp makes for an answer, and not one of its tokens."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from lmx.engines.base import Choice, Constraint, StepResult
from lmx.protocol.values import GgufOptions, ModelInfo, Sampling
from tests.tiny_gguf import TinyLlama

pytest.importorskip("llama_cpp", exc_type=ImportError)
pytestmark = pytest.mark.gguf

from lmx.engines.llama.cells import make_cells  # noqa: E402
from lmx.engines.llama.engine import LlamaEngine  # noqa: E402
from lmx.engines.llama.library import ContextSize, LlamaContext, LlamaModel  # noqa: E402
from lmx.engines.llama.speculation import Speculation  # noqa: E402

END_ID = 2
PERIODIC = [11, 12, 13, 14, 15, 16, 17] * 6
OTHER = [44, 3, 25, 9]
COUNT = 60
NARROW = dict.fromkeys(range(20, 24), 60.0)
CONSTANT = {20: 1000.0}
SAMPLINGS = {
    "greedy": Sampling(COUNT, temperature=0.0),
    "greedy among few": Sampling(COUNT, temperature=0.0, logit_bias=NARROW),
    "warm": Sampling(COUNT, temperature=1.0, seed=2, logit_bias=NARROW),
    "top_p": Sampling(COUNT, temperature=0.8, seed=3, top_p=0.8, logit_bias=NARROW),
    "scored": Sampling(COUNT, temperature=0.5, seed=6, top_logprobs=2, logit_bias=NARROW),
    "penalised": Sampling(COUNT, temperature=0.5, seed=8, frequency_penalty=0.1, logit_bias=NARROW),
    "late end": Sampling(
        COUNT, temperature=0.8, seed=7, min_tokens=33, logit_bias=NARROW | {END_ID: 60.0}
    ),
}
Open = Callable[..., LlamaEngine]


class Answer(NamedTuple):
    tokens: list[int]
    finish: str | None
    steps: int
    drafted: int
    accepted: int


class Alternating:
    """Allows one of two tokens, by turns: each mask depends on the token before."""

    def __init__(self) -> None:
        self.consumed = 0

    def fill_mask(self, mask: NDArray[np.int32]) -> bool:
        """One of the two."""
        mask[:] = 0
        mask[0] = 1 << (20 + self.consumed % 2)
        return True

    def consume(self, token_id: int) -> None:
        """It was allowed."""
        assert token_id == 20 + self.consumed % 2
        self.consumed += 1

    @property
    def is_finished(self) -> bool:
        """After 31 tokens."""
        return self.consumed == 31

    @property
    def is_binding(self) -> bool:
        """Always."""
        return True

    @property
    def decides_end(self) -> bool:
        """It does."""
        return True


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama as a file."""
    return TinyLlama().write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def open_engine(path: Path) -> Iterator[Open]:
    """Opens engines whose passes all take a second, so that drafts are free."""
    opened: list[LlamaEngine] = []

    def make(*, is_on: bool = True) -> LlamaEngine:
        model = LlamaModel(str(path), GgufOptions())
        context = LlamaContext(model, ContextSize(1024, 2, 64, threads=1))
        clock = map(float, count()).__next__
        info = ModelInfo(256, 2, engine="llama")
        engine = LlamaEngine(
            model,
            context,
            info,
            cells=make_cells(model, context, info),
            end_ids=frozenset({END_ID}),
            speculation=Speculation(clock=clock, is_on=is_on),
        )
        opened.append(engine)
        return engine

    yield make
    for engine in opened:
        engine.close()


def run(engine: LlamaEngine, number: int, sampling: Sampling, **kind: Constraint) -> Answer:
    """One answer, alone."""
    engine.add([Choice(number, sampling, **kind)], PERIODIC)
    results: list[StepResult] = []
    steps = 0
    while engine.free_slots < engine.info.max_sequences:
        results += engine.step()
        steps += 1
    return Answer(
        [r.token_id for r in results],
        results[-1].finish,
        steps,
        sum(r.drafted_tokens for r in results),
        sum(r.is_drafted for r in results),
    )


def warm(engine: LlamaEngine) -> LlamaEngine:
    """Let it learn what a plain step takes."""
    engine.add([Choice(1, Sampling(8, temperature=0.0, ignore_eos=True))], OTHER)
    while engine.free_slots < engine.info.max_sequences:
        engine.step()
    return engine


@pytest.mark.parametrize("name", SAMPLINGS)
def test_the_tokens_are_those_of_plain_steps(open_engine: Open, name: str) -> None:
    """Greedy or drawn, filtered, scored, penalised, ended late: drafts change no answer."""
    plain = run(open_engine(is_on=False), 2, SAMPLINGS[name])
    drafted = run(warm(open_engine()), 2, SAMPLINGS[name])
    assert (plain.tokens, plain.finish) == (drafted.tokens, drafted.finish)
    assert plain.steps - drafted.accepted <= drafted.steps <= plain.steps


def test_many_seeds(open_engine: Open) -> None:
    """Drafts are kept and refused in all ways, and no seed's tokens change."""
    plain_engine, engine = open_engine(is_on=False), warm(open_engine())
    drafted = accepted = 0
    for seed in range(16):
        sampling = Sampling(40, temperature=0.2 + 0.1 * (seed % 6), seed=seed, logit_bias=NARROW)
        plain, found = (run(e, 2 + seed, sampling) for e in (plain_engine, engine))
        assert plain.tokens == found.tokens, seed
        drafted, accepted = drafted + found.drafted, accepted + found.accepted
    assert 0 < accepted < drafted


def test_a_text_that_repeats_itself_takes_few_passes(open_engine: Open) -> None:
    """What can be foretold costs a fraction of the passes."""
    constant = Sampling(120, temperature=0.0, logit_bias=CONSTANT)
    plain = run(open_engine(is_on=False), 2, constant)
    drafted = run(warm(open_engine()), 2, constant)
    assert [20] * 120 == plain.tokens == drafted.tokens
    assert plain.steps > 1.8 * drafted.steps


def test_masks_follow_each_token(open_engine: Open) -> None:
    """A constraint sees every token of a draft before the next one is drawn."""
    sampling = Sampling(60, temperature=0.7, seed=4)
    found = run(warm(open_engine()), 2, sampling, constraint=Alternating())
    assert [20 + i % 2 for i in range(31)] == found.tokens
    assert "complete" == found.finish
    assert 0 < found.accepted


@pytest.mark.parametrize("limit", [1, 2, 3, 17, 18, 41])
def test_the_limit_holds(open_engine: Open, limit: int) -> None:
    """A draft never goes beyond the tokens that were asked for."""
    found = run(warm(open_engine()), 2, Sampling(limit, temperature=0.0, logit_bias=CONSTANT))
    assert ([20] * limit, "length") == (found.tokens, found.finish)


def test_what_a_slot_keeps_is_what_was_said(open_engine: Open) -> None:
    """After a draft was cut, the next turn of the conversation reuses the slot and is right."""
    narrow = Sampling(41, temperature=0.5, seed=11, logit_bias=NARROW)
    engine = warm(open_engine())
    first = run(engine, 2, narrow)
    longer = [*PERIODIC, *first.tokens, 30, 31]
    answers = []
    for candidate in (engine, open_engine(is_on=False)):
        candidate.add([Choice(3, narrow)], longer)
        results: list[StepResult] = []
        while candidate.free_slots < candidate.info.max_sequences:
            results += candidate.step()
        answers.append(([r.token_id for r in results], results[0].cached_tokens))
    assert answers[0][0] == answers[1][0]
    assert answers[0][1] > len(PERIODIC)


@pytest.mark.parametrize("after", range(6, 26, 4))
def test_a_second_sequence_joins(open_engine: Open, after: int) -> None:
    """Joining and leaving changes nobody's tokens."""
    first, second = SAMPLINGS["warm"], SAMPLINGS["top_p"]
    plain = open_engine(is_on=False)
    expected = [run(plain, 1, first).tokens, run(plain, 2, second).tokens]
    engine = warm(open_engine())
    engine.add([Choice(1, first)], PERIODIC)
    results = [r for _ in range(after) for r in engine.step()]
    engine.add([Choice(2, second)], PERIODIC)
    while engine.free_slots < engine.info.max_sequences:
        results += engine.step()
    found = [[r.token_id for r in results if r.sequence_id == i] for i in (1, 2)]
    assert expected == found
