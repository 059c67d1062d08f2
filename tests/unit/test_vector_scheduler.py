"""Batches of rows: shared, of like length, fair; every request ends once with all its numbers."""

from array import array
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lmx.engines.vectors import TokenRow
from lmx.errors import OutOfMemory
from lmx.protocol.messages import Finished, Rows
from lmx.protocol.values import Memory, ModelInfo
from lmx.worker.vectors import PATIENCE_STEPS, VectorJob, VectorScheduler

BUDGET = 64


class Adder:
    """A vector of a row is its length and the sum of its ids; batches are remembered.

    Attributes:
        batches: The lengths of each batch so far.
        room: Padded tokens the device takes; more is out of memory.
    """

    info = ModelInfo(context_tokens=512, max_sequences=8, purpose="embedding", width=3)
    batch_tokens = BUDGET

    def __init__(self, room: int = 10**9) -> None:
        self.batches: list[list[int]] = []
        self.room = room
        self.shrunk = 0

    def compute(self, rows: Sequence[TokenRow]) -> NDArray[np.float32]:
        lengths = [len(row.ids) for row in rows]
        if max(lengths) * len(rows) > self.room:
            raise OutOfMemory("no room")
        self.batches.append(lengths)
        return np.array([[3 * sum(r.ids), 4 * sum(r.ids), len(r.ids)] for r in rows], np.float32)

    def quiesce(self) -> None:
        pass

    def shrink(self) -> None:
        self.shrunk += 1

    def memory(self) -> Memory:
        return Memory()

    def close(self) -> None:
        pass


def row(length: int, token_id: int = 1) -> TokenRow:
    """A row of so many tokens."""
    return TokenRow([token_id] * length)


def scheduler_of(engine: Adder) -> VectorScheduler:
    """One whose clock stands still."""
    return VectorScheduler(engine, clock=lambda: 0.0)


def job(sequence: int, *lengths: int, dimensions: int | None = None) -> VectorJob:
    """A request of rows of these lengths."""
    return VectorJob(sequence, [row(n) for n in lengths], ready_at_s=0.0, dimensions=dimensions)


def drain(scheduler: VectorScheduler) -> list[Rows | Finished]:
    """Step until nothing is left."""
    events: list[Rows | Finished] = []
    while scheduler.has_work:
        events += scheduler.step()
    return events


def numbers(events: Sequence[Rows | Finished], sequence: int) -> dict[int, list[float]]:
    """What a request was told, by input."""
    told: dict[int, list[float]] = {}
    for event in events:
        if isinstance(event, Rows) and event.sequence == sequence:
            values = array("f", event.values)
            width = len(values) // len(event.indices)
            for place, index in enumerate(event.indices):
                assert index not in told
                told[index] = list(values[place * width : (place + 1) * width])
    return told


@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=20), min_size=1, max_size=6),
    st.integers(1, 200),
)
def test_every_input_is_answered_once(requests: list[list[int]], room: int) -> None:
    """Whatever the lengths and however little room there is, as long as each row fits alone."""
    engine = Adder(max(room, 40))
    scheduler = scheduler_of(engine)
    for number, lengths in enumerate(requests):
        scheduler.submit(job(number, *lengths))
    events = drain(scheduler)
    for number, lengths in enumerate(requests):
        expected = {i: [3.0 * n, 4.0 * n, float(n)] for i, n in enumerate(lengths)}
        assert expected == numbers(events, number)
        (end,) = [e for e in events if isinstance(e, Finished) and e.sequence == number]
        assert ("stop", sum(lengths)) == (end.reason, end.usage.prompt_tokens)


@given(st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=20), min_size=1, max_size=6))
def test_batches_stay_within_the_budget(requests: list[list[int]]) -> None:
    """Padded, and no row is mostly padding."""
    engine = Adder()
    scheduler = scheduler_of(engine)
    for number, lengths in enumerate(requests):
        scheduler.submit(job(number, *lengths))
    drain(scheduler)
    for lengths in engine.batches:
        assert max(lengths) * len(lengths) <= BUDGET
        assert min(lengths) * 2 >= max(lengths)


def test_requests_that_arrive_together_share_a_batch() -> None:
    """Eight single texts are one step."""
    engine = Adder()
    scheduler = scheduler_of(engine)
    for number in range(8):
        scheduler.submit(job(number, 8))
    assert 8 == len([e for e in scheduler.step() if isinstance(e, Finished)])
    assert [[8] * 8] == engine.batches


def test_one_text_does_not_wait_for_a_large_job() -> None:
    """It is in the very next batch, whatever its length."""
    for length in (1, 8, 30):
        scheduler = scheduler_of(Adder())
        scheduler.submit(job(1, *[8] * 2048))
        scheduler.step()
        scheduler.submit(job(2, length))
        assert 2 in {event.sequence for event in scheduler.step()}


def test_a_large_job_does_not_starve() -> None:
    """However many single texts keep coming, it gets its turn."""
    scheduler = scheduler_of(Adder())
    scheduler.submit(job(0, *[60] * 3))
    for number in range(1, 100):
        for each in range(8):
            scheduler.submit(job(100 * number + each, 8))
        if any(event.sequence == 0 for event in scheduler.step()):
            assert number <= PATIENCE_STEPS + 2
            return
    pytest.fail("the large job was never served")


def test_a_row_that_does_not_fit_ends_its_request_alone() -> None:
    """With the reason; the others are answered."""
    scheduler = scheduler_of(Adder(room=20))
    scheduler.submit(job(1, 30))
    scheduler.submit(job(2, 5, 10))
    events = drain(scheduler)
    ends = {e.sequence: (e.reason, e.code) for e in events if isinstance(e, Finished)}
    assert {1: ("error", OutOfMemory.code), 2: ("stop", None)} == ends
    assert {0, 1} == set(numbers(events, 2))


def test_a_cancelled_request_is_forgotten() -> None:
    """It is told once that it was; what is left of it is never computed."""
    engine = Adder()
    scheduler = scheduler_of(engine)
    scheduler.submit(job(1, *[8] * 100))
    scheduler.step()
    (end,) = scheduler.cancel(1)
    assert "cancelled" == end.reason
    assert ([], False, []) == (scheduler.cancel(1), scheduler.has_work, scheduler.step())
    assert 1 == len(engine.batches)


def test_vectors_are_shortened_and_normalised_again() -> None:
    """Leading numbers only; their length is one."""
    scheduler = scheduler_of(Adder())
    scheduler.submit(job(1, 5, dimensions=2))
    assert {0: pytest.approx([0.6, 0.8])} == numbers(drain(scheduler), 1)


def test_cosines_of_pairs() -> None:
    """Each text is computed once; opposite vectors are worth nothing."""
    engine = Adder()
    scheduler = scheduler_of(engine)
    rows = [row(2), row(2), row(2, 0), TokenRow([-1, -1])]
    pairs = [(0, 1), (0, 2), (0, 3)]
    scheduler.submit(VectorJob(1, rows, ready_at_s=0.0, pairs=pairs))
    told = numbers(drain(scheduler), 1)
    assert 1.0 == pytest.approx(told[0][0])
    assert 0 < told[1][0] < 1
    assert 0.0 == told[2][0]
    assert 4 == sum(map(len, engine.batches))


def test_shrinking_is_passed_on() -> None:
    """To the engine, which alone keeps anything."""
    engine = Adder()
    scheduler_of(engine).shrink()
    assert 1 == engine.shrunk
