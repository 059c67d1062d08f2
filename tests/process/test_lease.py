"""Real workers take turns on the device: they never compute at once, whatever befalls them."""

import os
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import psutil
import trio

from lmx.daemon.lease import Lease, LeaseSeat
from lmx.daemon.reply import ReplyStream
from lmx.daemon.worker import Worker, open_worker
from lmx.protocol.messages import Cancel, Generate, LeaseEvent, Load, Shutdown, TokenPrompt
from lmx.protocol.values import Sampling
from tests.chat_client import ChatClient, wait_until
from tests.daemon_process import open_daemon

SHARE_S = 3.0
SLICE_S = 0.05
STOP_GRACE_S = 0.1


class Interval(NamedTuple):
    """When a process computed, on the system's monotonic clock."""

    start_s: float
    end_s: float
    pid: int
    kind: str


def read_intervals(path: Path) -> list[Interval]:
    """What the workers wrote so far, in order of time."""
    if not path.exists():
        return []
    lines = (line.split() for line in path.read_text().splitlines())
    return sorted(
        Interval(float(start), float(end), int(pid), kind) for pid, start, end, kind in lines
    )


def overlaps(intervals: list[Interval]) -> list[tuple[Interval, Interval]]:
    """Pairs of neighbours in time that belong to different processes and were not apart."""
    return [(a, b) for a, b in pairwise(intervals) if a.pid != b.pid and b.start_s < a.end_s]


def turns(intervals: list[Interval]) -> int:
    """How often the device changed hands."""
    return sum(a.pid != b.pid for a, b in pairwise(intervals))


class Seated(NamedTuple):
    """A worker with its seat, and what it said of the lease."""

    worker: Worker
    seat: LeaseSeat
    said: list[LeaseEvent]

    def ask(self, tokens: int) -> ReplyStream:
        """A request for so many tokens."""
        request = Generate(0, TokenPrompt([104, 105]), [Sampling(tokens, ignore_eos=True)], [])
        (reply,) = self.worker.link.open_replies(request)
        return reply


@asynccontextmanager
async def open_seated(lease: Lease, name: str, log: Path) -> AsyncIterator[Seated]:
    """A loaded fake worker whose steps last 5 ms; leaving kills it and then ends its seat."""
    environment = {**os.environ, "LMX_LEASE_LOG": str(log)}
    async with (
        lease.seat(name) as seat,
        open_worker(environment=environment, stop_grace_s=STOP_GRACE_S) as worker,
    ):
        seat.connect(worker.link)
        said: list[LeaseEvent] = []
        hear = worker.link.on_lease

        def note(event: LeaseEvent) -> None:
            said.append(event)
            hear(event)

        worker.link.on_lease = note
        async with seat.for_load():
            load = Load("fake", "step_ms=5&context=100000", 4, lease=lease.is_exclusive)
            await worker.link.load(load)
        yield Seated(worker, seat, said)


def exclusive() -> Lease:
    """A lease that is taken in turns everywhere."""
    return Lease("exclusive", slice_s=SLICE_S)


async def wait_text(reply: ReplyStream) -> None:
    """Wait for the first token."""
    while not reply.take_text():
        await reply.wait_change()


async def wait_over(reply: ReplyStream) -> None:
    """Wait for the last event."""
    while not reply.is_over:
        await reply.wait_change()


async def test_two_models_of_a_daemon_never_compute_at_once_and_share_the_time(
    tmp_path: Path,
) -> None:
    """Two loads and two long streams: no overlap, and each gets its half within 20 %."""
    log = tmp_path / "intervals"
    settings = {"LMX_WORKER__LEASE": "exclusive", "LMX_LEASE_LOG": str(log)}
    models = [f"fake:{name}?step_ms=5&load_ms=200&tokens=3000" for name in ("one", "two")]
    async with open_daemon(tmp_path, *models, settings=settings) as daemon:
        await daemon.wait_ready()
        async with ChatClient(daemon) as client:
            with trio.move_on_after(SHARE_S):
                async with trio.open_nursery() as nursery:
                    for name in ("one", "two", "one", "two"):

                        async def stream(name: str) -> None:
                            await client.stream(model=name)

                        nursery.start_soon(stream, name)
        assert daemon.is_alive
    intervals = read_intervals(log)
    assert [] == overlaps(intervals)
    assert 2 == sum(interval.kind == "load" for interval in intervals)
    steps: dict[int, list[Interval]] = defaultdict(list)
    for interval in intervals:
        if interval.kind == "step":
            steps[interval.pid].append(interval)
    both_from_s = max(own[0].start_s for own in steps.values())
    both_to_s = min(own[-1].end_s for own in steps.values())
    shared_s = both_to_s - both_from_s
    used_s = [
        sum(i.end_s - i.start_s for i in own if both_from_s <= i.start_s and i.end_s <= both_to_s)
        for own in steps.values()
    ]
    assert 2 == len(used_s)
    assert shared_s > SHARE_S / 2
    assert all(0.4 < own_s / sum(used_s) < 0.6 for own_s in used_s)
    assert turns(intervals) > shared_s / SLICE_S / 2
    assert sum(used_s) > 0.7 * shared_s, "the device idles while it changes hands"


