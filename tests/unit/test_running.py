"""Requests under way can be seen and ended, whatever they are waiting for."""

from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.daemon.dispatch import reply_error
from lmx.daemon.origin import Origin
from lmx.daemon.running import NAME_LIMIT, Occupancy, RunningRequest
from lmx.errors import RequestCancelled
from lmx.protocol.messages import Cancel, Started
from tests.fakes import Bench, delta, finished, generate, open_bench


class Client:
    """A request with an id, and what its sender was told."""

    def __init__(self, bench: Bench, request_id: str = "req_1", *, count: int = 1) -> None:
        self.bench = bench
        self.origin = Origin(request_id, "laptop", "/v1/chat/completions")
        self.count = count
        self.told = ""

    async def run(self, model_name: str = "m") -> None:
        bench, prompt = self.bench, generate(self.count)
        try:
            async with bench.dispatch.open(
                prompt, model_name=model_name, origin=self.origin
            ) as reply:
                while not reply.is_over:
                    await reply.choices[0].wait_change()
                error = reply_error(reply.choices[0])
                if error is not None:
                    raise error
                self.told = "answered"
        except RequestCancelled as error:
            self.told = error.code


async def start(bench: Bench, nursery: trio.Nursery, *request_ids: str) -> list[Client]:
    """Clients whose requests the worker has heard of, in order."""
    clients = [Client(bench, request_id) for request_id in request_ids]
    for client in clients:
        nursery.start_soon(client.run)
        await wait_all_tasks_blocked()
    return clients


async def say(bench: Bench, *events: Started) -> None:
    """The worker speaks, and everybody has heard it."""
    bench.worker.send(*events)
    await wait_all_tasks_blocked()


def states(bench: Bench) -> list[str]:
    """Of all requests, in order of arrival."""
    return [request.state for request in bench.dispatch.running]


async def test_a_request_is_shown_from_its_coming_to_its_end(autojump_clock: MockClock) -> None:
    """Waiting, prefill, decoding, gone; with its tokens and its speed as they come."""
    async with open_bench() as (bench, requests):
        (client,) = await start(bench, requests, "req_1")
        assert ["waiting"] == states(bench)
        await say(bench, Started(1, 7))
        assert ["prefill"] == states(bench)
        await trio.sleep(2)
        for _ in range(3):
            await say(bench, delta(1, "x"))
            await trio.sleep(0.5)
        (shown,) = bench.dispatch.running
        assert (
            RunningRequest(
                request_id="req_1",
                model_id="m",
                client="laptop",
                route="/v1/chat/completions",
                state="decoding",
                received_at=shown.received_at,
                age_s=3.5,
                prompt_tokens=7,
                completion_tokens=3,
                tokens_per_second=2.0,
            )
            == shown
        )
        await say(bench, finished(1))
        assert ([], "answered") == (states(bench), client.told)


async def test_who_has_no_slot_waits() -> None:
    """Slots go in order of arrival, and who has spoken has one; the rest wait."""
    async with open_bench(slots=2, max_waiting=4) as (bench, requests):
        await start(bench, requests, "a", "b", "c")
        for number in (1, 2, 3):
            await say(bench, Started(number, 1))
        assert ["prefill", "prefill", "waiting"] == states(bench)
        assert {"m": Occupancy(2, 1)} == bench.dispatch.occupancy
        await say(bench, finished(1))
        assert ["prefill", "prefill"] == states(bench)
        await say(bench, delta(3, "x"))
        assert ["prefill", "decoding"] == states(bench)
        requests.cancel_scope.cancel()


async def test_choices_take_slots_together() -> None:
    """A request of two choices waits until both have room."""
    async with open_bench(slots=2, max_waiting=4) as (bench, requests):
        await start(bench, requests, "a")
        requests.start_soon(Client(bench, "b", count=2).run)
        await wait_all_tasks_blocked()
        for number in (1, 2, 3):
            await say(bench, Started(number, 1))
        assert ["prefill", "waiting"] == states(bench)
        requests.cancel_scope.cancel()


