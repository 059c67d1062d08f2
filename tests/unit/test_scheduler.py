"""The scheduler fills slots in order, ends every request exactly once and keeps exact books."""

from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from lmx.engines.base import (
    SHARES_FREELY,
    Choice,
    Engine,
    PrefillShare,
    PrefixUse,
    StepResult,
)
from lmx.engines.fake import FakeEngine, FakeSettings
from lmx.engines.fake_tokens import FakeTokenizer
from lmx.errors import OutOfMemory
from lmx.protocol.messages import Delta, Finished, RequestEvent
from lmx.protocol.values import ModelInfo, Sampling, Timings, Usage
from lmx.worker.scheduler import Ready, Scheduler


class Counter:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class CrampedEngine(FakeEngine):
    """A fake engine that has no memory for requests whose first number is a multiple of `every`."""

    every = 2

    def add(
        self,
        choices: Sequence[Choice],
        token_ids: Sequence[int],
        *,
        wants_prompt_logprobs: bool = False,
        prefix: PrefixUse = SHARES_FREELY,
    ) -> int:
        if choices[0].sequence_id % self.every == 0:
            raise OutOfMemory("no room for this one")
        return super().add(
            choices, token_ids, wants_prompt_logprobs=wants_prompt_logprobs, prefix=prefix
        )


def make_engine(
    *, slots: int = 2, text: str = "hello", kind: type[FakeEngine] = FakeEngine
) -> FakeEngine:
    """An engine that answers everything with `text`."""
    return kind(FakeSettings(text=text), ModelInfo(context_tokens=1000, max_sequences=slots))


def make_scheduler(engine: Engine, clock: Callable[[], float] | None = None) -> Scheduler:
    """A scheduler over the fake vocabulary."""
    return Scheduler(engine, FakeTokenizer(), visible=frozenset(), clock=clock or Counter())


def ready(
    sequence: int,
    *,
    count: int = 1,
    max_tokens: int = 100,
    stop: Sequence[str] = (),
    at: float = 0,
) -> Ready:
    """A request for so many choices whose prompt has three tokens."""
    choices = [Choice(sequence + i, Sampling(max_tokens)) for i in range(count)]
    return Ready(choices, [1, 2, 3], stop=stop, ready_at_s=at)


def run_to_end(scheduler: Scheduler) -> list[RequestEvent]:
    """All events until no work is left."""
    events: list[RequestEvent] = []
    while scheduler.has_work:
        events += scheduler.step()
    return events


def text_of(events: Sequence[RequestEvent], sequence: int) -> str:
    """What one request was told."""
    return "".join(e.text for e in events if isinstance(e, Delta) and e.sequence == sequence)


def ends_of(events: Sequence[RequestEvent]) -> list[tuple[int, str]]:
    """Who ended how, in order."""
    return [(e.sequence, e.reason) for e in events if isinstance(e, Finished)]


def test_one_request_from_start_to_end() -> None:
    """A delta per token, then one `Finished` that counts the end token too."""
    scheduler = make_scheduler(make_engine(text="hi"))
    assert not scheduler.has_work
    scheduler.submit(ready(1))
    assert scheduler.has_work
    assert [Delta(1, "h", 1)] == scheduler.step()
    assert [Delta(1, "i", 1)] == scheduler.step()
    assert [Finished(1, "stop", Usage(3, 3), Timings())] == scheduler.step()
    assert not scheduler.has_work


def test_the_limit_ends_with_length() -> None:
    """A request gets no more tokens than it asked for."""
    scheduler = make_scheduler(make_engine(text="hello"))
    scheduler.submit(ready(1, max_tokens=2))
    events = run_to_end(scheduler)
    assert [Delta(1, "h", 1), Delta(1, "e", 1), Finished(1, "length", Usage(3, 2), Timings())] == (
        events
    )


def test_a_stop_string_ends_at_once() -> None:
    """The step that completes a stop string is the request's last, and its slot is free."""
    engine = make_engine(text="hello")
    scheduler = make_scheduler(engine)
    scheduler.submit(ready(1, stop=["ll"]))
    events = run_to_end(scheduler)
    assert "he" == text_of(events, 1)
    assert Finished(1, "stop", Usage(3, 4), Timings(), stop="ll") == events[-1]
    assert 2 == engine.free_slots