async def test_shared_workers_compute_together(tmp_path: Path) -> None:
    """The proof can fail: without turns the same streams overlap, and no frame is spent."""
    log = tmp_path / "intervals"
    lease = Lease("shared", slice_s=SLICE_S)
    with trio.fail_after(20):
        async with open_seated(lease, "a", log) as a, open_seated(lease, "b", log) as b:
            for reply in (a.ask(100), b.ask(100)):
                await wait_over(reply)
            assert [] == a.said == b.said
    assert overlaps(read_intervals(log))


async def test_a_worker_alone_asks_for_the_lease_once(tmp_path: Path) -> None:
    """Requests, pauses and further requests cost it no frame after the first grant."""
    with trio.fail_after(20):
        async with open_seated(exclusive(), "a", tmp_path / "intervals") as a:
            for tokens in (20, 1, 20):
                await wait_over(a.ask(tokens))
                await trio.sleep(0.05)
            assert 1 == len(a.said)
            assert a.seat.is_holding


async def test_an_idle_holder_hands_over_at_once(tmp_path: Path) -> None:
    """Its slice does not matter, because it has nothing to compute."""
    lease = Lease("exclusive", slice_s=10.0)
    log = tmp_path / "intervals"
    with trio.fail_after(9):
        async with open_seated(lease, "a", log) as a, open_seated(lease, "b", log) as b:
            await wait_over(a.ask(2))
            await wait_over(b.ask(2))
            await wait_over(a.ask(2))
            assert [] == lease.waiting
    assert [] == overlaps(read_intervals(log))


async def test_the_next_computes_only_when_a_stopped_holder_is_dead(tmp_path: Path) -> None:
    """A stopped process may go on at any time, so nobody else starts while it is there."""
    lease, log = exclusive(), tmp_path / "intervals"
    with trio.fail_after(20):
        async with open_seated(lease, "b", log) as b:
            async with open_seated(lease, "a", log) as a:
                await wait_text(a.ask(5000))
                os.kill(a.worker.pid, signal.SIGSTOP)
                reply = b.ask(5)
                await wait_until(lambda: b.seat.is_waiting)
                await trio.sleep(0.3)
                assert (True, "a", ["b"]) == (b.seat.is_waiting, lease.holder, lease.waiting)
                since_s = a.seat.asked_back_since_s
                assert since_s is not None
                assert trio.current_time() - since_s >= 0.3
                assert "" == reply.take_text()
                stopped = psutil.Process(a.worker.pid)
                assert psutil.STATUS_STOPPED == stopped.status()
                left_s = time.monotonic()
            assert not stopped.is_running()
            await wait_over(reply)
            first = min(
                i for i in read_intervals(log) if i.pid == b.worker.pid and i.kind == "step"
            )
            assert first.start_s >= left_s + STOP_GRACE_S  # SIGKILL comes after SIGTERM and this
    assert [] == overlaps(read_intervals(log))


async def test_a_holder_that_dies_in_a_step_gives_the_lease_back(tmp_path: Path) -> None:
    """The waiting worker goes on as soon as the dead one is reaped."""
    lease, log = exclusive(), tmp_path / "intervals"
    with trio.fail_after(20):
        async with open_seated(lease, "b", log) as b:
            async with open_seated(lease, "a", log) as a:
                await wait_text(a.ask(5000))
                reply = b.ask(50)
                await wait_until(lambda: b.seat.is_holding)
                await wait_until(lambda: a.seat.is_holding)
                os.kill(a.worker.pid, signal.SIGKILL)
                await a.worker.wait_ended()
                assert "a" == lease.holder
            await wait_over(reply)
            assert "b" == lease.holder


async def test_a_waiting_worker_hears_cancels_and_the_shutdown(tmp_path: Path) -> None:
    """Neither waits for the device that another worker has."""
    lease = Lease("exclusive", slice_s=10.0)
    log = tmp_path / "intervals"
    with trio.fail_after(9):
        async with open_seated(lease, "a", log) as a, open_seated(lease, "b", log) as b:
            await wait_text(a.ask(5000))
            cancelled, waiting = b.ask(5), b.ask(5)
            await waiting.wait_started()
            await wait_until(lambda: b.seat.is_waiting)
            b.worker.link.send(Cancel(cancelled.sequence))
            await wait_over(cancelled)
            assert cancelled.end is not None
            assert "cancelled" == cancelled.end.reason
            b.worker.link.send(Shutdown())
            ended = await b.worker.wait_ended()
            assert 0 == ended.status
            assert "a" == lease.holder
    assert not [i for i in read_intervals(log) if i.pid == b.worker.pid and i.kind == "step"]


async def test_a_load_waits_for_the_steps_of_others(tmp_path: Path) -> None:
    """A model that loads beside a running stream overlaps none of its steps."""
    lease, log = exclusive(), tmp_path / "intervals"
    with trio.fail_after(20):
        async with open_seated(lease, "a", log) as a:
            reply = a.ask(5000)
            await wait_text(reply)
            async with open_seated(lease, "b", log) as b:
                await wait_text(reply)
                await wait_over(b.ask(10))
    intervals = read_intervals(log)
    assert [] == overlaps(intervals)
    assert ["load", "load"] == [i.kind for i in intervals if i.kind == "load"]
