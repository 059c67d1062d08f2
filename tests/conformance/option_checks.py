"""The parts of the engine contract that requests ask for: choices, log-probabilities, grammars.

It knows only `lmx.engines.base`; `engine_checks` runs these with the rest.
"""

import json
import math
import re
from typing import Any

import pytest

from lmx.engines.base import Choice, StepResult, Tokenizer
from lmx.errors import InvalidRequest, NoFreeSlot
from lmx.protocol.values import Grammar, GrammarKind, Sampling
from tests.conformance.driving import (
    MAX_SEQUENCES,
    MAX_STEPS,
    TEXTS,
    Maker,
    collect,
    greedy,
    opened,
    opened_with_grammars,
    run,
    step_times,
)

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "colour": {"enum": ["red", "green"]},
            "is_big": {"type": "boolean"},
            "size": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["colour", "is_big", "size"],
        "additionalProperties": False,
        # Whitespace may be endless, and a random model uses that.
        "x-guidance": {"whitespace_flexible": False},
    }
)
REFUSED: tuple[tuple[GrammarKind, str], ...] = (
    ("json_schema", '{"type": "nonsense"}'),
    ("json_schema", '{"type": "object"'),
    ("json_schema", '{"type": "array", "uniqueItems": true}'),
    ("json_schema", '{"x-guidance": {"lenient": true}, "not": {"type": "string"}}'),
    ("json_schema", '{"$ref": "#/$defs/missing"}'),
    ("regex", "(unclosed"),
    ("regex", "(?=ahead)x"),
    ("lark", "start: missing"),
    ("lark", "no grammar at all {"),
)


def check_choices(maker: Maker) -> None:
    """Several answers to one prompt are those that requests of their own get."""
    with opened(maker) as (engine, tokenizer):
        ids = tokenizer.encode(TEXTS[3] * 5)
        samplings = [Sampling(12, temperature=1.0, seed=seed) for seed in (1, 2, 3)]
        alone = [run(engine, {i: (ids, s)})[i] for i, s in enumerate(samplings)]
        engine.add([Choice(i, s) for i, s in enumerate(samplings)], ids)
        assert engine.free_slots == MAX_SEQUENCES - 3
        found = collect({}, step_times(engine, MAX_STEPS))
        assert [found[i] for i in range(3)] == alone
        engine.add([Choice(i, s) for i, s in enumerate(samplings)], ids)
        found = collect({}, step_times(engine, 3))
        engine.remove(1)
        collect(found, step_times(engine, MAX_STEPS))
        assert [found[0], found[2]] == [alone[0], alone[2]]


def check_choices_need_slots(maker: Maker) -> None:
    """All choices get a slot or none does."""
    with opened(maker) as (engine, tokenizer):
        ids = tokenizer.encode("hello")
        with pytest.raises(NoFreeSlot):
            engine.add([Choice(i, greedy(3)) for i in range(MAX_SEQUENCES + 1)], ids)
        assert engine.free_slots == MAX_SEQUENCES
        engine.add([Choice(i, greedy(3)) for i in range(MAX_SEQUENCES)], ids)
        assert engine.free_slots == 0


def check_logprobs(maker: Maker) -> None:
    """Who asks gets as many alternatives as asked for, best first; nobody else gets any."""
    with opened(maker) as (engine, tokenizer):
        ids = tokenizer.encode(TEXTS[0])
        asked = {0: None, 1: 0, 2: 5, 3: 20}
        found = run(
            engine,
            {
                i: (ids, Sampling(6, temperature=0.0, top_logprobs=count))
                for i, count in asked.items()
            },
        )
        tokens = [result.token_id for result in found[0]]
        for sequence_id, count in asked.items():
            assert [result.token_id for result in found[sequence_id]] == tokens
            for result in found[sequence_id]:
                _check_entry(result, count)


def _check_entry(result: StepResult, count: int | None) -> None:
    if count is None:
        assert result.logprobs is None
        return
    assert result.logprobs is not None
    assert len(result.logprobs.top) == count
    assert result.logprobs.logprob <= 0
    values = [value for _, value in result.logprobs.top]
    assert values == sorted(values, reverse=True)
    if count:  # The most likely token is what temperature 0 takes.
        assert result.logprobs.top[0] == (result.token_id, result.logprobs.logprob)
    assert sum(math.exp(value) for value in values) <= 1.001


def check_prompt_logprobs(maker: Maker) -> None:
    """One entry per prompt token, the first of them none, with the first choice's first result."""
    with opened(maker) as (engine, tokenizer):
        for ids in (tokenizer.encode(TEXTS[3] * 20)[:300], tokenizer.encode("x")):
            choices = [Choice(i, Sampling(3, temperature=0.0, top_logprobs=2)) for i in (5, 6)]
            engine.add(choices, ids, wants_prompt_logprobs=True)
            found = collect({}, step_times(engine, MAX_STEPS))
            first, *others = [*found[5], *found[6]]
            assert first.prompt_logprobs is not None
            assert len(first.prompt_logprobs) == len(ids)
            assert first.prompt_logprobs[0] is None
            assert all(e is not None and len(e.top) == 2 for e in first.prompt_logprobs[1:])
            assert all(result.prompt_logprobs is None for result in others)


