"""What is told of a request, and where its time and its tokens are counted."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lmx.daemon.clients import ClientCounts
from lmx.daemon.origin import Origin
from lmx.daemon.telemetry import NO_MODEL
from lmx.errors import LmxError, QueueFull
from lmx.protocol.messages import Finished, Started
from lmx.protocol.values import Timings, Usage
from tests.fakes import Bench, delta, generate, open_bench

ORIGIN = Origin("req_1", "laptop", "/v1/chat/completions")
TIMINGS = Timings(queue_s=0.5, prefill_s=1.0, decode_s=2.0)


async def ask(bench: Bench, told: list[str], origin: Origin = ORIGIN) -> None:
    """A request read to its end; what it ends with goes into `told`."""
    try:
        async with bench.dispatch.open(generate(), model_name="M", origin=origin) as reply:
            while not reply.is_over:
                await reply.choices[0].wait_change()
        told.append("")
    except LmxError as error:
        told.append(error.code)


async def answer(bench: Bench) -> None:
    """Started after a second; three texts, half a second apart; an end that had no text."""
    await wait_all_tasks_blocked()
    await trio.sleep(1)
    bench.worker.send(Started(1, 7))
    await trio.sleep(1.5)
    for _ in range(3):
        bench.worker.send(delta(1, "x"))
        await trio.sleep(0.5)
    bench.worker.send(Finished(1, "stop", Usage(7, 4, cached_tokens=5), TIMINGS))
    await wait_all_tasks_blocked()


async def test_an_answered_request_is_told_with_its_numbers(autojump_clock: MockClock) -> None:
    """It came, it started, it ended: each once, with the numbers that a client would measure."""
    async with open_bench() as (bench, requests):
        requests.start_soon(ask, bench, [])
        await answer(bench)
        told = bench.telemetry
        shared = {"request_id": "req_1", "client": "laptop", "route": "/v1/chat/completions"}
        assert [{**shared, "model_id": "M"}] == told.all_of("request_received")
        started = {**shared, "model_id": "m", "prompt_tokens": 7}
        assert [started] == told.all_of("request_started")
        (ended,) = told.all_of("request_completed")
        assert {
            "request_id": "req_1",
            "model_id": "m",
            "prompt_tokens": 7,
            "completion_tokens": 4,
            "tokens_per_second": 2.0,
            "duration_ms": pytest.approx(4000),
            "ok": True,
            "finish_reason": "stop",
            "ttft_ms": pytest.approx(2500),
            "queue_ms": pytest.approx(1500),
            "code": None,
        } == ended


async def test_an_answered_request_is_measured(autojump_clock: MockClock) -> None:
    """Every histogram has it, and all its tokens are counted, the one without text too."""
    async with open_bench() as (bench, requests):
        requests.start_soon(ask, bench, [])
        await answer(bench)
        measures = bench.telemetry.models.of("m")
        latencies = measures.latencies
        observed = {
            name: (histogram.count, pytest.approx(histogram.total))
            for name, histogram in (
                ("first_text", latencies.first_text),
                ("between_texts", latencies.between_texts),
                ("queue", latencies.queue),
                ("prefill", latencies.prefill),
                ("decode", latencies.decode),
                ("whole", latencies.whole),
            )
        }
        assert {
            "first_text": (1, 2.5),
            "between_texts": (2, 1.0),
            "queue": (1, 1.5),
            "prefill": (1, 1.0),
            "decode": (1, 2.0),
            "whole": (1, 4.0),
        } == observed
        totals = measures.totals
        tokens = (totals.generated_tokens, totals.prompt_tokens, totals.cached_tokens)
        assert (4, 7, 5) == tokens
        assert ({"stop": 1}, 0, True) == (
            measures.outcomes,
            measures.error_count,
            measures.is_at_rest,
        )
        assert ClientCounts(1, 0, 7, 4) == bench.telemetry.clients.of("laptop")
        assert [2.0] == bench.telemetry.recent.speeds(0.5)


async def test_a_refused_request_is_told_and_counted() -> None:
    """It has its end too, and its error stands where people look for it."""
    async with open_bench(slots=1, max_waiting=0) as (bench, requests):
        told: list[str] = []
        requests.start_soon(ask, bench, told)
        await wait_all_tasks_blocked()
        requests.start_soon(ask, bench, told, Origin("req_2", "desk"))
        await wait_all_tasks_blocked()
        assert ["overloaded"] == told
        (ended,) = bench.telemetry.all_of("request_completed")
        shown: dict[str, Any] = {name: ended[name] for name in ("request_id", "ok", "code")}
        assert {"request_id": "req_2", "ok": False, "code": "overloaded"} == shown
        assert ("error", None) == (ended["finish_reason"], ended["ttft_ms"])
        assert ["overloaded"] == [e.category for e in bench.telemetry.recent.errors]
        assert ClientCounts(1, 1, 0, 0) == bench.telemetry.clients.of("desk")
        requests.cancel_scope.cancel()


async def test_errors_before_a_model_is_found_are_nobodys() -> None:
    """Names that clients make up get no counters of their own."""
    async with open_bench() as (bench, _):
        bench.dispatch.drain()
        told: list[str] = []
        await ask(bench, told)
        assert (["draining"], [NO_MODEL]) == (told, list(dict(bench.telemetry.models.items())))
        assert {"draining": 1} == bench.telemetry.models.of(NO_MODEL).errors


async def test_what_hung_up_is_no_error(autojump_clock: MockClock) -> None:
    """A client that goes away has cancelled: no code, no error, no times; its tokens count."""
    async with open_bench() as (bench, requests):
        requests.start_soon(ask, bench, [])
        await wait_all_tasks_blocked()
        bench.worker.send(Started(1, 7), delta(1, "x"))
        await wait_all_tasks_blocked()
        requests.cancel_scope.cancel()
        await wait_all_tasks_blocked()
        (ended,) = bench.telemetry.all_of("request_completed")
        shown = [ended[name] for name in ("ok", "finish_reason", "code", "completion_tokens")]
        assert [False, "cancelled", None, 1] == shown
        measures = bench.telemetry.models.of("m")
        assert (0, {"cancelled": 1}) == (measures.error_count, measures.outcomes)
        assert (1, 0) == (measures.latencies.first_text.count, measures.latencies.whole.count)
        assert (1, 7) == (measures.totals.generated_tokens, measures.totals.prompt_tokens)


async def test_a_worker_that_fails_a_request_is_an_error_of_its_model() -> None:
    """An error inside the worker is told with its code and counts by model."""
    async with open_bench() as (bench, requests):
        requests.start_soon(ask, bench, [])
        await wait_all_tasks_blocked()
        end = Finished(1, "error", Usage(7, 0), Timings(), QueueFull.code, "broke")
        bench.worker.send(Started(1, 7), end)
        await wait_all_tasks_blocked()
        assert ["overloaded"] == bench.telemetry.of("request_completed", "code")
        assert {"overloaded": 1} == bench.telemetry.models.of("m").errors
        assert ["broke"] == [error.message for error in bench.telemetry.recent.errors]
