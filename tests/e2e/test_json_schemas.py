"""Two hundred generated JSON schemas, streamed, four at a time: what ends validates."""

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import trio

from tests.chat_client import ChatClient
from tests.daemon_process import Daemon, open_daemon
from tests.tiny_models import build_tiny_llama

SCHEMAS = 200
AT_ONCE = 4
# Deeper documents do not fit the tiny model's context of 512 byte-sized tokens.
MAX_DEPTH = 2

pytestmark = pytest.mark.timeout(240)


def make_schema(draw: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema whose documents are short, of any kind the server promises to enforce."""
    kinds = [_number, _string, _enum, _const, _pattern, _date, _boolean, _union]
    if depth < MAX_DEPTH:
        kinds += [_object, _object, _array, _referenced]
    return draw.choice(kinds)(draw, depth)


def _number(draw: random.Random, _depth: int) -> dict[str, Any]:
    low = draw.randint(-50, 50)
    kind = draw.choice(["integer", "integer", "number"])
    return {"type": kind, "minimum": low, "maximum": low + draw.randint(0, 200)}


def _string(draw: random.Random, _depth: int) -> dict[str, Any]:
    least = draw.randint(0, 3)
    return {"type": "string", "minLength": least, "maxLength": least + draw.randint(0, 6)}


def _enum(draw: random.Random, _depth: int) -> dict[str, Any]:
    values = ["red", "grün", 'qu"ote', 7, None, True, "a\\b"]
    return {"enum": draw.sample(values, draw.randint(1, 4))}


def _const(draw: random.Random, _depth: int) -> dict[str, Any]:
    return {"const": draw.choice(["fixed", 0, False, None, 12])}


def _pattern(draw: random.Random, _depth: int) -> dict[str, Any]:
    return {
        "type": "string",
        "pattern": draw.choice(["^[a-c]{2,4}$", "^x-[0-9]{3}$", "^(yes|no)$"]),
    }


def _date(_draw: random.Random, _depth: int) -> dict[str, Any]:
    return {"type": "string", "format": "date"}


def _boolean(_draw: random.Random, _depth: int) -> dict[str, Any]:
    return {"type": "boolean"}


def _union(draw: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [make_schema(draw, MAX_DEPTH), {"type": "null"}, _number(draw, depth)]}


def _object(draw: random.Random, depth: int) -> dict[str, Any]:
    names = draw.sample(["a", "b", "name", "value", "größe"], draw.randint(1, 3))
    return {
        "type": "object",
        "properties": {name: make_schema(draw, depth + 1) for name in names},
        "required": names,
        "additionalProperties": False,
    }


def _array(draw: random.Random, depth: int) -> dict[str, Any]:
    least = draw.randint(0, 2)
    items = make_schema(draw, depth + 1)
    return {"type": "array", "items": items, "minItems": least, "maxItems": least + 1}


def _referenced(draw: random.Random, depth: int) -> dict[str, Any]:
    """A property by reference; it becomes the root, so it is only drawn there."""
    if depth:
        return _enum(draw, depth)
    node = {
        "type": "object",
        "properties": {"id": _number(draw, 1), "next": {"anyOf": [{"type": "null"}]}},
        "required": ["id", "next"],
        "additionalProperties": False,
    }
    if draw.random() < 0.5:  # recursion that the model may end at any level
        node["properties"]["next"]["anyOf"].append({"$ref": "#/$defs/node"})
    return {
        "type": "object",
        "properties": {"head": {"$ref": "#/$defs/node"}},
        "required": ["head"],
        "additionalProperties": False,
        "$defs": {"node": node},
    }


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon over a random Llama, which says anything that it may."""
    model = build_tiny_llama(tmp_path / "tiny")
    async with open_daemon(tmp_path / "home", str(model)) as running:
        await running.wait_ready(limit_s=60)
        yield running


async def _answer(client: ChatClient, number: int) -> str | None:
    """One streamed document; `None` if it was cut off at the token limit."""
    schema = make_schema(random.Random(number))  # noqa: S311  # a test draw
    answer = await client.stream(
        f"document {number}",
        temperature=1.0,
        seed=number,
        max_tokens=400,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "document", "strict": True, "schema": schema},
        },
    )
    assert 200 == answer.status, f"{schema}: {answer.frames}"
    assert answer.error is None, f"{schema}: {answer.error}"
    if answer.finish_reason == "length":
        return None
    assert "stop" == answer.finish_reason
    document = json.loads(answer.text)
    jsonschema.validate(document, schema, format_checker=jsonschema.FormatChecker())
    return answer.text


async def test_every_document_that_ends_validates(daemon: Daemon) -> None:
    """No streamed answer breaks its schema, and nearly all of them end by themselves."""
    ended: list[str] = []
    numbers = iter(range(SCHEMAS))

    async def work(client: ChatClient) -> None:
        for number in numbers:
            ended.extend(filter(None, [await _answer(client, number)]))

    async with ChatClient(daemon) as client, trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(work, client)
    assert len(ended) > 0.9 * SCHEMAS
