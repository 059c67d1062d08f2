"""Anthropic's request becomes the chat request that says the same."""

import json
from typing import Any

import msgspec
import pytest

from lmx.errors import InvalidRequest, RequestError, UnsupportedFeature
from lmx.schema.anthropic_request import parse_anthropic_request, parse_count_request
from lmx.schema.chat_request import ChatRequest, to_generate
from lmx.schema.messages import to_turn

HI = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def parse(**fields: Any) -> ChatRequest:
    """A request of one message unless the fields say otherwise."""
    return parse_anthropic_request(
        json.dumps({"messages": [HI], "max_tokens": 9, **fields}).encode()
    )


def turns(request: ChatRequest) -> list[dict[str, Any]]:
    """Its conversation as templates get it."""
    return [to_turn(message, at=at) for at, message in enumerate(request.messages)]


def test_sampling_has_other_names() -> None:
    """Every field arrives where the worker reads it."""
    request = parse(
        model="m",
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        stop_sequences=["a", "b"],
        metadata={"user_id": "me"},
        priority="batch",
    )
    generate = to_generate(request, default_max_tokens=1, default_temperature=1.0)
    (sampling,) = generate.samplings
    assert (9, 0.5, 0.25, 7) == (
        sampling.max_tokens,
        sampling.temperature,
        sampling.top_p,
        sampling.top_k,
    )
    assert (["a", "b"], "m") == (generate.stop, request.model)
    assert (
        generate.priority
        != to_generate(parse(), default_max_tokens=1, default_temperature=1.0).priority
    )


@pytest.mark.parametrize("system", ["Be brief.", [{"type": "text", "text": "Be brief."}]])
def test_the_system_prompt_is_the_first_turn(system: Any) -> None:
    """As text or as blocks; cache marks in it mean nothing here."""
    assert [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    ] == turns(parse(system=system))


def test_blocks_become_turns() -> None:
    """Calls, results and thoughts keep their order; results come before what is said with them."""
    request = parse(
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}},
                    {"type": "tool_use", "id": "t2", "name": "clock", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "And then?"},
                    {"type": "tool_result", "tool_use_id": "t1", "content": "rain"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "t2",
                        "content": [{"type": "text", "text": "broken"}],
                        "is_error": True,
                    },
                ],
            },
        ]
    )
    weather = {"name": "weather", "arguments": {"city": "Oslo"}}
    clock: dict[str, Any] = {"name": "clock", "arguments": {}}
    assert [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": weather},
                {"id": "t2", "type": "function", "function": clock},
            ],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "t1"},
        {"role": "tool", "content": "Error: broken", "tool_call_id": "t2"},
        {"role": "user", "content": "And then?"},
    ] == turns(request)


@pytest.mark.parametrize(
    ("choice", "expected", "parallel"),
    [
        ({"type": "auto"}, "auto", None),
        ({"type": "any"}, "required", None),
        ({"type": "none"}, "none", None),
        ({"type": "auto", "disable_parallel_tool_use": True}, "auto", False),
    ],
)
def test_choices_of_tools(choice: dict[str, Any], expected: str, parallel: Any) -> None:
    """They have other words for the same."""
    tool = {"name": "weather", "description": "d", "input_schema": SCHEMA}
    request = parse(tools=[tool], tool_choice=choice)
    assert (expected, parallel) == (request.tool_choice, request.parallel_tool_calls)
    assert request.tools is not None
    assert SCHEMA == request.tools[0].function.parameters


def test_a_named_tool_must_be_called() -> None:
    """One of several tools can be demanded."""
    tools = [{"name": name, "input_schema": SCHEMA} for name in ("a", "b")]
    request = parse(tools=tools, tool_choice={"type": "tool", "name": "b"})
    expected = {"type": "function", "function": {"name": "b"}}
    assert expected == msgspec.to_builtins(request.tool_choice)


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        ({"type": "enabled", "budget_tokens": 50}, (True, 50)),
        ({"type": "disabled"}, (False, None)),
        ({"type": "adaptive"}, (None, None)),
    ],
)
def test_thinking(thinking: dict[str, Any], expected: tuple[bool | None, int | None]) -> None:
    """Whether, and how long at most."""
    request = parse(thinking=thinking)
    assert expected == (request.enable_thinking, request.thinking_budget)


def test_the_output_is_configured() -> None:
    """Effort and a schema."""
    request = parse(
        output_config={"effort": "max", "format": {"type": "json_schema", "schema": SCHEMA}}
    )
    generate = to_generate(request, default_max_tokens=1, default_temperature=1.0)
    assert "xhigh" == request.reasoning_effort
    assert generate.grammar is not None
    assert SCHEMA == json.loads(generate.grammar.source)


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"messages": []}, InvalidRequest, "messages"),
        (
            {"messages": [HI, {"role": "assistant", "content": "So"}]},
            UnsupportedFeature,
            "messages",
        ),
        ({"messages": [{"role": "system", "content": "x"}]}, InvalidRequest, "messages[0].role"),
        ({"max_tokens": 0}, InvalidRequest, "max_tokens"),
        ({"stop": ["x"]}, InvalidRequest, "stop"),
        ({"container": "x"}, UnsupportedFeature, "container"),
        ({"context_management": {"edits": [1]}}, UnsupportedFeature, "context_management"),
        ({"mcp_servers": [{"url": "x"}]}, UnsupportedFeature, "mcp_servers"),
        (
            {"tools": [{"name": "web_search", "type": "web_search_20250305"}]},
            UnsupportedFeature,
            "tools[0].type",
        ),
        ({"tool_choice": {"type": "tool"}}, InvalidRequest, "tool_choice.name"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            UnsupportedFeature,
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
            InvalidRequest,
            "messages[0].content[0].tool_use_id",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "x"}]}, HI]},
            InvalidRequest,
            "messages[0].content[0].name",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    fields: dict[str, Any], kind: type[RequestError], param: str
) -> None:
    """Nothing is ignored that would change an answer."""
    with pytest.raises(kind) as caught:
        parse(**fields)
    assert param == caught.value.param


def test_counting_takes_what_makes_the_prompt() -> None:
    """And nothing else."""
    body = {"model": "m", "messages": [HI], "system": "s"}
    assert 2 == len(parse_count_request(json.dumps(body).encode()).messages)
    with pytest.raises(InvalidRequest) as caught:
        parse_count_request(json.dumps({**body, "max_tokens": 3}).encode())
    assert "max_tokens" == caught.value.param
