"""The worker's side of the device lease: it computes only while it holds it, and hears all else."""

import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.daemon.lease_state import Grant, LeaseState, Order
from lmx.engines.base import Choice, PrefillShare, StepResult
from lmx.engines.fake import FakeEngine, FakeSettings
from lmx.engines.fake_tokens import FakeTokenizer
from lmx.protocol.messages import (
    Cancel,
    Event,
    Finished,
    LeaseCommand,
    LeaseEvent,
    LeaseGranted,
    LeaseReleased,
    LeaseWanted,
    LeaseWantedBack,
    Shutdown,
)
from lmx.protocol.values import ModelInfo, Sampling
from lmx.worker.intake import Work
from lmx.worker.intervals import IntervalLog
from lmx.worker.lease import WorkerLease
from lmx.worker.loop import run_steps
from lmx.worker.scheduler import Ready, Scheduler

SLICE_S = 0.05
STEP_S = 0.02
ALONE = LeaseGranted(SLICE_S, is_wanted_back=False)
CONTENDED = LeaseGranted(SLICE_S, is_wanted_back=True)


class Clock:
    """A clock that moves when the engine computes."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class TracedEngine(FakeEngine):
    """A fake engine whose every step takes `STEP_S`, and which writes down what it does."""

    def __init__(self, clock: Clock, trace: list[str]) -> None:
        info = ModelInfo(context_tokens=1000, max_sequences=2)
        super().__init__(FakeSettings(tokens=900), info)
        self._clock = clock
        self._trace = trace

    def step(self, shares: Sequence[PrefillShare] | None = None) -> list[StepResult]:
        self._trace.append("step")
        self._clock.now_s += STEP_S
        return super().step(shares)

    def quiesce(self) -> None:
        self._trace.append("quiesce")


class Inbox(SimpleQueue[Work]):
    """An inbox in which something comes just when the engine thread waits for it.

    Args:
        late: What comes, one item per wait; waiting for more fails the test.
        trace: Told of every wait.
    """

    def __init__(self, late: Sequence[Work], trace: list[str]) -> None:
        super().__init__()
        self._late = deque(late)
        self._trace = trace

    def get(self, block: bool = True, timeout: float | None = None) -> Work:  # noqa: FBT001, FBT002
        if self.empty():
            self._trace.append("waits")
            if not self._late:
                pytest.fail(f"it would wait for ever: {self._trace}")
            self.put(self._late.popleft())
        return super().get(block, timeout)


class Desk:
    """An engine thread's surroundings: an inbox filled beforehand, and replies to what it says.

    Args:
        is_needed: Whether the lease has to be held.
        replies: What comes into the inbox when an event of a type is sent, one entry each time.
        late: What comes into the inbox when the thread waits.

    Attributes:
        work: The inbox.
        trace: Steps, quiescings, waits, and the names of the events sent, in order.
        sent: All events.
    """

    def __init__(
        self,
        *,
        is_needed: bool = True,
        replies: dict[type[Event], Sequence[Sequence[Work]]] | None = None,
        late: Sequence[Work] = (),
    ) -> None:
        self.trace: list[str] = []
        self.work = Inbox(late, self.trace)
        self.sent: list[Event] = []
        self._replies = {kind: deque(given) for kind, given in (replies or {}).items()}
        clock = Clock()
        engine = TracedEngine(clock, self.trace)
        self._scheduler = Scheduler(engine, FakeTokenizer(), visible=frozenset(), clock=clock)
        self._lease = WorkerLease(is_needed=is_needed, quiesce=engine.quiesce, clock=clock)

    def send(self, events: Sequence[Event]) -> None:
        self.sent += events
        for event in events:
            self.trace.append(type(event).__name__)
            replies = self._replies.get(type(event))
            for item in replies.popleft() if replies else ():
                self.work.put(item)

    def run(self, *items: Work) -> list[str]:
        """Run the engine thread until `Shutdown`; its trace without the texts sent."""
        for item in items:
            self.work.put(item)
        run_steps(self.work, self._scheduler, self.send, lease=self._lease, log=IntervalLog(None))
        return [entry for entry in self.trace if entry != "Delta"]


def ready(sequence: int = 1, max_tokens: int = 1) -> Ready:
    """A request for so many steps."""
    choices = [Choice(sequence, Sampling(max_tokens))]
    return Ready(choices, [104, 105], stop=(), ready_at_s=0.0)


STOP = [[Shutdown()]]


def test_without_turns_nothing_is_said_and_nothing_waited_for() -> None:
    """In shared mode the worker steps at once and sends only what its requests are owed."""
    desk = Desk(is_needed=False, replies={Finished: STOP})
    assert ["step", "step", "Finished"] == desk.run(ready(max_tokens=2))


def test_the_first_step_waits_for_the_grant() -> None:
    """One wish, however much else comes in before the grant, and no step before it."""
    desk = Desk(replies={Finished: [[], [Shutdown()]]})
    trace = desk.run(ready(1), ready(2), Cancel(77), ALONE)
    assert ["LeaseWanted", "step", "Finished", "Finished"] == trace


def test_without_the_lease_it_waits() -> None:
    """It makes no step on the strength of having work, before the first grant or after a turn."""
    desk = Desk(late=[CONTENDED, ALONE], replies={Finished: STOP})
    turn = ["LeaseWanted", "waits", "step", "step", "step", "quiesce", "LeaseReleased"]
    assert [*turn, "waits", "step", "Finished"] == desk.run(ready(max_tokens=4))


def test_alone_it_asks_once() -> None:
    """After the first grant no frame about the lease travels, idle times or not."""
    desk = Desk(replies={LeaseWanted: [[ALONE]], Finished: [[ready(2, 3)], [ready(3)], *STOP]})
    trace = desk.run(ready(1, 4))
    assert 1 == trace.count("LeaseWanted")
    assert "LeaseReleased" not in trace
    assert 8 == trace.count("step")


def test_a_cancel_is_heard_while_it_waits() -> None:
    """The answer comes at once, before any grant, and the shutdown after it too."""
    desk = Desk()
    assert ["LeaseWanted", "Finished"] == desk.run(ready(5), Cancel(5), Shutdown())
    finished = desk.sent[-1]
    assert isinstance(finished, Finished)
    assert (5, "cancelled") == (finished.sequence, finished.reason)


def test_a_running_request_is_cancelled_while_another_worker_computes() -> None:
    """It held the lease, handed it over in mid-request, and hears the cancel without it."""
    desk = Desk(replies={LeaseWanted: [[CONTENDED]], LeaseReleased: [[Cancel(1)]], Finished: STOP})
    trace = desk.run(ready(1, 100))
    assert ["LeaseWanted", *["step"] * 3, "quiesce", "LeaseReleased", "Finished"] == trace


def test_shutdown_is_heard_while_it_waits() -> None:
    """It ends without a step, though there is work."""
    assert ["LeaseWanted"] == Desk().run(ready(), Shutdown())


def test_it_hands_over_between_steps_when_its_slice_is_over() -> None:
    """Three steps of 20 ms in a slice of 50; the device is quiet before the daemon hears of it."""
    desk = Desk(replies={LeaseWanted: [[CONTENDED]], LeaseReleased: [[ALONE]], Finished: STOP})
    turn = ["step", "step", "step", "quiesce", "LeaseReleased"]
    assert ["LeaseWanted", *turn, "step", "step", "Finished"] == desk.run(ready(max_tokens=5))
    assert LeaseReleased(wants_more=True) in desk.sent


def test_asked_back_after_its_slice_it_makes_no_further_step() -> None:
    """Whoever comes waits for one step of a worker that has had the device for long."""
    clock = Clock()
    lease = WorkerLease(is_needed=True, quiesce=lambda: None, clock=clock)
    lease.take(ALONE)
    clock.now_s = 10 * SLICE_S
    assert [] == lease.turn(has_work=True)
    lease.take(LeaseWantedBack())
    assert [LeaseReleased(wants_more=True)] == lease.turn(has_work=True)
    assert not lease.is_held


def test_idle_it_hands_over_at_once() -> None:
    """Nothing to do: the slice does not matter, and nothing more is wanted."""
    desk = Desk(
        replies={LeaseWanted: [[ALONE]], Finished: [[LeaseWantedBack()]], LeaseReleased: STOP}
    )
    assert ["LeaseWanted", "step", "Finished", "quiesce", "LeaseReleased"] == desk.run(ready())
    assert LeaseReleased(wants_more=False) == desk.sent[-1]


def test_a_grant_that_comes_after_the_cancel_is_passed_on() -> None:
    """The wish cannot be taken back; the grant is released unused if others wait for it."""
    desk = Desk(replies={LeaseReleased: STOP})
    trace = desk.run(ready(1), Cancel(1), CONTENDED)
    assert ["LeaseWanted", "Finished", "quiesce", "LeaseReleased"] == trace
    assert LeaseReleased(wants_more=False) == desk.sent[-1]


def test_an_uncontended_grant_for_nothing_is_kept() -> None:
    """Holding while idle is fine: the next request starts without asking."""
    desk = Desk(replies={Finished: [[], *STOP]})
    trace = desk.run(ready(1), Cancel(1), ALONE, ready(2))
    assert ["LeaseWanted", "Finished", "step", "Finished"] == trace


def test_being_asked_back_what_it_has_not_changes_nothing() -> None:
    """A stray asking back does not stick to the next grant."""
    clock = Clock()
    lease = WorkerLease(is_needed=True, quiesce=lambda: None, clock=clock)
    assert [LeaseWanted()] == lease.turn(has_work=True)
    lease.take(LeaseWantedBack())
    lease.take(ALONE)
    clock.now_s = 10 * SLICE_S
    assert [] == lease.turn(has_work=True)
    assert lease.is_held


class Party:
    """A worker's lease with its own pipe to the daemon: frames arrive when the test says so."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.lease = WorkerLease(is_needed=True, quiesce=lambda: None, clock=clock)
        self.up: deque[LeaseEvent] = deque()
        self.down: deque[LeaseCommand] = deque()
        self.has_work = False
        self.steps = 0

    def act(self) -> None:
        """One round of the engine thread, if nothing is in its inbox."""
        self.up += self.lease.turn(has_work=self.has_work)
        if self.lease.is_held and self.has_work:
            self.steps += 1


