"""What requests may ask of the MLX engine: choices, log-probabilities and grammars in one batch."""

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model

from lmx.engines.base import Choice, StepResult, Tokenizer, TokenLogprobs
from lmx.engines.grammar import LlgGrammarCompiler
from lmx.engines.mlx.engine import MlxEngine
from lmx.engines.mlx.passes import PrefillLimits
from lmx.engines.mlx.tokenizer import load_tokenizer
from lmx.errors import InvalidRequest
from lmx.protocol.values import Grammar, ModelInfo, Sampling
from tests.tiny_models import build_tiny_llama

VOCABULARY = 274
END = 273
INFO = ModelInfo(context_tokens=512, max_sequences=8)
LIMITS = PrefillLimits(chunk_tokens=32, max_rows=8)
PROMPT = [5, 9, 200, 31, 7, 7, 120]
LONG_PROMPT = [(7 * i) % 250 for i in range(90)]
COMPACT = {"whitespace_flexible": False}


class Tiny(NamedTuple):
    model: Any
    tokenizer: Tokenizer
    grammars: LlgGrammarCompiler


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A random model with its vocabulary; only read."""
    directory = build_tiny_llama(tmp_path_factory.mktemp("tiny"))
    model, _ = load_model(directory)
    tokenizer, _ = load_tokenizer(directory, {})
    vocabulary = tokenizer.vocabulary_json
    grammars = LlgGrammarCompiler(vocabulary, vocabulary_size=VOCABULARY, end_ids=[END])
    return Tiny(model, tokenizer, grammars)


@pytest.fixture
def engine(tiny: Tiny) -> MlxEngine:
    """A fresh engine over the shared weights."""
    return MlxEngine(
        tiny.model, INFO, end_ids=frozenset({END}), limits=LIMITS, vocabulary_size=VOCABULARY
    )


def finish_all(engine: MlxEngine) -> dict[int, list[StepResult]]:
    """Step until nobody is left; results by sequence."""
    found: dict[int, list[StepResult]] = {}
    for _ in range(3000):
        if engine.free_slots == INFO.max_sequences:
            return found
        for result in engine.step():
            found.setdefault(result.sequence_id, []).append(result)
    pytest.fail("somebody never ended")


def ids(results: list[StepResult]) -> list[int]:
    """Token ids alone."""
    return [result.token_id for result in results]


def text_of(tiny: Tiny, results: list[StepResult]) -> str:
    """As a client sees it."""
    detokenizer = tiny.tokenizer.new_detokenizer()
    return "".join(map(detokenizer.feed, ids(results))) + detokenizer.flush()


def bare_logprobs(model: Any, token_ids: list[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The model's own distribution after every token, from one forward pass."""
    logits = np.array(model(mx.array([token_ids]))[0].astype(mx.float32)).astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_softmax: np.ndarray[Any, np.dtype[np.float64]] = shifted - np.log(
        np.exp(shifted).sum(axis=-1, keepdims=True)
    )
    return log_softmax


def check_entry(entry: TokenLogprobs | None, token_id: int, expected: Any, count: int) -> None:
    """One position's log-probabilities against the bare model's."""
    assert entry is not None
    assert expected[token_id] == pytest.approx(entry.logprob, abs=1e-3)
    assert count == len(entry.top)
    for rank, (top_id, value) in enumerate(entry.top):
        assert expected[top_id] == pytest.approx(value, abs=1e-3)
        assert np.sort(expected)[-1 - rank] == pytest.approx(value, abs=1e-3)


def test_logprobs_are_the_bare_models(engine: MlxEngine, tiny: Tiny) -> None:
    """Whatever the sampling settings, chosen and best tokens have the model's own numbers."""
    samplings = [
        Sampling(12, temperature=0.0, top_logprobs=3, ignore_eos=True),
        Sampling(12, temperature=1.5, seed=2, top_p=0.7, top_logprobs=20, ignore_eos=True),
        Sampling(12, temperature=0.0, ignore_eos=True),
        Sampling(
            12,
            temperature=0.0,
            top_logprobs=0,
            repetition_penalty=1.5,
            logit_bias={8: 9.0},
            ignore_eos=True,
        ),
    ]
    for index, sampling in enumerate(samplings):
        engine.add([Choice(index, sampling)], PROMPT)
    found = finish_all(engine)
    for index, sampling in enumerate(samplings):
        expected = bare_logprobs(tiny.model, PROMPT + ids(found[index]))
        for step, result in enumerate(found[index]):
            if sampling.top_logprobs is None:
                assert result.logprobs is None
                continue
            after = expected[len(PROMPT) - 1 + step]
            check_entry(result.logprobs, result.token_id, after, sampling.top_logprobs)


