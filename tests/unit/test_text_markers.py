"""Markers and the ends of blocks are found where they are, however the text grows."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.text.channels import Channels
from lmx.text.markers import MarkerFinder
from lmx.text.parts import ReasoningPart, TextPart, ToolCallPart
from lmx.text.reader import mode_tables
from lmx.text.reasoning import REASONING
from lmx.text.tools.families import FAMILIES
from lmx.text.tools.family import STRINGS, Family
from lmx.text.tools.scanner import BlockScanner, Shape

SMALL_TEXT = st.text("ab<", max_size=8)


@given(SMALL_TEXT, st.sets(st.text("ab<", min_size=1, max_size=4), max_size=3))
def test_exactly_what_may_become_a_marker_is_held(text: str, markers: set[str]) -> None:
    """The open tail is the longest that begins a marker; without first letters text is clear."""
    finder = MarkerFinder(markers)
    tails = [text[at:] for at in range(len(text)) if any(m.startswith(text[at:]) for m in markers)]
    if not any(marker in text for marker in markers):
        assert finder.find(text) is None
        assert len(max(tails, key=len, default="")) == finder.open_tail(text)
    else:
        found = finder.find(text)
        assert found is not None
        assert text.startswith(found[1], found[0])
    assert finder.is_clear(text) is not any(marker[0] in text for marker in markers)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=sorted(FAMILIES))
def test_no_marker_hides_another(family: Family) -> None:
    """In no mode of any dialect does one marker stand inside another, but at its beginning."""
    for markers in (*REASONING.values(), None):
        for table in mode_tables(family, markers, has_tools=True).values():
            inner = [(a, b) for a in table.actions for b in table.actions if a in b[1:] and a != b]
            assert [] == inner


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<a>x</a>y", (4, 8)),
        ('<a>"</a>"</a>', (9, 13)),
        (r'<a>"\"</a>"</a>', (11, 15)),
        ("<a>[1]</a>", (6, 10)),
        ("<a>x<a>", (4, 4)),
        ('<a>"</a>', None),
        ("<a>x</a", None),
        ("<a>x</ab>y</a>", (10, 14)),
    ],
)
def test_the_end_of_a_block(text: str, expected: tuple[int, int] | None) -> None:
    """The first end outside strings counts; another opening ends a block too."""
    shape = Shape(("</a>",), ("<a>",), STRINGS)
    scanner = BlockScanner(shape, 3)
    found = [scanner.find_end(text[:at]) for at in range(3, len(text) + 1)]
    assert expected == next((end for end in found if end is not None), None)
    assert expected == BlockScanner(shape, 3).find_end(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("[1, {2}] x", (8, 8)), ('["]"]', (5, 5)), ("x(1)(2)", (4, 4)), ("]", (1, 1)), ("[1", None)],
)
def test_the_end_of_a_balanced_block(text: str, expected: tuple[int, int] | None) -> None:
    """Without an end marker, the outermost bracket's end is the block's."""
    assert expected == BlockScanner(Shape((), (), STRINGS, is_balanced=True), 0).find_end(text)


def test_an_end_that_may_yet_be_another_marker_waits() -> None:
    """Three backquotes end a fence unless they begin the next one; with no text left they do."""
    shape = Shape(("```",), ("```code",), STRINGS)
    scanner = BlockScanner(shape, 7)
    assert scanner.find_end("```code f()```") is None
    assert (11, 14) == scanner.find_end("```code f()```", is_final=True)
    assert (11, 11) == BlockScanner(shape, 7).find_end("```code f()```code")
    assert (11, 14) == BlockScanner(shape, 7).find_end("```code f()```\n")


def test_white_space_between_shown_texts_only() -> None:
    """What stood before markup is shown with the text after it; borders of the content are bare."""
    channels = Channels()
    channels.cut()
    channels.text("\n\na \n")
    channels.call("f", "{}")
    channels.text("\n")
    channels.call("g", "{}")
    channels.text("\n\n\nb\t")
    channels.reasoning("\nc\n")
    channels.cut()
    channels.finish()
    assert [
        TextPart("a"),
        ToolCallPart(0, "f", "{}"),
        ToolCallPart(1, "g", "{}"),
        TextPart(" \nb"),
        ReasoningPart("c"),
    ] == channels.take()
    assert [] == channels.take()


def test_no_family_is_named_twice() -> None:
    """The table's keys are the families' own names, in a spelling fit for settings."""
    assert list(FAMILIES) == [family.name for family in FAMILIES.values()]
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in FAMILIES)
