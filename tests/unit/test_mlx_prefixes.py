"""What is taken out of MLX's caches and put back gives the tokens that computing it gives."""

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import ChunkedKVCache, KVCache, RotatingKVCache

from lmx.engines.base import Choice, PrefillShare, PrefixUse, StepResult
from lmx.engines.mlx.caches import CacheRows, can_pad
from lmx.engines.mlx.engine import MlxEngine, Savings
from lmx.engines.mlx.keeper import PrefixKeeper, make_store
from lmx.engines.mlx.passes import PrefillLimits
from lmx.engines.prefix.tree import make_key
from lmx.protocol.values import ModelInfo, Sampling
from tests.random_models import COMMON, KINDS, random_model

TOKENS = 20
SLOTS = 6
BUDGET_BYTES = 64 << 20
NEW = 5
LONG = [(7 * i * i + 3 * i) % 199 + 1 for i in range(150)]
MINE, YOURS = PrefixUse("mine", (40, 90)), PrefixUse("yours", (40, 90))


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """One random model of each kind; they are only read."""
    return {kind: random_model(kind) for kind in KINDS}


def engine_of(
    model: Any, *, budget_bytes: int = BUDGET_BYTES, chunk: int = 32, grain: int = 1
) -> MlxEngine:
    """An engine that keeps what it computes, without end tokens."""
    limits = PrefillLimits(chunk, max_rows=8 if can_pad(model) else 1, grain_tokens=grain)
    return MlxEngine(
        model,
        ModelInfo(context_tokens=512, max_sequences=SLOTS),
        end_ids=frozenset(),
        limits=limits,
        vocabulary_size=COMMON["vocab_size"],
        savings=Savings(make_store(model, budget_bytes)),
    )


def expected_of(model: Any, prompt: list[int], count: int = TOKENS) -> list[int]:
    """mlx-lm's own greedy tokens."""
    step = generate_step(mx.array(prompt), model, max_tokens=count)
    return [int(token) for token, _ in step]


def drain(engine: MlxEngine) -> dict[int, list[StepResult]]:
    """Step until nothing is left."""
    found: dict[int, list[StepResult]] = {}
    while engine.free_slots < SLOTS:
        for result in engine.step():
            found.setdefault(result.sequence_id, []).append(result)
    return found


def ask(
    engine: MlxEngine,
    prompt: list[int],
    *,
    count: int = TOKENS,
    prefix: PrefixUse = MINE,
    sampling: Sampling | None = None,
) -> tuple[list[int], int]:
    """The answer to a lone prompt, and how much of the prompt was skipped."""
    engine.add([Choice(1, sampling or Sampling(count, temperature=0.0))], prompt, prefix=prefix)
    (results,) = drain(engine).values()
    assert not any(result.cached_tokens for result in results[1:])
    return [result.token_id for result in results], results[0].cached_tokens


@pytest.mark.parametrize("kind", KINDS)
def test_a_repeated_prompt_is_skipped_but_for_its_last_token(
    models: dict[str, Any], kind: str
) -> None:
    """Every kind of cache goes on from what was kept, with the tokens of a cold run."""
    model = models[kind]
    engine = engine_of(model)
    assert (expected_of(model, LONG), 0) == ask(engine, LONG)
    for _ in range(3):  # what was kept stays as it was, whoever goes on from it
        assert (expected_of(model, LONG), len(LONG) - 1) == ask(engine, LONG)
    assert len(LONG) - 1 == engine.foresee(LONG, MINE).cached_tokens


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_the_beginning_of_the_next_prompt(models: dict[str, Any], kind: str) -> None:
    """Turn after turn only what is new is computed; the last sampled token is not in the caches."""
    model = models[kind]
    engine = engine_of(model)
    prompt, known = LONG[:60], 0
    for turn in range(4):
        answer, skipped = ask(engine, prompt)
        assert (expected_of(model, prompt), known) == (answer, skipped)
        known = len(prompt) + len(answer) - 1
        prompt = [*prompt, *answer, *range(20 + turn, 30 + turn)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_that_parts_goes_on_from_the_last_boundary(
    models: dict[str, Any], kind: str
) -> None:
    """Plain caches are cut anywhere; the others have snapshots at the boundaries they were told."""
    model = models[kind]
    engine = engine_of(model)
    ask(engine, LONG)
    parted = [*LONG[:100], *range(1, 40)]
    answer, skipped = ask(engine, parted)
    assert (expected_of(model, parted), 100 if kind == "plain" else 90) == (answer, skipped)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gap", [0, 1, 3])
def test_answers_among_neighbours_are_kept_right(
    models: dict[str, Any], kind: str, gap: int
) -> None:
    """Rows that were padded, joined and left with others are cut out exactly."""
    model = models[kind]
    engine = engine_of(model)
    prompts = [[*LONG[:n], n] for n in (20, 90, 33, 61)]
    for index, prompt in enumerate(prompts):
        engine.add([Choice(index, Sampling(TOKENS - 4 * index, temperature=0.0))], prompt)
        for _ in range(gap):
            engine.step()
    drain(engine)
    for index, prompt in enumerate(prompts):
        count = TOKENS - 4 * index
        following = [*prompt, *expected_of(model, prompt, count), 5, 6, 7]
        answer, skipped = ask(engine, following, prefix=PrefixUse())
        assert (expected_of(model, following), len(prompt) + count - 1) == (answer, skipped)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 4, 9, 12])