@pytest.mark.parametrize("prompt", [PROMPT, LONG_PROMPT, [44], [1, 2]])
def test_prompt_logprobs_are_the_bare_models(
    engine: MlxEngine, tiny: Tiny, prompt: list[int]
) -> None:
    """Gathered chunk by chunk and beside neighbours in the queue, they are those of one pass."""
    engine.add([Choice(7, Sampling(3, temperature=0.0))], PROMPT)
    engine.add([Choice(1, Sampling(2, top_logprobs=4))], prompt, wants_prompt_logprobs=True)
    engine.add([Choice(8, Sampling(3, temperature=0.0))], PROMPT)
    found = finish_all(engine)
    entries = found[1][0].prompt_logprobs
    assert entries is not None
    assert [len(prompt), None] == [len(entries), entries[0]]
    expected = bare_logprobs(tiny.model, prompt)
    for position in range(1, len(prompt)):
        check_entry(entries[position], prompt[position], expected[position - 1], 4)
    assert all(r.prompt_logprobs is None for r in [*found[1][1:], *found[7], *found[8]])


@pytest.mark.parametrize("prompt", [PROMPT, LONG_PROMPT, [44]])
def test_four_choices_are_four_requests(engine: MlxEngine, prompt: list[int]) -> None:
    """Choices that share a prefill get what requests of their own get, one removed or none."""
    samplings = [
        Sampling(20, temperature=1.0, seed=1),
        Sampling(20, temperature=0.8, top_p=0.9, seed=2),
        Sampling(20, temperature=0.0),
        Sampling(20, temperature=1.0, seed=4, frequency_penalty=1.0, repetition_penalty=1.3),
    ]
    alone = {}
    for index, sampling in enumerate(samplings):
        engine.add([Choice(index, sampling)], prompt)
        alone[index] = ids(finish_all(engine)[index])
    engine.add([Choice(index, sampling) for index, sampling in enumerate(samplings)], prompt)
    engine.add([Choice(9, Sampling(20, temperature=0.0))], PROMPT)
    found = {i: ids(results) for i, results in finish_all(engine).items() if i != 9}
    assert alone == found
    for steps_before in (0, 1, 4, 9):
        engine.add([Choice(index, sampling) for index, sampling in enumerate(samplings)], prompt)
        early = [result for _ in range(steps_before) for result in engine.step()]
        engine.remove(1)
        late = finish_all(engine)
        for index in (0, 2, 3):
            before = [result.token_id for result in early if result.sequence_id == index]
            assert alone[index] == before + ids(late.get(index, []))


def test_ids_outside_the_vocabulary_are_refused(engine: MlxEngine) -> None:
    """A device would read past its tables."""
    for token_ids in ([VOCABULARY], [-1], [3, 10**9]):
        with pytest.raises(InvalidRequest, match="0 to 273"):
            engine.add([Choice(1, Sampling(3))], token_ids)
    assert INFO.max_sequences == engine.free_slots


def is_person(value: Any) -> bool:
    """The reference for the first schema."""
    return (
        set(value) == {"name", "age"}
        and isinstance(value["name"], str)
        and len(value["name"]) <= 6
        and isinstance(value["age"], int)
        and 0 <= value["age"] <= 120
    )


SCHEMAS: list[tuple[dict[str, Any], Callable[[Any], bool]]] = [
    (
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 6},
                "age": {"type": "integer", "minimum": 0, "maximum": 120},
            },
            "required": ["name", "age"],
            "additionalProperties": False,
        },
        is_person,
    ),
    (
        {"type": "array", "items": {"enum": ["a", "b", None]}, "minItems": 2, "maxItems": 4},
        lambda value: 2 <= len(value) <= 4 and set(value) <= {"a", "b", None},
    ),
    (
        {"anyOf": [{"type": "boolean"}, {"const": "the end"}]},
        lambda value: value in (True, False, "the end"),
    ),
    (
        {
            "type": "object",
            "properties": {"next": {"$ref": "#/$defs/leaf"}},
            "required": ["next"],
            "additionalProperties": False,
            "$defs": {"leaf": {"type": "string", "pattern": "^[a-z]{2,4}$"}},
        },
        lambda value: value["next"].islower() and 2 <= len(value["next"]) <= 4,
    ),
]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
def test_schemas_hold_four_at_a_time(engine: MlxEngine, tiny: Tiny, temperature: float) -> None:
    """A random model's answers parse and validate; a free row among them is as it is alone."""
    free = Sampling(60, temperature=1.0, seed=99)
    engine.add([Choice(0, free)], PROMPT)
    alone = ids(finish_all(engine)[0])
    for seed in range(4):
        engine.add([Choice(0, free)], PROMPT)
        for index, (schema, _) in enumerate(SCHEMAS, start=1):
            source = json.dumps(schema | {"x-guidance": COMPACT})
            constraint = tiny.grammars.compile(Grammar("json_schema", source, "x"))
            sampling = Sampling(300, temperature=temperature, seed=seed, top_p=0.9)
            engine.add([Choice(index, sampling, constraint)], [*PROMPT, seed])
        found = finish_all(engine)
        assert alone == ids(found[0])
        for index, (_, is_valid) in enumerate(SCHEMAS, start=1):
            assert "complete" == found[index][-1].finish
            assert is_valid(json.loads(text_of(tiny, found[index])))


