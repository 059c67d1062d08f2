"""Hostile skills beside a stream of tokens: the stream must not notice."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from lmx.skills.box.plan import BoxEnd, BoxPlan
from tests.boxes import BoxSite, detect
from tests.chat_client import ChatClient
from tests.daemon_process import open_daemon

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")

TOKENS = 300
STEP_MS = 10
STREAM_LIMIT_S = 40.0
# Everything shares two cores with other tests. This bounds a standstill, not a delay.
LONGEST_GAP_S = 1.0


async def test_a_stream_runs_on_beside_harm(tmp_path: Path) -> None:
    """No token is lost and no gap is long beside a fork bomb, a memory hog and endless output."""
    site = BoxSite(tmp_path / "site", await detect())
    ends: set[BoxEnd] = set()
    model = f"fake:x?step_ms={STEP_MS}&tokens={TOKENS}"
    async with open_daemon(tmp_path / "daemon", model) as daemon, ChatClient(daemon) as client:
        await daemon.wait_ready()
        with trio.fail_after(STREAM_LIMIT_S):
            whole = (await client.ask(max_tokens=TOKENS)).json()["choices"][0]["message"]
            async with trio.open_nursery() as nursery:
                for plan in harmful_plans(site):
                    nursery.start_soon(repeat, site, plan, ends)
                texts = await read_stream(client)
                nursery.cancel_scope.cancel()
    await site.check_nothing_left()
    assert whole["content"] == "".join(text for _, text in texts)
    times = [time_s for time_s, _ in texts]
    assert LONGEST_GAP_S > max(later - earlier for earlier, later in pairwise(times))
    assert {"too_many_processes", "out_of_memory", "too_much_output"} == ends


def harmful_plans(site: BoxSite) -> list[BoxPlan]:
    """What runs beside the stream, each again and again."""
    return [
        site.plan("bomb_forks", wall_s=2.0),
        site.plan("allocate_shared", {"size_bytes": 10_000_000_000}, memory_bytes=200_000_000),
        site.plan("print_for_ever", {"descriptor": 1}),
    ]


async def repeat(site: BoxSite, plan: BoxPlan, ends: set[BoxEnd]) -> None:
    """Run a plan until cancelled."""
    while True:
        ends.add((await site.box.run(plan)).end)


async def read_stream(client: ChatClient) -> list[tuple[float, str]]:
    """The texts of one answer, each with the time of its arrival."""
    texts: list[tuple[float, str]] = []
    async with client.open_stream(max_tokens=TOKENS) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                [choice] = json.loads(line.removeprefix("data: "))["choices"]
                texts.append((trio.current_time(), choice["delta"].get("content") or ""))
    return texts
