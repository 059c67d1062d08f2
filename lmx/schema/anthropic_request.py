"""Anthropic's Messages request, read into the chat request that everything else works with.

The dialect ends here: blocks become turns, its tools become function tools, and what it spells
otherwise gets the chat request's name. Every documented field has an effect, only identifies the
caller, or is refused by name. Source: Anthropic's Messages API, version 2023-06-01.
"""

import functools
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from lmx.errors import InvalidRequest, UnsupportedFeature
from lmx.schema.chat_request import ChatRequest, ReasoningEffort
from lmx.schema.constraints import JsonSchema, JsonSchemaFormat, Name
from lmx.schema.fields import Ignored, NonEmpty, Refused, TokenCount, refuse_effects, refuse_unknown
from lmx.schema.json_body import decode_body
from lmx.schema.messages import CalledFunction, ContentPart, Message, ToolCall
from lmx.schema.priority import Priority
from lmx.schema.tools import (
    FunctionDefinition,
    FunctionName,
    NamedToolChoice,
    Tool,
    ToolChoice,
)

MAX_STOPS = 16
NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "container": (),
    "context_management": ({}, {"edits": []}),
    "mcp_servers": ([],),
}


class Block(Struct, kw_only=True):
    """One block of a message's content; which fields count depends on its type."""

    type: Annotated[
        str,
        Meta(
            extra_json_schema={
                "enum": ["text", "tool_use", "tool_result", "thinking", "redacted_thinking"]
            }
        ),
    ]
    text: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: "str | list[Block] | None" = None
    is_error: bool | None = None
    thinking: str | None = None
    signature: Ignored = None
    cache_control: Ignored = None
    citations: Ignored = None


class AnthropicTurn(Struct):
    """One message of the conversation."""

    role: Literal["user", "assistant"]
    content: str | list[Block]


class AnthropicTool(Struct, kw_only=True):
    """A tool of the client's. Tools that run at Anthropic have other types and are refused."""

    name: Name
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: Annotated[str | None, Meta(extra_json_schema={"enum": ["custom", None]})] = None
    strict: bool | None = None
    cache_control: Ignored = None


class AnthropicToolChoice(Struct, kw_only=True):
    """How far tools must be used."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct, kw_only=True):
    """Whether the model reasons first, and how long at most."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: TokenCount | None = None
    display: Literal["summarized"] | None = None


class OutputFormat(Struct):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct, kw_only=True):
    """How much to reason, and what the answer looks like."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class PromptFields(Struct, kw_only=True):
    """What makes the prompt."""

    messages: Annotated[list[AnthropicTurn], Meta(min_length=1)]
    model: str | None = None
    system: str | list[Block] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    container: Refused = None
    context_management: Annotated[
        Any, Meta(extra_json_schema={"enum": [{}, {"edits": []}, None]})
    ] = None
    mcp_servers: Annotated[Any, Meta(extra_json_schema={"enum": [[], None]})] = None


class CountRequest(PromptFields, kw_only=True):
    """The body of a request to count a prompt's tokens."""


