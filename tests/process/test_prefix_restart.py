"""What was computed of prompts outlives workers and daemons, and changes no answer."""

from pathlib import Path

import trio

from tests.chat_client import ChatClient, wait_gone, wait_until, worker_processes
from tests.daemon_process import Daemon, open_daemon
from tests.tiny_models import build_tiny_llama

LIMIT_S = 60
SETTINGS = {"LMX_MODELS__KEEP_ALIVE_S": "3600"}
STORY = "the hen and the heron on the tin inn " * 12


async def answer(daemon: Daemon) -> tuple[str, int, str]:
    """The text, the tokens that were skipped, and what the header says."""
    async with ChatClient(daemon) as client:
        reply = await client.ask(STORY, max_tokens=16, temperature=0)
    assert 200 == reply.status_code, reply.text
    body = reply.json()
    skipped = body["usage"]["prompt_tokens_details"]["cached_tokens"]
    return body["choices"][0]["message"]["content"], skipped, reply.headers["x-lmx-cache"]


def loaded_pids(daemon: Daemon) -> set[int]:
    """Workers that were told to load a model."""
    return {line["pid"] for line in daemon.events("model loads")}


def files(home: Path) -> list[Path]:
    """Records on disk."""
    return list((home / "cache" / "prefix").rglob("*.kv"))


async def test_a_restart_of_the_daemon_forgets_nothing(tmp_path: Path) -> None:
    """Files are written while nothing is asked; the next daemon reads them, damaged ones not."""
    home, model = tmp_path / "home", build_tiny_llama(tmp_path / "tiny")
    with trio.fail_after(LIMIT_S):
        async with open_daemon(home, str(model), settings=SETTINGS) as daemon:
            await daemon.wait_ready()
            cold, skipped, header = await answer(daemon)
            assert (0, True) == (skipped, header.startswith("miss; "))
            again, warm, header = await answer(daemon)
            assert (cold, True) == (again, header.startswith("hit; "))
            await wait_until(lambda: bool(files(home)))
            assert 0 == await daemon.stop()
        async with open_daemon(home, str(model), settings=SETTINGS) as daemon:
            await daemon.wait_ready()
            assert (cold, warm) == (await answer(daemon))[:2]
            assert 0 == await daemon.stop()
        for path in files(home):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 64
            path.write_bytes(data)
        async with open_daemon(home, str(model), settings=SETTINGS) as daemon:
            await daemon.wait_ready()
            assert (cold, 0) == (await answer(daemon))[:2]
            assert 0 == await daemon.stop()


async def test_a_killed_worker_forgets_nothing_that_was_written(tmp_path: Path) -> None:
    """What was written before is there for the next worker of the model."""
    home, model = tmp_path / "home", build_tiny_llama(tmp_path / "tiny")
    with trio.fail_after(LIMIT_S):
        async with open_daemon(home, str(model), settings=SETTINGS) as daemon:
            await daemon.wait_ready()
            cold, _, _ = await answer(daemon)
            await wait_until(lambda: bool(files(home)))
            (worker,) = [p for p in worker_processes(daemon) if p.pid in loaded_pids(daemon)]
            worker.kill()
            await wait_gone(worker)
            text, skipped, _ = await answer(daemon)
            assert (cold, True) == (text, skipped > 0)
            assert 0 == await daemon.stop()
