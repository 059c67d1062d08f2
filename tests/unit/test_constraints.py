"""What an answer must obey: thinking first, at most so long, and then the grammar."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.engines.base import Constraint, LoadedEngine
from lmx.engines.fake import load as load_fake
from lmx.engines.fake_tokens import END_ID, VOCABULARY_SIZE
from lmx.errors import InvalidRequest
from lmx.protocol.messages import ChatPrompt, Generate, Load, TextPrompt
from lmx.protocol.values import Grammar, Sampling
from lmx.text.dialects import dialect_named
from lmx.text.output import AnswerParser
from lmx.text.parts import ToolCallPart
from lmx.worker.constraints import ReasoningConstraint, calls_grammar, make_constraint
from lmx.worker.prompt import Rendered

WORDS = (VOCABULARY_SIZE + 31) // 32
CLOSING = [50, 51, 52]
DIGITS = Grammar("regex", "[0-9]", "guided_regex")


class Ids:
    """A constraint that allows given ids in turn and remembers what it was told."""

    def __init__(self, *ids: int) -> None:
        self.consumed: list[int] = []
        self._ids = ids

    def fill_mask(self, mask: np.ndarray) -> bool:
        mask[:] = 0
        wanted = self._ids[len(self.consumed)]
        mask.view(np.uint32)[wanted // 32] |= np.uint32(1 << wanted % 32)
        return True

    def consume(self, token_id: int) -> None:
        self.consumed.append(token_id)

    @property
    def is_finished(self) -> bool:
        return len(self.consumed) == len(self._ids)

    is_binding = True
    decides_end = True


def load() -> LoadedEngine:
    """The fake vocabulary with the real grammar compiler."""
    return load_fake(Load("fake", "", 4))


def allowed(constraint: Constraint) -> set[int] | None:
    """The ids of the next position; `None` for any."""
    mask = np.full(WORDS, -1, dtype=np.int32)
    if not constraint.fill_mask(mask):
        assert (mask == -1).all()
        return None
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def follow(constraint: Constraint, ids: Iterable[int]) -> bool:
    """Whether all ids are allowed in turn; each is consumed."""
    for token_id in ids:
        options = allowed(constraint)
        if options is not None and token_id not in options:
            return False
        constraint.consume(token_id)
    return True


def accepts(constraint: Constraint, text: str) -> bool:
    """Whether a whole answer is allowed and may end there."""
    if not follow(constraint, text.encode()):
        return False
    return constraint.is_finished or END_ID in (allowed(constraint) or set())


def test_thinking_is_free() -> None:
    """Without a budget anything is allowed until the model closes its reasoning itself."""
    constraint = ReasoningConstraint(CLOSING, opening_id=None, budget=None, inner=Ids(7))
    assert follow(constraint, [1, 2, 50, 51, 50, 51])
    assert (None, False) == (allowed(constraint), constraint.is_finished)
    constraint.consume(52)
    assert {7} == allowed(constraint)


def test_what_was_thought_is_not_told_to_the_inner_constraint() -> None:
    """The grammar begins after the closing marker and hears every token from there."""
    inner = Ids(7, 8)
    constraint = ReasoningConstraint(CLOSING, opening_id=None, budget=None, inner=inner)
    assert follow(constraint, [1, *CLOSING, 7])
    assert ([7], {8}, False) == (inner.consumed, allowed(constraint), constraint.is_finished)
    constraint.consume(8)
    assert constraint.is_finished


def test_a_spent_budget_forces_the_whole_marker() -> None:
    """Token by token, nothing but the closing marker is allowed; then the answer begins."""
    constraint = ReasoningConstraint(CLOSING, opening_id=None, budget=2, inner=Ids(7))
    assert follow(constraint, [1, 2])
    for closing_id in CLOSING:
        assert {closing_id} == allowed(constraint)
        constraint.consume(closing_id)
    assert {7} == allowed(constraint)


@pytest.mark.parametrize("token_id", [0, 31, 32, 63, 255])
def test_any_id_can_be_forced(token_id: int) -> None:
    """The last bit of a word is one like the others."""
    assert {token_id} == allowed(
        ReasoningConstraint([token_id], opening_id=None, budget=0, inner=None)
    )


def test_without_an_inner_constraint_the_answer_is_free() -> None:
    """After a forced end anything goes, and only the model ends the answer."""
    constraint = ReasoningConstraint(CLOSING, opening_id=None, budget=0, inner=None)
    assert {50} == allowed(constraint)
    assert follow(constraint, [*CLOSING, 1, 50, 2])
    assert (None, False) == (allowed(constraint), constraint.is_finished)


def test_a_natural_end_within_the_budget_counts() -> None:
    """A marker that the last tokens of the budget complete is not forced again."""
    constraint = ReasoningConstraint(CLOSING, opening_id=None, budget=4, inner=None)
    assert follow(constraint, [1, *CLOSING])
    assert None is allowed(constraint)


@given(
    st.lists(st.sampled_from([*CLOSING, 1, 2]), max_size=12),
    st.none() | st.integers(0, 8),
    st.sampled_from([[50], CLOSING, [50, 50, 51]]),
)
def test_thinking_never_outlasts_its_budget(
    wanted: Sequence[int], budget: int | None, closing: list[int]
) -> None:
    """Whatever is sampled, the answer begins right after the first marker or the forced one."""
    inner = Ids(*[9] * 20)
    constraint = ReasoningConstraint(closing, opening_id=None, budget=budget, inner=inner)
    sampled: list[int] = []
    for token_id in wanted:
        options = allowed(constraint)
        if options == {9}:
            break
        sampled.append(min(options) if options else token_id)
        constraint.consume(sampled[-1])
    is_answering = allowed(constraint) == {9}
    has_marker = sampled[-len(closing) :] == closing
    assert [] == inner.consumed
    assert has_marker or not is_answering
    if budget is None:
        assert has_marker == is_answering
    else:
        assert len(sampled) <= budget + len(closing)


def constraint_of(generate: Generate, rendered: Rendered) -> Constraint | None:
    """As the intake makes it, over the fake vocabulary."""
    loaded = load()
    return make_constraint(generate, rendered, tokenizer=loaded.tokenizer, grammars=loaded.grammars)


THINKING = Rendered("x<think>", [1], "hermes", "think", in_reasoning=True)
ANSWERING = Rendered("x", [1], "hermes", "think")


def asked(grammar: Grammar | None = None, budget: int | None = None) -> Generate:
    """A request with these bounds."""
    return Generate(1, TextPrompt("x"), [Sampling(9)], [], grammar, budget)


@pytest.mark.parametrize("rendered", [THINKING, ANSWERING])
def test_nothing_asked_is_nothing_enforced(rendered: Rendered) -> None:
    """Most requests have no constraint at all."""
    assert None is constraint_of(asked(), rendered)


def test_a_budget_without_thinking_is_nothing() -> None:
    """A prompt that leaves the reasoning closed has none to bound."""
    assert None is constraint_of(asked(budget=3), ANSWERING)


def test_a_grammar_without_thinking_begins_at_once() -> None:
    """The first token is the answer's."""
    constraint = constraint_of(asked(DIGITS), ANSWERING)
    assert constraint is not None
    assert set(b"0123456789") == allowed(constraint)


