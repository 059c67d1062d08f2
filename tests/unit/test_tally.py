"""What a request delivers is counted and timed as it comes."""

import pytest

from lmx.daemon.measures import ModelMeasures
from lmx.daemon.tally import ChoiceTally, RequestTally
from lmx.protocol.messages import Delta


class Bench:
    """A request with two choices on a clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 10.0
        self.measures = ModelMeasures()
        self.request = RequestTally(self.measures, 9.0, lambda: self.now_s)
        self.one, self.two = ChoiceTally(self.request), ChoiceTally(self.request)

    def say(self, choice: ChoiceTally, text: str, *, at_s: float, count: int = 1) -> None:
        self.now_s = at_s
        choice.take(Delta(1, text, count))


def test_the_first_text_counts_once_for_a_request() -> None:
    """TTFT is from received to the first text of any choice."""
    bench = Bench()
    bench.say(bench.one, "a", at_s=10.5)
    bench.say(bench.two, "b", at_s=11.0)
    times = bench.measures.latencies.first_text
    assert (1, 1.5) == (times.count, times.total)
    assert 10.5 == bench.request.first_text_s


def test_gaps_are_within_a_choice() -> None:
    """ITL is between two texts of one choice, whatever its neighbour says meanwhile."""
    bench = Bench()
    for choice, at_s in ((bench.one, 10.0), (bench.two, 10.1), (bench.one, 11.0)):
        bench.say(choice, "x", at_s=at_s)
    bench.say(bench.two, "x", at_s=12.1)
    gaps = bench.measures.latencies.between_texts
    assert (2, pytest.approx(3.0)) == (gaps.count, gaps.total)


def test_tokens_without_text_are_counted_and_not_timed() -> None:
    """Log-probabilities alone are tokens, but nothing that a client sees as text."""
    bench = Bench()
    bench.say(bench.one, "", at_s=10.0, count=2)
    assert (2, 2) == (bench.one.token_count, bench.measures.totals.generated_tokens)
    assert bench.request.first_text_s is None


def test_speed_is_paced_by_the_texts() -> None:
    """Tokens after the first text over the time since it; with one text there is no speed."""
    bench = Bench()
    bench.say(bench.one, "a", at_s=10.0, count=5)
    assert 0.0 == bench.one.tokens_per_second
    bench.say(bench.one, "b", at_s=12.0, count=4)
    assert 2.0 == bench.one.tokens_per_second
    assert 9 == bench.measures.totals.generated_tokens
