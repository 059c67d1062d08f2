"""Drafts change how many passes an answer takes, and not one of its tokens."""

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import pytest
from mlx_lm.models.cache import RotatingKVCache
from mlx_lm.utils import load_model

from lmx.engines.base import Choice, StepResult
from lmx.engines.mlx.caches import CacheRows, quantise
from lmx.engines.mlx.engine import MlxEngine, Savings
from lmx.engines.mlx.keeper import MlxStore, make_store
from lmx.engines.mlx.passes import PrefillLimits
from lmx.engines.mlx.speculation import Speculation
from lmx.protocol.values import ModelInfo, Sampling
from tests.tiny_models import build_tiny_llama

INFO = ModelInfo(context_tokens=512, max_sequences=4)
VOCABULARY = 274
LIMITS = PrefillLimits(chunk_tokens=32, max_rows=8)
PERIODIC = [11, 12, 13, 14, 15, 16, 17] * 6
OTHER = [44, 3, 250, 9]
TOKENS = 60
# So few candidates that the text repeats itself, and so even that it also departs from that.
NARROW = dict.fromkeys(range(20, 24), 60.0)
SAMPLINGS = {
    "greedy": Sampling(TOKENS, temperature=0.0),
    "greedy among few": Sampling(TOKENS, temperature=0.0, logit_bias=NARROW),
    "cool": Sampling(TOKENS, temperature=0.3, seed=1, logit_bias=NARROW),
    "warm": Sampling(TOKENS, temperature=1.0, seed=2, logit_bias=NARROW),
    "top_p": Sampling(TOKENS, temperature=0.8, seed=3, top_p=0.8, logit_bias=NARROW),
    "top_k": Sampling(TOKENS, temperature=0.8, seed=4, top_k=3, logit_bias=NARROW),
    "min_p": Sampling(TOKENS, temperature=0.8, seed=5, min_p=0.2, logit_bias=NARROW),
    "scored": Sampling(TOKENS, temperature=0.5, seed=6, top_logprobs=2, logit_bias=NARROW),
    "late end": Sampling(
        TOKENS, temperature=0.8, seed=7, min_tokens=33, logit_bias=NARROW | {19: 60.0}
    ),
    "penalised": Sampling(
        TOKENS, temperature=0.5, seed=8, frequency_penalty=0.1, logit_bias=NARROW
    ),
}


class Answer(NamedTuple):
    tokens: list[int]
    finish: str | None
    passes: int
    drafted: int
    accepted: int


class Counted:
    """A model that counts its passes."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.layers = model.layers
        self.make_cache = model.make_cache
        self.passes = 0

    def __call__(self, inputs: mx.array, cache: Any) -> mx.array:
        self.passes += 1
        logits: mx.array = self._model(inputs, cache=cache)
        return logits


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Random weights; only read."""
    return load_model(build_tiny_llama(tmp_path_factory.mktemp("tiny")))[0]


def every_read_a_second() -> Callable[[], float]:
    """A clock on which each step takes a second, whatever it computes: drafts are free."""
    return map(float, count()).__next__


def make_engine(
    model: Any, *, is_on: bool = True, ends: Sequence[int] = (), store: MlxStore | None = None
) -> MlxEngine:
    """An engine whose drafts cost nothing, so that every promising one is checked."""
    speculation = Speculation(clock=every_read_a_second(), is_on=is_on)
    return MlxEngine(
        model,
        INFO,
        end_ids=frozenset(ends),
        limits=LIMITS,
        vocabulary_size=VOCABULARY,
        savings=Savings(store, speculation),
    )


def run(engine: MlxEngine, sequence_id: int, most_steps: int = 400) -> list[StepResult]:
    """One sequence's results until it ends."""
    found: list[StepResult] = []
    for _ in range(most_steps):
        found += [r for r in engine.step() if r.sequence_id == sequence_id]
        if found and found[-1].finish is not None:
            return found
    pytest.fail("it did not end")


def answer(model: Any, sampling: Sampling, *, is_on: bool, ends: Sequence[int] = ()) -> Answer:
    """The second answer of a fresh engine, which knows by then what steps cost."""
    counted = Counted(model)
    engine = make_engine(counted, is_on=is_on, ends=ends)
    engine.add([Choice(1, SAMPLINGS["greedy"])], OTHER)
    run(engine, 1)
    counted.passes = 0
    engine.add([Choice(2, sampling)], PERIODIC)
    results = run(engine, 2)
    return Answer(
        [r.token_id for r in results],
        results[-1].finish,
        counted.passes,
        sum(r.drafted_tokens for r in results),
        sum(r.is_drafted for r in results),
    )


