"""The lookup finds where a text repeats itself, at the same cost per token however long it is."""

from hypothesis import given
from hypothesis import strategies as st

from lmx.engines.speculation.lookup import INDEXED_AT_ONCE, LONGEST_MATCH, MOST_PLACES, Lookup

TEXTS = st.lists(st.integers(0, 3), max_size=60)


def caught_up(prompt: list[int], answer: list[int]) -> Lookup:
    """A lookup that has seen an answer token by token."""
    lookup = Lookup(prompt)
    lookup.catch_up()
    for token in answer:
        lookup.append(token)
        lookup.catch_up()
    return lookup


def longest_matches(text: list[int]) -> set[tuple[int, ...]]:
    """By trying every place: what came after the longest matches of the text's end."""
    best: dict[int, set[tuple[int, ...]]] = {}
    for place in range(2, len(text)):
        length = 0
        while length < min(place, LONGEST_MATCH) and text[place - 1 - length] == text[-1 - length]:
            length += 1
        if length >= 2:
            best.setdefault(length, set()).add((text[place],))
    return best[max(best)] if best else set()


@given(TEXTS)
def test_a_prompt_is_entered_as_its_tokens_one_by_one(text: list[int]) -> None:
    """Sorted or not, the index is the same."""
    whole, single = Lookup(text), Lookup([])
    for token in text:
        single.append(token)
    whole.catch_up()
    single.catch_up()
    for name in ("_latest", "_earlier"):
        assert vars(single)[name] == vars(whole)[name]


def test_what_came_next_the_last_time() -> None:
    """After words that stand in the prompt, the prompt goes on."""
    lookup = caught_up([1, 2, 3, 4, 5, 6, 7], [9, 2, 3, 4])
    assert [5, 6, 7, 9] == lookup.predict(4)
    assert 3 == lookup.match_tokens


def test_nothing_is_foretold_of_new_text() -> None:
    """Without a match of two tokens there is no draft."""
    lookup = caught_up([1, 2, 3, 4, 5], [9, 3, 8, 4])
    assert [] == lookup.predict(4)
    assert 0 == lookup.match_tokens


def test_the_longer_match_wins() -> None:
    """Of two places with the same pair, the one with more tokens in common."""
    lookup = caught_up([7, 1, 2, 3, 50, 8, 2, 3, 60], [7, 1, 2, 3])
    assert [50] == lookup.predict(1)


def test_a_period_goes_on() -> None:
    """A text that has begun to repeat itself is continued beyond its end."""
    assert [1, 2, 3, 1, 2, 3, 1] == caught_up([5, 1, 2, 3], [1, 2, 3]).predict(7)


def test_predictions_are_judged_one_by_one() -> None:
    """Each token of the answer says whether the one foretold was right."""
    lookup = Lookup([1, 2, 3, 4, 1, 2])
    assert [] == lookup.catch_up()
    for token in (3, 4, 9):
        lookup.append(token)
    assert [(2, True), (3, True), (4, False)] == lookup.catch_up()
    assert [] == lookup.predict(1)


def test_the_prompt_is_no_prediction() -> None:
    """How much a prompt repeats itself says nothing of the answer."""
    assert [] == Lookup([1, 2] * 50).catch_up()


def test_a_long_answer_is_indexed_bit_by_bit() -> None:
    """No single step pays for all that nobody looked at, and until the end there are no drafts."""
    lookup = Lookup([0])
    for token in [*range(1, INDEXED_AT_ONCE), 1, 2]:
        lookup.append(token)
    lookup.catch_up()
    assert [] == lookup.predict(1)
    lookup.catch_up()
    assert [3] == lookup.predict(1)


@given(TEXTS, TEXTS)
def test_all_at_once_or_token_by_token(prompt: list[int], answer: list[int]) -> None:
    """How often `catch_up` is called changes neither drafts nor judgements."""
    one_by_one, at_once = Lookup(prompt), Lookup(prompt)
    told = one_by_one.catch_up()
    for token in answer:
        one_by_one.append(token)
        at_once.append(token)
        told += one_by_one.catch_up()
    assert told == at_once.catch_up()
    assert one_by_one.predict(5) == at_once.predict(5)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=MOST_PLACES))
def test_the_match_is_the_longest(text: list[int]) -> None:
    """Among the last places the longest match is found, as trying every place finds it."""
    lookup = Lookup(text)
    lookup.catch_up()
    expected = longest_matches(text)
    assert bool(expected) == bool(lookup.predict(1))
    if expected:
        assert tuple(lookup.predict(1)) in expected
