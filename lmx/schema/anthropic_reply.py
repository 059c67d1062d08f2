"""Anthropic's Messages answer: parts to named SSE events, or to one JSON document.

A stream is a list of blocks, of which one is open at a time; the whole document is the fold of the
same blocks. Source: Anthropic's Messages API, version 2023-06-01.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from lmx.errors import LmxError
from lmx.protocol.values import FinishReason, TokenLogprob, Usage
from lmx.schema.problems import error_body
from lmx.schema.reply import ReplyHead
from lmx.text.parts import AnswerPart, ReasoningPart, TextPart, ToolCallPart

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "cancelled", "error"]
PING = b'event: ping\ndata: {"type":"ping"}\n\n'


class AnswerBlock(Struct, frozen=True, kw_only=True):
    """One block of an answer: ``text``, ``thinking`` or ``tool_use``."""

    type: Literal["text", "thinking", "tool_use"]
    text: str | UnsetType = UNSET
    thinking: str | UnsetType = UNSET
    signature: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    input: Any | UnsetType = UNSET


class AnthropicUsage(Struct, frozen=True):
    """Token counts; `input_tokens` are those that had to be computed."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int


class AnthropicMessage(Struct, frozen=True, kw_only=True):
    """A whole answer."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[AnswerBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: AnthropicUsage


class EventDelta(Struct, frozen=True, kw_only=True):
    """What an event adds, to a block or to the message."""

    type: Literal["text_delta", "thinking_delta", "input_json_delta"] | UnsetType = UNSET
    text: str | UnsetType = UNSET
    thinking: str | UnsetType = UNSET
    partial_json: str | UnsetType = UNSET
    stop_reason: StopReason | UnsetType = UNSET
    stop_sequence: str | UnsetType | None = UNSET


class MessageEvent(Struct, frozen=True, kw_only=True):
    """One event of a stream; its name is its type."""

    type: Literal[
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "ping",
    ]
    message: AnthropicMessage | UnsetType = UNSET
    index: int | UnsetType = UNSET
    content_block: AnswerBlock | UnsetType = UNSET
    delta: EventDelta | UnsetType = UNSET
    usage: AnthropicUsage | UnsetType = UNSET


class TokenCountReply(Struct, frozen=True):
    """How long a prompt is."""

    input_tokens: int


def message_id(request_id: str) -> str:
    """The id of an answer, recognisable beside the request's ``x-request-id``."""
    return f"msg_{request_id.removeprefix('req_')}"


def encode_message_usage(usage: Usage) -> AnthropicUsage:
    """Token counts as this dialect splits them."""
    return AnthropicUsage(
        input_tokens=max(usage.prompt_tokens - usage.cached_tokens, 0),
        output_tokens=usage.completion_tokens,
        cache_creation_input_tokens=0,
        cache_read_input_tokens=usage.cached_tokens,
    )


