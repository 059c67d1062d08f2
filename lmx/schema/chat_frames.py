"""The chat WebSocket's messages: what clients send, and answers spelled for them.

There are two spellings: typed messages (``{"type": "chat.token", ...}``) and the plain ones of
clients whose first message had no type (``{"token": ...}``). An encoder gives one message per line,
and the transport makes a frame of each line; JSON text of its own holds no line break.
"""

import functools
import time
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from lmx.errors import InvalidRequest, LmxError
from lmx.protocol.values import FinishReason, TokenLogprob, Usage
from lmx.schema.chat_documents import (
    ChatLogprobs,
    Delta,
    LoopEnd,
    ToolCallDelta,
    encode_logprobs,
)
from lmx.schema.chat_reply import ChoiceShaper, ReasoningMarks, call_delta
from lmx.schema.chat_request import NEUTRAL_VALUES, ChatRequest, check_chat_request
from lmx.schema.fields import parse_fields
from lmx.schema.json_body import BODY
from lmx.schema.problems import error_body
from lmx.schema.reply import ReplyHead, encode_usage
from lmx.schema.skill_documents import SkillEvent
from lmx.text.parts import AnswerPart, TextPart

MESSAGE_END = b"\n"
ACCEPTED, KEEPALIVE = "chat.accepted", "chat.keepalive"
# What a client may name its requests, so that it can tell them apart on one socket.
MAX_NAME_CHARS = 128


class ClientMessage(Struct):
    """What every message is looked at for first; `None` means absent."""

    type: str | None = None
    request_id: str | None = None
    last_event_id: str | None = None


class ChatMessage(ChatRequest, kw_only=True):
    """A chat request as a message: the body of the HTTP route, its type, and the client's name."""

    type: Literal["chat.request"] | None = None
    request_id: str | None = None
    stream: bool | None = True


@functools.cache
def _envelopes() -> "msgspec.json.Decoder[ClientMessage]":
    return msgspec.json.Decoder(ClientMessage)


@functools.cache
def _messages() -> "msgspec.json.Decoder[ChatMessage]":
    return msgspec.json.Decoder(ChatMessage)


def parse_client_message(data: bytes) -> ClientMessage:
    """What a message is about.

    Raises:
        InvalidRequest: It is no JSON object, or says so in the wrong way.
    """
    try:
        message = _envelopes().decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = f"the message is no JSON object of the right shape: {error}"
        raise InvalidRequest(reason, param=BODY) from error
    if message.request_id is not None and not 0 < len(message.request_id) <= MAX_NAME_CHARS:
        raise InvalidRequest(
            f"'request_id' must have 1 to {MAX_NAME_CHARS} characters", param="request_id"
        )
    return message


def parse_chat_message(data: bytes) -> ChatRequest:
    """Read a chat request.

    Raises:
        InvalidRequest: Malformed, of the wrong type or out of range; `param` names the field.
        UnsupportedFeature: A field asks for something this version cannot do.
    """
    return check_chat_request(parse_fields(data, _messages(), NEUTRAL_VALUES))


def encode_message(value: Any) -> bytes:
    """One message."""
    return msgspec.json.encode(value) + MESSAGE_END


