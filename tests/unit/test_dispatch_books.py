"""Whatever the schedule of arrivals, events, hang-ups and deaths, the books agree."""

from functools import partial

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from lmx.daemon.dispatch import reply_error
from lmx.daemon.origin import Origin
from lmx.errors import Draining, LmxError, QueueFull, RequestCancelled
from lmx.protocol.messages import Rejected, Started
from tests.fakes import Bench, delta, finished, generate, open_bench

REJECTED_CODE = "context_length_exceeded"


# What an end is called that a client took for this outcome.
END_REASONS = {
    "completed": "stop",
    "failed": "error",
    "refused": "error",
    "cancelled": "cancelled",
}


class Client:
    """One request of the random schedule, and what became of it."""

    def __init__(self, request_id: str) -> None:
        self.origin = Origin(request_id)
        self.scope = trio.CancelScope()
        self.outcome = ""  # empty while it is open
        self.stage = "new"  # as the worker knows it: new, started, over

    async def run(self, bench: Bench) -> None:
        with self.scope:
            try:
                async with bench.dispatch.open(
                    generate(), model_name="m", origin=self.origin
                ) as reply:
                    while not reply.choices[0].is_over:
                        await reply.choices[0].wait_change()
                    error = reply_error(reply.choices[0])
                    if error is not None:
                        raise error
                self.outcome = "completed"
            except RequestCancelled:
                self.outcome = "cancelled"
            except (QueueFull, Draining):
                self.outcome = "refused"
            except LmxError:
                self.outcome = "failed"
        if self.scope.cancelled_caught:
            self.outcome = "cancelled"


class Schedule:
    """Plays random operations against a bench and compares the books after each."""

    def __init__(self, bench: Bench, nursery: trio.Nursery) -> None:
        self.bench = bench
        self.clients: list[Client] = []  # of those the worker has heard of, in its numbering
        self.everybody: list[Client] = []  # the refused ones, too
        self.refused_count = 0
        self.is_dead = False
        self._nursery = nursery

    async def play(self, operation: str, at: int) -> None:
        if operation == "admit":
            await self._admit()
        elif operation == "die":
            self.bench.worker.die()
            self.is_dead = True
        elif self.clients:
            number = at % len(self.clients) + 1
            client = self.clients[number - 1]
            if operation == "cancel":
                client.scope.cancel()
            elif operation == "end":
                self.bench.dispatch.cancel(client.origin.request_id)
            elif not self.is_dead:
                self._speak(operation, client, number)
        await wait_all_tasks_blocked()
        self.compare()

    async def _admit(self) -> None:
        client = Client(f"req_{len(self.everybody)}")
        self.everybody.append(client)
        self._nursery.start_soon(client.run, self.bench)
        await wait_all_tasks_blocked()
        if client.outcome == "refused":
            self.refused_count += 1
        else:
            self.clients.append(client)

    def _speak(self, operation: str, client: Client, number: int) -> None:
        """Say something the grammar allows; a cancelled client makes no difference to it."""
        send = self.bench.worker.send
        if operation == "start" and client.stage == "new":
            send(Started(number, 3))
            client.stage = "started"
        elif operation == "reject" and client.stage == "new":
            send(Rejected(number, REJECTED_CODE, "no"))
            client.stage = "over"
        elif operation == "deliver" and client.stage == "started":
            send(delta(number, "x"))
        elif operation in {"stop", "error"} and client.stage == "started":
            send(finished(number, "stop" if operation == "stop" else "error"))
            client.stage = "over"

    def compare(self) -> None:
        outcomes = [client.outcome for client in self.clients]
        expected = (
            outcomes.count("completed"),
            outcomes.count("failed"),
            outcomes.count("cancelled"),
            outcomes.count(""),
        )
        assert expected == self.bench.counts
        assert len(self.clients) == self.bench.telemetry.admitted
        self.bench.check(open_count=outcomes.count(""))
        self._compare_refused()
        self._compare_events()

    def _compare_refused(self) -> None:
        """Received = refused + waiting for a model + admitted; nobody waits in this schedule."""
        now = self.bench.telemetry.statistics()
        expected = (len(self.everybody), self.refused_count, 0)
        assert expected == (now.received, now.refused, now.waiting)

    def _compare_events(self) -> None:
        """Everyone was told to have come; each that has ended to have ended so, and once."""
        told = self.bench.telemetry
        ids = [client.origin.request_id for client in self.everybody]
        assert ids == told.of("request_received", "request_id")
        ends = {client.origin.request_id: END_REASONS[client.outcome] for client in self.ended}
        reasons = [(e["request_id"], e["finish_reason"]) for e in told.all_of("request_completed")]
        assert sorted(ends.items()) == sorted(reasons)
        running = [request.request_id for request in self.bench.dispatch.running]
        assert [one for one in ids if one not in ends] == running

    @property
    def ended(self) -> list[Client]:
        return [client for client in self.everybody if client.outcome]


OPERATIONS = st.tuples(
    st.sampled_from(
        ["admit"] * 4
        + ["start"] * 4
        + ["deliver", "stop", "stop", "error", "reject", "cancel", "end"]
    )
    | st.sampled_from(["admit", "start", "cancel", "end", "die"]),
    st.integers(0, 20),
)


async def run_schedule(operations: list[tuple[str, int]]) -> None:
    """Play the operations, then cancel what is left; at the end every book is closed."""
    async with open_bench(slots=2, max_waiting=2) as (bench, requests):
        schedule = Schedule(bench, requests)
        for operation, at in operations:
            await schedule.play(operation, at)
        for client in schedule.clients:
            client.scope.cancel()
        await wait_all_tasks_blocked()
        schedule.compare()
        assert 0 == bench.dispatch.in_flight
        assert len(schedule.clients) == sum(bench.counts[:3])


@settings(max_examples=150)
@given(st.lists(OPERATIONS, max_size=25))
def test_the_books_agree_over_any_schedule(operations: list[tuple[str, int]]) -> None:
    """Admitted = completed + failed + cancelled + in flight, as every client saw it."""
    trio.run(partial(run_schedule, operations))
