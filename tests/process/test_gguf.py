"""GGUF files in a real daemon: damaged ones fail their model alone, prompts outlive the worker."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.chat_client import ChatClient, wait_until, worker_processes
from tests.daemon_process import Daemon, open_daemon
from tests.tiny_gguf import TinyLlama

LIMIT_S = 30


@pytest.mark.parametrize(
    ("kept_bytes", "said"),
    [(2, "does not fit"), (4000, "does not fit"), (-100, "bytes shorter than its header says")],
)
async def test_a_damaged_file_fails_its_model_alone(
    tmp_path: Path, kept_bytes: int, said: str
) -> None:
    """The reason is logged, no worker is started for the file, and the other model answers."""
    path = TinyLlama().write(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:kept_bytes])
    async with open_daemon(tmp_path / "home", str(path), "fake:x?tokens=3") as daemon:
        with trio.fail_after(LIMIT_S):
            await daemon.wait_ready()
            await wait_until(lambda: bool(daemon.events("model failed")))
            failures = daemon.events("model failed")
            async with ChatClient(daemon) as client:
                answer = await client.ask(max_tokens=3)
        assert 200 == answer.status_code
        assert ["corrupt-model"] == [failure["code"] for failure in failures]
        assert said in failures[0]["reason"]
        assert str(path) in failures[0]["reason"]
        assert 1 == len(worker_processes(daemon))
        assert 0 == await daemon.stop()


async def test_the_backend_setting_reaches_every_model(tmp_path: Path) -> None:
    """With the backend ``gguf`` an MLX directory is not taken."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").touch()
    (model / "model.safetensors").touch()
    settings = {"LMX_MODELS__BACKEND": "gguf"}
    async with open_daemon(tmp_path / "home", str(model), settings=settings) as daemon:
        with trio.fail_after(LIMIT_S):
            await wait_until(lambda: bool(daemon.events("model failed")))
        (failure,) = daemon.events("model failed")
        assert "model-not-found" == failure["code"]
        assert f"as GGUF file, but as {model}" in failure["reason"]


async def ask_long(daemon: Daemon) -> tuple[str, int, str]:
    """Text, skipped tokens and the header of an answer to a prompt of some 200 tokens."""
    async with ChatClient(daemon) as client:
        answer = await client.ask("hello world " * 30, max_tokens=8, temperature=0)
    assert 200 == answer.status_code
    body: dict[str, Any] = answer.json()
    cached: int = body["usage"]["prompt_tokens_details"]["cached_tokens"]
    text: str = body["choices"][0]["message"]["content"]
    return text, cached, answer.headers["x-lmx-cache"]


async def test_prompts_outlive_worker_and_daemon(tmp_path: Path) -> None:
    """Killed, replaced, or stopped and started again: all but the last token is skipped."""
    path = TinyLlama().write(tmp_path / "tiny.gguf")
    home = tmp_path / "home"
    records = home / "cache" / "prefix"
    with trio.fail_after(LIMIT_S):
        async with open_daemon(home, str(path)) as daemon:
            await daemon.wait_ready()
            text, cached, header = await ask_long(daemon)
            assert (0, True) == (cached, header.startswith("miss; cached=0"))
            # In one record or two, the last of which is written last: 229 tokens, and seven of 8.
            await wait_until(lambda: any(records.rglob("*-236-?.kv")))
            assert len(list(records.rglob("*.kv"))) <= 2
            os.kill(daemon.events("model loads")[0]["pid"], signal.SIGKILL)
            await wait_until(lambda: len(daemon.events("model loads")) > 1)
            await daemon.wait_ready()
            again, cached, _ = await ask_long(daemon)
            assert text == again
            assert 228 == cached
            assert 0 == await daemon.stop()
        async with open_daemon(home, str(path)) as daemon:
            await daemon.wait_ready()
            assert (text, cached) == (await ask_long(daemon))[:2]
            assert (text, cached) == (await ask_long(daemon))[:2]
            assert (await ask_long(daemon))[2].startswith("hit")
            assert 0 == await daemon.stop()
