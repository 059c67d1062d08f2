"""Reasoning on the wire: split from the content, inline if asked, ended by its budget.

The model is a tiny real one whose template opens the reasoning. Its weights are random, so it
never closes it: what ends the reasoning is the budget, and a guide says what comes after.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_process import Daemon
from tests.http.answers import Told, both_chats, chat, post
from tests.http.shared import shared_daemon
from tests.tiny_models import TEMPLATE, build_tiny_llama

OPENING = "{% if enable_thinking | default(true) %}{{ '<think>\n' }}{% endif %}"
CLOSING = "</think>"
BUDGET = 6
CONTEXT = 2048  # the introduction of tools alone takes some 500 tokens of single characters


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """The thinking model, loaded from its directory."""
    home = tmp_path_factory.mktemp("home")
    model = make_thinker(home / "thinker")
    with shared_daemon(home, str(model)) as shared:
        yield shared


def make_thinker(path: Path) -> Path:
    """A tiny model whose template knows of thinking."""
    build_tiny_llama(path)
    template = TEMPLATE + OPENING + "{# ends with " + CLOSING + " #}"
    edit_json(path / "tokenizer_config.json", chat_template=template, model_max_length=CONTEXT)
    edit_json(path / "config.json", max_position_embeddings=CONTEXT)
    return path


def edit_json(path: Path, **fields: Any) -> None:
    """Replace fields of a JSON file."""
    document = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**document, **fields}), "utf-8")


def think(daemon: Daemon, **fields: Any) -> Told:
    """One greedy answer of few tokens, streamed and whole alike."""
    [told] = both_chats(daemon, "thinker", **{"temperature": 0, "max_tokens": 40, **fields})
    return told


def test_the_prompt_opens_the_reasoning(daemon: Daemon) -> None:
    """Without its closing marker an answer is reasoning to its end, and content stays empty."""
    told = think(daemon, max_tokens=12)
    assert ("", "length") == (told.content, told.reason)
    assert told.reasoning


def test_the_budget_ends_the_reasoning(daemon: Daemon) -> None:
    """The thoughts are the first of the free ones; what follows obeys the guide."""
    free = think(daemon, max_tokens=BUDGET)
    told = think(daemon, thinking_budget=BUDGET, guided_regex="yes!")
    assert ("yes!", "stop") == (told.content, told.reason)
    assert free.reasoning == told.reasoning


def test_no_budget_is_no_thought(daemon: Daemon) -> None:
    """A budget of nothing closes the reasoning at once."""
    told = think(daemon, thinking_budget=0, guided_regex="yes!")
    assert ("yes!", "") == (told.content, told.reasoning)


def test_a_schema_begins_after_the_reasoning(daemon: Daemon) -> None:
    """A response format binds the content and not the thoughts."""
    schema = {"enum": ["left", "right"]}
    shape = {"type": "json_schema", "json_schema": {"name": "side", "schema": schema}}
    told = think(daemon, thinking_budget=BUDGET, response_format=shape)
    assert json.loads(told.content or "") in {"left", "right"}
    assert told.reasoning


def test_a_required_call_comes_after_the_reasoning(daemon: Daemon) -> None:
    """A model that thinks calls as one that does not."""
    parameters = {
        "type": "object",
        "properties": {"on": {"type": "boolean"}},
        "required": ["on"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "light", "parameters": parameters}}
    choice = {"type": "function", "function": {"name": "light"}}
    told = think(daemon, thinking_budget=BUDGET, tools=[tool], tool_choice=choice, max_tokens=500)
    assert (None, "tool_calls") == (told.content, told.reason)
    [(name, arguments)] = told.called
    assert ("light", {"on": bool}) == (name, {key: type(v) for key, v in arguments.items()})
    assert told.reasoning


def test_inline_reasoning(daemon: Daemon) -> None:
    """On request the same thoughts stand in the content, between tags the prompt had opened."""
    fields: dict[str, Any] = {"thinking_budget": BUDGET, "guided_regex": "yes!"}
    beside = think(daemon, **fields)
    inline = think(daemon, reasoning_format="inline", **fields)
    assert f"<think>{beside.reasoning}{CLOSING}yes!" == inline.content
    assert "" == inline.reasoning


def test_inline_reasoning_is_closed_at_the_limit(daemon: Daemon) -> None:
    """Clients that wait for the closing tag get one, also when the model never wrote it."""
    told = think(daemon, reasoning_format="inline", max_tokens=BUDGET)
    assert (told.content or "").startswith("<think>")
    assert (told.content or "").endswith(CLOSING)


@pytest.mark.parametrize(
    "fields",
    [
        {"enable_thinking": False},
        {"reasoning_effort": "none"},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_thinking_can_be_switched_off(daemon: Daemon, fields: dict[str, Any]) -> None:
    """Whichever way it is spelt, the template hears of it and the answer is content."""
    told = think(daemon, max_tokens=BUDGET, **fields)
    assert told.content
    assert "" == told.reasoning
    guided = think(daemon, guided_regex="yes!", thinking_budget=3, **fields)
    assert ("yes!", "") == (guided.content, guided.reasoning)


def test_the_template_shows_it(daemon: Daemon) -> None:
    """The applied template ends as the model's prompt does."""
    messages = [{"role": "user", "content": "hi"}]
    ends = [
        post(daemon, "/apply-template", messages=messages, chat_template_kwargs=given)
        .json()["prompt"]
        .endswith("<think>\n")
        for given in ({}, {"enable_thinking": False})
    ]
    assert [True, False] == ends


def test_every_choice_thinks_for_itself(daemon: Daemon) -> None:
    """Thoughts differ by seed, and each choice's budget is its own."""
    fields: dict[str, Any] = {"n": 3, "seed": 3, "temperature": 1, "thinking_budget": BUDGET}
    told = both_chats(daemon, "thinker", max_tokens=40, guided_regex="yes!", **fields)
    assert ["yes!"] * 3 == [choice.content for choice in told]
    assert 3 == len({choice.reasoning for choice in told})


def test_contradictions_are_refused(daemon: Daemon) -> None:
    """Two fields that say opposite things are a 400."""
    reply = chat(daemon, "thinker", reasoning_effort="none", enable_thinking=True)
    assert (400, "enable_thinking") == (reply.status, reply.json()["error"]["param"])
