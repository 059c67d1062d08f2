"""The turns of a conversation, from the API's shape to what chat templates take."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from lmx.errors import InvalidRequest, UnreadableContent, UnsupportedFeature
from lmx.schema.fields import Refused

Role = Literal["system", "developer", "user", "assistant", "tool"]


class ContentPart(Struct):
    """One part of a message's content. Only ``text`` parts are understood."""

    type: Annotated[str, Meta(extra_json_schema={"enum": ["text"]})]
    text: str | UnsetType = UNSET


# Parts without text are refused in words of ours, so only the description demands it.
TextContentPart = Annotated[ContentPart, Meta(extra_json_schema={"required": ["type", "text"]})]


class CalledFunction(Struct):
    """A call as the model made it; `arguments` is JSON text."""

    name: Annotated[str, Meta(min_length=1)]
    arguments: str


class ToolCall(Struct):
    """One call of an earlier answer."""

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class Message(Struct):
    """One turn of the conversation."""

    role: Role
    content: str | list[TextContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    function_call: Refused = None
    audio: Refused = None


def to_turn(message: Message, *, at: int) -> dict[str, Any]:
    """A message as chat templates expect it: content is text, and only given keys are present.

    Args:
        message: The message.
        at: Its place in the conversation, for the name of a field at fault.

    Raises:
        InvalidRequest: It holds what its role cannot have, or lacks what it needs.
        UnreadableContent: It holds something that no text model can read.
        UnsupportedFeature: It uses a field that no template knows.
    """
    _check_role(message, at=at)
    # No open model's template knows OpenAI's name for a system message.
    role = "system" if message.role == "developer" else message.role
    turn: dict[str, Any] = {"role": role, "content": _content_text(message, at=at)}
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_calls:
        turn["tool_calls"] = [_to_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.reasoning_content is not None:
        turn["reasoning_content"] = message.reasoning_content
    return turn


def _check_role(message: Message, *, at: int) -> None:
    here = f"messages[{at}]"
    for key, value in (("function_call", message.function_call), ("audio", message.audio)):
        if value is not None:
            raise UnsupportedFeature(f"{key!r} is not supported", param=f"{here}.{key}")
    if message.tool_calls and message.role != "assistant":
        raise InvalidRequest("only the assistant calls tools", param=f"{here}.tool_calls")
    if message.role == "tool" and message.tool_call_id is None:
        raise InvalidRequest(
            "a tool's message must say which call it answers", param=f"{here}.tool_call_id"
        )


def _content_text(message: Message, *, at: int) -> str:
    content = message.content
    if content is None:
        return message.refusal or ""
    if isinstance(content, str):
        return content
    texts = []
    for index, part in enumerate(content):
        here = f"messages[{at}].content[{index}]"
        if part.type != "text":
            raise UnreadableContent(
                f"content parts of type {part.type!r} are not supported: this model reads text",
                param=here,
            )
        if isinstance(part.text, UnsetType):
            raise InvalidRequest("a text part needs its text", param=here)
        texts.append(part.text)
    return "\n".join(texts)


def _to_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": _read_arguments(call.function.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _read_arguments(text: str) -> dict[str, Any] | str:
    """An object, as most templates want it, or the text if it is none or no frame carries it."""
    if not text.strip():
        return {}
    try:
        value = msgspec.json.decode(text)
        msgspec.msgpack.encode(value)
    except (msgspec.MsgspecError, OverflowError, RecursionError, UnicodeError):
        return text
    return value if isinstance(value, dict) else text
