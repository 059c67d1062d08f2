"""The pure parts of the benchmarks: statistics, workloads, and what is read from a stream."""

import itertools
import json
import socket
import statistics
from pathlib import Path
from typing import Any

import pytest

from scripts.bench.asking import read_answer
from scripts.bench.load import Stream
from scripts.bench.report import is_monotonic, median, percentile, ratio, save_results, verdict
from scripts.bench.sides import parse_setting
from scripts.bench.workload import (
    MIX,
    Session,
    copied_share,
    long_prompt,
    mixed_load,
    system_prompt,
)

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


def chunk(**fields: Any) -> bytes:
    """An event of a stream as LMX and the peers write it."""
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def text(content: str | None, index: int = 0) -> bytes:
    """A choice's text."""
    delta = {"role": "assistant", "content": content}
    return chunk(choices=[{"index": index, "delta": delta}])


@pytest.fixture
def stream() -> Stream:
    """A stream sent at 10 s whose socket is not used."""
    with socket.socket() as connection:
        return Stream(connection, 10.0)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, 0.0), ([3.0], 0.99, 3.0), ([4.0, 1.0, 2.0, 3.0], 0.5, 3.0), ([1.0] * 99, 1.0, 1.0)],
)
def test_percentiles(values: list[float], share: float, expected: float) -> None:
    """Of values in any order; there is one of no values, too."""
    assert expected == percentile(values, share)


def test_ratios_are_taken_within_repeats() -> None:
    """The median of the ratios, not the ratio of the medians; 0 where a side is missing."""
    assert 1.0 == ratio([2.0, 2.0, 5.0], [1.0, 2.0, 10.0])
    assert 0.0 == ratio([2.0], []) == median([])


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [([], True), ([5.0], True), ([1.0, 2.0, 1.98], True), ([1.0, 2.0, 1.9], False)],
)
def test_totals_grow_but_for_noise(speeds: list[float], *, expected: bool) -> None:
    """A loss of three in a hundred is noise, more is a loss."""
    assert expected is is_monotonic(speeds)
    assert ("yes" if expected else "**no**") == verdict(is_met=is_monotonic(speeds))


def test_results_are_written_with_what_they_are_of(tmp_path: Path) -> None:
    """The bench, the machine and the facts; without a path nothing is."""
    save_results(tmp_path / "new" / "a.json", "serving", [{"streams": 1}], model="m")
    save_results(None, "serving", [])
    document = json.loads((tmp_path / "new" / "a.json").read_text())
    assert ("serving", "m", [{"streams": 1}]) == tuple(
        document[key] for key in ("bench", "model", "results")
    )
    assert {"system", "cores", "python", "date"} <= document["machine"].keys()


def test_a_role_is_no_text(stream: Stream) -> None:
    """Neither with an empty text nor with none; a text is there when all of its marker is."""
    assert not stream.take(HEAD + text("") + text(None), 10.5)
    assert not stream.take(text("a")[:-9], 11.0)
    assert not stream.take(text("a")[-9:], 11.5)
    assert not stream.take(text("b") + text('"'), 12.0)
    assert stream.take(chunk(usage={"completion_tokens": 7}) + b"data: [DONE]\n\n", 12.5)
    assert (3, 7, 12.5) == (stream.event_count, stream.token_count, stream.ended_s)
    assert (1500.0, [500.0]) == (stream.ttft_ms, stream.itl_ms())


def test_gaps_are_those_that_touch_a_span(stream: Stream) -> None:
    """One that begins before the span counts as well as one that ends after it."""
    stream.arrivals_s = [10.0, 11.0, 13.0, 16.0, 20.0]
    assert [2000.0, 3000.0] == stream.itl_ms(12.0, 14.0)
    assert [1000.0, 2000.0, 3000.0, 4000.0] == stream.itl_ms()


def test_a_refusal_is_no_quick_answer(stream: Stream) -> None:
    """It ends the stream, and there is no time to a first text."""
    assert stream.take(b'HTTP/1.1 503 Busy\r\n\r\n{"error": {"message": "full"}}', 10.1)
    with pytest.raises(RuntimeError, match="without text"):
        _ = stream.ttft_ms