class MessageEncoder:
    """One answer as messages; what the two spellings share. It has no opening.

    Args:
        request_id: Stands in every typed message.
        head: Of the answer.
        marks: Put around reasoning inside the content; `None` sends it beside.
        choice_count: From two on, messages say which choice they are of.

    Attributes:
        is_over: Whether the terminal message was spelled.
    """

    def __init__(
        self, request_id: str, head: ReplyHead, *, marks: ReasoningMarks | None, choice_count: int
    ) -> None:
        self.is_over = False
        self._request_id = request_id
        self._head = head
        self._shapers = [ChoiceShaper(head.id, index, marks) for index in range(choice_count)]
        self._reasons: dict[int, str] = {}
        self._first_s: float | None = None
        self._ending: dict[str, Any] = {}  # what else the last message says

    @staticmethod
    def spell_note(kind: str, request_id: str) -> bytes:
        """A message that says only that a request lives."""
        raise NotImplementedError

    @staticmethod
    def spell_error(error: LmxError, request_id: str | None) -> bytes:
        """What went wrong; it ends the answer, if it is about one."""
        raise NotImplementedError

    @property
    def heartbeat(self) -> bytes:
        """A sign of life: clients time data messages, not pings."""
        return self.spell_note(KEEPALIVE, self._request_id)

    def opening(self, _choice_count: int) -> bytes:
        """Nothing: that the request lives was said before."""
        return b""

    def parts(self, index: int, parts: Sequence[AnswerPart], logprobs: list[TokenLogprob]) -> bytes:
        """New parts of one choice; log-probabilities ride on the first of them."""
        if self._first_s is None:
            self._first_s = time.monotonic()
        shaper = self._shapers[index]
        if not logprobs:
            return b"".join([self._part(index, part, shaper) for part in parts])
        deltas = [shaper.shape(part) for part in parts] or [Delta(content="")]
        scores = encode_logprobs(logprobs)
        first = self.delta(index, deltas[0], scores)
        return first + b"".join([self.delta(index, delta, None) for delta in deltas[1:]])

    def finish_choice(self, index: int, reason: FinishReason) -> bytes:
        """The end of one choice that ended well."""
        delta, self._reasons[index] = self._shapers[index].finish(reason)
        return b"" if delta.content is UNSET else self.delta(index, delta, None)

    def finish(self, usage: Usage) -> bytes:
        """The end of an answer all of whose choices ended well."""
        self.is_over = True
        return self.done(self._reasons, usage, self._speed(usage))

    def cancelled(self, usage: Usage) -> bytes:
        """The end of an answer that its client has cancelled."""
        self.is_over = True
        reasons = dict.fromkeys(range(len(self._shapers)), "cancelled")
        return self.done({**reasons, **self._reasons}, usage, self._speed(usage))

    def error(self, error: LmxError) -> bytes:
        """The end of one that did not end well."""
        self.is_over = True
        return self.spell_error(error, self._request_id)

    def end_loop(self, end: LoopEnd, usage: Usage) -> bytes:
        """The end of an answer of several turns."""
        calls = [
            self.delta(0, call_delta(index, call), None) for index, call in enumerate(end.calls)
        ]
        self._reasons[0] = end.reason
        self._ending = msgspec.to_builtins(end.fields)
        return b"".join([self._end_turn(), *calls, self.finish(usage)])

    def skill_event(self, event: SkillEvent) -> bytes:
        """A call of a skill, or what came of it; a turn ends with it."""
        raise NotImplementedError

    def token(self, index: int, text: str) -> bytes:
        """Text of a choice."""
        raise NotImplementedError

    def delta(self, index: int, delta: Delta, logprobs: ChatLogprobs | None) -> bytes:
        """What a choice adds."""
        raise NotImplementedError

    def done(self, reasons: dict[int, str], usage: Usage, tokens_per_s: float) -> bytes:
        """The end of the answer."""
        raise NotImplementedError

    def _end_turn(self) -> bytes:
        delta = self._shapers[0].end_turn()
        return b"" if delta.content is UNSET else self.delta(0, delta, None)

    def _part(self, index: int, part: AnswerPart, shaper: ChoiceShaper) -> bytes:
        if type(part) is TextPart and not shaper.is_thinking:
            return self.token(index, part.text)
        return self.delta(index, shaper.shape(part), None)

    def _speed(self, usage: Usage) -> float:
        """Tokens per second since the first text."""
        if self._first_s is None:
            return 0.0
        elapsed_s = time.monotonic() - self._first_s
        return round(usage.completion_tokens / elapsed_s, 2) if elapsed_s > 0 else 0.0

    def _index(self, index: int) -> int | UnsetType:
        return UNSET if len(self._shapers) == 1 else index


