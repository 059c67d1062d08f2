"""The demo model calls a skill, enforced by grammar, over REST, server-sent events and WebSocket.

The model is small: whether it makes sense of the sum is not what is checked, but that its call fits
the schema, that the skill runs in its own process, and that the model goes on with the result.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.daemon_process import Daemon, spawn_daemon
from tests.http.socket_client import fold, open_socket

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

FIELDS: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is 2 + 3? Use the function."}],
    "max_tokens": 48,
    "temperature": 0,
    "tool_choice": {"type": "function", "function": {"name": "add"}},
}
SKILLS: dict[str, Any] = {"skills": ["builtin/add"], "skill_limits": {"max_steps": 2}}


@pytest.fixture(scope="module")
def daemon(demo_home: Path) -> Iterator[Daemon]:
    """A daemon with the demo model."""
    with spawn_daemon(demo_home) as running:
        running.wait_ready_blocking(limit_s=120)
        yield running


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    """The official client, as a user would make it."""
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="unused", timeout=300) as made:
        yield made


def check(run: dict[str, Any], history: list[dict[str, Any]], content: str) -> None:
    """The call fits, its result is right, and the model has spoken about it."""
    arguments = json.loads(history[0]["tool_calls"][0]["function"]["arguments"])
    assert {"a", "b"} == set(arguments)
    assert ("builtin/add@1.0.0", True) == (run["skill"], run["ok"])
    assert arguments["a"] + arguments["b"] == run["output"] == json.loads(history[1]["content"])
    assert ("tool", "add") == (history[1]["role"], history[1]["name"])
    assert content
    assert content == history[2]["content"]


def test_a_whole_answer(client: openai.OpenAI) -> None:
    """REST."""
    answer = client.chat.completions.create(model="demo", **FIELDS, extra_body=SKILLS)
    extra: dict[str, Any] = answer.model_extra or {}
    [run] = extra["skill_runs"]
    check(run, extra["skill_messages"], answer.choices[0].message.content or "")
    assert answer.usage is not None
    details = answer.usage.prompt_tokens_details
    assert details is not None
    assert details.cached_tokens  # the second turn begins as the first


def test_a_streamed_answer(client: openai.OpenAI) -> None:
    """Server-sent events."""
    stream = client.chat.completions.create(model="demo", stream=True, **FIELDS, extra_body=SKILLS)
    chunks = [(chunk, chunk.model_extra or {}) for chunk in stream]
    content = "".join(c.choices[0].delta.content or "" for c, _ in chunks if c.choices)
    told = [extra["skill_event"] for _, extra in chunks if "skill_event" in extra]
    assert ["skill.call", "skill.result"] == [event["type"] for event in told]
    [history] = [extra["skill_messages"] for _, extra in chunks if "skill_messages" in extra]
    check(told[1], history, content)


async def test_an_answer_on_a_socket(daemon: Daemon) -> None:
    """WebSocket."""
    async with open_socket(daemon, limit_s=300) as socket:
        messages = await socket.answer("demo", **FIELDS, **SKILLS)
    told = [message["event"] for message in messages if message["type"] == "chat.skill"]
    check(told[1], messages[-1]["skill_messages"], fold(messages).content or "")
