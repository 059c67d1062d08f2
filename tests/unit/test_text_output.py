"""Answers in every dialect become the same parts, whole or in pieces, complete or cut off."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.protocol.values import FinishReason
from lmx.text.dialects import Dialect, dialect_named
from lmx.text.output import AnswerParser
from lmx.text.parts import AnswerPart, ReasoningPart, TextPart, ToolCallPart
from lmx.text.reasoning import REASONING
from lmx.text.tools.families import FAMILIES
from tests.golden.corpora import CASES, CORPORA
from tests.golden.scenarios import PLAIN_TEXT, TOOLS, Case

IDS = [f"{family}: {name}" for family, name in CASES]


def parse(dialect: Dialect, pieces: list[str], case: Case) -> list[list[AnswerPart]]:
    """What comes out for each piece, and at the end."""
    parser = AnswerParser(dialect, tools=TOOLS, starts_in_reasoning=case.starts_in_reasoning)
    return [*(parser.feed(piece) for piece in pieces), parser.finish(case.reason)]


def joined(deltas: list[list[AnswerPart]]) -> list[AnswerPart]:
    """The parts of all deltas, with neighbours of a kind made one."""
    parts: list[AnswerPart] = []
    for part in (part for delta in deltas for part in delta):
        last = parts[-1] if parts else None
        match last, part:
            case TextPart(before), TextPart(after):
                parts[-1] = TextPart(before + after)
            case ReasoningPart(before), ReasoningPart(after):
                parts[-1] = ReasoningPart(before + after)
            case _:
                parts.append(part)
    return parts


def typed(parts: list[AnswerPart]) -> list[tuple[str, AnswerPart]]:
    """Parts beside their kinds: a named tuple equals any other with the same values."""
    return [(type(part).__name__, part) for part in parts]


@pytest.mark.parametrize(("key", "case"), CASES.items(), ids=IDS)
def test_an_answer_becomes_its_parts(key: tuple[str, str], case: Case) -> None:
    """The corpus holds for every family, fed whole."""
    assert typed(case.parts) == typed(joined(parse(CORPORA[key[0]].dialect, [case.raw], case)))


@pytest.mark.parametrize(("key", "case"), CASES.items(), ids=IDS)
def test_every_split_gives_the_same_parts(key: tuple[str, str], case: Case) -> None:
    """Cut in two anywhere, or into single characters, an answer means what it means whole."""
    dialect = CORPORA[key[0]].dialect
    raw = case.raw[:600]  # the longest cases repeat one character
    case = case._replace(raw=raw, parts=joined(parse(dialect, [raw], case)))
    expected = typed(case.parts)
    for at in range(len(raw)):
        assert expected == typed(joined(parse(dialect, [raw[:at], raw[at:]], case))), at
    assert expected == typed(joined(parse(dialect, list(raw), case)))


@given(st.data())
def test_any_split_gives_the_same_parts(data: st.DataObject) -> None:
    """Cut into any number of pieces, some empty, an answer means what it means whole."""
    family, name = data.draw(st.sampled_from(sorted(CASES)))
    case = CASES[family, name]
    places = data.draw(st.lists(st.integers(0, len(case.raw)), max_size=12).map(sorted))
    ends = [*places, len(case.raw)]
    pieces = [case.raw[a:b] for a, b in zip([0, *places], ends, strict=True)]
    assert typed(case.parts) == typed(joined(parse(CORPORA[family].dialect, pieces, case)))


def check_framing(deltas: list[list[AnswerPart]]) -> None:
    """Every part can be sent as it is."""
    for part in (part for delta in deltas[:-1] for part in delta):
        assert not isinstance(part, TextPart) or part.text == part.text.rstrip(" \t\r\n")
    parts = joined(deltas)
    calls = [part for part in parts if isinstance(part, ToolCallPart)]
    assert list(range(len(calls))) == [call.index for call in calls]
    assert all(isinstance(json.loads(call.arguments), dict) and call.name for call in calls)
    shown = [part.text for part in parts if not isinstance(part, ToolCallPart)]
    assert all(shown)
    assert not any(text.endswith((" ", "\t")) for text in shown)


# Tags that hold a name, which is not lost with them.
NAMED = re.compile(r"<(?:｜DSML｜)?(?:function|parameter|invoke)(?: name)?=\"?([^<>\"]*)[^<>]*>")
# Harmony's headers, whole or cut off; what they say is not content.
HEADER = re.compile(
    r"""(?:<\|start\|>\w*)? (?:\ to=\S*?)? <\|channel\|> [^<]* (?:<\|constrain\|>\w*)?
        (?:<\|message\|> | <?[|\w]*$)
    | (?:<\|start\|>\w* | \ to=functions\.[^<]*) <?[|\w]*$
    | <\|?\w*\|?$
    """,
    re.VERBOSE,
)
MARKUP = re.compile(
    r"<(?:｜DSML｜)?invoke name=|<\|channel>thought|```tool_code|<\|?/?[^<>]*>"
    r"|\[/?(?:TOOL_CALLS|ARGS|CALL_ID|THINK)\]"
)


def words(text: str) -> list[str]:
    """Letters and digits outside markup."""
    text = NAMED.sub(r"\1", text.rstrip())
    return re.findall(r"\w", MARKUP.sub("", HEADER.sub("", text)))


@pytest.mark.parametrize(("key", "case"), CASES.items(), ids=IDS)
def test_a_cut_loses_nothing_but_markup(key: tuple[str, str], case: Case) -> None:
    """Cut off anywhere, an answer has valid parts; before a call is whole all its text is there."""
    dialect = CORPORA[key[0]].dialect
    for at in range(min(len(case.raw), 600)):
        for reason in ("length", "stop", "cancelled"):
            cut = case._replace(raw=case.raw[:at], reason=reason)
            deltas = parse(dialect, [cut.raw], cut)
            check_framing(deltas)
            parts = joined(deltas)
            shown = [part.text for part in parts if not isinstance(part, ToolCallPart)]
            if len(shown) == len(parts):
                assert words(cut.raw) == words("".join(shown))


# What markup is made of, whole and in halves, and what upsets parsers.
FRAGMENTS = st.sampled_from(
    [
        *sorted(
            {
                marker[:length]
                for family in FAMILIES.values()
                for rule in family.rules
                for marker in (rule.opening, *rule.ends)
                for length in (len(marker) // 2, len(marker))
            }
        ),
        *(m for row in REASONING.values() for m in (row.opening, row.closing)),
        *("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "to=functions.ping "),
        *("<function=ping>", "</function>", "<parameter=a>", "</parameter>", "<arg_value>"),
        *("<arg_key>a</arg_key>", "call:ping{", "<escape>", '<|"|>', "[ARGS]", "[ping(", "ping"),
        *('{"name": "ping", "arguments": {', '"a": 1', "}}", "}", "]", ")", '"', "'", "\\", ":"),
        *("{", "[", "(", ",", "=", "<", ">", "|", "\n", " ", "\t", ";", "a", "1", "null", "\x00"),
        *("\ud800", "9" * 5000, "1e999", "NaN", "<minimax:tool_call>", "</minimax:tool_call>"),
        *("<|tool_calls_section_begin|>", "<|tool_call_argument_begin|>", "<｜tool▁sep｜>"),
    ]
)


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    reasoning=st.sampled_from([*REASONING, None]),
    pieces=st.lists(FRAGMENTS, max_size=25),
    is_reasoning=st.booleans(),
    reason=st.sampled_from(["stop", "length", "cancelled", "error"]),
)
def test_nothing_raises(
    *,
    family: str,
    reasoning: str | None,
    pieces: list[str],
    is_reasoning: bool,
    reason: FinishReason,
) -> None:
    """Whatever a model writes, in whatever pieces, valid parts come out, and the same ones."""
    dialect = Dialect(family, REASONING[reasoning] if reasoning else None)
    case = Case("".join(pieces), [], reason, is_reasoning)
    deltas = parse(dialect, pieces, case)
    check_framing(deltas)
    assert typed(joined(parse(dialect, [case.raw], case))) == typed(joined(deltas))


@pytest.mark.parametrize("family", sorted(CORPORA))
def test_without_tools_markup_is_text(family: str) -> None:
    """Markup of calls means nothing to a request without tools."""
    corpus = CORPORA[family]
    raw = corpus.answers["one call"]
    parser = AnswerParser(corpus.dialect, tools={}, starts_in_reasoning=False)
    parts = joined([parser.feed(raw), parser.finish("stop")])
    expected = raw.removesuffix("<|call|>") if family == "harmony" else raw
    assert typed([TextPart(expected)]) == typed(parts)


@pytest.mark.parametrize("family", sorted(CORPORA))
def test_text_is_shown_at_once(family: str) -> None:
    """Words that cannot be markup come out with the call that brings them."""
    parser = AnswerParser(CORPORA[family].dialect, tools=TOOLS, starts_in_reasoning=False)
    shown = [typed(parser.feed(piece)) for piece in ("Hello", ", world", "! A < b", " \n\n", "C")]
    assert ["Hello", ", world", "! A < b", "\n\nC"][:3] == [
        part[1].text for delta in shown[:3] for part in delta if isinstance(part[1], TextPart)
    ]
    assert [] == shown[3]
    assert typed([TextPart(" \n\nC")]) == shown[4]


def test_calls_are_given_as_they_complete() -> None:
    """A call does not wait for the next one, nor for the end of its section."""
    for family in ("kimi", "minimax", "deepseek", "hermes", "mistral", "llama3", "harmony"):
        corpus = CORPORA[family]
        raw = corpus.answers["two calls"]
        case = Case(raw, [])
        deltas = parse(corpus.dialect, list(raw), case)
        when = [at for at, delta in enumerate(deltas) if delta]
        assert 2 == len(when)
        assert when[0] < raw.index("get_time")


def test_a_plain_dialect_changes_nothing() -> None:
    """Without markers, text comes out as it went in, but for blanks at the very end."""
    parser = AnswerParser(Dialect(), tools=TOOLS, starts_in_reasoning=True)
    parts = joined([parser.feed("\n <think>a</think> "), parser.feed(PLAIN_TEXT + " ")])
    assert typed([TextPart(f"\n <think>a</think> {PLAIN_TEXT}".rstrip())]) == typed(parts)
    assert typed([TextPart("\n")]) == typed(parser.finish("stop"))


def test_only_one_call_where_several_are_not_allowed() -> None:
    """After the first call nothing more is shown; without the limit all of it is."""
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'
    shown = {}
    for may_call_many in (True, False):
        parser = AnswerParser(
            dialect_named("hermes", "none"),
            tools={"f": {}},
            starts_in_reasoning=False,
            may_call_many=may_call_many,
        )
        shown[may_call_many] = [*parser.feed(call * 2 + "done"), *parser.finish("stop")]
    first = ToolCallPart(0, "f", "{}")
    assert [first] == shown[False]
    assert [first, ToolCallPart(1, "f", "{}"), TextPart("done")] == shown[True]
