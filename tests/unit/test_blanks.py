"""No delta ends in a space or tab, and nothing else is lost."""

from hypothesis import given
from hypothesis import strategies as st

from lmx.text.blanks import BLANKS, BlankHolder
from lmx.text.parts import OutputParser, TextPart

PIECES = st.lists(st.text("a \t\n\u00a0", max_size=6) | st.text(max_size=6), max_size=8)


@given(PIECES)
def test_any_split_shows_the_text_without_its_last_blanks(pieces: list[str]) -> None:
    """All that is shown, joined, is the whole text without the blanks at its very end."""
    holder = BlankHolder()
    shown = [holder.feed(piece) for piece in pieces]
    assert "".join(pieces).rstrip(BLANKS) == "".join(shown)


@given(PIECES)
def test_no_delta_ends_in_a_blank(pieces: list[str]) -> None:
    """A delta is empty or ends in something that no client strips."""
    holder = BlankHolder()
    shown = [holder.feed(piece) for piece in pieces]
    assert [] == [delta for delta in shown if delta.endswith((" ", "\t"))]


def test_a_blank_moves_to_the_next_delta() -> None:
    """What one delta must not end with, the next begins with."""
    holder = BlankHolder()
    assert ["Hello", "", " \t world"] == [holder.feed(t) for t in ("Hello ", "\t", " world")]


def test_indentation_after_a_line_break_survives() -> None:
    """Blanks between a line break and code arrive with the code."""
    holder = BlankHolder()
    assert ["def f():\n", "    return 1"] == [
        holder.feed("def f():\n   "),
        holder.feed(" return 1"),
    ]


@given(PIECES)
def test_parts_are_never_empty_and_never_end_in_a_blank(pieces: list[str]) -> None:
    """The parser gives only parts that a client can show as they are."""
    parser = OutputParser()
    parts = [part for piece in pieces for part in parser.feed(piece)]
    assert all(isinstance(part, TextPart) and part.text for part in parts)
    assert [] == [part for part in parts if part.text.endswith((" ", "\t"))]
    assert "".join(pieces).rstrip(BLANKS) == "".join(part.text for part in parts)