def test_seeds_hold_among_constraints_and_penalties(engine: MlxEngine, tiny: Tiny) -> None:
    """Eight rows with everything mixed, joining one by one, each answer as they do alone."""

    def choice(index: int) -> Choice:
        settings: list[dict[str, Any]] = [
            {"temperature": 0.0},
            {},
            {"top_p": 0.8},
            {"top_k": 12, "min_p": 0.02},
            {"repetition_penalty": 1.2, "presence_penalty": 0.5},
            {"frequency_penalty": 0.7, "top_p": 0.95, "top_logprobs": 2},
            {"logit_bias": {40: 5.0}, "min_tokens": 10},
            {"temperature": 2.0},
        ]
        constraint = None
        if index in {1, 5}:
            constraint = tiny.grammars.compile(Grammar("regex", "[a-z ]{20,40}", "x"))
        return Choice(
            index, Sampling(24, **{"temperature": 1.0, **settings[index]}, seed=index), constraint
        )

    alone = {}
    for index in range(8):
        engine.add([choice(index)], PROMPT[index:] + LONG_PROMPT[: 3 * index])
        alone[index] = ids(finish_all(engine)[index])
    for gap in (0, 1, 3):
        found: dict[int, list[int]] = {}
        for index in range(8):
            engine.add([choice(index)], PROMPT[index:] + LONG_PROMPT[: 3 * index])
            for result in [result for _ in range(gap) for result in engine.step()]:
                found.setdefault(result.sequence_id, []).append(result.token_id)
        for index, results in finish_all(engine).items():
            found.setdefault(index, []).extend(ids(results))
        assert alone == found


def test_a_grammar_that_may_end_ends_with_an_end_token(engine: MlxEngine, tiny: Tiny) -> None:
    """Where the grammar is complete but could go on, the model decides by an end token."""
    constraint = tiny.grammars.compile(Grammar("regex", "a+", "x"))
    sampling = Sampling(50, temperature=0.0, logit_bias={END: 100.0})
    engine.add([Choice(1, sampling, constraint)], PROMPT)
    results = finish_all(engine)[1]
    assert ("a", END, "stop") == (
        text_of(tiny, results),
        results[-1].token_id,
        results[-1].finish,
    )


def test_broken_logits_still_follow_the_grammar(tiny: Tiny) -> None:
    """A model that gives only NaN answers within the grammar, and its log-probabilities are JSON.

    Greatest harm is done by what comes out silently wrong.
    """

    def broken(inputs: mx.array, cache: Any) -> mx.array:
        logits: mx.array = tiny.model(inputs, cache=cache) * math.nan
        return logits

    class Broken:
        layers = tiny.model.layers
        make_cache = staticmethod(tiny.model.make_cache)
        __call__ = staticmethod(broken)

    engine = MlxEngine(
        Broken(), INFO, end_ids=frozenset({END}), limits=LIMITS, vocabulary_size=VOCABULARY
    )
    constraint = tiny.grammars.compile(Grammar("regex", "[a-c]{5}", "x"))
    sampling = Sampling(20, temperature=1.0, seed=1, top_logprobs=3)
    engine.add([Choice(1, sampling, constraint)], PROMPT)
    results = finish_all(engine)[1]
    assert set(text_of(tiny, results)) <= set("abc")
    assert 5 == len(text_of(tiny, results))
    for result in results:
        assert result.logprobs is not None
        assert math.isfinite(result.logprobs.logprob)
