"""Choices of one request enter together, live apart, and bring log-probabilities in order."""

from collections.abc import Sequence

import pytest

from lmx.engines.base import (
    SHARES_FREELY,
    Choice,
    Constraint,
    Engine,
    PrefixUse,
    TokenLogprobs,
)
from lmx.engines.fake import FakeEngine, FakeSettings
from lmx.engines.fake import load as load_fake
from lmx.engines.fake_tokens import END_TEXT, FakeTokenizer, invent_logprobs
from lmx.errors import OutOfMemory
from lmx.protocol.messages import Delta, Finished, Load, RequestEvent
from lmx.protocol.values import Grammar, ModelInfo, Sampling, Timings, TokenLogprob, Usage
from lmx.worker.constraints import ReasoningConstraint
from lmx.worker.logprobs import describe_prompt, describe_token
from lmx.worker.scheduler import Ready, Scheduler

PROMPT_IDS = list(b"Hi")


class FullEngine(FakeEngine):
    """A fake engine without memory for anything."""

    def add(
        self,
        choices: Sequence[Choice],
        token_ids: Sequence[int],
        *,
        wants_prompt_logprobs: bool = False,
        prefix: PrefixUse = SHARES_FREELY,
    ) -> int:
        raise OutOfMemory("no room")


def make_engine(
    *, slots: int = 4, text: str = "ab", kind: type[FakeEngine] = FakeEngine
) -> FakeEngine:
    """An engine that answers everything with `text`."""
    return kind(FakeSettings(text=text), ModelInfo(context_tokens=100, max_sequences=slots))


def make_scheduler(engine: Engine) -> Scheduler:
    """A scheduler whose clock stands still."""
    return Scheduler(engine, FakeTokenizer(), visible=frozenset(), clock=lambda: 0.0)


def ready(
    *numbers: int,
    sampling: Sampling | None = None,
    constraint: Constraint | None = None,
    wants_prompt_logprobs: bool = False,
) -> Ready:
    """A request whose choices have these numbers."""
    choices = [Choice(number, sampling or Sampling(10), constraint) for number in numbers]
    return Ready(
        choices,
        PROMPT_IDS,
        stop=[],
        ready_at_s=0.0,
        wants_prompt_logprobs=wants_prompt_logprobs,
    )


def run_to_end(scheduler: Scheduler) -> list[RequestEvent]:
    """All events until no work is left."""
    events: list[RequestEvent] = []
    while scheduler.has_work:
        events += scheduler.step()
    return events


def ends_of(events: Sequence[RequestEvent]) -> list[tuple[int, str]]:
    """Who ended how, in order."""
    return [(e.sequence, e.reason) for e in events if isinstance(e, Finished)]


def text_of(events: Sequence[RequestEvent], sequence: int) -> str:
    """What one choice was told."""
    return "".join(e.text for e in events if isinstance(e, Delta) and e.sequence == sequence)


def test_choices_are_answered_side_by_side() -> None:
    """Every choice takes a slot and has a delta of its own in every step."""
    engine = make_engine()
    scheduler = make_scheduler(engine)
    scheduler.submit(ready(1, 2, 3))
    assert [Delta(1, "a", 1), Delta(2, "a", 1), Delta(3, "a", 1)] == scheduler.step()
    assert 1 == engine.free_slots
    assert [(1, "stop"), (2, "stop"), (3, "stop")] == ends_of(run_to_end(scheduler))
    assert 4 == engine.free_slots


def test_choices_enter_together_or_not_at_all() -> None:
    """A request for more choices than slots are free waits for all of them, as do those behind."""
    engine = make_engine(slots=3, text="a")
    scheduler = make_scheduler(engine)
    for item in (ready(1, 2), ready(3, 4), ready(5)):
        scheduler.submit(item)
    assert [1, 2] == [event.sequence for event in scheduler.step()]
    assert 1 == engine.free_slots
    events = run_to_end(scheduler)
    assert [1, 2, 3, 4, 5] == [sequence for sequence, _ in ends_of(events)]
    assert [3, 4, 5] == [e.sequence for e in events if isinstance(e, Delta)]


def test_one_running_choice_may_be_cancelled() -> None:
    """The others go on to their end, and the slot is free at once."""
    engine = make_engine()
    scheduler = make_scheduler(engine)
    scheduler.submit(ready(1, 2, 3))
    scheduler.step()
    assert [Finished(2, "cancelled", Usage(2, 1), Timings())] == scheduler.cancel(2)
    assert 2 == engine.free_slots
    events = run_to_end(scheduler)
    assert [(1, "stop"), (3, "stop")] == ends_of(events)
    assert ("b", "", "b") == tuple(text_of(events, number) for number in (1, 2, 3))


def test_one_waiting_choice_may_be_cancelled() -> None:
    """The others keep their place in the queue and need a slot less."""
    engine = make_engine(slots=2, text="a")
    scheduler = make_scheduler(engine)
    for item in (ready(1), ready(2, 3), ready(4)):
        scheduler.submit(item)
    assert [Delta(1, "a", 1)] == scheduler.step()
    assert [Finished(2, "cancelled", Usage(2, 0), Timings())] == scheduler.cancel(2)
    assert [Finished(1, "stop", Usage(2, 2), Timings()), Delta(3, "a", 1)] == scheduler.step()
    assert [(3, "stop"), (4, "stop")] == ends_of(run_to_end(scheduler))


def test_cancelling_every_waiting_choice_takes_the_request_out() -> None:
    """What is left of the queue is answered, and nothing remembers the request."""
    scheduler = make_scheduler(make_engine(slots=2, text="a"))
    for item in (ready(1, 2), ready(3, 4), ready(5)):
        scheduler.submit(item)
    scheduler.step()
    cancelled = scheduler.cancel(3) + scheduler.cancel(4)
    assert [(3, "cancelled"), (4, "cancelled")] == ends_of(cancelled)
    assert [] == scheduler.cancel(3)
    assert [(1, "stop"), (2, "stop"), (5, "stop")] == ends_of(run_to_end(scheduler))