async def test_one_that_waits_for_a_model_can_be_ended() -> None:
    """It is shown under the name it asked for, is told why it ends, and was never admitted."""
    async with open_bench() as (bench, requests):
        bench.loader.may_route = trio.Event()
        client = Client(bench)
        requests.start_soon(partial(client.run, "asked-for"))
        await wait_all_tasks_blocked()
        assert [("asked-for", "waiting")] == [
            (request.model_id, request.state) for request in bench.dispatch.running
        ]
        assert bench.dispatch.cancel("req_1")
        await wait_all_tasks_blocked()
        now = bench.telemetry.statistics()
        assert ("cancelled", []) == (client.told, bench.dispatch.running)
        assert (1, 1, 0, 0) == (now.received, now.refused, now.waiting, now.admitted)


async def test_one_that_is_ended_as_its_model_comes_is_ended() -> None:
    """The model is there in the same moment: the request still ends, and holds nothing."""
    async with open_bench() as (bench, requests):
        bench.loader.may_route = trio.Event()
        client = Client(bench)
        requests.start_soon(client.run)
        await wait_all_tasks_blocked()
        bench.loader.may_route.set()
        assert bench.dispatch.cancel("req_1")
        await wait_all_tasks_blocked()
        assert "cancelled" == client.told
        bench.check(open_count=0)


@pytest.mark.parametrize("said", [[], [Started(1, 3)], [Started(1, 3), delta(1, "x")]])
async def test_one_that_uses_a_worker_can_be_ended(said: list[Started]) -> None:
    """Unstarted, in prefill or decoding: worker and client are told, and the place is free."""
    async with open_bench(slots=1, max_waiting=0) as (bench, requests):
        (client,) = await start(bench, requests, "req_1")
        await say(bench, *said)
        assert bench.dispatch.cancel("req_1")
        await wait_all_tasks_blocked()
        assert "cancelled" == client.told
        assert (0, 0, 1, 0) == bench.counts
        bench.check(open_count=0)
        assert [Cancel(1)] == [c for c in bench.worker.commands() if isinstance(c, Cancel)]
        assert ["cancelled"] == bench.telemetry.of("request_completed", "code")
        assert ["cancelled"] == bench.telemetry.of("request_completed", "finish_reason")
        (next_client,) = await start(bench, requests, "req_2")
        await say(bench, Started(2, 1), finished(2))
        assert "answered" == next_client.told


async def test_all_replies_of_an_id_are_ended() -> None:
    """A completion of several prompts is several requests with one id; others go on."""
    async with open_bench() as (bench, requests):
        clients = await start(bench, requests, "same", "other", "same")
        assert bench.dispatch.cancel("same")
        await wait_all_tasks_blocked()
        assert ["cancelled", "", "cancelled"] == [client.told for client in clients]
        assert ["other"] == [request.request_id for request in bench.dispatch.running]
        requests.cancel_scope.cancel()


async def test_nobody_is_ended_twice_or_by_a_wrong_id() -> None:
    """An id that no running request has ends nothing and says so."""
    async with open_bench() as (bench, requests):
        await start(bench, requests, "req_1")
        assert not bench.dispatch.cancel("req_2")
        assert bench.dispatch.cancel("req_1")
        await wait_all_tasks_blocked()
        assert not bench.dispatch.cancel("req_1")
        assert 1 == len(bench.telemetry.all_of("request_completed"))


async def test_a_name_of_any_length_is_kept_short() -> None:
    """What a client calls a model is shown to so many characters until the model is known."""
    async with open_bench() as (bench, requests):
        bench.loader.may_route = trio.Event()
        requests.start_soon(partial(Client(bench).run, "x" * 9999))
        await wait_all_tasks_blocked()
        assert ["x" * NAME_LIMIT] == [request.model_id for request in bench.dispatch.running]
        requests.cancel_scope.cancel()


async def test_the_clock_starts_where_the_request_came(autojump_clock: MockClock) -> None:
    """Reading a body takes time that counts: the age is since the head, not since the opening."""
    async with open_bench() as (bench, requests):
        received_s = trio.current_time()
        await trio.sleep(3)
        client = Client(bench)
        client.origin = Origin("req_1", received_s=received_s)
        requests.start_soon(client.run)
        await wait_all_tasks_blocked()
        assert [3.0] == [request.age_s for request in bench.dispatch.running]
        requests.cancel_scope.cancel()
