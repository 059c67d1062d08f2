"""A worker that dies costs its own requests a typed error and nothing else."""

import os
import signal
import statistics
from pathlib import Path

import psutil
import pytest
import trio

from tests.chat_client import Answer, ChatClient, wait_gone, wait_until, worker_processes
from tests.daemon_process import Daemon, open_daemon

STREAMS = 16
FAST_RESTART = {"LMX_WORKER__RESTART_DELAY_S": "0.1", "LMX_WORKER__RESTART_DELAY_LIMIT_S": "0.2"}
PATIENT = {"LMX_WORKER__QUARANTINE_AFTER": "1000"}


async def _probe_health(client: ChatClient, durations_s: list[float]) -> None:
    """Ask for liveness over and over, noting how long each answer took."""
    while True:
        asked_s = trio.current_time()
        response = await client.get("/healthz")
        assert "ok" == response.json()["status"]
        durations_s.append(trio.current_time() - asked_s)
        await trio.sleep(0.02)


async def _streams_until_killed(daemon: Daemon, client: ChatClient) -> tuple[list[Answer], float]:
    """Start streams, kill the worker once all of them flow, and collect their ends."""
    answers = [Answer() for _ in range(STREAMS)]
    flowing = [trio.Event() for _ in range(STREAMS)]
    async with trio.open_nursery() as nursery:
        for number, (answer, event) in enumerate(zip(answers, flowing, strict=True)):

            async def run(number: int, answer: Answer, event: trio.Event) -> None:
                await client.stream(f"stream {number}", into=answer, first_text=event)

            nursery.start_soon(run, number, answer, event)
        for event in flowing:
            await event.wait()
        (worker,) = worker_processes(daemon)
        killed_s = trio.current_time()
        os.kill(worker.pid, signal.SIGKILL)
    return answers, killed_s


async def test_killing_the_worker_ends_each_stream_with_an_error_within_a_second(
    tmp_path: Path,
) -> None:
    """Sixteen streams each get one error frame, liveness never pauses, the model returns."""
    model = "fake:long?step_ms=10&tokens=3000"
    durations_s: list[float] = []
    async with open_daemon(tmp_path, model, settings=FAST_RESTART) as daemon:
        await daemon.wait_ready()
        async with ChatClient(daemon) as client:
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_probe_health, client, durations_s)
                    answers, killed_s = await _streams_until_killed(daemon, client)
                    nursery.cancel_scope.cancel()
                codes = [answer.error and answer.error["code"] for answer in answers]
                assert ["worker-broken"] * STREAMS == codes
                assert all("SIGKILL" in str(answer.error) for answer in answers)
                assert [None] * STREAMS == [answer.finish_reason for answer in answers]
                assert max(answer.ended_s for answer in answers) - killed_s < 1.0
                # The bound is the contract's; the slowest may also meet a busy machine.
                assert statistics.median(durations_s) < 0.25
                assert max(durations_s) < 1.0
                again = await client.ask(max_tokens=3)
                assert 200 == again.status_code
                assert 3 == again.json()["usage"]["completion_tokens"]


async def test_an_abort_inside_a_native_call_is_a_crash_like_any_other(tmp_path: Path) -> None:
    """SIGABRT in a step ends the stream with a typed error, and the next request is answered."""
    model = "fake:aborts?tokens=50&step_ms=5&fail=abort&fail_step=5"
    async with open_daemon(tmp_path, model, settings=FAST_RESTART) as daemon:
        await daemon.wait_ready()
        async with ChatClient(daemon) as client:
            with trio.fail_after(20):
                broken = await client.stream()
                assert broken.error is not None
                assert "SIGABRT" in broken.error["message"]
                again = await client.ask(max_tokens=2)
        assert 200 == again.status_code
        assert daemon.is_alive


async def test_an_exception_in_a_step_leaves_its_traceback_in_the_exit_record(
    tmp_path: Path,
) -> None:
    """What the worker printed last is in the daemon's log, with the reason of the exit."""
    model = "fake:raises?tokens=50&step_ms=5&fail=raise&fail_step=3"
    async with open_daemon(tmp_path, model, settings=FAST_RESTART) as daemon:
        await daemon.wait_ready()
        async with ChatClient(daemon) as client:
            with trio.fail_after(20):
                broken = await client.stream()
                assert broken.error is not None
                assert "worker-broken" == broken.error["code"]
                said = await wait_until(lambda: daemon.events("worker said"))
        assert "RuntimeError: the fake engine fails" in said[0]["output"]


async def test_running_out_of_device_memory_is_told_as_such(tmp_path: Path) -> None:
    """The requests of a worker that ran out of memory get ``oom-unloaded``, not a generic crash."""
    model = "fake:oom?tokens=50&step_ms=5&fail=oom&fail_step=3"
    async with open_daemon(tmp_path, model, settings=FAST_RESTART) as daemon:
        await daemon.wait_ready()
        async with ChatClient(daemon) as client:
            with trio.fail_after(20):
                broken = await client.stream()
        assert broken.error is not None
        assert "oom-unloaded" == broken.error["code"]
        assert "No model loaded" in broken.error["message"]


