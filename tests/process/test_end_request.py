"""An administrator ends requests of a live daemon: each ends once, with a reason, and lets go."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from tests.chat_client import Answer, ChatClient
from tests.daemon_process import Daemon, open_daemon
from tests.scrapes import Scraped

ONE_SLOT = "fake:narrow?max_sequences=1&step_ms=20&tokens=3000"
LONG_PROMPT = "fake:long?max_sequences=1&prefill_ms=30000&tokens=3"
LONG_LOAD = "fake:late?load_ms=30000"
TOLD_WITHIN_S = 3.0


async def running(client: ChatClient) -> list[dict[str, Any]]:
    """The requests under way."""
    document = (await client.get("/admin/requests")).json()
    assert document["count"] == len(document["requests"])
    rows: list[dict[str, Any]] = document["requests"]
    return rows


async def wait_running(
    client: ChatClient, is_right: Callable[[list[dict[str, Any]]], bool]
) -> list[dict[str, Any]]:
    """The requests under way, once they are as they should be."""
    while True:
        rows = await running(client)
        if is_right(rows):
            return rows
        await trio.sleep(0.02)


async def end(client: ChatClient, request_id: str) -> int:
    """Cancel a request and say with what status that was answered."""
    return (await client.post(f"/admin/requests/{request_id}/cancel")).status_code


async def wait_balanced(client: ChatClient, **expected: int) -> None:
    """Wait until so many requests have ended in each way, and nothing runs."""
    while True:
        now = Scraped((await client.get("/metrics")).text)
        assert [] == now.imbalances()
        found = {name: now.value(f"lmx_requests_{name}_total") for name in expected}
        if found == expected and not now.value("lmx_in_flight_requests"):
            return
        await trio.sleep(0.02)


async def test_a_stream_and_one_behind_it_are_ended(tmp_path: Path) -> None:
    """The stream gets an error frame, the waiting one a status; the slot is free at once."""
    async with open_daemon(tmp_path, ONE_SLOT) as daemon, ChatClient(daemon) as admin:
        await daemon.wait_ready()
        told = Answer()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_stream, daemon, told)
                (first,) = await wait_running(admin, lambda rows: _states(rows) == ["decoding"])
                replies: list[Any] = []
                nursery.start_soon(_ask, daemon, replies)
                _, second = await wait_running(admin, lambda rows: len(rows) == 2)
                assert ("narrow", "127.0.0.1", "/v1/chat/completions", "waiting") == (
                    second["model_id"],
                    second["client"],
                    second["route"],
                    second["state"],
                )
                for row in (second, first):
                    assert 200 == await end(admin, row["request_id"])
                with trio.fail_after(TOLD_WITHIN_S):
                    await wait_running(admin, lambda rows: not rows)
            assert 404 == await end(admin, first["request_id"])
            assert first["completion_tokens"] > 0
            await wait_balanced(admin, cancelled=2, completed=0, failed=0)
            assert 200 == (await admin.ask(max_tokens=1)).status_code
        assert told.error is not None
        assert "cancelled" == told.error["code"]
        assert (499, "false", "cancelled") == (
            replies[0].status_code,
            replies[0].headers["x-should-retry"],
            replies[0].json()["code"],
        )


async def test_one_in_prefill_is_ended(tmp_path: Path) -> None:
    """Half a minute of prefill is not waited for, neither by the client nor by the books."""
    async with open_daemon(tmp_path, LONG_PROMPT) as daemon, ChatClient(daemon) as admin:
        await daemon.wait_ready()
        with trio.fail_after(20):
            replies: list[Any] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_ask, daemon, replies)
                (row,) = await wait_running(admin, lambda rows: _states(rows) == ["prefill"])
                assert row["prompt_tokens"] > 0
                assert 200 == await end(admin, row["request_id"])
            assert 499 == replies[0].status_code
            await wait_balanced(admin, cancelled=1, completed=0, failed=0)


async def test_one_that_waits_for_a_load_is_ended(tmp_path: Path) -> None:
    """It is refused with the reason, was never admitted, and the load goes on."""
    async with open_daemon(tmp_path, LONG_LOAD) as daemon, ChatClient(daemon) as admin:
        with trio.fail_after(20):
            replies: list[Any] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_ask, daemon, replies)
                (row,) = await wait_running(admin, lambda rows: len(rows) == 1)
                assert "waiting" == row["state"]
                assert 200 == await end(admin, row["request_id"])
            assert 499 == replies[0].status_code
            await wait_balanced(admin, refused=1, admitted=0)
            (loading,) = (await admin.get("/admin/status")).json()["loading"]
            assert ("late", 0) == (loading["id"], loading["waiting"])


def _states(rows: list[dict[str, Any]]) -> list[str]:
    return [row["state"] for row in rows]


async def _ask(daemon: Daemon, replies: list[Any]) -> None:
    async with ChatClient(daemon) as client:
        replies.append(await client.ask())


async def _stream(daemon: Daemon, told: Answer) -> None:
    async with ChatClient(daemon) as client:
        await client.stream(into=told)
