"""From token ids to text: detokenised, cut at stop strings, complete at the end."""

from hypothesis import given
from hypothesis import strategies as st

from lmx.engines.fake_tokens import FakeDetokenizer
from lmx.worker.output import SequenceOutput


def feed_all(output: SequenceOutput, data: bytes, finish: str) -> tuple[str, bool]:
    """Feed bytes as tokens, the last one with `finish`; stop where a stop string is met."""
    token_ids = [*data, None] if finish == "stop" else list(data)
    text = ""
    for at, token_id in enumerate(token_ids):
        is_last = at == len(token_ids) - 1
        shown, is_stopped = output.feed(token_id, is_last=is_last)
        text += shown
        if is_stopped:
            return text, True
    return text, False


@given(st.text(min_size=1), st.sampled_from(["stop", "length"]))
def test_without_stops_all_text_comes_out(text: str, finish: str) -> None:
    """Every character is shown, whichever way the sequence ends."""
    output = SequenceOutput(FakeDetokenizer(), [])
    assert (text, False) == feed_all(output, text.encode(), finish)


def test_characters_come_out_whole() -> None:
    """A character of four bytes is shown with its last byte."""
    output = SequenceOutput(FakeDetokenizer(), [])
    shown = [output.feed(byte)[0] for byte in "🙂".encode()]
    assert ["", "", "", "🙂"] == shown


def test_an_incomplete_character_at_the_end_is_replaced() -> None:
    """Bytes left over at the limit become U+FFFD, not an exception."""
    output = SequenceOutput(FakeDetokenizer(), [])
    assert ("a\ufffd", False) == feed_all(output, "a🙂".encode()[:3], "length")


def test_a_stop_string_ends_the_text() -> None:
    """What precedes a stop string is shown, and the caller is told to end the sequence."""
    output = SequenceOutput(FakeDetokenizer(), ["END"])
    assert ("Hello ", True) == feed_all(output, b"Hello END more", "length")


def test_the_beginning_of_a_stop_string_is_shown_at_the_end() -> None:
    """Text held for a stop string that never came is not lost."""
    for finish in ("stop", "length"):
        output = SequenceOutput(FakeDetokenizer(), ["END"])
        assert ("Hello EN", False) == feed_all(output, b"Hello EN", finish)


def test_a_stop_string_completed_by_the_last_token_wins() -> None:
    """A stop at the very last token is a stop."""
    output = SequenceOutput(FakeDetokenizer(), ["END"])
    assert ("Hello ", True) == feed_all(output, b"Hello END", "length")


def test_an_end_id_has_no_text() -> None:
    """The token that only ends a sequence adds nothing to what is still held."""
    output = SequenceOutput(FakeDetokenizer(), [])
    assert ("", False) == output.feed(None, is_last=True)


def test_a_last_token_with_text_is_shown() -> None:
    """A token that ends a sequence and is text, as a grammar's last one is, comes out."""
    output = SequenceOutput(FakeDetokenizer(), [])
    assert ("{", False) == output.feed(ord("{"))
    assert ("}", False) == output.feed(ord("}"), is_last=True)
