"""Grammars become masks or refusals; nothing in between raises."""

import json
import time

import numpy as np
import pytest

from lmx.engines.grammar import MAX_RULE_CHARS, LlgGrammarCompiler
from lmx.errors import InvalidRequest
from lmx.protocol.values import Grammar, GrammarKind
from tests.tiny_models import build_tiny_tokenizer

TOKENIZER = build_tiny_tokenizer()
ID_OF = TOKENIZER.get_vocab()
END = ID_OF["<|im_end|>"]
SIZE = 300
A = ID_OF["a"]


@pytest.fixture(scope="module")
def grammars() -> LlgGrammarCompiler:
    """A compiler whose model has more logits than the tokenizer has tokens."""
    return LlgGrammarCompiler(TOKENIZER.to_str(), vocabulary_size=SIZE, end_ids=[END])


def allowed(
    grammars: LlgGrammarCompiler, kind: GrammarKind, source: str, *consumed: int
) -> set[int]:
    """Ids allowed after some tokens, in a mask wider than the vocabulary and full of ones."""
    constraint = grammars.compile(Grammar(kind, source, "x"))
    for token_id in consumed:
        constraint.consume(token_id)
    mask = np.full(12, -1, dtype=np.int32)
    assert constraint.fill_mask(mask)
    return {int(i) for i in np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))}


def test_masks_allow_what_may_come_next(grammars: LlgGrammarCompiler) -> None:
    """Tokens of several letters too, the end where the grammar may end, nothing beyond."""
    t, th, the, he = (ID_OF[text] for text in ("t", "th", "the", "he"))
    # What is certain comes as the tokenizer itself would spell it.
    assert {the} == allowed(grammars, "lark", 'start: "the"')
    assert {t, th, the, END} == allowed(grammars, "regex", "(t|th|the)?")
    assert {he, ID_OF["h"]} == allowed(grammars, "regex", "t(h|he)?", t) - {END}
    assert {A, END} == allowed(grammars, "regex", "a+", A)


def test_finished_and_failed_constraints_allow_only_the_end(grammars: LlgGrammarCompiler) -> None:
    """A token outside the grammar or the vocabulary stops the matcher for good, without raising."""
    assert {END} == allowed(grammars, "regex", "aa", A, A)
    assert {END} == allowed(grammars, "regex", "aa", A + 1, A, 10**6)
    constraint = grammars.compile(Grammar("regex", "aa", "x"))
    states = [constraint.is_finished]
    for _ in range(2):
        constraint.consume(A)
        states.append(constraint.is_finished)
    assert [False, False, True] == states
    constraint.consume(A)
    assert constraint.is_finished


@pytest.mark.parametrize("source", ["{}", "true", '{"type": ["string", "null"]}'])
def test_schemas_that_allow_much(grammars: LlgGrammarCompiler, source: str) -> None:
    """Any JSON, with text beyond ASCII, and unions are schemas."""
    assert allowed(grammars, "json_schema", source)


def test_white_space_is_bounded(grammars: LlgGrammarCompiler) -> None:
    """A model cannot fill its answer with spaces; a schema's own setting still counts."""
    brace, space = ID_OF["{"], ID_OF["Ġ"]
    source = '{"type": "object", "required": ["a"], "additionalProperties": false, %s}'
    properties = '"properties": {"a": {"type": "null"}}'
    flexible = source % properties
    assert space in allowed(grammars, "json_schema", flexible, brace, *[space] * 39)
    assert space not in allowed(grammars, "json_schema", flexible, brace, *[space] * 40)
    own = source % (properties + ', "x-guidance": {"whitespace_pattern": "[ ]?"}')
    assert space not in allowed(grammars, "json_schema", own, brace, space)


def nested(depth: int) -> str:
    """A schema in a schema, and so on."""
    return '{"type":"object","properties":{"a":' * depth + "{}" + "}}" * depth