class AnthropicRequest(PromptFields, kw_only=True):
    """The body of a messages request. `None` means absent."""

    max_tokens: TokenCount | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    stop_sequences: Annotated[list[NonEmpty], Meta(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    metadata: Ignored = None
    service_tier: Ignored = None
    inference_geo: Ignored = None
    priority: Priority | None = None


@functools.cache
def _decoder() -> "msgspec.json.Decoder[AnthropicRequest]":
    return msgspec.json.Decoder(AnthropicRequest)


@functools.cache
def _count_decoder() -> "msgspec.json.Decoder[CountRequest]":
    return msgspec.json.Decoder(CountRequest)


def parse_anthropic_request(body: bytes) -> ChatRequest:
    """Read the body of a messages request.

    Raises:
        InvalidRequest: Malformed, of the wrong type or out of range; `param` names the field.
        UnsupportedFeature: A field or a block asks for something this version cannot do.
    """
    request = decode_body(body, _decoder())
    refuse_unknown(body, request.__struct_fields__)
    return _to_chat(request)


def parse_count_request(body: bytes) -> ChatRequest:
    """Read the body of a request to count tokens.

    Raises:
        InvalidRequest: Malformed or of the wrong type; `param` names the field.
        UnsupportedFeature: A field or a block asks for something this version cannot do.
    """
    request = decode_body(body, _count_decoder())
    refuse_unknown(body, request.__struct_fields__)
    return _chat_prompt(request)


def _to_chat(request: AnthropicRequest) -> ChatRequest:
    return msgspec.structs.replace(
        _chat_prompt(request),
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop=request.stop_sequences or None,
        stream=request.stream,
        priority=request.priority,
    )


def _chat_prompt(request: PromptFields) -> ChatRequest:
    refuse_effects(request, NEUTRAL_VALUES)
    if request.messages[-1].role == "assistant":
        raise UnsupportedFeature(
            "the last message is the assistant's; an answer cannot be given its beginning",
            param="messages",
        )
    choice = request.tool_choice
    thinking, output = request.thinking, request.output_config or OutputConfig()
    return ChatRequest(
        model=request.model,
        messages=[
            *_system(request.system),
            *(
                message
                for index, turn in enumerate(request.messages)
                for message in _to_messages(turn, f"messages[{index}]")
            ),
        ],
        tools=[_to_tool(tool, at=i) for i, tool in enumerate(request.tools or ())] or None,
        tool_choice=None if choice is None else _to_choice(choice),
        parallel_tool_calls=False if choice and choice.disable_parallel_tool_use else None,
        enable_thinking=None if thinking is None else _wants_thinking(thinking),
        thinking_budget=None if thinking is None else thinking.budget_tokens,
        reasoning_format="separate",
        reasoning_effort=_to_effort(output),
        response_format=_to_format(output),
    )


def _wants_thinking(thinking: Thinking) -> bool | None:
    return None if thinking.type == "adaptive" else thinking.type == "enabled"


def _to_effort(output: OutputConfig) -> ReasoningEffort | None:
    return "xhigh" if output.effort == "max" else output.effort


def _to_format(output: OutputConfig) -> JsonSchemaFormat | None:
    return None if output.format is None else JsonSchemaFormat(JsonSchema(output.format.schema))


def _system(system: str | list[Block] | None) -> list[Message]:
    if not system:
        return []
    content = system if isinstance(system, str) else _texts(system, "system")
    return [Message("system", content)]


def _to_tool(tool: AnthropicTool, *, at: int) -> Tool:
    if tool.type not in {None, "custom"}:
        raise UnsupportedFeature(
            f"tools of type {tool.type!r} run at Anthropic, not here", param=f"tools[{at}].type"
        )
    definition = FunctionDefinition(tool.name, tool.description, tool.input_schema, tool.strict)
    return Tool(definition)


def _to_choice(choice: AnthropicToolChoice) -> ToolChoice:
    match choice.type:
        case "auto":
            return "auto"
        case "none":
            return "none"
        case "any":
            return "required"
        case "tool":
            if choice.name is None:
                raise InvalidRequest("the tool is not named", param="tool_choice.name")
            return NamedToolChoice("function", FunctionName(choice.name))


def _to_messages(turn: AnthropicTurn, here: str) -> list[Message]:
    """The chat messages that say what one turn says; results of tools come first, as they must."""
    if isinstance(turn.content, str):
        return [Message(turn.role, turn.content)]
    if turn.role == "assistant":
        return [_assistant(turn.content, here)]
    results = [
        _to_result(block, f"{here}.content[{index}]")
        for index, block in enumerate(turn.content)
        if block.type == "tool_result"
    ]
    said = [block for block in turn.content if block.type != "tool_result"]
    spoken = [Message("user", _texts(said, f"{here}.content"))] if said or not results else []
    return [*results, *spoken]


def _assistant(blocks: Sequence[Block], here: str) -> Message:
    calls = [
        _to_call(block, f"{here}.content[{index}]")
        for index, block in enumerate(blocks)
        if block.type == "tool_use"
    ]
    thoughts = [block.thinking or "" for block in blocks if block.type == "thinking"]
    said = [
        block for block in blocks if block.type not in {"tool_use", "thinking", "redacted_thinking"}
    ]
    return Message(
        "assistant",
        _texts(said, f"{here}.content") or None,
        tool_calls=calls or None,
        reasoning_content="\n".join(thoughts) or None,
    )


def _to_call(block: Block, here: str) -> ToolCall:
    if block.id is None or not block.name:
        missing = "id" if block.id is None else "name"
        raise InvalidRequest("a call needs its id and its tool", param=f"{here}.{missing}")
    arguments = msgspec.json.encode(block.input or {}).decode()
    return ToolCall(block.id, CalledFunction(block.name, arguments))


def _to_result(block: Block, here: str) -> Message:
    if block.tool_use_id is None:
        raise InvalidRequest(
            "a tool's result must say which call it answers", param=f"{here}.tool_use_id"
        )
    content = block.content or ""
    parts = content if isinstance(content, str) else _texts(content, f"{here}.content")
    if block.is_error:
        said = parts if isinstance(parts, str) else "\n".join(str(part.text) for part in parts)
        parts = f"Error: {said}"
    return Message("tool", parts, tool_call_id=block.tool_use_id)


def _texts(blocks: Sequence[Block], here: str) -> list[ContentPart]:
    for index, block in enumerate(blocks):
        if block.type != "text" or block.text is None:
            raise UnsupportedFeature(
                f"content blocks of type {block.type!r} are not supported here",
                param=f"{here}[{index}]",
            )
    return [ContentPart("text", block.text or "") for block in blocks]