def test_a_cancelled_answer_is_kept_as_far_as_it_came(
    models: dict[str, Any], kind: str, steps: int
) -> None:
    """One token more is on its way when a sequence is removed; no guess of it is remembered."""
    model = models[kind]
    engine = engine_of(model)
    engine.add([Choice(0, Sampling(60, temperature=0.0))], LONG[:50])
    engine.add([Choice(1, Sampling(30, temperature=0.0))], LONG[20:60])
    given = [r.token_id for _ in range(steps) for r in engine.step() if r.sequence_id == 0]
    engine.remove(0)
    drain(engine)
    following = [*LONG[:50], *given, 8, 9]
    answer, skipped = ask(engine, following, prefix=PrefixUse())
    assert expected_of(model, following) == answer
    if len(given) > 1:
        assert 50 + len(given) - 1 <= skipped <= 50 + len(given)


@pytest.mark.parametrize("kind", KINDS)
def test_salts_share_nothing(models: dict[str, Any], kind: str) -> None:
    """What one tenant computed no other is served, and none can tell that it is there."""
    engine = engine_of(models[kind])
    ask(engine, LONG, prefix=MINE)
    outlook = engine.foresee(LONG, YOURS)
    assert (0, "no-entry", 0) == (outlook.cached_tokens, outlook.reason, outlook.known_tokens)
    assert 0 == ask(engine, LONG, prefix=YOURS)[1]
    assert [len(LONG) - 1] * 2 == [ask(engine, LONG, prefix=p)[1] for p in (MINE, YOURS)]


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_are_the_same_hit_or_cold(models: dict[str, Any], kind: str) -> None:
    """Sampled tokens depend on the seed and the prompt, not on what was skipped."""
    engine = engine_of(models[kind])
    sampling = Sampling(TOKENS, temperature=1.0, top_p=0.9, seed=5, repetition_penalty=1.1)
    cold = ask(engine, LONG, sampling=sampling)
    warm = ask(engine, LONG, sampling=sampling)
    assert (0, len(LONG) - 1) == (cold[1], warm[1])
    assert cold[0] == warm[0]


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_that_come_together_compute_what_they_share_once(
    models: dict[str, Any], kind: str
) -> None:
    """Whoever goes first, the others take it from there; nobody is stuck if that one is removed."""
    model = models[kind]
    engine = engine_of(model)
    prompts = [[*LONG[:90], 150 + index, 3, 4] for index in range(4)]
    for index, prompt in enumerate(prompts):
        engine.add([Choice(index, Sampling(6, temperature=0.0))], prompt, prefix=MINE)
    engine.step()
    engine.remove(0)
    found = drain(engine)
    assert {i: expected_of(model, p, 6) for i, p in enumerate(prompts) if i} == {
        i: [r.token_id for r in results] for i, results in found.items()
    }
    skipped = sorted(results[0].cached_tokens for results in found.values())
    assert [90, 90] == skipped[1:]
    assert skipped[0] >= 32


@pytest.mark.parametrize("grain", [1, 16])
@pytest.mark.parametrize("kind", ["plain", "sliding"])
def test_prompts_that_begin_with_what_is_kept_share_a_pass(
    models: dict[str, Any], kind: str, grain: int
) -> None:
    """What each of them adds is computed together, whatever of theirs was there."""
    model = models[kind]
    # What is gone on from ends at a grain, so that more of each prompt is computed then.
    engine = engine_of(model, chunk=32 if grain == 1 else 128, grain=grain)
    beginnings = {2: LONG[:90], 3: LONG[:90], 4: LONG[:70], NEW: []}
    for beginning in (LONG[:90], LONG[:70]):
        ask(engine, beginning)
    prompts = {i: [*begun, *range(10 * i, 10 * i + 2 + i)] for i, begun in beginnings.items()}
    for number, prompt in prompts.items():
        engine.add([Choice(number, Sampling(TOKENS, temperature=0.0))], prompt, prefix=MINE)
    engine.step()
    assert {} == engine.prefilling()
    found = drain(engine)
    for number, prompt in prompts.items():
        tokens = [result.token_id for result in found[number]]
        assert expected_of(model, prompt) == tokens
        # A window can be gone on from where a prompt's last pass ended, before its last token.
        known = len(beginnings[number]) - (kind == "sliding" and number != NEW)
        known -= known % grain if kind == "plain" else 0
        assert known == found[number][0].cached_tokens


