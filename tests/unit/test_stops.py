"""Stop strings are found across any split of the text, and never shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.text.stops import StopMatcher

# A tiny alphabet makes overlaps and near misses common.
SMALL_TEXT = st.text("ab", max_size=8)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def reference(text: str, stops: list[str]) -> tuple[str, bool]:
    """The whole text up to the first stop that is complete; of two that end there, the longer."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)], True
    return text, False


def run(matcher: StopMatcher, pieces: list[str]) -> tuple[list[str], bool]:
    """Feed pieces as a worker does: until a stop is met, then flush if there was none."""
    shown: list[str] = []
    for piece in pieces:
        text, is_stopped = matcher.feed(piece)
        shown.append(text)
        if is_stopped:
            return shown, True
    return [*shown, matcher.flush()], False


@given(st.lists(SMALL_TEXT, max_size=8), STOPS)
def test_any_split_shows_what_the_whole_text_would(pieces: list[str], stops: list[str]) -> None:
    """What is shown does not depend on how the text was cut, and holds no stop string."""
    shown, is_stopped = run(StopMatcher(stops), pieces)
    assert reference("".join(pieces), stops) == ("".join(shown), is_stopped)
    assert not any(stop in "".join(shown) for stop in stops)


@given(SMALL_TEXT, STOPS)
def test_only_what_may_begin_a_stop_is_held(text: str, stops: list[str]) -> None:
    """Without a stop, exactly the longest tail that begins a stop string is held back."""
    shown, is_stopped = StopMatcher(stops).feed(text)
    if is_stopped:
        return
    held = text[len(shown) :]
    tails = [text[i:] for i in range(len(text)) if any(s.startswith(text[i:]) for s in stops)]
    assert max(tails, key=len, default="") == held


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["Hello, world"], [], (["Hello, world", ""], False)),
        (["Hello STOP and more"], ["STOP"], (["Hello "], True)),
        (["Hello ST", "OP more"], ["STOP"], (["Hello ", ""], True)),
        (["Hello ST", "ART"], ["STOP"], (["Hello ", "START", ""], False)),
        (["Hello ST"], ["STOP"], (["Hello ", "ST"], False)),
        (["aab"], ["ab"], (["a"], True)),
        (["abab", "c"], ["ababc"], (["", ""], True)),
        (["one\n", "\ntwo"], ["\n\n"], (["one", ""], True)),
        (["x🙂y"], ["🙂"], (["x"], True)),
    ],
)
def test_examples(pieces: list[str], stops: list[str], expected: tuple[list[str], bool]) -> None:
    """Text before a stop is shown as early as possible, the stop and what follows never."""
    assert expected == run(StopMatcher(stops), pieces)


def test_the_stop_that_is_complete_first_wins() -> None:
    """A short stop inside a longer one that has begun ends the text."""
    assert ("a", True) == StopMatcher(["abcd", "bc"]).feed("abcd")


def test_flush_empties() -> None:
    """What was held is given once."""
    matcher = StopMatcher(["STOP"])
    matcher.feed("ST")
    assert ["ST", ""] == [matcher.flush(), matcher.flush()]
