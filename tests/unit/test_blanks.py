"""No delta of an answer ends in a space or tab, however it was split, and nothing else is lost."""

from hypothesis import given
from hypothesis import strategies as st

from lmx.text.channels import BLANKS
from lmx.text.dialects import PLAIN
from lmx.text.output import AnswerParser
from lmx.text.parts import TextPart

PIECES = st.lists(st.text("a \t\n\u00a0", max_size=6) | st.text(max_size=6), max_size=8)


def _deltas(pieces: list[str]) -> list[str]:
    parser = AnswerParser(PLAIN, tools={}, starts_in_reasoning=False)
    parts = [part for piece in pieces for part in parser.feed(piece)]
    parts += parser.finish("stop")
    assert all(isinstance(part, TextPart) for part in parts)
    return [part.text for part in parts if isinstance(part, TextPart)]


@given(PIECES)
def test_any_split_shows_the_text_without_its_last_blanks(pieces: list[str]) -> None:
    """All that is shown, joined, is the whole text without the blanks at its very end."""
    assert "".join(pieces).rstrip(BLANKS) == "".join(_deltas(pieces))


@given(PIECES)
def test_no_delta_is_empty_or_ends_in_a_blank(pieces: list[str]) -> None:
    """A delta ends in something that no client strips."""
    assert [] == [delta for delta in _deltas(pieces) if not delta or delta.endswith((" ", "\t"))]


def test_a_blank_moves_to_the_next_delta() -> None:
    """What one delta must not end with, the next begins with."""
    assert ["Hello", " \t world"] == _deltas(["Hello ", "\t", " world"])


def test_indentation_after_a_line_break_survives() -> None:
    """Blanks between a line break and code arrive with the code."""
    assert ["def f():", "\n    return 1"] == _deltas(["def f():\n   ", " return 1"])