def test_a_prompt_that_is_overtaken_goes_on_where_the_other_is(models: dict[str, Any]) -> None:
    """Turns may alternate between prompts of one beginning: it is computed once all the same."""
    model = models["plain"]
    engine = engine_of(model, chunk=256)
    prompts = [[*(LONG * 3)[:400], 150 + index] for index in range(2)]
    for index, prompt in enumerate(prompts):
        engine.add([Choice(index, Sampling(6, temperature=0.0))], prompt)
    engine.step([PrefillShare(0, 256)])
    assert {0: 144, 1: 144} == engine.prefilling()
    engine.step([PrefillShare(1, 100)])
    engine.step([PrefillShare(1, 100)])
    found = drain(engine)
    assert [expected_of(model, p, 6) for p in prompts] == [
        [r.token_id for r in found[index]] for index in range(2)
    ]
    assert 400 == sum(found[index][0].cached_tokens for index in range(2))


def test_choices_of_one_prompt_keep_it_once(models: dict[str, Any]) -> None:
    """Several answers add only their own tokens to what is kept."""
    model = models["plain"]
    engine = engine_of(model)
    choices = [Choice(i, Sampling(10, temperature=1.0, seed=i)) for i in range(4)]
    engine.add(choices, LONG)
    answers = [[r.token_id for r in results] for results in drain(engine).values()]
    bytes_per_token = 2 * 4 * 2 * 2 * 8  # float32, keys and values, layers, heads, width
    prefixes = {tuple([*LONG, *a[:-1]][:end]) for a in answers for end in range(1, 160)}
    assert bytes_per_token * len(prefixes) == engine.memory().cached_bytes - mx.get_cache_memory()


@pytest.mark.parametrize("kind", KINDS)
def test_the_budget_holds(models: dict[str, Any], kind: str) -> None:
    """Whatever comes, no more is kept than allowed, and a later prompt is told what was evicted."""
    model = models[kind]
    probe = engine_of(model)
    ask(probe, LONG)
    budget_bytes = probe.memory().cached_bytes - mx.get_cache_memory()
    engine = engine_of(model, budget_bytes=budget_bytes)
    for shift in range(4):
        prompt = [token + shift for token in LONG[: 150 - shift]]
        ask(engine, [token % 199 for token in prompt])
        assert engine.memory().cached_bytes - mx.get_cache_memory() <= budget_bytes
    assert "evicted" == engine.foresee(LONG, MINE).reason
    assert expected_of(model, LONG) == ask(engine, LONG)[0]


def test_large_pieces_are_cut(models: dict[str, Any]) -> None:
    """What would be too much to read at once is kept in several pieces, and found as one."""
    model = models["plain"]
    caches = CacheRows.single(model)
    prompt = LONG * 2
    mx.eval(model(mx.array([prompt]), cache=caches.layers))
    store = make_store(model, BUDGET_BYTES)
    keeper = PrefixKeeper(model, store, piece_bytes=100 * 256)
    keeper.keep(make_key(prompt), "", caches, row=0, length=len(prompt))
    assert 3 == store.state.entry_count
    found = store.find(make_key([*prompt, 5]), "")
    assert found is not None
    assert [100, 100, 100] == [count for _, count in found.pieces]
    keys = [segment.leaves[0][0] for segment, _ in found.pieces]
    whole = caches.layers[0].keys_and_values()[0]
    assert mx.array_equal(whole, mx.concatenate(keys, axis=2)).item()


def test_shrinking_forgets_everything(models: dict[str, Any]) -> None:
    """Memory that is kept for speed only is given back, and the next run is a cold one."""
    engine = engine_of(models["plain"])
    ask(engine, LONG)
    kept_bytes = engine.memory().cached_bytes - mx.get_cache_memory()
    assert kept_bytes >= len(LONG) * 256
    engine.shrink()
    assert 0 == engine.memory().cached_bytes - mx.get_cache_memory()
    assert 0 == ask(engine, LONG)[1]


def test_prompt_log_probabilities_are_always_computed(models: dict[str, Any]) -> None:
    """Of skipped tokens there would be none."""
    engine = engine_of(models["plain"])
    ask(engine, LONG)
    scored = Sampling(2, temperature=0.0, top_logprobs=1)
    engine.add([Choice(1, scored)], LONG, wants_prompt_logprobs=True, prefix=MINE)
    (results,) = drain(engine).values()
    assert results[0].prompt_logprobs is not None
    assert (0, len(LONG)) == (results[0].cached_tokens, len(results[0].prompt_logprobs))


class Layers:
    """A model as far as its caches go."""

    def __init__(self, *caches: Any) -> None:
        self._caches = caches

    def make_cache(self) -> list[Any]:
        return list(self._caches)


@pytest.mark.parametrize(
    ("caches", "expected"),
    [
        ([KVCache()], (True, False)),
        ([KVCache(), RotatingKVCache(8)], (True, True)),
        ([RotatingKVCache(8, keep=4)], (False, True)),
        ([KVCache(), ChunkedKVCache(8)], (False, True)),
    ],
)
def test_what_cannot_be_taken_apart_is_not_kept(
    caches: list[Any], expected: tuple[bool, bool]
) -> None:
    """Caches that lose tokens need snapshots; of unknown ones nothing is kept at all."""
    store = make_store(Layers(*caches), 1000)
    assert expected == (store.is_on, store.needs_snapshots)
