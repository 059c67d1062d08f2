"""Tools and constraints of chat requests: what is offered, what is enforced, what contradicts."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx.errors import InvalidRequest
from lmx.protocol.values import Grammar
from lmx.schema.chat_request import offered_tools
from lmx.schema.constraints import choice_regex
from tests.chat_bodies import ask, parse, prompt_of, refusal

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
EMPTY = {"type": "object", "properties": {}}


def tool(name: Any, **more: Any) -> dict[str, Any]:
    """A function tool."""
    return {"type": "function", "function": {"name": name, **more}}


WEATHER = tool("get_weather", description="Now.", parameters=SCHEMA)
TIME = tool("get-time")
NAMED = {"type": "function", "function": {"name": "get-time"}}


@pytest.mark.parametrize(
    ("fields", "names", "must_call", "may_call_many"),
    [
        ({}, ["get_weather", "get-time"], False, True),
        ({"tool_choice": "auto"}, ["get_weather", "get-time"], False, True),
        ({"tool_choice": "required"}, ["get_weather", "get-time"], True, True),
        ({"tool_choice": "none"}, [], False, True),
        ({"tool_choice": NAMED}, ["get-time"], True, False),
        ({"parallel_tool_calls": False}, ["get_weather", "get-time"], False, False),
        (
            {"tool_choice": "required", "parallel_tool_calls": False},
            ["get_weather", "get-time"],
            True,
            False,
        ),
    ],
)
def test_the_choice_decides_what_is_offered(
    fields: dict[str, Any], names: list[str], *, must_call: bool, may_call_many: bool
) -> None:
    """The model sees the tools it may call, and must call one exactly if the client says so."""
    prompt = prompt_of(ask(tools=[WEATHER, TIME], **fields))
    assert names == [shown["function"]["name"] for shown in prompt.tools]
    assert (must_call, may_call_many) == (prompt.must_call, prompt.may_call_many)
    assert names == list(offered_tools(parse(tools=[WEATHER, TIME], **fields)))


def test_tools_reach_the_template_and_the_parser() -> None:
    """Templates get whole definitions, parsers the schemas; no parameters means none."""
    tools = [{**WEATHER, "function": {**WEATHER["function"], "strict": True}}, TIME]
    assert [WEATHER, tool("get-time", parameters=EMPTY)] == prompt_of(ask(tools=tools)).tools
    assert {"get_weather": SCHEMA, "get-time": EMPTY} == offered_tools(parse(tools=tools))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [tool("a b")]}, "tools[0].function.name"),
        ({"tools": [tool("a\n")]}, "tools[0].function.name"),
        ({"tools": [tool("")]}, "tools[0].function.name"),
        ({"tools": [tool("a" * 65)]}, "tools[0].function.name"),
        ({"tools": [tool("f", parameters=[])]}, "tools[0].function.parameters"),
        ({"tools": [tool("f"), tool("f")]}, "tools"),
        ({"tool_choice": "required"}, "tools"),
        ({"tools": [], "tool_choice": NAMED}, "tools"),
        ({"tools": [WEATHER], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": NAMED}, "tool_choice.function.name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        (
            {"tools": [TIME], "tool_choice": NAMED, "response_format": {"type": "json_object"}},
            "response_format",
        ),
        (
            {"tools": [TIME], "tool_choice": "required", "guided_regex": "a"},
            "guided_regex",
        ),
    ],
)
def test_tools_that_make_no_sense_are_refused(fields: dict[str, Any], param: str) -> None:
    """A tool that cannot be offered or demanded is a 400 that names the field."""
    error = refusal(**fields)
    assert (InvalidRequest, param) == (type(error), error.param)


def json_schema(**spec: Any) -> dict[str, Any]:
    """A response format with a schema."""
    return {"type": "json_schema", "json_schema": spec}


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        (
            {"response_format": {"type": "json_object"}},
            Grammar("json_schema", '{"type":"object"}', "response_format"),
        ),
        (
            {"response_format": json_schema(name="x", schema={"type": "null"}, strict=True)},
            Grammar("json_schema", '{"type":"null"}', "response_format.json_schema.schema"),
        ),
        (
            {"guided_json": {"type": "array"}},
            Grammar("json_schema", '{"type":"array"}', "guided_json"),
        ),
        ({"guided_regex": "a+"}, Grammar("regex", "a+", "guided_regex")),
        ({"guided_choice": ["a.b", "c"]}, Grammar("regex", r"a\.b|c", "guided_choice")),
        ({"guided_grammar": 'start: "a"'}, Grammar("lark", 'start: "a"', "guided_grammar")),
        (
            {"response_format": {"type": "text"}, "guided_regex": "a"},
            Grammar("regex", "a", "guided_regex"),
        ),
    ],
)
def test_a_constraint_becomes_a_grammar(fields: dict[str, Any], grammar: Grammar | None) -> None:
    """Each way to constrain the answer reaches the worker, with the field it came from."""
    assert grammar == ask(**fields).grammar


def test_a_grammar_and_tools_the_model_need_not_call_go_together() -> None:
    """A final answer may be constrained while calls are offered."""
    generate = ask(tools=[TIME], response_format={"type": "json_object"})
    assert generate.grammar is not None
    assert prompt_of(generate).tools


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": "json_object"}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": json_schema(name="x")}, "response_format.json_schema.schema"),
        (
            {"response_format": json_schema(name="x y", schema={})},
            "response_format.json_schema.name",
        ),
        ({"guided_json": "x"}, "guided_json"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": ["a", ""]}, "guided_choice[1]"),
        ({"guided_grammar": ""}, "guided_grammar"),
        ({"guided_regex": "a", "guided_grammar": "b"}, "guided_grammar"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
    ],
)
def test_constraints_that_make_no_sense_are_refused(fields: dict[str, Any], param: str) -> None:
    """A constraint is whole, and there is at most one."""
    error = refusal(**fields)
    assert (InvalidRequest, param) == (type(error), error.param)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4), st.text())
def test_a_choice_matches_exactly_its_strings(choices: list[str], other: str) -> None:
    """Whatever the strings hold, the expression matches them and nothing else."""
    pattern = re.compile(f"(?:{choice_regex(choices)})", re.DOTALL)
    assert all(pattern.fullmatch(choice) for choice in choices)
    assert (other in choices) is bool(pattern.fullmatch(other))


def test_a_schema_keeps_its_order() -> None:
    """Properties are generated in the order in which the client wrote them."""
    schema = {"type": "object", "properties": {"z": {}, "a": {}}}
    grammar = ask(guided_json=schema).grammar
    assert grammar is not None
    assert json.dumps(schema) == json.dumps(json.loads(grammar.source))