@pytest.mark.parametrize("failure", ["exit", "abort"])
async def test_a_worker_that_dies_while_loading_is_tried_again_and_again(
    tmp_path: Path, failure: str
) -> None:
    """The daemon stays up, says that the model is loading, and keeps trying."""
    model = f"fake:dies?fail={failure}&fail_step=0"
    settings = {**FAST_RESTART, **PATIENT, "LMX_MODELS__LOAD_WAIT_S": "0.2"}
    async with open_daemon(tmp_path, model, settings=settings) as daemon:
        async with ChatClient(daemon) as client:
            with trio.fail_after(20):
                await wait_until(lambda: len(daemon.events("model restarts")) >= 3)
                ready = await client.get("/readyz")
                refused = await client.ask()
        assert (503, "loading") == (ready.status_code, ready.json()["reason"])
        assert 503 == refused.status_code
        assert "model-loading" == refused.json()["error"]["code"]
        assert "No model loaded" in refused.json()["error"]["message"]
        assert daemon.is_alive


async def test_a_model_that_keeps_dying_is_quarantined(tmp_path: Path) -> None:
    """After three failures in a row nobody tries again by himself, and requests hear why."""
    model = "fake:dies?fail=abort&fail_step=0"
    async with open_daemon(tmp_path, model, settings=FAST_RESTART) as daemon:
        async with ChatClient(daemon) as client:
            with trio.fail_after(20):
                await wait_until(lambda: len(daemon.events("model failed")) >= 3)
                refused = await client.ask()
        assert 409 == refused.status_code
        assert "model_unstable" == refused.json()["code"]
        assert "3 times in a row" in refused.json()["error"]["message"]
        assert len(daemon.events("model restarts")) == 2


async def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    """With work in flight and nothing delivered, its request ends with a typed error."""
    model = "fake:hangs?tokens=5&fail=hang&fail_step=3"
    settings = {**FAST_RESTART, "LMX_WORKER__STALL_S": "0.5"}
    async with open_daemon(tmp_path, model, settings=settings) as daemon:
        await daemon.wait_ready()
        (worker,) = worker_processes(daemon)
        async with ChatClient(daemon) as client:
            with trio.fail_after(20):
                broken = await client.stream()
                assert broken.error is not None
                assert "worker-stalled" == broken.error["code"]
                await wait_gone(worker)
                await daemon.wait_ready()
        assert ["stall"] == [line["kind"] for line in daemon.events("worker ended")]


async def test_a_model_that_cannot_load_is_not_tried_again(tmp_path: Path) -> None:
    """A typed load failure is final: chat answers ``no-model-loaded`` with the reason."""
    async with open_daemon(tmp_path, "fake:bad?nonsense=1") as daemon:
        async with ChatClient(daemon) as client:
            with trio.fail_after(20):
                await wait_until(lambda: daemon.events("model failed"))
                refused = await client.ask()
        assert 503 == refused.status_code
        assert "no-model-loaded" == refused.json()["code"]
        assert "nonsense" in refused.json()["error"]["message"]
        assert [] == daemon.events("model restarts")


@pytest.mark.parametrize("step_ms", [5, 5000])
async def test_a_worker_dies_with_its_daemon(tmp_path: Path, step_ms: int) -> None:
    """After ``kill -9`` of the daemon its worker is gone at once, even from inside a long step."""
    async with open_daemon(tmp_path, f"fake:orphan?tokens=3000&step_ms={step_ms}") as daemon:
        await daemon.wait_ready()
        (worker,) = worker_processes(daemon)
        async with ChatClient(daemon) as client:
            with trio.fail_after(20):
                async with client.open_stream() as response:
                    assert 200 == response.status_code
                    daemon.kill()
                await wait_gone(worker)


async def test_crashes_leak_no_descriptor(tmp_path: Path) -> None:
    """Ten deaths and restarts leave the daemon with as many descriptors as before."""
    settings = {
        **PATIENT,
        "LMX_WORKER__RESTART_DELAY_S": "0",
        "LMX_WORKER__RESTART_DELAY_LIMIT_S": "0",
    }
    async with open_daemon(tmp_path, "fake:mortal?tokens=5", settings=settings) as daemon:
        await daemon.wait_ready()
        process = psutil.Process(daemon.pid)
        with trio.fail_after(40):
            before = process.num_fds()
            for loads in range(2, 12):
                (worker,) = worker_processes(daemon)
                worker.kill()
                await wait_until(lambda loads=loads: _load_count(daemon) >= loads)
                await daemon.wait_ready()
            # The probe's own connection may still be closing.
            await wait_until(lambda: process.num_fds() <= before)
            assert 1 == len(worker_processes(daemon))


def _load_count(daemon: Daemon) -> int:
    return sum("Model loaded" in str(line.get("event")) for line in daemon.log_lines())
