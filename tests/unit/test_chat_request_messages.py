"""Messages of chat requests: what templates get of them, and what is refused."""

from typing import Any

import pytest

from lmx.errors import InvalidRequest, UnreadableContent, UnsupportedFeature
from tests.chat_bodies import USER, ask, prompt_of, refusal

HUGE = f'{{"a": {10**30}}}'


def call(arguments: Any) -> dict[str, Any]:
    """A call with these arguments."""
    return {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image_url", "image_url": {"url": "data:"}}, UnreadableContent),
        ({"type": "input_audio", "input_audio": {}}, UnreadableContent),
        ({"type": "file", "file": {}}, UnreadableContent),
        ({"type": "refusal", "refusal": "no"}, UnreadableContent),
        ({"type": "text"}, InvalidRequest),
    ],
)
def test_parts_no_text_model_reads_are_refused(part: dict[str, Any], kind: type) -> None:
    """An image is an error that names the part, never silently dropped."""
    content = [{"type": "text", "text": "See"}, part]
    error = refusal(messages=[{"role": "user", "content": content}])
    assert (kind, "messages[0].content[1]") == (type(error), error.param)


@pytest.mark.parametrize("name", ["function_call", "audio"])
def test_message_fields_no_template_reads_are_refused(name: str) -> None:
    """A documented field of a message is used or refused by name."""
    error = refusal(messages=[USER, {"role": "assistant", name: {"id": "x"}}])
    assert (UnsupportedFeature, f"messages[1].{name}") == (type(error), error.param)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "developer", "content": "x"}, {"role": "system", "content": "x"}),
        ({"role": "user"}, {"role": "user", "content": ""}),
        ({"role": "assistant", "refusal": "no"}, {"role": "assistant", "content": "no"}),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}] * 2},
            {"role": "user", "content": "a\na"},
        ),
        (
            {"role": "user", "content": "x", "name": "Ann", "function_call": None, "audio": None},
            {"role": "user", "content": "x", "name": "Ann"},
        ),
        (
            {"role": "tool", "content": "4", "tool_call_id": "c1"},
            {"role": "tool", "content": "4", "tool_call_id": "c1"},
        ),
        (
            {"role": "assistant", "content": None, "tool_calls": [call('{"x": [1.5]}')]},
            {"role": "assistant", "content": "", "tool_calls": [call({"x": [1.5]})]},
        ),
        (
            {"role": "assistant", "content": "a", "reasoning_content": "b", "tool_calls": []},
            {"role": "assistant", "content": "a", "reasoning_content": "b"},
        ),
    ],
)
def test_messages_reach_the_template(message: dict[str, Any], expected: dict[str, Any]) -> None:
    """Templates get text content, known roles and only the keys that were given."""
    assert [expected] == prompt_of(ask(messages=[message])).messages


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", {}),
        ("", {}),
        (" ", {}),
        ('{"a": {"b": null}}', {"a": {"b": None}}),
        ('{"a": ', '{"a": '),
        ("[1]", "[1]"),
        ("3", "3"),
        ('{"a": NaN}', '{"a": NaN}'),
        (HUGE, HUGE),
        ("[" * 5000, "[" * 5000),
    ],
    ids=lambda value: str(value)[:20],
)
def test_arguments_are_objects_if_they_can_be(text: str, expected: Any) -> None:
    """Templates want objects; text that is none, or that no frame carries, stays text."""
    turns = [USER, {"role": "assistant", "tool_calls": [call(text)]}]
    turn = prompt_of(ask(messages=turns)).messages[1]
    assert expected == turn["tool_calls"][0]["function"]["arguments"]


def test_a_conversation_keeps_its_order() -> None:
    """A system message may stand anywhere."""
    turns = [USER, {"role": "system", "content": "Be brief."}, USER]
    assert turns == prompt_of(ask(messages=turns)).messages


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "function", "name": "f", "content": "4"}, "messages[1].role"),
        ({"role": "tool", "content": "4"}, "messages[1].tool_call_id"),
        ({"role": "user", "tool_calls": [call("{}")]}, "messages[1].tool_calls"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[1].tool_calls[0].id"),
        ({"role": "assistant", "tool_calls": "f"}, "messages[1].tool_calls"),
        (
            {"role": "assistant", "tool_calls": [{"id": "c1"}]},
            "messages[1].tool_calls[0].function",
        ),
        (
            {"role": "assistant", "tool_calls": [{**call("{}"), "type": "custom"}]},
            "messages[1].tool_calls[0].type",
        ),
        (
            {"role": "assistant", "tool_calls": [call({})]},
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"arguments": "{}"}}]},
            "messages[1].tool_calls[0].function.name",
        ),
    ],
)
def test_a_message_that_is_not_whole_is_refused(message: dict[str, Any], param: str) -> None:
    """A message has what its role needs and nothing its role cannot have."""
    error = refusal(messages=[USER, message])
    assert (InvalidRequest, param) == (type(error), error.param)
