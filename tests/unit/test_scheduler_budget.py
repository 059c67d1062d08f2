"""Running requests never need more cache than was granted, and silent work is told of."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from lmx.engines.base import Choice, PrefillShare, StepResult
from lmx.engines.fake import FakeEngine, FakeSettings
from lmx.engines.fake_tokens import FakeTokenizer
from lmx.protocol.messages import Delta, Finished, RequestEvent, Vitals
from lmx.protocol.values import Memory, ModelInfo, Sampling
from lmx.worker.scheduler import VITALS_PERIOD_S, Ready, Scheduler

PROMPT = [1, 2, 3]
INFO = ModelInfo(context_tokens=1000, max_sequences=8)


class SilentEngine(FakeEngine):
    """An engine that prefills for a number of steps, each of which takes `step_s`.

    Attributes:
        now_s: Its time, which is the scheduler's as well.
        shrunk: How often it was told to give memory back.
    """

    def __init__(self, *, silent_steps: int, step_s: float) -> None:
        super().__init__(FakeSettings(text="ab"), INFO)
        self.now_s = 0.0
        self.shrunk = 0
        self._silent_steps = silent_steps
        self._step_s = step_s

    def step(self, shares: Sequence[PrefillShare] | None = None) -> list[StepResult]:
        self.now_s += self._step_s
        if self._silent_steps:
            self._silent_steps -= 1
            return []
        return super().step(shares)

    def shrink(self, prefix_cache_bytes: int | None = None) -> None:
        self.shrunk += 1


def make_scheduler(engine: FakeEngine, cache_tokens: int | None = None) -> Scheduler:
    """A scheduler whose clock is the engine's if that has one, and else stands still."""
    clock = (lambda: engine.now_s) if isinstance(engine, SilentEngine) else (lambda: 0.0)
    return Scheduler(
        engine, FakeTokenizer(), visible=frozenset(), clock=clock, cache_tokens=cache_tokens
    )


def ready(sequence: int, *, max_tokens: int, count: int = 1) -> Ready:
    """A request that may come to need ``count * (3 + max_tokens)`` tokens of cache."""
    choices = [Choice(sequence + i, Sampling(max_tokens)) for i in range(count)]
    return Ready(choices, PROMPT, stop=(), ready_at_s=0.0)


def first_steps(cache_tokens: int | None, *requests: Ready) -> set[int]:
    """Whose choices run after one step."""
    scheduler = make_scheduler(FakeEngine(FakeSettings(text="hello"), INFO), cache_tokens)
    for request in requests:
        scheduler.submit(request)
    return {event.sequence for event in scheduler.step() if isinstance(event, Delta)}


def test_as_many_run_as_the_cache_holds() -> None:
    """To the token; without a grant only slots count."""
    requests = [ready(number, max_tokens=7) for number in (1, 2, 3)]
    assert {1, 2} == first_steps(20, *requests)
    assert {1} == first_steps(19, *requests)
    assert {1, 2, 3} == first_steps(30, *requests)
    assert {1, 2, 3} == first_steps(None, *requests)


def test_every_choice_needs_cache_of_its_own() -> None:
    """Two answers to one prompt need twice as much."""
    assert 20 == ready(1, max_tokens=7, count=2).cache_tokens
    assert {1, 2} == first_steps(29, ready(1, max_tokens=7, count=2), ready(3, max_tokens=7))
    assert {1, 2, 3} == first_steps(30, ready(1, max_tokens=7, count=2), ready(3, max_tokens=7))


def test_alone_a_request_runs_whatever_it_needs() -> None:
    """There is nothing whose end could make more room; nobody runs beside it."""
    assert {1} == first_steps(5, ready(1, max_tokens=900), ready(2, max_tokens=1))


def test_a_large_request_is_not_overtaken() -> None:
    """Small ones behind it wait with it, so that it cannot be put off for ever."""
    requests = [ready(1, max_tokens=7), ready(2, max_tokens=97), ready(3, max_tokens=2)]
    assert {1} == first_steps(100, *requests)


def test_the_end_of_one_lets_the_next_in() -> None:
    """What a request held counts no more in the step after its end, or its cancel."""
    scheduler = make_scheduler(FakeEngine(FakeSettings(text="a"), INFO), 10)
    for number in (1, 2, 3):
        scheduler.submit(ready(number, max_tokens=7))
    assert [Delta(1, "a", 1)] == scheduler.step()
    assert [1] == [event.sequence for event in scheduler.step() if isinstance(event, Finished)]
    assert [Delta(2, "a", 1)] == scheduler.step()
    scheduler.cancel(2)
    assert [Delta(3, "a", 1)] == scheduler.step()


@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 3)), min_size=1, max_size=12),
    st.integers(1, 80),
)
def test_the_grant_is_kept_and_everybody_gets_in(
    sizes: list[tuple[int, int]], cache_tokens: int
) -> None:
    """In any mix the running ones fit, but for one alone, and each choice ends once."""
    scheduler = make_scheduler(FakeEngine(FakeSettings(text="hello world"), INFO), cache_tokens)
    needs: dict[int, tuple[int, int]] = {}
    for number, (max_tokens, count) in enumerate(sizes):
        request = ready(10 * number, max_tokens=max_tokens, count=count)
        needs |= {c.sequence_id: (number, request.cache_tokens) for c in request.choices}
        scheduler.submit(request)
    ended: list[int] = []
    while scheduler.has_work:
        events = [e for e in scheduler.step() if not isinstance(e, Vitals)]
        running = dict(needs[event.sequence] for event in events)
        assert len(running) == 1 or sum(running.values()) <= cache_tokens
        ended += [event.sequence for event in events if isinstance(event, Finished)]
    assert sorted(needs) == sorted(ended)


def run(engine: SilentEngine) -> list[tuple[float, RequestEvent | Vitals]]:
    """One request to its end: every event with its time."""
    scheduler = make_scheduler(engine)
    scheduler.submit(ready(1, max_tokens=2))
    told = []
    while scheduler.has_work:
        told += [(event, engine.now_s) for event in scheduler.step()]
    return [(at, event) for event, at in told]


def test_a_long_prefill_shows_signs_of_life() -> None:
    """Steps that deliver nothing are told of, with the memory, twice a second and no more."""
    told = run(SilentEngine(silent_steps=100, step_s=0.125))
    vitals = [(at, event) for at, event in told if isinstance(event, Vitals)]
    assert [VITALS_PERIOD_S * number for number in range(1, 26)] == [at for at, _ in vitals]
    assert all(isinstance(event.memory, Memory) for _, event in vitals)


def test_a_slow_prefill_is_told_of_at_every_step() -> None:
    """Where one step takes longer than the period, each is a sign."""
    told = run(SilentEngine(silent_steps=3, step_s=7.0))
    assert [7.0, 14.0, 21.0] == [at for at, event in told if isinstance(event, Vitals)]


def test_tokens_are_sign_enough() -> None:
    """While something is delivered, nothing else is said."""
    told = run(SilentEngine(silent_steps=0, step_s=7.0))
    assert [Delta, Delta, Finished] == [type(event) for _, event in told]


def test_shrinking_is_the_engines_business() -> None:
    """The scheduler passes the word."""
    engine = SilentEngine(silent_steps=0, step_s=0)
    make_scheduler(engine).shrink()
    assert 1 == engine.shrunk
