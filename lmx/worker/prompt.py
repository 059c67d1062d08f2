"""From a request's prompt to token ids: template, folding, tools, tokeniser.

Templates differ in what they take. A conversation that the template refuses as it stands is tried
again in plainer shapes before the client hears of it: arguments of calls as text, system messages
gathered at the front, neighbours of one role joined, the system message in the first user turn. A
template without a place for tools gets them as a system message in the form most models have seen.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from lmx.engines.base import Tokenizer
from lmx.errors import InvalidRequest
from lmx.protocol.messages import ChatPrompt, Prompt, TextPrompt
from lmx.text.dialects import ends_inside_reasoning
from lmx.worker.boundaries import NOWHERE, Boundaries, find_boundaries
from lmx.worker.dialect import COMMON_TOOLS, NO_REASONING, ModelDialect

TOOL_INTRODUCTION = (
    "You can call functions. Their signatures are the JSON objects between <tools> and </tools>:\n"
    "<tools>\n{tools}\n</tools>\n"
    "To call one, write a JSON object with its name and arguments between tags:\n"
    '<tool_call>\n{{"name": "function name", "arguments": {{"argument": "value"}}}}\n</tool_call>'
)


class Rendered(NamedTuple):
    """A prompt ready for the engine, and how to read what comes back.

    Attributes:
        text: The prompt as text.
        token_ids: At least one, unless none were allowed.
        dialect: Tool family to read the answer with.
        reasoning: Reasoning markers to look for, or ``none``.
        in_reasoning: The prompt has opened the reasoning.
        boundaries: Where it may come to part from others.
    """

    text: str
    token_ids: list[int]
    dialect: str = "none"
    reasoning: str = NO_REASONING
    in_reasoning: bool = False
    boundaries: Boundaries = NOWHERE


def render_prompt(
    prompt: Prompt, tokenizer: Tokenizer, own: ModelDialect, *, may_be_empty: bool = False
) -> Rendered:
    """Render and tokenise.

    Args:
        prompt: The prompt.
        tokenizer: The model's.
        own: The model's dialect.
        may_be_empty: No tokens are an answer too; a model cannot begin with none.

    Raises:
        InvalidRequest: The template refuses the conversation, or nothing is left of it.
    """
    if isinstance(prompt, ChatPrompt):
        rendered = _render_chat(prompt, tokenizer, own)
        param = "messages"
    elif isinstance(prompt, TextPrompt):
        token_ids = tokenizer.encode(prompt.text, add_beginning=prompt.add_beginning)
        rendered = Rendered(prompt.text, token_ids)
        param = "prompt"
    else:
        rendered = _spell(prompt.token_ids, tokenizer)
        param = "prompt"
    if not rendered.token_ids and not may_be_empty:
        raise InvalidRequest("the prompt has no tokens", param=param)
    return rendered


def _spell(token_ids: list[int], tokenizer: Tokenizer) -> Rendered:
    pieces = [tokenizer.token_bytes(token_id) for token_id in token_ids]
    if b"" in pieces:
        unknown = token_ids[pieces.index(b"")]
        raise InvalidRequest(f"the vocabulary has no token {unknown}", param="prompt")
    return Rendered(b"".join(pieces).decode("utf-8", "replace"), token_ids)


def _render_chat(prompt: ChatPrompt, tokenizer: Tokenizer, own: ModelDialect) -> Rendered:
    family = own.dialect.tools
    if prompt.tools and (prompt.must_call or not own.has_tools or family == "none"):
        family = COMMON_TOOLS
    if prompt.tools and not own.has_tools:
        prompt = _introduce_tools(prompt)
    accepted, text = _render_first_accepted(prompt, tokenizer)
    token_ids = tokenizer.encode(text)
    return Rendered(
        text,
        token_ids,
        dialect=family,
        reasoning=own.reasoning_name,
        in_reasoning=ends_inside_reasoning(text, own.dialect),
        boundaries=find_boundaries(accepted, text, token_ids, tokenizer=tokenizer),
    )


def _render_first_accepted(prompt: ChatPrompt, tokenizer: Tokenizer) -> tuple[ChatPrompt, str]:
    """The conversation in the first shape that the template takes, and its text."""
    refusal: InvalidRequest | None = None
    for messages in _shapes(prompt.messages):
        shaped = msgspec.structs.replace(prompt, messages=messages)
        try:
            return shaped, tokenizer.render(shaped)
        except InvalidRequest as error:
            refusal = refusal or error
    raise refusal or InvalidRequest("there are no messages", param="messages")


def _shapes(messages: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The conversation as it stands, then plainer and plainer; equal shapes only once."""
    folded = fold_messages(messages)
    shapes = (messages, folded, _without_system(folded))
    candidates = [shape for m in shapes for shape in (m, _with_text_arguments(m))]
    seen: list[list[dict[str, Any]]] = []
    for candidate in candidates:
        if candidate not in seen:
            seen.append(candidate)
            yield candidate


def fold_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One system message at the front, and no two neighbours of one role.

    Tool results and assistant turns with calls are never joined with anything.
    """
    systems = [m["content"] for m in messages if m["role"] == "system" and m["content"]]
    folded: list[dict[str, Any]] = []
    if systems:
        folded.append({"role": "system", "content": "\n\n".join(systems)})
    for message in messages:
        if message["role"] == "system":
            continue
        if folded and _can_join(folded[-1], message):
            joined = f"{folded[-1]['content']}\n\n{message['content']}"
            folded[-1] = {**folded[-1], "content": joined}
        else:
            folded.append(message)
    return folded


def _without_system(folded: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The system message in front of the first user turn, for templates that know no such role."""
    if [message["role"] for message in folded[:2]] != ["system", "user"]:
        return folded
    joined = f"{folded[0]['content']}\n\n{folded[1]['content']}"
    return [{**folded[1], "content": joined}, *folded[2:]]


def _can_join(first: dict[str, Any], second: dict[str, Any]) -> bool:
    plain = {"role", "content"}
    return first["role"] == second["role"] and set(first) == plain and set(second) == plain


def _with_text_arguments(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**m, "tool_calls": [_with_text(call) for call in m["tool_calls"]]}
        if m.get("tool_calls")
        else m
        for m in messages
    ]


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or isinstance(function.get("arguments"), str):
        return call
    arguments = json.dumps(function.get("arguments"), ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def _introduce_tools(prompt: ChatPrompt) -> ChatPrompt:
    signatures = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in prompt.tools)
    introduction = TOOL_INTRODUCTION.format(tools=signatures)
    messages = [{"role": "system", "content": introduction}, *prompt.messages]
    return msgspec.structs.replace(prompt, messages=fold_messages(messages), tools=[])