def check_grammars(maker: Maker) -> None:
    """Constrained answers match, side by side with a free one that is as it is alone."""
    with opened_with_grammars(maker) as loaded:
        engine, tokenizer, grammars, *_ = loaded
        ids = tokenizer.encode(TEXTS[0])
        free = run(engine, {0: (ids, Sampling(40, temperature=1.0, seed=5))})[0]
        sources = [
            Grammar("json_schema", SCHEMA, "x"),
            Grammar("regex", "[a-f]{3}-[0-9]{4}", "x"),
            Grammar("lark", 'start: "yes" | "no"', "x"),
        ]
        for seed in range(3):
            engine.add([Choice(0, Sampling(40, temperature=1.0, seed=5))], ids)
            for index, grammar in enumerate(sources, start=1):
                sampling = Sampling(200, temperature=1.0, seed=seed)
                engine.add([Choice(index, sampling, grammars.compile(grammar))], ids)
            found = collect({}, step_times(engine, MAX_STEPS))
            texts = {i: _text(tokenizer, results) for i, results in found.items() if i}
            assert found[0] == free
            assert [found[i][-1].finish for i in (1, 2, 3)] == ["complete"] * 3
            value = json.loads(texts[1])
            assert set(value) == {"colour", "is_big", "size"}
            assert value["colour"] in {"red", "green"}
            assert 0 <= value["size"] <= 99
            assert re.fullmatch("[a-f]{3}-[0-9]{4}", texts[2])
            assert texts[3] in {"yes", "no"}


def _text(tokenizer: Tokenizer, results: list[StepResult]) -> str:
    detokenizer = tokenizer.new_detokenizer()
    return "".join(detokenizer.feed(result.token_id) for result in results) + detokenizer.flush()


def check_refused_grammars(maker: Maker) -> None:
    """Grammars that are broken or unsupported are the request's fault, named by its field."""
    with opened_with_grammars(maker) as loaded:
        for kind, source in REFUSED:
            with pytest.raises(InvalidRequest) as caught:
                loaded.grammars.compile(Grammar(kind, source, "response_format"))
            assert caught.value.param == "response_format"


def check_end_tokens(maker: Maker) -> None:
    """`min_tokens` and `ignore_eos` keep an answer from ending early."""
    with opened(maker) as (engine, tokenizer):
        for text in TEXTS:
            ids = tokenizer.encode(text)
            whole = run(engine, {1: (ids, Sampling(90, temperature=0.0, ignore_eos=True))})[1]
            assert [len(whole), whole[-1].finish] == [90, "length"]
            least = run(engine, {1: (ids, Sampling(90, temperature=0.0, min_tokens=70))})[1]
            assert len(least) > 70 or least[-1].finish == "length"


class Watching:
    """A constraint that binds nothing until it is told to; then it allows one token only."""

    def __init__(self, forced_id: int) -> None:
        self._forced_id = forced_id
        self.is_binding = False
        self.is_finished = False
        self.decides_end = False
        self.consumed: list[int] = []

    def fill_mask(self, mask: Any) -> bool:
        """All or one."""
        if self.is_binding:
            mask[:] = 0
            mask.view("uint32")[self._forced_id // 32] |= 1 << self._forced_id % 32
        return self.is_binding

    def consume(self, token_id: int) -> None:
        """Remember."""
        self.consumed.append(token_id)


def check_late_constraints(maker: Maker) -> None:
    """A constraint may begin to bind between two steps; before that it changes nothing."""
    with opened(maker) as (engine, tokenizer):
        ids = tokenizer.encode(TEXTS[0])
        forced = tokenizer.encode("a")[-1]
        sampling = Sampling(20, temperature=1.0, seed=5, ignore_eos=True)
        free = [result.token_id for result in run(engine, {0: (ids, sampling)})[0]]
        watching = Watching(forced)
        engine.add([Choice(1, sampling, watching)], ids)
        found: list[StepResult] = []
        while len(found) < 5:
            found += engine.step()
        watching.is_binding = True
        while len(found) < 12:
            found += engine.step()
        watching.is_binding = False
        while found[-1].finish is None:
            found += engine.step()
        given = [result.token_id for result in found]
        assert given == watching.consumed
        assert given[:5] == free[:5]
        # An engine may have sampled one token ahead on either side.
        assert given[6:12] == [forced] * 6
        assert len(given) == len(free)


OPTION_CHECKS = (
    check_late_constraints,
    check_choices,
    check_choices_need_slots,
    check_logprobs,
    check_prompt_logprobs,
    check_grammars,
    check_refused_grammars,
    check_end_tokens,
)