def test_long_schemas_inside_rules_do_not_count(grammars: LlgGrammarCompiler) -> None:
    """Tools with long schemas make long Lark grammars; only the rules beside them are bounded."""
    schema = json.dumps({"enum": [f"value {i}" for i in range(2000)]})
    assert len(schema) > MAX_RULE_CHARS
    rules = f"start: first | second\nfirst: %json {schema}\nsecond: %json {schema}\n"
    assert ID_OF['"'] in allowed(grammars, "lark", rules)
    with pytest.raises(InvalidRequest, match="its rules have more than"):
        grammars.compile(Grammar("lark", rules + "// x\n" * MAX_RULE_CHARS, "x"))
    with pytest.raises(InvalidRequest, match="its rules have more than"):
        grammars.compile(Grammar("lark", "%json [" * MAX_RULE_CHARS, "x"))


HOSTILE: list[tuple[GrammarKind, str]] = [
    ("json_schema", nested(3000)),
    ("json_schema", json.dumps({"enum": [f"{i:040}" for i in range(10_000)]})),
    ("json_schema", '{"type": "string", "pattern": "(((a{1,999}){1,999}){1,999}){1,999}"}'),
    ("json_schema", '{"type": "array", "minItems": 1000000000}'),
    ("json_schema", '{"$ref": "#"}'),
    ("json_schema", '{"allOf": [{"$ref": "#"}, {"$ref": "#"}]}'),
    ("regex", "(((a{1,9999}){1,9999}){1,9999}){1,9999}"),
    ("regex", "(a|b|c|d)*" * 3000 + "e"),
    ("regex", ".*a.{400}b.{400}" * 5),
    ("lark", "start: start start | start"),
    ("lark", "start: " + "a b c d " * 2_000 + "\na: /x*/\nb: /x*/\nc: /x*/\nd: /x*/"),
    ("regex", "a" * (MAX_RULE_CHARS + 1)),
]


def drive(grammars: LlgGrammarCompiler, grammar: Grammar) -> InvalidRequest | None:
    """Compile and run fifty tokens of it; returns the refusal if there is one."""
    try:
        constraint = grammars.compile(grammar)
    except InvalidRequest as refusal:
        return refusal
    mask = np.zeros(12, dtype=np.int32)
    for _ in range(50):
        constraint.fill_mask(mask)
        constraint.consume(A)
    return None


@pytest.mark.parametrize("index", range(len(HOSTILE)))
def test_hostile_grammars_cost_little(grammars: LlgGrammarCompiler, index: int) -> None:
    """They are refused or run within bounds: never a crash, never many seconds."""
    kind, source = HOSTILE[index]
    start = time.perf_counter()
    refusal = drive(grammars, Grammar(kind, source, "x"))
    assert refusal is None or ("x" == refusal.param and len(refusal.message) < 400)
    assert time.perf_counter() - start < 5


def test_the_reason_reaches_the_client(grammars: LlgGrammarCompiler) -> None:
    """The message says what is wrong, in one short text."""
    schema = json.dumps({"type": "array", "uniqueItems": True})
    with pytest.raises(InvalidRequest, match=r"JSON schema is refused.*uniqueItems"):
        grammars.compile(Grammar("json_schema", schema, "response_format"))


def test_a_vocabulary_that_cannot_be_read_refuses_grammars_only() -> None:
    """Models whose tokenizers llguidance does not know still serve everything else."""
    broken = LlgGrammarCompiler("{}", vocabulary_size=SIZE, end_ids=[END])
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="vocabulary"):
            broken.compile(Grammar("regex", "a", "x"))


def test_fewer_logits_than_tokens() -> None:
    """Tokens without logits are cut off the mask."""
    small = LlgGrammarCompiler(TOKENIZER.to_str(), vocabulary_size=270, end_ids=[END])
    mask = np.zeros(9, dtype=np.int32)
    constraint = small.compile(Grammar("regex", "a+", "x"))
    assert constraint.fill_mask(mask)
    assert mask.any()
