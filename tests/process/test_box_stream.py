"""Hostile skills in a daemon that streams: the stream must not notice, and nothing stays behind."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from tests import hostile_skill
from tests.boxes import box_processes
from tests.chat_client import ChatClient, wait_until
from tests.daemon_process import Daemon, open_daemon

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")

TOKENS = 300
STEP_MS = 10
MODEL = f"fake:x?step_ms={STEP_MS}&tokens={TOKENS}"
SETTINGS = {"LMX_SKILLS__MEMORY_MB": "200"}
LIMIT_S = 40.0
# Everything shares two cores with other tests. This bounds a standstill, not a delay.
LONGEST_GAP_S = 1.0
GONE_LIMIT_S = 0.5
HARM: dict[str, dict[str, Any]] = {
    "bomb_forks": {},
    "allocate_shared": {"size_bytes": 10_000_000_000},
    "print_for_ever": {"descriptor": 1},
}
REASONS = {
    "it started more processes than it may",
    "it used more memory than it may",
    "it wrote more than it may",
}


def write_skills(home: Path) -> None:
    """A manifest for each hostile function, in a daemon's home."""
    folder = home / "skills" / "hostile"
    folder.mkdir(parents=True)
    shutil.copy(hostile_skill.__file__, folder / "hostile.py")
    for name in (*HARM, "spin"):
        manifest = {
            "schema": "opta.skills.manifest/v1",
            "name": name,
            "kind": "entrypoint",
            "entrypoint": f"hostile:{name}",
            "input_schema": {"type": "object"},
        }
        (folder / f"{name}.yaml").write_text(json.dumps(manifest))


async def execute(
    client: httpx2.AsyncClient, name: str, arguments: dict[str, Any]
) -> dict[str, Any]:
    """Run a skill; if it may not be run uncontained, say that it may."""
    body = {"arguments": arguments, "approved": True}
    reply = await client.post(f"/v1/skills/{name}/execute", json=body)
    return dict(reply.json())


def skill_client(daemon: Daemon) -> httpx2.AsyncClient:
    """One for all calls: making one takes a tenth of a second, in which no stream is read."""
    return httpx2.AsyncClient(base_url=daemon.url, timeout=LIMIT_S, headers={"host": "lmx"})


async def test_a_stream_runs_on_beside_harm(tmp_path: Path) -> None:
    """No token is lost and no gap is long beside a fork bomb, a memory hog and endless output."""
    write_skills(tmp_path)
    errors: set[str] = set()
    async with (
        open_daemon(tmp_path, MODEL, settings=SETTINGS) as daemon,
        ChatClient(daemon) as client,
        skill_client(daemon) as skills,
    ):
        await daemon.wait_ready()
        with trio.fail_after(LIMIT_S):
            whole = (await client.ask(max_tokens=TOKENS)).json()["choices"][0]["message"]
            async with trio.open_nursery() as nursery:
                for name, arguments in HARM.items():
                    nursery.start_soon(repeat, skills, name, arguments, errors)
                texts = await read_stream(client)
                await wait_until(lambda: len(errors) >= len(HARM))
                nursery.cancel_scope.cancel()
            await wait_until(lambda: [] == box_processes())
    assert REASONS == errors
    assert whole["content"] == "".join(text for _, text in texts)
    times = [time_s for time_s, _ in texts]
    assert LONGEST_GAP_S > max(later - earlier for earlier, later in pairwise(times))


async def test_a_client_that_hangs_up_ends_its_run(tmp_path: Path) -> None:
    """The skill's processes are gone soon after its client is."""
    write_skills(tmp_path)
    async with (
        open_daemon(tmp_path, MODEL, settings=SETTINGS) as daemon,
        skill_client(daemon) as skills,
    ):
        await daemon.wait_ready()
        with trio.fail_after(LIMIT_S):
            await execute(skills, "builtin/echo", {"text": "what contains runs is known now"})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(execute, skills, "spin", {"shield": True})
                await wait_until(lambda: len(box_processes()) > 1)
                nursery.cancel_scope.cancel()
            began_s = trio.current_time()
            await wait_until(lambda: [] == box_processes())
    assert GONE_LIMIT_S > trio.current_time() - began_s


async def repeat(
    skills: httpx2.AsyncClient, name: str, arguments: dict[str, Any], errors: set[str]
) -> None:
    """Run a skill until cancelled."""
    while True:
        errors.add(str((await execute(skills, name, arguments)).get("error")))


async def read_stream(client: ChatClient) -> list[tuple[float, str]]:
    """The texts of one answer, each with the time of its arrival."""
    texts: list[tuple[float, str]] = []
    async with client.open_stream(max_tokens=TOKENS) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                [choice] = json.loads(line.removeprefix("data: "))["choices"]
                texts.append((trio.current_time(), choice["delta"].get("content") or ""))
    return texts