def test_without_memory_every_choice_is_told() -> None:
    """A request that does not fit ends with an error for each of its choices."""
    scheduler = make_scheduler(make_engine(kind=FullEngine))
    scheduler.submit(ready(1, 2))
    expected = [
        Finished(number, "error", Usage(2, 0), Timings(), "oom-unloaded", "no room")
        for number in (1, 2)
    ]
    assert expected == scheduler.step()
    assert not scheduler.has_work


def test_logprobs_travel_with_their_tokens() -> None:
    """Each delta has the log-probability of its token, the end token's is left out."""
    scheduler = make_scheduler(make_engine(text="é"))
    scheduler.submit(ready(1, sampling=Sampling(10, top_logprobs=2)))
    *deltas, last, end = run_to_end(scheduler)
    scores = [
        describe_token(token_id, invent_logprobs(token_id, at, 2), FakeTokenizer())
        for at, token_id in enumerate("é".encode())
    ]
    assert [Delta(1, "", 1, scores[:1]), Delta(1, "é", 1, scores[1:])] == deltas
    assert Delta(1, "", 1) == last
    assert Finished(1, "stop", Usage(2, 3), Timings()) == end


def test_a_token_at_the_limit_has_its_logprob() -> None:
    """Only an end token has none; the last one that the limit allows is text."""
    scheduler = make_scheduler(make_engine())
    scheduler.submit(ready(1, sampling=Sampling(1, top_logprobs=0)))
    delta, end = scheduler.step()
    score = describe_token(ord("a"), invent_logprobs(ord("a"), 0, 0), FakeTokenizer())
    assert (Delta(1, "a", 1, [score]), [(1, "length")]) == (delta, ends_of([end]))


def test_prompt_logprobs_come_once_with_the_first_choice() -> None:
    """The first delta of the first choice describes every prompt token, no other does."""
    scheduler = make_scheduler(make_engine())
    sampling = Sampling(10, top_logprobs=1)
    scheduler.submit(ready(1, 2, sampling=sampling, wants_prompt_logprobs=True))
    first, *others = [e for e in run_to_end(scheduler) if isinstance(e, Delta)]
    scored = [None, invent_logprobs(ord("i"), 0, 1)]
    assert describe_prompt(PROMPT_IDS, scored, FakeTokenizer()) == first.prompt_logprobs
    assert [("H", True), ("i", False)] == [
        (score.token, score.logprob is None) for score in first.prompt_logprobs
    ]
    assert not any(other.prompt_logprobs for other in others)


def constraint_of(pattern: str) -> Constraint:
    """A regular expression, compiled for the fake vocabulary."""
    loaded = load_fake(Load("fake", "", 1))
    return loaded.grammars.compile(Grammar("regex", pattern, "guided_regex"))


@pytest.mark.parametrize("top_logprobs", [None, 0])
def test_the_token_that_completes_a_grammar_is_shown(top_logprobs: int | None) -> None:
    """A sequence that its grammar ends keeps the last token's text and score."""
    scheduler = make_scheduler(make_engine(text="yes"))
    sampling = Sampling(10, top_logprobs=top_logprobs)
    scheduler.submit(ready(1, sampling=sampling, constraint=constraint_of("yes")))
    events = run_to_end(scheduler)
    assert ("yes", [(1, "stop")]) == (text_of(events, 1), ends_of(events))
    scores = [s.token for e in events if isinstance(e, Delta) for s in e.logprobs]
    assert ([] if top_logprobs is None else ["y", "e", "s"]) == scores


def test_an_end_token_that_completes_a_grammar_is_not_shown() -> None:
    """Where a grammar may go on, the model ends it with a token that is no text."""
    scheduler = make_scheduler(make_engine(text="aa"))
    sampling = Sampling(10, top_logprobs=0)
    scheduler.submit(ready(1, sampling=sampling, constraint=constraint_of("a+")))
    events = run_to_end(scheduler)
    assert ("aa", [(1, "stop")]) == (text_of(events, 1), ends_of(events))
    assert END_TEXT not in {s.token for e in events if isinstance(e, Delta) for s in e.logprobs}


def test_tokens_are_described_by_text_and_bytes() -> None:
    """Half a character shows as U+FFFD but keeps its byte; alternatives come best first."""
    scores = TokenLogprobs(-0.5, ((0xC3, -0.5), (257, -2.0)))
    expected = TokenLogprob(
        "\ufffd",
        b"\xc3",
        -0.5,
        [TokenLogprob("\ufffd", b"\xc3", -0.5), TokenLogprob(" amber", b" amber", -2.0)],
    )
    assert expected == describe_token(0xC3, scores, FakeTokenizer())


def test_thinking_stops_for_the_choice_that_is_named() -> None:
    """Waiting or running; of others and of unknown numbers nothing changes."""
    engine = make_engine(slots=2, text="....")
    scheduler = make_scheduler(engine)
    watching = [
        ReasoningConstraint(list(b"/"), opening_id=None, budget=None, inner=None) for _ in range(3)
    ]
    for number, constraint in enumerate(watching, start=1):
        scheduler.submit(ready(number, constraint=constraint))
    scheduler.step()
    for number in (2, 3, 99):  # running, waiting for a slot, unknown
        scheduler.stop_thinking(number)
    assert [False, True, True] == [constraint.is_binding for constraint in watching]
    events = [event for _ in range(3) for event in scheduler.step()]
    assert "/" in "".join(e.text for e in events if isinstance(e, Delta) and e.sequence == 2)
