"""A draft model makes a lone answer come in fewer passes, and changes none of its tokens."""

import json
from itertools import count
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_map
from mlx_lm.utils import load_model

from lmx.engines import load_engine
from lmx.engines.base import Choice, StepResult
from lmx.engines.mlx.drafting import READY_TOKENS, DraftModel, can_draft
from lmx.engines.mlx.engine import MlxEngine, Savings
from lmx.engines.mlx.passes import PrefillLimits
from lmx.engines.mlx.speculation import Speculation
from lmx.engines.speculation.costs import CheckCosts
from lmx.engines.speculation.drafter import DOUBTED_AFTER, ModelTrust
from lmx.protocol.messages import Load
from lmx.protocol.values import ModelInfo, Sampling
from tests.tiny_models import build_tiny_llama

INFO = ModelInfo(context_tokens=512, max_sequences=4)
VOCABULARY = 274
LIMITS = PrefillLimits(chunk_tokens=32, max_rows=8)
PROMPT = [5, 9, 200, 31, 7, 120, 77, 14]
LONG = [(i * i * 7 + i * 31) % VOCABULARY for i in range(3 * READY_TOKENS)]
GREEDY = Sampling(60, temperature=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Random weights; only read."""
    return load_model(build_tiny_llama(tmp_path_factory.mktemp("tiny")))[0]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Weights that say something else."""
    found = load_model(build_tiny_llama(tmp_path_factory.mktemp("other")))[0]
    found.update(tree_map(lambda value: mx.sin(31 * value), found.parameters()))
    return found


def drafts_of(model: Any, *, context_tokens: int = 512) -> DraftModel:
    """The model as a draft model."""
    return DraftModel(
        model, context_tokens=context_tokens, chunk_tokens=32, vocabulary_size=VOCABULARY
    )


def make_engine(model: Any, draft: DraftModel | None) -> MlxEngine:
    """An engine on whose clock each step takes a second, so that drafts are free."""
    clock = map(float, count()).__next__
    speculation = Speculation(clock=clock, is_on=draft is not None, model=draft)
    return MlxEngine(
        model,
        INFO,
        end_ids=frozenset(),
        limits=LIMITS,
        vocabulary_size=VOCABULARY,
        savings=Savings(speculation=speculation),
    )


def run(engine: MlxEngine, number: int, prompt: list[int], sampling: Sampling) -> list[StepResult]:
    """One answer, alone."""
    engine.add([Choice(number, sampling)], prompt)
    results: list[StepResult] = []
    while engine.free_slots < INFO.max_sequences:
        results += engine.step()
    return results


def tokens(results: list[StepResult]) -> list[int]:
    """Only the ids."""
    return [result.token_id for result in results]


@pytest.mark.parametrize("prompt", [PROMPT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_the_tokens_are_those_of_the_large_model(
    model: Any, other: Any, prompt: list[int], temperature: float
) -> None:
    """Whether the draft model is always right or hardly ever, greedy or drawn."""
    plain, good = make_engine(model, None), make_engine(model, drafts_of(model))
    bad = make_engine(model, drafts_of(other))
    for seed in range(3):
        sampling = Sampling(60, temperature=temperature, seed=seed)
        expected = tokens(run(plain, seed, prompt, sampling))
        assert expected == tokens(run(good, seed, prompt, sampling))
        assert expected == tokens(run(bad, seed, prompt, sampling))


def test_a_good_draft_model_saves_passes(model: Any) -> None:
    """One that is always right makes several tokens of most steps."""
    results = run(make_engine(model, drafts_of(model)), 1, PROMPT, GREEDY)
    assert sum(r.is_drafted for r in results) == sum(r.drafted_tokens for r in results) > 30


def test_a_bad_draft_model_is_not_asked_for_long(model: Any, other: Any) -> None:
    """One that is hardly ever right is left alone after some tries."""
    engine = make_engine(model, drafts_of(other))
    results = run(engine, 1, PROMPT, Sampling(200, temperature=0.0))
    assert 0 < sum(r.drafted_tokens for r in results) < 40


def test_beside_others_it_waits(model: Any) -> None:
    """Two sequences get plain steps, and the one that stays is drafted for again."""
    engine = make_engine(model, drafts_of(model))
    expected = tokens(run(make_engine(model, None), 1, PROMPT, GREEDY))
    engine.add([Choice(1, GREEDY)], PROMPT)
    results = [r for _ in range(9) for r in engine.step()]
    engine.add([Choice(2, Sampling(5, temperature=0.0))], PROMPT)
    while engine.free_slots < INFO.max_sequences:
        results += engine.step()
    mine = [r for r in results if r.sequence_id == 1]
    assert expected == tokens(mine)
    assert expected[:5] == tokens([r for r in results if r.sequence_id == 2])
    assert sum(r.is_drafted for r in mine[-20:]) > 0


def test_a_draft_stays_within_the_small_context(model: Any) -> None:
    """Beyond its context the draft model is not asked, and the answer goes on."""
    engine = make_engine(model, drafts_of(model, context_tokens=40))
    results = run(engine, 1, PROMPT, GREEDY)
    assert tokens(run(make_engine(model, None), 1, PROMPT, GREEDY)) == tokens(results)
    assert not any(r.is_drafted for r in results[40:])


def test_drafts_follow_any_text(model: Any) -> None:
    """From the same text come the same drafts, whatever was computed before."""
    draft = drafts_of(model)
    expected = drafts_of(model).draft(PROMPT, 6)
    texts = [PROMPT, [*PROMPT, *expected[:3], 1, 2], LONG, PROMPT[:4], PROMPT]
    found = [draft.draft(text, 6) for text in texts]
    assert [drafts_of(model).draft(text, 6) for text in texts] == found
    draft.forget()
    assert expected == draft.draft(PROMPT, 6)


def test_a_long_text_is_read_in_chunks(model: Any) -> None:
    """It is ready once little is missing, and each turn reads at most a chunk."""
    draft = drafts_of(model)
    turns = 0
    while not draft.is_ready(LONG):
        draft.advance(LONG)
        turns += 1
    assert (len(LONG) - READY_TOKENS) // 32 <= turns <= len(LONG) // 32
    assert drafts_of(model).draft(LONG, 4) == draft.draft(LONG, 4)
    assert can_draft(model)


def test_trust_comes_back() -> None:
    """After refused drafts the model gets another chance, once."""
    costs = CheckCosts()
    for _ in range(9):
        costs.note_plain(1.0)
    trust = ModelTrust(costs)
    while (drafted := trust.choose(16)) > 0:
        trust.settle(drafted, 1, 1.3)
    for _ in range(8 * DOUBTED_AFTER):
        trust.append()
    assert trust.choose(16) > 0


def directory(path: Path, **changes: object) -> Path:
    """A tiny model whose tokenizer has other tokens."""
    build_tiny_llama(path)
    file = path / "tokenizer.json"
    tree = json.loads(file.read_text())
    tree["model"]["vocab"] |= changes
    file.write_text(json.dumps(tree))
    return path


def test_a_draft_model_is_loaded_beside_its_model(tmp_path: Path) -> None:
    """With the same vocabulary there is nothing to remark."""
    main, draft = build_tiny_llama(tmp_path / "main"), build_tiny_llama(tmp_path / "small")
    loaded = load_engine(Load("mlx", str(main), 2, draft=str(draft)))
    plain = load_engine(Load("mlx", str(main), 2))
    assert plain.notes == loaded.notes
    loaded.engine.close()
    plain.engine.close()


@pytest.mark.parametrize(
    ("name", "reason"), [("other", "its vocabulary is another one"), ("none", "there is no model")]
)
def test_a_draft_model_that_cannot_is_left_out(tmp_path: Path, name: str, reason: str) -> None:
    """The large model is loaded without it, and the notes say why."""
    main = build_tiny_llama(tmp_path / "main")
    directory(tmp_path / "other", extra=300)
    loaded = load_engine(Load("mlx", str(main), 2, draft=str(tmp_path / name)))
    assert any(name in note and reason in note for note in loaded.notes)
    loaded.engine.close()