def test_waiting_requests_enter_in_order_of_arrival() -> None:
    """With one slot, requests are answered one after the other."""
    scheduler = make_scheduler(make_engine(slots=1, text="ab"))
    for sequence in (5, 3, 4):
        scheduler.submit(ready(sequence))
    assert [(5, "stop"), (3, "stop"), (4, "stop")] == ends_of(run_to_end(scheduler))


def test_a_free_slot_is_filled_in_the_next_step() -> None:
    """A request that ends makes room for the next within one step."""
    engine = make_engine(slots=1, text="a")
    scheduler = make_scheduler(engine)
    scheduler.submit(ready(1))
    scheduler.submit(ready(2))
    scheduler.step()
    assert [(1, "stop")] == ends_of(scheduler.step())
    assert [Delta(2, "a", 1)] == scheduler.step()


def test_cancelling_a_running_request_frees_its_slot() -> None:
    """A cancelled request ends at once, with what it used, and says nothing more."""
    engine = make_engine(text="hello")
    scheduler = make_scheduler(engine)
    scheduler.submit(ready(1))
    scheduler.step()
    assert [Finished(1, "cancelled", Usage(3, 1), Timings())] == scheduler.cancel(1)
    assert 2 == engine.free_slots
    assert scheduler.has_work  # the engine gives memory back in a step
    assert [] == scheduler.step()
    assert not scheduler.has_work
    assert [] == scheduler.cancel(1)


def test_cancelling_a_waiting_request_keeps_the_order_of_the_others() -> None:
    """A request that has no slot yet leaves the queue without a trace."""
    scheduler = make_scheduler(make_engine(slots=1, text="a"))
    for sequence in (1, 2, 3):
        scheduler.submit(ready(sequence))
    scheduler.step()
    assert [Finished(2, "cancelled", Usage(3, 0), Timings())] == scheduler.cancel(2)
    assert [(1, "stop"), (3, "stop")] == ends_of(run_to_end(scheduler))


def test_cancelling_an_unknown_request_is_ignored() -> None:
    """The daemon may cancel what has just ended."""
    scheduler = make_scheduler(make_engine())
    assert [] == scheduler.cancel(99)


def test_a_request_that_does_not_fit_ends_alone() -> None:
    """Memory for one more sequence lacking, that request is told why and the others go on."""
    scheduler = make_scheduler(make_engine(slots=3, text="a", kind=CrampedEngine))
    for sequence in (1, 2, 3):
        scheduler.submit(ready(sequence))
    events = run_to_end(scheduler)
    expected = Finished(2, "error", Usage(3, 0), Timings(), "oom-unloaded", "no room for this one")
    assert expected == events[0]
    assert [(2, "error"), (1, "stop"), (3, "stop")] == ends_of(events)


def test_timings_are_where_the_time_went() -> None:
    """Queueing, prefill and decoding are told apart on the scheduler's clock."""
    clock = Counter()
    engine = FakeEngine(
        FakeSettings(text="ab", prefill_ms=0.001),
        ModelInfo(context_tokens=1000, max_sequences=1),
    )
    scheduler = make_scheduler(engine, clock)
    clock.now_s = 10.0
    scheduler.submit(ready(1, at=7.0))
    scheduler.step()  # gets its slot, prefills
    clock.now_s = 15.0
    scheduler.step()  # first token
    clock.now_s = 16.0
    scheduler.step()
    clock.now_s = 18.0
    (finished,) = scheduler.step()
    assert isinstance(finished, Finished)
    assert Timings(queue_s=3.0, prefill_s=5.0, decode_s=3.0) == finished.timings


def test_a_cancelled_waiter_reports_its_time_in_the_queue() -> None:
    """A request that never ran spent all its time waiting."""
    clock = Counter()
    scheduler = make_scheduler(make_engine(), clock)
    scheduler.submit(ready(1, at=2.0))
    clock.now_s = 9.0
    (finished,) = scheduler.cancel(1)
    assert isinstance(finished, Finished)
    assert Timings(queue_s=7.0) == finished.timings


REQUEST = st.tuples(
    st.integers(1, 8), st.sampled_from([[], ["l"], ["lo"], ["x", "he"]]), st.integers(1, 3)
)
OPERATIONS = st.lists(
    st.just("step") | REQUEST | st.integers(1, 9).map(lambda number: f"cancel {number}"),
    max_size=40,
)