@pytest.mark.parametrize("name", SAMPLINGS)
def test_the_tokens_are_those_of_plain_steps(model: Any, name: str) -> None:
    """Greedy or drawn, filtered, biased, scored, ended late: with drafts it is the same answer."""
    plain = answer(model, SAMPLINGS[name], is_on=False, ends=[19])
    drafted = answer(model, SAMPLINGS[name], is_on=True, ends=[19])
    assert (plain.tokens, plain.finish) == (drafted.tokens, drafted.finish)
    # A plain pass more may be in flight when the answer ends.
    assert plain.passes - drafted.accepted - 1 <= drafted.passes <= plain.passes


def test_many_seeds(model: Any) -> None:
    """Drafts are kept and refused in all ways, and no seed's tokens change."""
    drafted = accepted = 0
    for seed in range(12):
        sampling = Sampling(40, temperature=0.2 + 0.1 * (seed % 6), seed=seed, logit_bias=NARROW)
        plain = answer(model, sampling, is_on=False)
        found = answer(model, sampling, is_on=True)
        assert plain.tokens == found.tokens, seed
        drafted, accepted = drafted + found.drafted, accepted + found.accepted
    assert 0 < accepted < drafted


def test_a_text_that_repeats_itself_takes_few_passes(model: Any) -> None:
    """What can be foretold costs a fraction of the passes."""
    constant = Sampling(200, temperature=0.0, logit_bias={20: 1000.0})
    plain = answer(model, constant, is_on=False)
    drafted = answer(model, constant, is_on=True)
    assert [20] * 200 == plain.tokens == drafted.tokens
    assert plain.passes > 1.8 * drafted.passes


def test_penalised_text_is_not_drafted(model: Any) -> None:
    """Its penalties would depend on the draft."""
    assert 0 == answer(model, SAMPLINGS["penalised"], is_on=True).drafted


def test_a_request_can_do_without(model: Any) -> None:
    """`speculate` turns it off for one request."""
    constant = Sampling(60, temperature=0.0, logit_bias={20: 1000.0}, speculate=False)
    assert 0 == answer(model, constant, is_on=True).drafted


@pytest.mark.parametrize("limit", [1, 2, 3, 17, 18, 19, 41])
def test_the_limit_holds(model: Any, limit: int) -> None:
    """A draft never goes beyond the tokens that were asked for."""
    constant = Sampling(limit, temperature=0.0, logit_bias={20: 1000.0})
    found = answer(model, constant, is_on=True)
    assert ([20] * limit, "length") == (found.tokens, found.finish)


@pytest.mark.parametrize("at", range(4, 40, 3))
def test_nothing_follows_an_end(model: Any, at: int) -> None:
    """An end token inside a checked draft ends the answer there."""
    sampling = SAMPLINGS["greedy among few"]
    tokens = answer(model, sampling, is_on=False).tokens
    end = tokens[at]
    found = answer(model, sampling, is_on=True, ends=[end])
    assert (tokens[: tokens.index(end) + 1], "stop") == (found.tokens, found.finish)


@pytest.mark.parametrize("after", range(6, 30, 2))
def test_a_second_sequence_joins(model: Any, after: int) -> None:
    """Whether a check is in flight or not, joining and leaving changes nobody's tokens."""
    engine = make_engine(model)
    expected = {
        1: answer(model, SAMPLINGS["cool"], is_on=False).tokens,
        2: run_plain(model, PERIODIC[5:], SAMPLINGS["greedy among few"], 12),
    }
    engine.add([Choice(1, SAMPLINGS["cool"])], PERIODIC)
    results = [r for _ in range(after) for r in engine.step()]
    short = Sampling(12, temperature=0.0, logit_bias=NARROW)
    engine.add([Choice(2, short)], PERIODIC[5:])
    while engine.free_slots < INFO.max_sequences:
        results += engine.step()
    found = {i: [r.token_id for r in results if r.sequence_id == i] for i in (1, 2)}
    assert expected == found
    assert sum(r.drafted_tokens for r in results if r.sequence_id == 1) > 0