@pytest.mark.parametrize("budget", [None, 5])
def test_a_grammar_with_thinking_begins_after_the_marker(budget: int | None) -> None:
    """The model's own closing marker, here of several tokens, opens the grammar."""
    constraint = constraint_of(asked(DIGITS, budget), THINKING)
    assert constraint is not None
    assert follow(constraint, b"hm.")
    assert None is allowed(constraint)
    assert follow(constraint, b"..</think>" if budget else b"</think>")
    assert set(b"0123456789") == allowed(constraint)
    constraint.consume(ord("7"))
    assert constraint.is_finished


def test_a_budget_alone_ends_the_thinking() -> None:
    """The marker of the model's own reasoning is what is forced."""
    constraint = constraint_of(asked(budget=1), THINKING)
    assert constraint is not None
    assert follow(constraint, b"h")
    forced = [allowed(constraint)]
    for byte in b"</think>":
        constraint.consume(byte)
        forced.append(allowed(constraint))
    assert [{byte} for byte in b"</think>"] == forced[:-1]
    assert None is forced[-1]


def test_a_grammar_that_cannot_be_compiled_is_refused() -> None:
    """The client hears which field is at fault."""
    with pytest.raises(InvalidRequest) as caught:
        constraint_of(asked(Grammar("lark", "start: nobody", "guided_grammar")), THINKING)
    assert "guided_grammar" == caught.value.param


