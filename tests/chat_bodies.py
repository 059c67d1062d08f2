"""Chat requests for tests: from the fields of a body to what the worker gets."""

import json
from typing import Any

import pytest

from lmx.errors import RequestError
from lmx.protocol.messages import ChatPrompt, Generate
from lmx.schema.chat_request import ChatRequest, parse_chat_request, to_generate

USER = {"role": "user", "content": "Hi"}


def translate(body: bytes) -> Generate:
    """From the body to what the worker gets."""
    return to_generate(parse_chat_request(body), default_max_tokens=77, default_temperature=0.5)


def body_of(fields: dict[str, Any]) -> bytes:
    """The body of a request with one user message and these fields."""
    return json.dumps({"messages": [USER], **fields}).encode()


def parse(**fields: Any) -> ChatRequest:
    """Parse a request with one user message and these fields."""
    return parse_chat_request(body_of(fields))


def ask(**fields: Any) -> Generate:
    """Translate a request with one user message and these fields."""
    return translate(body_of(fields))


def refusal(**fields: Any) -> RequestError:
    """The error that such a request gets."""
    with pytest.raises(RequestError) as caught:
        ask(**fields)
    return caught.value


def prompt_of(generate: Generate) -> ChatPrompt:
    """The conversation that goes to the template."""
    assert isinstance(generate.prompt, ChatPrompt)
    return generate.prompt
