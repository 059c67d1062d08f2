"""Anthropic's official client gets what it expects, whole and streamed."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import anthropic
import pytest

from tests.daemon_process import Daemon
from tests.http.answers import post
from tests.http.shared import shared_daemon
from tests.http.wire import event_blocks, wait_until

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "São \\"Paulo\\""}}\n</tool_call>'
ANSWERS = {
    "plain": "Hello there, you.",
    "thinks": "<think>\nHm, so.\n</think>\n\nHello.",
    "calls": "Let me see.\n" + CALL,
}
PATH = "/v1/messages"
HI: list[Any] = [{"role": "user", "content": "hi"}]
TOOLS: list[Any] = [
    {
        "name": "weather",
        "description": "The weather.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A model per answer, and one that breaks."""
    models = [f"fake:{name}?text={quote(text)}" for name, text in ANSWERS.items()]
    models.append("fake:breaks?fail=asked")
    settings = {"LMX_MODELS__DIALECTS": "{thinks: hermes/think}"}
    with shared_daemon(tmp_path_factory.mktemp("home"), *models, settings=settings) as shared:
        assert wait_until(lambda: shared.get_json("/healthz")[1]["loaded_models"] == len(models))
        yield shared


@pytest.fixture
def client(daemon: Daemon) -> Iterator[anthropic.Anthropic]:
    """The official one."""
    with anthropic.Anthropic(base_url=daemon.url, api_key="unused", max_retries=0) as made:
        yield made


def both(client: anthropic.Anthropic, model: str, **fields: Any) -> Any:
    """A whole answer, after checking that a streamed one says the same under other ids."""
    fields = {"model": model, "max_tokens": 200, "messages": HI, **fields}
    whole = client.messages.create(**fields)
    with client.messages.stream(**fields) as stream:
        streamed = stream.get_final_message()
    assert without_ids(whole) == without_ids(streamed)
    return whole


def without_ids(message: Any) -> dict[str, Any]:
    """What two answers have in common."""
    document = json.loads(message.model_dump_json(exclude_none=True))
    assert document.pop("id").startswith("msg_")
    # How much of the prompt was there already depends on the order of requests.
    usage = document.pop("usage")
    prompt = usage["input_tokens"] + usage["cache_read_input_tokens"]
    blocks = [
        {key: value for key, value in block.items() if key not in {"id", "parsed_output"}}
        for block in document.pop("content")
    ]
    return {**document, "content": blocks, "tokens": (prompt, usage["output_tokens"])}


def test_text(client: anthropic.Anthropic) -> None:
    """One block, the reason and real counts."""
    message = both(client, "plain")
    assert ["text"] == [block.type for block in message.content]
    assert ANSWERS["plain"] == message.content[0].text
    assert ("end_turn", None, "plain") == (
        message.stop_reason,
        message.stop_sequence,
        message.model,
    )
    assert len(ANSWERS["plain"]) <= message.usage.output_tokens
    assert 0 < message.usage.input_tokens


def test_the_stop_string_is_named(client: anthropic.Anthropic) -> None:
    """Which of them has ended the answer."""
    message = both(client, "plain", stop_sequences=["never", " there"])
    assert ("stop_sequence", " there") == (message.stop_reason, message.stop_sequence)
    assert "Hello" == message.content[0].text


def test_the_end_of_the_allowance_is_told(client: anthropic.Anthropic) -> None:
    """In its own word."""
    message = both(client, "plain", max_tokens=3)
    assert ("max_tokens", 3) == (message.stop_reason, message.usage.output_tokens)


def test_reasoning_is_a_block_of_its_own(client: anthropic.Anthropic) -> None:
    """Before the text."""
    message = both(client, "thinks")
    assert [("thinking", "Hm, so."), ("text", "Hello.")] == [
        (block.type, block.thinking if block.type == "thinking" else block.text)
        for block in message.content
    ]


def test_calls_are_blocks(client: anthropic.Anthropic) -> None:
    """With their input as an object, and an id to answer them by."""
    message = both(client, "calls", tools=TOOLS)
    text, call = message.content
    assert ("Let me see.", "tool_use") == (text.text, message.stop_reason)
    assert ("weather", {"city": 'São "Paulo"'}) == (call.name, call.input)
    assert call.id.startswith("toolu_")


def test_the_events_of_a_stream(daemon: Daemon) -> None:
    """In the order and with the names that clients lean on, and nothing else."""
    fields = {"model": "calls", "max_tokens": 200, "messages": HI, "tools": TOOLS, "stream": True}
    reply = post(daemon, PATH, **fields)
    assert reply.headers["content-type"].startswith("text/event-stream")
    names, kinds = [], []
    for block in event_blocks(reply.body):
        name, data = block.split(b"\n")
        event = json.loads(data.removeprefix(b"data: "))
        assert b"event: " + event["type"].encode() == name
        names.append(event["type"])
        kinds += [event["content_block"]["type"]] if "content_block" in event else []
    assert ["text", "tool_use"] == kinds
    deltas = names.count("content_block_delta")
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    squeezed = [n for i, n in enumerate(names) if i == 0 or n != names[i - 1]]
    assert ["message_start", *block, *block, "message_delta", "message_stop"] == squeezed
    assert 2 <= deltas


def test_tokens_are_counted_without_an_answer(client: anthropic.Anthropic) -> None:
    """As many as the answer's usage says."""
    counted = client.messages.count_tokens(model="plain", messages=HI, system="Be brief.")
    message = client.messages.create(model="plain", messages=HI, system="Be brief.", max_tokens=1)
    cached = message.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == message.usage.input_tokens + cached


def test_errors_are_the_clients_own(client: anthropic.Anthropic) -> None:
    """By status before the answer began, by an event after."""
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="nowhere", max_tokens=3, messages=HI)
    assert "error" == missing.value.body["type"]  # type: ignore[index, call-overload]
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(model="plain", max_tokens=3, messages=[])
    assert "messages" in str(refused.value)
    broken: list[Any] = [{"role": "user", "content": "fail:raise:3"}]
    with (
        pytest.raises(anthropic.APIStatusError),
        client.messages.stream(model="breaks", max_tokens=9, messages=broken) as stream,
    ):
        stream.get_final_message()