class TypedEncoder(MessageEncoder):
    """Messages with a type, as the Opta CLI reads them."""

    def __init__(
        self, request_id: str, head: ReplyHead, *, marks: ReasoningMarks | None, choice_count: int
    ) -> None:
        super().__init__(request_id, head, marks=marks, choice_count=choice_count)
        # What stands around the text of a token, which is on every token's path.
        template = [
            encode_message(_Token(request_id, "", head.model, self._index(index)))
            for index in range(choice_count)
        ]
        self._frames = [t.partition(b'"content":""')[::2] for t in template]
        self._encode_text = msgspec.json.Encoder().encode

    def token(self, index: int, text: str) -> bytes:
        """``chat.token``."""
        before, after = self._frames[index]
        return before + b'"content":' + self._encode_text(text) + after

    def delta(self, index: int, delta: Delta, logprobs: ChatLogprobs | None) -> bytes:
        """``chat.token``, ``chat.reasoning`` and ``chat.tool_call``."""
        request_id, model, place = self._request_id, self._head.model, self._index(index)
        scores = UNSET if logprobs is None else logprobs
        messages: list[Struct] = []
        if not isinstance(delta.reasoning_content, UnsetType):
            messages.append(_Reasoning(request_id, delta.reasoning_content, model, place, scores))
        elif not isinstance(delta.content, UnsetType):
            messages.append(_Token(request_id, delta.content, model, place, scores))
        if not isinstance(delta.tool_calls, UnsetType):
            messages += [_ToolCall(request_id, _call(call), place) for call in delta.tool_calls]
        return b"".join(map(encode_message, messages))

    def skill_event(self, event: SkillEvent) -> bytes:
        """``chat.skill``."""
        message = {"type": "chat.skill", "request_id": self._request_id, "event": event}
        return self._end_turn() + encode_message(message)

    def done(self, reasons: dict[int, str], usage: Usage, tokens_per_s: float) -> bytes:
        """``chat.done``; with several choices also why each of them ended."""
        message = {
            "type": "chat.done",
            "request_id": self._request_id,
            "finish_reason": reasons[0],
            "usage": encode_usage(usage),
            "model": self._head.model,
            "id": self._head.id,
            "stats": {"tokens_per_second": tokens_per_s},
            **self._ending,
        }
        if len(reasons) > 1:
            message["finish_reasons"] = [reason for _, reason in sorted(reasons.items())]
        return encode_message(message)

    @staticmethod
    def spell_note(kind: str, request_id: str) -> bytes:
        """Of a type such as ``chat.accepted``, which clients that do not know it ignore."""
        return encode_message({"type": kind, "request_id": request_id})

    @staticmethod
    def spell_error(error: LmxError, request_id: str | None) -> bytes:
        """``chat.error``: the message as clients show it, and the rest of the envelope."""
        body = error_body(error)
        message = {
            "type": "chat.error",
            **({} if request_id is None else {"request_id": request_id}),
            "error": error.message,
            "code": body["code"],
            "param": error.param,
            "detail": body["error"],
        }
        if error.retry_after_s is not None:
            message["retry_after"] = error.retry_after_s
        return encode_message(message)


class PlainEncoder(MessageEncoder):
    """Messages without a type, as the help pages show them."""

    def token(self, index: int, text: str) -> bytes:
        """``{"token": ...}``."""
        return encode_message(_PlainToken(text, self._index(index)))

    def delta(self, index: int, delta: Delta, logprobs: ChatLogprobs | None) -> bytes:
        """Tokens, reasoning and calls, each under its own key."""
        place = self._index(index)
        message: dict[str, Any] = {} if isinstance(place, UnsetType) else {"index": place}
        if not isinstance(delta.reasoning_content, UnsetType):
            message["reasoning"] = delta.reasoning_content
        elif not isinstance(delta.content, UnsetType):
            message["token"] = delta.content
        if logprobs is not None:
            message["logprobs"] = logprobs
        calls = [] if isinstance(delta.tool_calls, UnsetType) else delta.tool_calls
        shown = [message] if set(message) - {"index"} else []
        shown += [{"tool_call": _call(call)} for call in calls]
        return b"".join(map(encode_message, shown))

    def skill_event(self, event: SkillEvent) -> bytes:
        """``{"skill": ...}``."""
        return self._end_turn() + encode_message({"skill": event})

    def done(self, reasons: dict[int, str], usage: Usage, tokens_per_s: float) -> bytes:
        """``{"done": true, ...}``."""
        stats = {"tokens_per_second": tokens_per_s}
        message = {
            "done": True,
            "finish_reason": reasons[0],
            "usage": encode_usage(usage),
            "stats": stats,
            **self._ending,
        }
        return encode_message(message)

    @staticmethod
    def spell_note(kind: str, request_id: str) -> bytes:
        """No text, which any client takes."""
        return encode_message({"token": "", "request_id": request_id})

    @staticmethod
    def spell_error(error: LmxError, request_id: str | None) -> bytes:
        """``{"error": ..., "done": true}``."""
        code = error_body(error)["code"]
        message = {"error": error.message, "code": code, "param": error.param, "done": True}
        return encode_message(message)


class _Token(Struct, frozen=True, tag="chat.token"):
    request_id: str
    content: str
    model: str
    index: int | UnsetType = UNSET
    logprobs: ChatLogprobs | UnsetType = UNSET


class _Reasoning(Struct, frozen=True, tag="chat.reasoning"):
    request_id: str
    content: str
    model: str
    index: int | UnsetType = UNSET
    logprobs: ChatLogprobs | UnsetType = UNSET


class _ToolCall(Struct, frozen=True, tag="chat.tool_call"):
    request_id: str
    tool_call: dict[str, Any]
    index: int | UnsetType = UNSET


class _PlainToken(Struct, frozen=True):
    token: str
    index: int | UnsetType = UNSET


def _call(call: ToolCallDelta) -> dict[str, Any]:
    return {
        "index": call.index,
        "id": call.id,
        "name": call.function.name,
        "arguments": call.function.arguments,
    }
