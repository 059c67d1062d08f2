"""Long texts are cut where no token changes, and inside runs that no tokenizer survives."""

from hypothesis import given, settings
from hypothesis import strategies as st

from lmx.engines.llama.cutting import MAX_PART, MAX_RUN, MIN_PART, Kind, TextCutter

MARKS = ["<a>", "<a><b>", "\n", "\n\n", ">x"]


def cut(text: str, kind: Kind = "other", *, stripping: tuple[str, ...] = ()) -> list[str]:
    """The texts of all parts."""
    return [part.text for part in TextCutter(MARKS, stripping=stripping, kind=kind).cut(text)]


def test_short_texts_stay_whole() -> None:
    """Nothing is cut where nothing is gained, and nothing gives no part."""
    assert [] == cut("")
    assert ["<a>b\n" * 100] == cut("<a>b\n" * 100, "rules")


@given(
    st.lists(st.sampled_from([*MARKS, "<", "words and spaces ", "世界"]), max_size=4000).map(
        "".join
    )
)
@settings(max_examples=20, deadline=None)
def test_parts_add_up(text: str) -> None:
    """No character is lost, doubled or moved, and no part is empty."""
    kinds: tuple[Kind, ...] = ("rules", "pieces", "other")
    for kind in kinds:
        parts = cut(text, kind)
        assert text == "".join(parts)
        assert all(parts)


def test_parts_begin_at_special_tokens() -> None:
    """The first one after a few thousand characters, again and again."""
    line = "word " * 100 + "<a>"
    parts = cut(line * 50)
    assert len(parts) > 4
    assert all(part.startswith("<a>") and len(part) < MIN_PART + 600 for part in parts[1:-1])


def test_overlapping_tokens_are_no_place_to_cut() -> None:
    """Which of two that overlap is recognised depends on the whole, so neither is cut at."""
    assert 1 == len(cut("word " * MIN_PART + "<a>x" + "word " * MIN_PART))
    assert 2 == len(cut("word " * MIN_PART + "<a><b>" + "word " * MIN_PART))


def test_tokens_that_swallow_white_space_are_no_place_to_cut() -> None:
    """The white space before them would be in another part."""
    text = ("word " * MIN_PART + "<a>") * 2
    assert 2 == len(cut(text))
    assert 1 == len(cut(text, stripping=("<a>",)))


def test_runs_are_bounded_only_where_rules_split_text() -> None:
    """A run of one kind, spaces too, is no longer than the limit; special tokens stay whole."""
    for run in ("=" * 100_000, " " * 100_000, "世" * 100_000):
        assert all(len(part) <= MAX_RUN for part in cut(run, "rules"))
        assert [run] == cut(run)
    shifted = "=" * (MAX_RUN - 1) + "<a>" + "=" * MAX_RUN
    assert ["=" * (MAX_RUN - 1), "<a>" + "=" * (MAX_RUN - 3)] == cut(shifted, "rules")[:2]


def test_runs_of_nothing_but_special_tokens_end() -> None:
    """Where each place is inside one, there is none to cut at."""
    assert ["\n" * 50_000] == cut("\n" * 50_000, "rules")


def test_pieces_are_cut_before_a_word() -> None:
    """Long texts without special tokens, at the first of several spaces; anywhere if need be."""
    parts = cut("word   word " * 10_000, "pieces")
    assert len(parts) > 5
    assert all(part.startswith((" word", "   word")) for part in parts[1:])
    parts = cut("=" * 40_000, "pieces")
    assert [MAX_PART, MAX_PART, 40_000 - 2 * MAX_PART] == [len(part) for part in parts]


def test_parts_know_whether_text_goes_on() -> None:
    """After a cut at a special token it does not; the first part begins the text."""
    cutter = TextCutter(MARKS, kind="pieces")
    text = "=" * (MAX_PART + 5) + "<a>" + "=" * (MAX_PART + 5)
    expected = [(MAX_PART, False), (5, True), (MAX_PART, False), (8, True)]
    assert expected == [(len(part.text), part.is_inside) for part in cutter.cut(text)]