class Crossing:
    """Several workers and a daemon with frames on their way in both directions."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        self.parties = [Party(self.clock) for _ in range(count)]
        self._state = LeaseState(SLICE_S)

    def move(self, action: str, number: int) -> None:
        party = self.parties[number]
        if action == "work":
            party.has_work = not party.has_work
        elif action == "up" and party.up:
            self._hear(number, party.up.popleft())
        elif action == "down" and party.down:
            party.lease.take(party.down.popleft())
        elif action == "act":
            self.clock.now_s += STEP_S
            party.act()
        assert sum(party.lease.is_held for party in self.parties) <= 1

    def _hear(self, number: int, event: LeaseEvent) -> None:
        now_s = self.clock.now_s
        if isinstance(event, LeaseWanted):
            self._tell(self._state.want(number, now_s))
        else:
            self._tell(self._state.release(number, now_s, wants_more=event.wants_more))

    def _tell(self, orders: list[Order]) -> None:
        for order in orders:
            self.parties[order.claimant].down.append(
                LeaseGranted(order.slice_s, order.is_contended)
                if isinstance(order, Grant)
                else LeaseWantedBack()
            )


@given(
    st.integers(2, 3),
    st.lists(
        st.tuples(st.sampled_from(["work", "up", "down", "act"]), st.integers(0, 2)), max_size=80
    ),
)
def test_whatever_crosses_on_the_wire_one_computes_and_all_get_to(
    count: int, moves: list[tuple[str, int]]
) -> None:
    """However frames are delayed, no claim is refused, no two hold it, and everybody steps."""
    crossing = Crossing(count)
    for action, number in moves:
        crossing.move(action, number % count)
    for party in crossing.parties:
        party.has_work = True
        party.steps = 0
    for _ in range(100):
        for number in range(count):
            for action in ("down", "act", "up"):
                crossing.move(action, number)
    assert all(party.steps > 0 for party in crossing.parties)


def test_intervals_are_appended_whole(tmp_path: Path) -> None:
    """Several logs share a file; each line is process, start, end and kind, also after an error."""
    path = tmp_path / "intervals"
    first, second = IntervalLog(str(path)), IntervalLog(str(path))
    with first.interval("load"):
        pass
    with pytest.raises(ValueError, match="x"), second.interval("step"):
        raise ValueError("x")
    lines = [line.split() for line in path.read_text().splitlines()]
    assert [(str(os.getpid()), "load"), (str(os.getpid()), "step")] == [
        (line[0], line[3]) for line in lines
    ]
    times = [float(time) for line in lines for time in line[1:3]]
    assert sorted(times) == times


def test_without_a_file_nothing_is_written(tmp_path: Path) -> None:
    """The log is off by default."""
    with IntervalLog(None).interval("step"):
        pass
    assert [] == list(tmp_path.iterdir())
