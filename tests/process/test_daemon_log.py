"""What a daemon writes into its log file, and what it never does."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx2
import trio

from tests.chat_client import ChatClient, chat_body, wait_until
from tests.daemon_process import HOST, LOG_NAME, REPOSITORY, Daemon, open_daemon

SECRET = "opta_sk_0123456789abcdef"  # noqa: S105  # not a real one
PROMPT, ANSWER = "the quick brown fox", "a lazy dog it was"
MODEL = f"fake:x?text={ANSWER.replace(' ', '+')}"
KEYS = {"LMX_SECURITY__INFERENCE_API_KEY": SECRET, "LMX_SECURITY__ADMIN_KEY": f"{SECRET}-admin"}


async def ask(daemon: Daemon) -> str:
    """One answer, with the key; returns the request's id."""
    async with httpx2.AsyncClient(base_url=daemon.url, timeout=20) as client:
        headers = {"authorization": f"Bearer {SECRET}"}
        body = chat_body(PROMPT)
        answer = await client.post("/v1/chat/completions", json=body, headers=headers)
        wrong = {"authorization": f"Bearer {SECRET}-wrong"}
        assert 401 == (await client.get("/v1/models", headers=wrong)).status_code
    assert (200, ANSWER) == (
        answer.status_code,
        answer.json()["choices"][0]["message"]["content"],
    )
    return str(answer.headers["x-request-id"])


async def test_nobody_finds_prompts_or_keys_in_the_log(tmp_path: Path) -> None:
    """At the most talkative level: the request is there with its counts, and no word of it."""
    settings = {**KEYS, "LMX_LOGGING__LEVEL": "debug"}
    async with open_daemon(tmp_path, MODEL, settings=settings) as daemon:
        await daemon.wait_ready()
        request_id = await ask(daemon)
        with trio.fail_after(20):
            assert 0 == await daemon.stop()
        [line] = [one for one in daemon.events("request ended") if one["request_id"] == request_id]
        text = (tmp_path / LOG_NAME).read_text()
    assert ("x", "stop") == (line["model"], line["reason"])
    assert {"prompt_tokens", "completion_tokens", "tokens_per_second"} <= set(line)
    assert [] == [word for word in (SECRET, PROMPT, ANSWER) if word in text]


async def test_prompts_and_answers_are_logged_for_those_who_ask(tmp_path: Path) -> None:
    """With the id of their request; keys are not, even if somebody asks a model for one."""
    settings = {**KEYS, "LMX_LOGGING__PROMPTS": "true"}
    async with open_daemon(tmp_path, MODEL, settings=settings) as daemon:
        await daemon.wait_ready()
        request_id = await ask(daemon)
        with trio.fail_after(20):
            assert 0 == await daemon.stop()
        [prompt], [answer] = daemon.events("request prompt"), daemon.events("request answer")
    assert [{"role": "user", "content": PROMPT}] == json.loads(prompt["prompt"])
    assert (request_id, request_id) == (prompt["request_id"], answer["request_id"])
    assert ANSWER == answer["answer"]


async def test_a_log_file_takes_the_lines(tmp_path: Path) -> None:
    """All that help pages name, in JSON, and standard error stays silent."""
    path, stderr = tmp_path / "logs" / "lmx.log", tmp_path / "stderr"
    command = [sys.executable, "-m", "lmx", "serve", "--host", HOST, "--port", "0"]
    environment = {"LMX_LOGGING__FILE": str(path), "LMX_HOME": str(tmp_path / "home")}
    with stderr.open("wb") as output:
        process = await trio.lowlevel.open_process(
            [*command, "--model", MODEL],
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            stderr=output,
        )

    def lines() -> list[dict[str, Any]]:
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]

    def has(start: str) -> bool:
        return any(line["event"].startswith(start) for line in lines())

    try:
        with trio.fail_after(20):
            await wait_until(lambda: has("Model loaded: x ("))
            url = next(line["urls"][0] for line in lines() if "urls" in line)
            async with httpx2.AsyncClient(base_url=url) as client:
                await client.post("/admin/models/unload", json={"model_id": "x"})
            await wait_until(lambda: has("Model unloaded, freed "))
            process.terminate()
            assert 0 == await process.wait()
    finally:
        process.kill()
    [listening] = [line for line in lines() if line["event"] == "listening"]
    assert listening["urls"][0].startswith("http://127.0.0.1:")
    [unloaded] = [line for line in lines() if line["event"].startswith("Model unloaded, freed ")]
    assert "x" == unloaded["model"]
    assert "stopped" == lines()[-1]["event"]
    assert "" == stderr.read_text()


async def test_a_dead_worker_is_logged_with_its_requests(tmp_path: Path) -> None:
    """So that one can tell who suffered from it, and perhaps who caused it."""
    async with open_daemon(tmp_path, "fake:x?fail=abort&fail_step=3") as daemon:
        await daemon.wait_ready()
        async with ChatClient(daemon) as client:
            answer = await client.ask()
        with trio.fail_after(20):
            [ended] = await wait_until(lambda: daemon.events("worker ended"))
    request_id = answer.headers["x-request-id"]
    assert [request_id] == ended["request_ids"]
    [line] = [one for one in daemon.events("request ended") if one["request_id"] == request_id]
    assert ("error", "worker-broken") == (line["reason"], line["code"])