def tool(name: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """An offered tool; `None` for one without parameters."""
    function: dict[str, Any] = {"name": name, "description": "Looks // at %things."}
    if parameters is not None:
        function["parameters"] = parameters
    return {"type": "function", "function": function}


POINT = {
    "type": "object",
    "properties": {"at": {"$ref": "#/$defs/pair"}},
    "required": ["at"],
    "additionalProperties": False,
    "$defs": {"pair": {"type": "array", "items": {"type": "integer"}, "minItems": 2}},
}
OLD_POINT = {
    "type": "object",
    "properties": {"at": {"$ref": "#/definitions/number"}},
    "required": ["at"],
    "definitions": {"number": {"type": "integer"}},
}
TOOLS = [tool("point", POINT), tool("old", OLD_POINT), tool("ping")]


def called(name: str, arguments: Any) -> str:
    """A call as the grammar wants it."""
    body = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{body}\n</tool_call>"


POINTED = called("point", {"at": [1, 2]})
PINGED = called("ping", {"any": "thing"})


def calls_constraint(*, may_call_many: bool) -> Constraint:
    """Enforced calls of `TOOLS`."""
    prompt = ChatPrompt([], TOOLS, must_call=True, may_call_many=may_call_many)
    constraint = constraint_of(Generate(1, prompt, [Sampling(9)], []), ANSWERING)
    assert constraint is not None
    return constraint


@pytest.mark.parametrize("may_call_many", [False, True])
@pytest.mark.parametrize(
    ("text", "is_call"),
    [
        (POINTED, True),
        (called("old", {"at": 1}), True),
        (PINGED, True),
        (called("ping", {}), True),
        ("", False),
        ("Sure!", False),
        ("Sure! " + POINTED, False),
        (POINTED[:-1], False),
        (called("point", {}), False),
        (called("point", {"at": [1]}), False),
        (called("point", {"at": [1, 2], "by": 3}), False),
        (called("old", {"at": "x"}), False),
        (called("ping", [1]), False),
        (called("pong", {}), False),
        ('<tool_call>\n{"name": "ping"}\n</tool_call>', False),
        ('<tool_call>\n{"name": "ping", "arguments": {}, "x": 1}\n</tool_call>', False),
    ],
)
def test_exactly_the_offered_calls_are_allowed(
    may_call_many: bool,  # noqa: FBT001
    text: str,
    is_call: bool,  # noqa: FBT001
) -> None:
    """Names, arguments and references in their schemas all hold; nothing else may be said."""
    assert is_call == accepts(calls_constraint(may_call_many=may_call_many), text)


@pytest.mark.parametrize("may_call_many", [False, True])
def test_several_calls_only_if_allowed(may_call_many: bool) -> None:  # noqa: FBT001
    """After a call comes another or the end, or the end alone."""
    constraint = calls_constraint(may_call_many=may_call_many)
    assert may_call_many == accepts(constraint, f"{POINTED}\n{PINGED}\n{POINTED}")


def test_enforced_calls_are_read_back() -> None:
    """What the grammar allows is what the daemon's parser finds."""
    text = f"{POINTED}\n{PINGED}"
    assert accepts(calls_constraint(may_call_many=True), text)
    parser = AnswerParser(
        dialect_named("hermes", "none"),
        tools={"point": POINT, "ping": {}},
        starts_in_reasoning=False,
    )
    found = parser.feed(text) + parser.finish("stop")
    expected = [
        ToolCallPart(0, "point", '{"at":[1,2]}'),
        ToolCallPart(1, "ping", '{"any":"thing"}'),
    ]
    assert expected == found


def test_calls_outweigh_a_grammar_and_follow_the_thinking() -> None:
    """A model that reasons may do so before a call that it must make."""
    prompt = ChatPrompt([], TOOLS, must_call=True)
    constraint = constraint_of(Generate(1, prompt, [Sampling(9)], [], DIGITS), THINKING)
    assert constraint is not None
    assert accepts(constraint, "Which one?</think>" + PINGED)


def test_tools_that_may_be_called_bind_nothing() -> None:
    """Only enforced calls are a grammar."""
    prompt = ChatPrompt([], TOOLS)
    assert None is constraint_of(Generate(1, prompt, [Sampling(9)], []), ANSWERING)


def test_parameters_that_are_no_schema_are_the_clients_fault() -> None:
    """The refusal names the tools."""
    prompt = ChatPrompt([], [tool("odd", {"type": "nothing"})], must_call=True)
    with pytest.raises(InvalidRequest) as caught:
        load().grammars.compile(calls_grammar(prompt))
    assert "tools" == caught.value.param


def test_a_model_that_opens_its_thinking_itself_may_do_so() -> None:
    """Under a grammar the opening token is one more way to begin; the grammar follows the end."""
    constraint = ReasoningConstraint(CLOSING, opening_id=49, budget=None, inner=Ids(7))
    assert {7, 49} == allowed(constraint)
    assert follow(constraint, [49, 1, 2, *CLOSING])
    assert {7} == allowed(constraint)


def test_a_model_that_does_not_open_its_thinking_answers_at_once() -> None:
    """The grammar's first token decides that there is no thinking; the opening is then barred."""
    inner = Ids(7, 8)
    constraint = ReasoningConstraint(CLOSING, opening_id=49, budget=3, inner=inner)
    assert follow(constraint, [7])
    assert ([7], {8}) == (inner.consumed, allowed(constraint))


def test_a_budget_counts_from_the_opening_token() -> None:
    """Thinking that the model opened itself is ended like any other."""
    constraint = ReasoningConstraint(CLOSING, opening_id=49, budget=2, inner=None)
    assert follow(constraint, [49, 1, 2])
    assert {CLOSING[0]} == allowed(constraint)