class AnthropicStreamEncoder:
    """One streamed answer as named events.

    Args:
        head: Of the answer.
        prompt: What is known of the prompt when the answer begins.
        met_stop: Says which stop string has ended the answer, once it has ended.
    """

    heartbeat = PING

    def __init__(
        self, head: ReplyHead, prompt: Usage, *, met_stop: Callable[[], str | None]
    ) -> None:
        self._head = head
        self._prompt = prompt
        self._met_stop = met_stop
        self._index = -1  # of the block that was opened last
        self._open: type[AnswerPart] | None = None  # the kind of the block that is open
        self._around = (b"", b"")  # what stands around the text of its deltas
        self._has_calls = False
        self._reason: FinishReason = "stop"
        self._encode_text = msgspec.json.Encoder().encode

    def opening(self, _choice_count: int) -> bytes:
        """``message_start``."""
        usage = encode_message_usage(self._prompt)
        message = _message(self._head, [], usage)
        return _event(MessageEvent(type="message_start", message=message))

    def parts(
        self, _index: int, parts: Sequence[AnswerPart], _logprobs: list[TokenLogprob]
    ) -> bytes:
        """New parts, each in a block of its kind."""
        return b"".join([self._part(part) for part in parts])

    def finish_choice(self, _index: int, reason: FinishReason) -> bytes:
        """The end of the last block."""
        self._reason = reason
        return self._close()

    def finish(self, usage: Usage) -> bytes:
        """``message_delta`` and ``message_stop``."""
        stop = self._met_stop()
        delta = EventDelta(
            stop_reason=stop_reason(self._reason, has_calls=self._has_calls, stop=stop),
            stop_sequence=stop,
        )
        counts = encode_message_usage(usage)
        end = _event(MessageEvent(type="message_delta", delta=delta, usage=counts))
        return end + _event(MessageEvent(type="message_stop"))

    def error(self, error: LmxError) -> bytes:
        """``error``, which ends a stream."""
        return b"event: error\ndata: " + msgspec.json.encode(error_document(error)) + b"\n\n"

    def _part(self, part: AnswerPart) -> bytes:
        if isinstance(part, ToolCallPart):
            return self._call(part)
        before = b"" if self._open is type(part) else self._begin(type(part))
        return before + self._around[0] + self._encode_text(part.text) + self._around[1]

    def _begin(self, kind: type[AnswerPart]) -> bytes:
        if kind is TextPart:
            block = AnswerBlock(type="text", text="")
            delta = EventDelta(type="text_delta", text="")
        else:
            block = AnswerBlock(type="thinking", thinking="", signature="")
            delta = EventDelta(type="thinking_delta", thinking="")
        opened = self._close() + self._start_block(block)
        self._open = kind
        # The text comes last in a delta, so the last empty string is its place.
        template = _event(
            MessageEvent(type="content_block_delta", index=self._index, delta=delta)
        ).rpartition(b'""')
        self._around = template[0], template[2]
        return opened

    def _call(self, part: ToolCallPart) -> bytes:
        self._has_calls = True
        block = AnswerBlock(
            type="tool_use", id=_call_id(self._head.id, part), name=part.name, input={}
        )
        opened = self._close() + self._start_block(block)
        self._open = ToolCallPart
        delta = EventDelta(type="input_json_delta", partial_json=part.arguments)
        said = _event(MessageEvent(type="content_block_delta", index=self._index, delta=delta))
        return opened + said + self._close()

    def _start_block(self, block: AnswerBlock) -> bytes:
        self._index += 1
        start = MessageEvent(type="content_block_start", index=self._index, content_block=block)
        return _event(start)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _event(MessageEvent(type="content_block_stop", index=self._index))


def encode_message(
    head: ReplyHead,
    parts: Sequence[AnswerPart],
    usage: Usage,
    *,
    reason: FinishReason,
    stop: str | None,
) -> bytes:
    """The whole answer as one document.

    Args:
        head: Of the answer.
        parts: All of it, in order.
        usage: Token counts.
        reason: Why it ended.
        stop: The stop string that ended it, if one did.
    """
    has_calls = any(isinstance(part, ToolCallPart) for part in parts)
    ended = stop_reason(reason, has_calls=has_calls, stop=stop)
    content = [_block(group, head.id) for group in _group(parts)]
    message = _message(head, content, encode_message_usage(usage), ended=ended, stop=stop)
    return msgspec.json.encode(message)


def stop_reason(reason: FinishReason, *, has_calls: bool, stop: str | None) -> StopReason:
    """Why an answer ended, in this dialect's words."""
    if reason == "length":
        return "max_tokens"
    if reason != "stop":
        return reason
    if has_calls:
        return "tool_use"
    return "end_turn" if stop is None else "stop_sequence"


def error_document(error: LmxError) -> dict[str, Any]:
    """The envelope with the type that this dialect's clients look for."""
    return {"type": "error", **error_body(error)}


def _message(
    head: ReplyHead,
    content: list[AnswerBlock],
    usage: AnthropicUsage,
    *,
    ended: StopReason | None = None,
    stop: str | None = None,
) -> AnthropicMessage:
    return AnthropicMessage(
        id=head.id,
        model=head.model,
        content=content,
        stop_reason=ended,
        stop_sequence=stop,
        usage=usage,
    )


def _group(parts: Sequence[AnswerPart]) -> list[list[AnswerPart]]:
    """Neighbours of one kind together; every call alone."""
    groups: list[list[AnswerPart]] = []
    for part in parts:
        is_next = groups and type(groups[-1][0]) is type(part)
        if is_next and not isinstance(part, ToolCallPart):
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _block(group: Sequence[AnswerPart], answer_id: str) -> AnswerBlock:
    first = group[0]
    if isinstance(first, ToolCallPart):
        arguments = msgspec.json.decode(first.arguments)
        call_id = _call_id(answer_id, first)
        return AnswerBlock(type="tool_use", id=call_id, name=first.name, input=arguments)
    text = "".join(part.text for part in group if not isinstance(part, ToolCallPart))
    if isinstance(first, ReasoningPart):
        return AnswerBlock(type="thinking", thinking=text, signature="")
    return AnswerBlock(type="text", text=text)


def _call_id(answer_id: str, part: ToolCallPart) -> str:
    digest = hashlib.sha256(f"{answer_id}:{part.index}".encode()).hexdigest()
    return f"toolu_{digest[:24]}"


def _event(event: MessageEvent) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event.type.encode(), msgspec.json.encode(event))