@given(st.integers(1, 4), OPERATIONS, st.sampled_from([FakeEngine, CrampedEngine]))
def test_any_schedule_ends_every_request_once(
    slots: int, operations: list[object], kind: type[FakeEngine]
) -> None:
    """However requests come, go and are cancelled, each choice ends once, with its due text."""
    engine = make_engine(slots=slots, kind=kind)
    scheduler = make_scheduler(engine)
    asked: dict[int, tuple[int, list[str]]] = {}
    events: list[RequestEvent] = []
    for operation in operations:
        if operation == "step":
            events += scheduler.step()
        elif isinstance(operation, tuple):
            max_tokens, stop, count = operation[0], operation[1], min(operation[2], slots)
            first = len(asked) + 1
            asked |= {first + i: (max_tokens, stop) for i in range(count)}
            scheduler.submit(ready(first, count=count, max_tokens=max_tokens, stop=stop))
        else:
            events += scheduler.cancel(int(str(operation).removeprefix("cancel ")))
        assert engine.free_slots >= 0
    events += run_to_end(scheduler)
    assert sorted(asked) == sorted(sequence for sequence, _ in ends_of(events))
    assert slots == engine.free_slots
    for event in events:
        if isinstance(event, Finished):
            check_books(event, text_of(events, event.sequence), *asked[event.sequence])
    last = {event.sequence: event for event in events}
    assert all(isinstance(event, Finished) for event in last.values())


def check_books(end: Finished, text: str, max_tokens: int, stop: list[str]) -> None:
    """One request's text and counts follow from how it ended."""
    full = "hello"[:max_tokens]
    cut = min((full.find(s) for s in stop if s in full), default=len(full))
    assert end.usage.completion_tokens <= max_tokens
    assert 3 == end.usage.prompt_tokens
    if end.reason in {"stop", "length"}:
        assert full[:cut] == text
        assert (end.reason == "length") == (cut == len(full) and max_tokens <= len("hello"))
    else:
        assert full.startswith(text)


class DraftingEngine(FakeEngine):
    """A fake engine that gives a lone sequence up to four tokens in a step, as drafts do."""

    def __init__(self, settings: FakeSettings, info: ModelInfo) -> None:
        super().__init__(settings, info)
        self.clock = Counter()
        self.given: list[Sequence[PrefillShare]] = []

    def step(self, shares: Sequence[PrefillShare] | None = None) -> list[StepResult]:
        self.clock.now_s += 1
        self.given.append(shares or ())
        results: list[StepResult] = []
        for _ in range(4):
            found = super().step(shares)
            place = len(results)
            results += [
                r._replace(drafted_tokens=0 if place else 3, is_drafted=place < 3) for r in found
            ]
        return results


def test_several_tokens_of_a_step_are_one_delta() -> None:
    """Their text comes in one piece that says how many tokens it has; the books count drafts."""
    scheduler = make_scheduler(make_engine(text="hello", kind=DraftingEngine))
    scheduler.submit(ready(1, max_tokens=5))
    events = run_to_end(scheduler)
    deltas = [(e.text, e.token_count) for e in events if isinstance(e, Delta)]
    assert 5 == sum(count for _, count in deltas)
    assert len(deltas) < 5
    assert "hello" == text_of(events, 1)
    usage = next(e.usage for e in events if isinstance(e, Finished))
    assert 5 == usage.completion_tokens
    assert usage.accepted_tokens <= usage.drafted_tokens
    assert usage.drafted_tokens > 0


def test_checks_are_no_measure_of_steps() -> None:
    """After checks alone it is unknown what a step takes, and a prompt waits to learn it."""
    settings, info = FakeSettings(text="hello " * 50, prefill_ms=1), ModelInfo(2000, 2)
    engine = DraftingEngine(settings, info)
    scheduler = make_scheduler(engine, engine.clock)
    scheduler.submit(ready(1, max_tokens=200))
    for _ in range(12):
        scheduler.step()
    scheduler.submit(ready(2, max_tokens=200))
    scheduler.step()
    assert [] == list(engine.given[-1])


def test_nothing_follows_a_stop_string_in_the_same_step() -> None:
    """Tokens drafted behind the end of an answer are neither told nor counted."""
    engine = make_engine(text="hello hello hello", kind=DraftingEngine)
    scheduler = make_scheduler(engine)
    scheduler.submit(ready(1, stop=["el"]))
    events = run_to_end(scheduler)
    assert "h" == text_of(events, 1)
    assert [(1, "stop")] == ends_of(events)
    assert 3 == next(e.usage.completion_tokens for e in events if isinstance(e, Finished))
    assert 2 == engine.free_slots
