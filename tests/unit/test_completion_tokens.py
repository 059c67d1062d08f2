"""Requests of the routes around a model's text form: what they take and what they refuse."""

from collections.abc import Callable
from typing import Any

import pytest

from lmx.errors import InvalidRequest, RequestError, UnreadableContent
from lmx.protocol.messages import ChatPrompt, TextPrompt
from lmx.schema.tokens import (
    parse_apply_template_request,
    parse_detokenize_request,
    parse_tokenize_request,
    template_prompt,
    tokenize_prompt,
)

Parse = Callable[[bytes], Any]


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        (b'{"prompt": "a"}', TextPrompt("a")),
        (b'{"prompt": "", "model": "m"}', TextPrompt("")),
        (b'{"prompt": "a", "add_special_tokens": true}', TextPrompt("a")),
        (b'{"prompt": "a", "add_special_tokens": false}', TextPrompt("a", add_beginning=False)),
        (
            b'{"messages": [{"role": "developer", "content": "a"}]}',
            ChatPrompt([{"role": "system", "content": "a"}]),
        ),
    ],
)
def test_a_text_or_a_conversation_is_tokenised(body: bytes, prompt: Any) -> None:
    """The worker gets the same prompts as for generating."""
    assert prompt == tokenize_prompt(parse_tokenize_request(body))


def test_tokens_are_turned_back() -> None:
    """Token ids are kept in order."""
    assert [3, 1] == parse_detokenize_request(b'{"tokens": [3, 1]}').tokens


def test_a_template_gets_tools_and_variables() -> None:
    """A conversation is rendered as for generating."""
    body = b"""{
        "messages": [{"role": "user", "content": "a"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "chat_template_kwargs": {"enable_thinking": false}
    }"""
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
    }
    expected = ChatPrompt([{"role": "user", "content": "a"}], [tool], {"enable_thinking": False})
    assert expected == template_prompt(parse_apply_template_request(body))


def _render(body: bytes) -> Any:
    return template_prompt(parse_apply_template_request(body))


def _tokenize(body: bytes) -> Any:
    return tokenize_prompt(parse_tokenize_request(body))


@pytest.mark.parametrize(
    ("parse", "body", "param"),
    [
        (_tokenize, b"{}", "prompt"),
        (_tokenize, b'{"prompt": "a", "messages": [{"role": "user"}]}', "prompt"),
        (_tokenize, b'{"messages": []}', "messages"),
        (_tokenize, b'{"text": "a"}', "text"),
        (
            _tokenize,
            b'{"messages": [{"role": "user"}], "add_special_tokens": true}',
            "add_special_tokens",
        ),
        (parse_detokenize_request, b"{}", "tokens"),
        (parse_detokenize_request, b'{"tokens": [-1]}', "tokens[0]"),
        (parse_detokenize_request, b'{"tokens": [], "ids": []}', "ids"),
        (_render, b"{}", "messages"),
        (
            _render,
            b'{"messages": [{"role": "user"}], "chat_template_kwargs": {"messages": 1}}',
            "chat_template_kwargs.messages",
        ),
        (_render, b'{"messages": [{"role": "user"}], "tools": [{}]}', "tools[0].type"),
    ],
)
def test_what_makes_no_sense_is_refused(parse: Parse, body: bytes, param: str) -> None:
    """A wrong body is a 400 that names the field."""
    with pytest.raises(InvalidRequest) as caught:
        parse(body)
    assert param == caught.value.param


def test_parts_no_text_model_reads_are_refused() -> None:
    """An image cannot be tokenised, either."""
    body = b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}'
    with pytest.raises(RequestError) as caught:
        _tokenize(body)
    assert isinstance(caught.value, UnreadableContent)
