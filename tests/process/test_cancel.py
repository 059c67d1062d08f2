"""A client that goes away frees what it held: streaming or not, waiting or running."""

from pathlib import Path
from typing import Any

import pytest
import trio

from tests.chat_client import ChatClient
from tests.daemon_process import open_daemon

# One slot: whoever comes second is answered only when the first has let go.
ONE_SLOT = "fake:narrow?max_sequences=1&step_ms=20&tokens=3000"
# Far more than a step, far less than the 60 s the abandoned answer would take.
FREED_WITHIN_S = 3.0


async def _abandon(client: ChatClient, *, is_streaming: bool, held: trio.Event) -> None:
    """Ask for a long answer and hang up once it runs."""
    if is_streaming:
        async with client.open_stream("to be abandoned") as response:
            async for line in response.aiter_lines():
                if '"content":" ' in line:
                    held.set()
                    return
    with trio.move_on_after(0.5):
        held.set()
        await client.ask("to be abandoned")


@pytest.mark.parametrize("is_streaming", [True, False])
async def test_hanging_up_frees_the_slot(tmp_path: Path, is_streaming: bool) -> None:  # noqa: FBT001
    """The next request starts at once, not after the abandoned answer's minute."""
    async with open_daemon(tmp_path, ONE_SLOT) as daemon:
        await daemon.wait_ready()
        async with ChatClient(daemon) as leaver, ChatClient(daemon) as stayer:
            with trio.fail_after(20):
                await _abandon(leaver, is_streaming=is_streaming, held=trio.Event())
                asked_s = trio.current_time()
                answer = await stayer.ask(max_tokens=2)
        assert 200 == answer.status_code
        assert trio.current_time() - asked_s < FREED_WITHIN_S


async def test_hanging_up_while_waiting_frees_the_place(tmp_path: Path) -> None:
    """A request that left the queue never runs: the one behind it does, the one before goes on."""
    settings = {"LMX_MODELS__MAX_WAITING": "1"}
    async with open_daemon(tmp_path, ONE_SLOT, settings=settings) as daemon:
        await daemon.wait_ready()
        async with (
            ChatClient(daemon) as first,
            ChatClient(daemon) as second,
            ChatClient(daemon) as third,
        ):
            with trio.fail_after(20):
                async with first.open_stream("holds the slot") as running:
                    async with second.open_stream("waits") as waiting:
                        assert 200 == waiting.status_code
                        assert 429 == (await third.ask()).status_code
                    placed = await _until_admitted(third)
                    assert 200 == placed
                    assert 200 == running.status_code


async def _until_admitted(client: ChatClient) -> int:
    """The disconnect needs a moment to arrive; afterwards there is a place to wait in."""
    while True:
        async with client.open_stream("waits now") as response:
            status: int = response.status_code
        if status != 429:
            return status
        await trio.sleep(0.02)


async def test_a_cancelled_neighbour_changes_no_other_answer(tmp_path: Path) -> None:
    """Streams beside an abandoned one end whole, with the text they have alone."""
    async with open_daemon(tmp_path, "fake:wide?step_ms=5&tokens=60") as daemon:
        await daemon.wait_ready()
        async with ChatClient(daemon) as client:
            with trio.fail_after(20):
                alone = (await client.stream("stays")).text
                texts: list[Any] = []

                async def stay() -> None:
                    texts.append((await client.stream("stays")).text)

                async with trio.open_nursery() as nursery:
                    for _ in range(4):
                        nursery.start_soon(stay)
                    await _abandon(client, is_streaming=True, held=trio.Event())
        assert [alone] * 4 == texts
