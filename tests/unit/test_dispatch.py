"""Every admitted request ends exactly once, and whatever ends it, the books agree."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lmx.daemon.dispatch import reply_error
from lmx.daemon.model import Model
from lmx.daemon.reply import ReplyStream
from lmx.errors import (
    ContextTooLong,
    Draining,
    LmxError,
    OutOfMemory,
    QueueFull,
    WorkerBroken,
    WorkerClosed,
)
from lmx.protocol.messages import Cancel, Finished, Generate, Rejected, Started
from lmx.protocol.values import Timings
from tests.fakes import USAGE, delta, finished, generate, open_bench

REJECTED_CODE = "context_length_exceeded"


async def test_a_request_that_completes() -> None:
    """The block is entered with the start, text arrives, and the books are closed."""
    async with open_bench() as (bench, requests):
        told: list[str] = []
        requests.start_soon(bench.ask, told)
        await wait_all_tasks_blocked()
        bench.check(open_count=1)
        bench.worker.send(Started(1, 3), delta(1, "a"), delta(1, "b"), finished(1))
        await wait_all_tasks_blocked()
        assert ["ab"] == told
        assert (1, 0, 0, 0) == bench.counts
        bench.check(open_count=0)
        now = bench.telemetry.statistics()
        assert (USAGE.prompt_tokens, USAGE.completion_tokens) == (
            now.prompt_tokens,
            now.completion_tokens,
        )
        assert ["Generate"] == [type(c).__name__ for c in bench.worker.commands()]


async def test_the_block_is_entered_only_when_the_worker_has_started() -> None:
    """Before the first event there is no reply, so the status line is still open."""
    async with open_bench() as (bench, requests):
        entered = trio.Event()

        async def ask() -> None:
            async with bench.dispatch.open(generate(), model_name="m") as reply:
                assert ("m", Started(1, 3)) == (reply.model_id, reply.started)
                entered.set()

        requests.start_soon(ask)
        await wait_all_tasks_blocked()
        assert not entered.is_set()
        bench.worker.send(Started(1, 3))
        await wait_all_tasks_blocked()
        assert entered.is_set()


async def test_leaving_early_cancels_once() -> None:
    """Leaving the block before the end tells the worker once and counts as cancelled."""
    async with open_bench() as (bench, _):
        bench.worker.send(Started(1, 3))
        async with bench.dispatch.open(generate(), model_name="m"):
            bench.worker.commands()
        assert [Cancel(1)] == bench.worker.commands()
        assert (0, 0, 1, 0) == bench.counts


async def test_an_error_inside_the_block_cancels_and_passes() -> None:
    """A route that fails leaves nothing running."""
    async with open_bench() as (bench, _):
        bench.worker.send(Started(1, 3))
        with pytest.raises(ValueError, match="mine"):
            async with bench.dispatch.open(generate(), model_name="m"):
                raise ValueError("mine")
        assert [Generate, Cancel] == [type(c) for c in bench.worker.commands()]
        bench.check(open_count=0)


@pytest.mark.parametrize("is_started", [False, True])
async def test_a_disconnect_frees_the_place(is_started: bool) -> None:  # noqa: FBT001
    """Cancellation, before the start or after, cancels in the worker and closes the books."""
    async with open_bench() as (bench, requests):
        requests.start_soon(bench.ask)
        await wait_all_tasks_blocked()
        if is_started:
            bench.worker.send(Started(1, 3), delta(1, "a"))
            await wait_all_tasks_blocked()
        requests.cancel_scope.cancel()
    assert [Generate, Cancel] == [type(c) for c in bench.worker.commands()]
    assert (0, 0, 1, 0) == bench.counts
    bench.check(open_count=0)


async def test_a_rejection_is_raised_before_the_block() -> None:
    """A refused request raises its error and counts as failed."""
    async with open_bench() as (bench, _):
        bench.worker.send(Rejected(1, REJECTED_CODE, "too long", "messages"))
        with pytest.raises(ContextTooLong):
            await bench.ask()
        assert (0, 1, 0, 0) == bench.counts


async def test_a_worker_that_dies_before_the_start() -> None:
    """The request raises what the worker died of."""
    async with open_bench() as (bench, _):
        bench.worker.die()
        with pytest.raises(WorkerBroken):
            await bench.ask()
        with pytest.raises(WorkerBroken):
            await bench.ask()
        assert (0, 2, 0, 0) == bench.counts
        bench.check(open_count=0)


async def test_a_worker_that_dies_later_ends_the_stream_with_its_error() -> None:
    """After the start a death is told in band."""
    async with open_bench() as (bench, _):
        bench.worker.send(Started(1, 3), delta(1, "half"))
        async with bench.dispatch.open(generate(), model_name="m") as reply:
            bench.worker.die()
            await wait_all_tasks_blocked()
            assert isinstance(reply_error(reply.choices[0]), WorkerBroken)
            assert "half" == reply.choices[0].take_text()
        assert (0, 1, 0, 0) == bench.counts


async def test_a_full_queue_refuses_without_counting() -> None:
    """A request that was never admitted is in no book."""
    async with open_bench(slots=1, max_waiting=0) as (bench, requests):
        requests.start_soon(bench.ask)
        await wait_all_tasks_blocked()
        with pytest.raises(QueueFull):
            await bench.ask()
        bench.check(open_count=1)
        requests.cancel_scope.cancel()


async def test_a_model_unloaded_at_the_last_moment() -> None:
    """A model without a worker refuses the request and nothing is counted."""
    async with open_bench() as (bench, _):
        bench.loader.model = Model(bench.model.spec)
        with pytest.raises(WorkerClosed):
            await bench.ask()
        assert (0, 0, 0, 0) == bench.counts


async def test_draining_refuses_and_waits() -> None:
    """After `drain` new requests are refused, running ones finish, and then it is idle."""
    async with open_bench() as (bench, requests):
        requests.start_soon(bench.ask)
        await wait_all_tasks_blocked()
        bench.dispatch.drain()
        requests.start_soon(bench.dispatch.wait_idle)
        with pytest.raises(Draining) as caught:
            await bench.ask()
        assert caught.value.retry_after_s is not None
        await wait_all_tasks_blocked()
        assert 2 == len(requests.child_tasks)
        bench.worker.send(Started(1, 3), finished(1))
        await wait_all_tasks_blocked()
        assert 0 == len(requests.child_tasks)
        assert (1, 0, 0, 0) == bench.counts


async def test_draining_when_idle_is_idle_at_once() -> None:
    """With nothing running there is nothing to wait for."""
    async with open_bench() as (bench, _):
        bench.dispatch.drain()
        await bench.dispatch.wait_idle()


async def test_a_request_that_waits_for_its_model_is_refused_by_a_drain() -> None:
    """A drain that begins during the wait for a load still refuses the request."""
    async with open_bench() as (bench, requests):
        refused: list[Exception] = []

        async def ask() -> None:
            try:
                await bench.ask()
            except Draining as error:
                refused.append(error)

        bench.loader.may_route = trio.Event()
        requests.start_soon(ask)
        await wait_all_tasks_blocked()
        bench.dispatch.drain()
        bench.loader.may_route.set()
        await wait_all_tasks_blocked()
        assert 1 == len(refused)
        assert (0, 0, 0, 0) == bench.counts


async def test_revoking_tells_every_client_why() -> None:
    """At the end of a drain running replies end with an error, and the worker is told."""
    async with open_bench() as (bench, _):
        bench.worker.send(Started(1, 3))
        async with bench.dispatch.open(generate(), model_name="m") as reply:
            bench.dispatch.drain()
            bench.dispatch.revoke()
            assert isinstance(reply_error(reply.choices[0]), Draining)
        await bench.dispatch.wait_idle()
        assert [Generate, Cancel] == [type(c) for c in bench.worker.commands()]
        assert (0, 1, 0, 0) == bench.counts


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (finished(1), type(None)),
        (finished(1, "length"), type(None)),
        (Finished(1, "error", USAGE, Timings(), "oom-unloaded", "no room"), OutOfMemory),
        (Finished(1, "error", USAGE, Timings(), None, "odd"), LmxError),
        (Finished(1, "error", USAGE, Timings()), LmxError),
    ],
)
def test_why_a_reply_ended_badly(end: Finished, kind: type) -> None:
    """The worker's code comes back as its error; a good end has none."""
    reply = ReplyStream(1)
    assert None is reply_error(reply)
    reply.deliver(Started(1, 3))
    reply.deliver(end)
    error = reply_error(reply)
    assert kind is type(error)
    assert error is None or error.message == (end.message or "the generation failed")
