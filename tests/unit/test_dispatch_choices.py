"""Requests for several choices are one request in the books; inspections are in none."""

import pytest
from trio.testing import wait_all_tasks_blocked

from lmx.daemon.model import Model
from lmx.errors import ContextTooLong, Draining, InvalidRequest, QueueFull, WorkerClosed
from lmx.protocol.messages import Cancel, Generate, Inspected, Rejected, Started, TextPrompt
from lmx.protocol.values import Usage
from tests.fakes import USAGE, Bench, delta, finished, generate, open_bench

PROMPT = TextPrompt("Hi")


def places_of(bench: Bench) -> int:
    """Places taken in the model's admission."""
    ready = bench.model.ready
    assert ready is not None
    return ready.admission.in_flight


async def test_every_choice_takes_a_place_until_it_ends() -> None:
    """A place is free again as soon as its choice has ended, though the request goes on."""
    async with open_bench() as (bench, _):
        bench.worker.send(*[Started(number, 3) for number in (1, 2, 3)])
        async with bench.dispatch.open(generate(3), model_name="m") as reply:
            assert (3, 3) == (places_of(bench), len(reply.choices))
            bench.worker.send(delta(2, "b"), finished(2))
            await wait_all_tasks_blocked()
            assert (2, False, [USAGE]) == (places_of(bench), reply.is_over, reply.usages)
            bench.worker.send(finished(1), finished(3))
            await wait_all_tasks_blocked()
            assert (0, True, [USAGE] * 3) == (places_of(bench), reply.is_over, reply.usages)
        assert (1, 0, 0, 0) == bench.counts
        bench.check(open_count=0)


async def test_choices_share_one_admission_decision() -> None:
    """All are admitted or none: a request too large for what is left takes no place."""
    async with open_bench(slots=2, max_waiting=1) as (bench, requests):
        requests.start_soon(bench.ask)
        await wait_all_tasks_blocked()
        with pytest.raises(QueueFull):
            async with bench.dispatch.open(generate(3), model_name="m"):
                pass
        assert 1 == places_of(bench)
        assert 1 == bench.telemetry.admitted
        assert [Generate] == [type(command) for command in bench.worker.commands()]
        requests.cancel_scope.cancel()


async def test_tokens_are_counted_over_all_choices_and_the_prompt_once() -> None:
    """Answers add up; the prompt was computed once."""
    async with open_bench() as (bench, _):
        bench.worker.send(Started(1, 3), Started(2, 3), finished(1), finished(2))
        async with bench.dispatch.open(generate(2), model_name="m"):
            await wait_all_tasks_blocked()
        now = bench.telemetry.statistics()
        expected = Usage(USAGE.prompt_tokens, 2 * USAGE.completion_tokens)
        assert expected == Usage(now.prompt_tokens, now.completion_tokens)


async def test_the_block_is_entered_when_every_choice_has_started() -> None:
    """One choice's start says nothing about the others."""
    async with open_bench() as (bench, requests):
        entered: list[Started] = []

        async def ask() -> None:
            async with bench.dispatch.open(generate(2), model_name="m") as reply:
                entered.append(reply.started)

        requests.start_soon(ask)
        await wait_all_tasks_blocked()
        bench.worker.send(Started(1, 3))
        await wait_all_tasks_blocked()
        assert [] == entered
        bench.worker.send(Started(2, 3))
        await wait_all_tasks_blocked()
        assert [Started(1, 3)] == entered


async def test_a_rejection_of_all_choices_is_one_failure() -> None:
    """The request raises once, every place is given back, and nothing is cancelled."""
    async with open_bench() as (bench, _):
        code = "context_length_exceeded"
        bench.worker.send(*[Rejected(number, code, "too long") for number in (1, 2)])
        with pytest.raises(ContextTooLong):
            async with bench.dispatch.open(generate(2), model_name="m"):
                pass
        assert [Generate] == [type(command) for command in bench.worker.commands()]
        assert (0, 1, 0, 0) == bench.counts
        bench.check(open_count=0)


async def test_leaving_cancels_the_choices_that_still_run() -> None:
    """A choice that has ended needs no cancellation, and the request counts as cancelled."""
    async with open_bench() as (bench, _):
        bench.worker.send(*[Started(number, 3) for number in (1, 2, 3)])
        async with bench.dispatch.open(generate(3), model_name="m"):
            bench.worker.send(finished(2))
            await wait_all_tasks_blocked()
            bench.worker.commands()
        assert [Cancel(1), Cancel(3)] == bench.worker.commands()
        assert (0, 0, 1, 0) == bench.counts
        bench.check(open_count=0)


async def test_one_failed_choice_fails_the_request() -> None:
    """Failure outweighs cancellation, and that outweighs success."""
    async with open_bench() as (bench, _):
        bench.worker.send(*[Started(number, 3) for number in (1, 2, 3)])
        async with bench.dispatch.open(generate(3), model_name="m"):
            bench.worker.send(finished(1), finished(2, "error"))
            await wait_all_tasks_blocked()
        assert (0, 1, 0, 0) == bench.counts


async def test_revoking_ends_every_choice() -> None:
    """Each stream of a request hears that the daemon stops."""
    async with open_bench() as (bench, _):
        bench.worker.send(Started(1, 3), Started(2, 3))
        async with bench.dispatch.open(generate(2), model_name="m") as reply:
            bench.dispatch.drain()
            bench.dispatch.revoke()
            assert [Draining, Draining] == [type(choice.error) for choice in reply.choices]
        await bench.dispatch.wait_idle()
        assert (0, 1, 0, 0) == bench.counts


async def test_an_inspection_names_the_model_and_takes_no_place() -> None:
    """It is answered though the queue is full, and counts as no request."""
    answer = Inspected(2, "Hi", [72, 105], ["H", "i"])
    async with open_bench(slots=1, max_waiting=0) as (bench, requests):
        requests.start_soon(bench.ask)
        await wait_all_tasks_blocked()
        bench.worker.send(Started(1, 3))
        found: list[tuple[str, Inspected]] = []

        async def inspect() -> None:
            found.append(await bench.dispatch.inspect(PROMPT, model_name="m"))

        requests.start_soon(inspect)
        await wait_all_tasks_blocked()
        bench.worker.send(answer)
        await wait_all_tasks_blocked()
        assert [("m", answer)] == found
        assert 1 == bench.telemetry.admitted
        bench.check(open_count=1)
        requests.cancel_scope.cancel()


async def test_a_refused_inspection_is_raised() -> None:
    """The worker's reason reaches the asker."""
    async with open_bench() as (bench, requests):
        refused: list[InvalidRequest] = []

        async def inspect() -> None:
            try:
                await bench.dispatch.inspect(PROMPT, model_name="m")
            except InvalidRequest as error:
                refused.append(error)

        requests.start_soon(inspect)
        await wait_all_tasks_blocked()
        bench.worker.send(Rejected(1, "invalid-request", "no tokens", "prompt"))
        await wait_all_tasks_blocked()
        assert ["no tokens"] == [error.message for error in refused]
        assert (0, 0, 0, 0) == bench.counts


async def test_nothing_is_inspected_without_a_worker_or_in_a_drain() -> None:
    """A model that has just gone and a daemon that stops refuse at once."""
    async with open_bench() as (bench, _):
        bench.loader.model = Model(bench.model.spec)
        with pytest.raises(WorkerClosed):
            await bench.dispatch.inspect(PROMPT, model_name="m")
        bench.dispatch.drain()
        with pytest.raises(Draining):
            await bench.dispatch.inspect(PROMPT, model_name="m")
        assert [] == bench.worker.commands()