def test_an_answer_is_read_whole() -> None:
    """Texts by choice, when each began, and the server's counts."""
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 8},
    }
    parts = [text("", 0), text("a", 1), text("b", 0), text("c", 0), b": beat\n\n"]
    stream = b"".join([*parts, chunk(choices=[], usage=usage), b"data: [DONE]\n\n"])
    answer = read_answer(stream.splitlines(keepends=True), 0.0)
    assert ({0: "bc", 1: "a"}, "bc") == (answer.texts, answer.text)
    assert (9, 8, 4) == (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens)
    assert answer.first_s[1] <= answer.first_s[0] == answer.all_begun_s <= answer.total_s
    assert answer.first_s[1] == answer.ttft_s


def test_an_error_in_a_stream_is_raised() -> None:
    """A broken answer would be a quick one."""
    with pytest.raises(RuntimeError, match="broken off: gone"):
        read_answer([text("a"), chunk(error="gone")], 0.0)


def test_long_prompts_are_as_long_as_asked_and_new_for_each_seed() -> None:
    """A word is a token, and the template's are counted in."""
    prompt = long_prompt(500, seed="a")
    assert prompt == long_prompt(500, seed="a")
    assert 455 < len(prompt.split()) < 475
    assert prompt.split()[:20] != long_prompt(500, seed="b").split()[:20]


def test_a_session_grows_from_what_was_said() -> None:
    """Every turn begins with all of the turn before, and ends with a new result."""
    session = Session("s", 100, 20, 5)
    turns = [session.scripted(turn) for turn in range(5)]
    for before, after in itertools.pairwise(turns):
        assert before == after[: len(before)]
        assert ["assistant", "user"] == [message["role"] for message in after[len(before) :]]
    assert session.opening() == turns[0][:1]
    assert session.result(4) == turns[4][-1]
    assert system_prompt(100, seed="s") != system_prompt(100, seed="t")


def test_a_mixed_load_has_the_same_work_for_every_seed() -> None:
    """The shares of the mix exactly, other texts, and arrivals whose mean gap is one."""
    load, other = mixed_load(400, seed=1), mixed_load(400, seed=2)
    for kind, share in MIX.items():
        assert (
            400 * share == sum(a.kind == kind for a in load) == sum(a.kind == kind for a in other)
        )
    assert load == mixed_load(400, seed=1)
    last = [{str(a.messages) for a in found} for found in (load, other)]
    assert not last[0] & last[1]
    assert 0.8 < statistics.mean(a.gap for a in load) < 1.2
    assert 7 == len(mixed_load(7, seed=1))


def test_a_load_is_scaled_by_its_prompts() -> None:
    """Twice the scale is about twice the prompt."""

    def length(scale: float) -> float:
        return statistics.mean(
            len(str(a.messages).split()) for a in mixed_load(80, seed=1, scale=scale)
        )

    assert 1.7 < length(2.0) / length(1.0) < 2.3


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("a b c d e f", "", 0.0),
        ("a b c d e f", "a b c d e f", 0.5),
        ("a b c d e f", "x y z u v w", 0.0),
        ("p", "a b c d a b c d", 0.125),
    ],
)
def test_what_could_have_been_foretold(prompt: str, answer: str, expected: float) -> None:
    """A word counts if the four it ends were there before, in the prompt or the answer."""
    assert expected == copied_share(prompt, answer)


def test_settings_are_variables() -> None:
    """A section's key or a whole variable; anything else would change nothing and is refused."""
    expected = ("LMX_MODELS__GAP_TARGET_MS", "300")
    assert expected == parse_setting("models.gap_target_ms=300")
    assert expected == parse_setting("LMX_MODELS__GAP_TARGET_MS=300")
    for wrong in ("gap_target_ms=300", "models.gap_target_ms", "=3"):
        with pytest.raises(SystemExit):
            parse_setting(wrong)