def run_plain(model: Any, prompt: list[int], sampling: Sampling, count: int) -> list[int]:
    """The first tokens of an answer without drafts."""
    engine = make_engine(model, is_on=False)
    engine.add([Choice(1, sampling)], prompt)
    return [r.token_id for r in run(engine, 1)][:count]


@pytest.mark.parametrize("after", range(6, 16))
def test_cancelling_a_check(model: Any, after: int) -> None:
    """A sequence removed while its check is in flight says nothing more; the next one is right."""
    engine = make_engine(model)
    constant = Sampling(200, temperature=0.0, logit_bias={20: 1000.0})
    engine.add([Choice(1, constant)], PERIODIC)
    for _ in range(after):
        engine.step()
    engine.add([Choice(2, SAMPLINGS["cool"])], PERIODIC)
    engine.remove(1)
    results = run(engine, 2)
    assert answer(model, SAMPLINGS["cool"], is_on=False).tokens == [r.token_id for r in results]


@pytest.mark.parametrize("name", ["greedy among few", "cool", "warm"])
def test_quantised_caches_take_drafts(tmp_path: Path, name: str) -> None:
    """Values of 8 bits are cut back like floats."""
    wide, _ = load_model(build_tiny_llama(tmp_path, head_dim=32))
    quantise(wide)
    plain = answer(wide, SAMPLINGS[name], is_on=False)
    drafted = answer(wide, SAMPLINGS[name], is_on=True)
    assert plain.tokens == drafted.tokens
    assert drafted.drafted > 0


@pytest.mark.parametrize("is_left", [False, True], ids=["alone", "left alone"])
@pytest.mark.parametrize("after", [*range(12, 26), 400])
def test_what_is_kept_of_a_drafted_answer_is_right(
    model: Any, after: int, *, is_left: bool
) -> None:
    """The next turn goes on from it as if cold, whether it ended or was cancelled in a check."""
    engine = make_engine(model, store=make_store(model, 1 << 24))
    engine.add([Choice(0, SAMPLINGS["greedy"])], OTHER)
    run(engine, 0)
    # All but the same token over and over, so that checks take and refuse tokens.
    few = Sampling(100, temperature=0.5, seed=3, logit_bias={20: 60.0, 21: 48.0})
    engine.add([Choice(1, few)], PERIODIC)
    if is_left:  # in caches that were made for two
        engine.add([Choice(3, Sampling(2, temperature=0.0))], PERIODIC[3:])
    results: list[StepResult] = []
    for _ in range(after):
        results += [r for r in engine.step() if r.sequence_id == 1]
    engine.remove(1)
    engine.step()
    said = [r.token_id for r in results]
    following = [*PERIODIC, *said, 30, 31, 32]
    engine.add([Choice(2, SAMPLINGS["cool"])], following)
    found = run(engine, 2)
    assert sum(r.drafted_tokens for r in results) > 0
    assert found[0].cached_tokens >= len(PERIODIC) + len(said) - 1
    expected = run_plain(model, following, SAMPLINGS["cool"], TOKENS)
    assert expected == [r.token_id for r in found]


def test_only_caches_that_can_be_cut_take_drafts(model: Any) -> None:
    """A sliding window takes them until it is full; other caches never."""
    rows = CacheRows.single(model)
    rotating = RotatingKVCache(max_size=8)
    rows.layers = [rotating, *rows.layers]
    keys = mx.zeros((1, 2, 5, 4))
    rotating.update_and_fetch(keys, keys)
    assert 3 == rows.rewindable_tokens
    rotating.update_and_fetch(keys[:, :, :3], keys[:, :, :3])
    assert 0 == rows.rewindable_tokens
    rows.layers = [object(), *rows.layers]
    assert 0 == rows.rewindable_tokens


def test_a_sliding_window_is_cut_exactly() -> None:
    """What is left after a rewind is what a cache holds that never had more."""
    values = mx.random.normal((1, 2, 8, 4), key=mx.random.key(1))
    cut, whole = RotatingKVCache(max_size=8), RotatingKVCache(max_size=8)
    for cache in (cut, whole):
        cache.update_and_fetch(values[:, :, :3], values[:, :, :3])
    extra = values[:, :, 4:8]
    cut.update_and_fetch(extra, extra)
    CacheRows([cut], is_batched=False).rewind(4)
    for place in range(3, 8):
        one = values[:, :, place : place + 1]
        kept = [cache.update_and_fetch(one, one)[0] for cache in (cut, whole)]
        assert mx.array_equal(*kept)
