"""The shapes of OpenAI's Chat Completions answers: whole documents and stream chunks.

Fields that are absent rather than null when there is nothing to say are `UNSET` by default.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from lmx.protocol.values import TokenLogprob
from lmx.schema.reply import UsageDocument, finite_logprob
from lmx.schema.skill_documents import SkillEvent, SkillRun
from lmx.schema.skill_fields import SkillLimit

ChatFinishReason = Literal[
    "stop", "length", "tool_calls", "requires_approval", "cancelled", "error"
]


class Alternative(Struct, frozen=True):
    """A token that could have stood in a place."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(Struct, frozen=True):
    """A token of the answer with its likeliest alternatives."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[Alternative]


class ChatLogprobs(Struct, frozen=True):
    """Log-probabilities of an answer or of a part of it."""

    content: list[ChatLogprob]
    refusal: None = None


class FunctionCall(Struct, frozen=True):
    """The function a call names. `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCallDocument(Struct, frozen=True, kw_only=True):
    """A call in a whole answer."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ToolCallDelta(Struct, frozen=True, kw_only=True):
    """A call in a stream, always complete."""

    index: int
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class AssistantMessage(Struct, frozen=True, kw_only=True):
    """The whole answer of one choice. `content` is null if there are only calls."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDocument] | UnsetType = UNSET


class HistoryMessage(Struct, frozen=True, kw_only=True):
    """A message that an answer adds to its conversation: a turn of the model, or of a skill."""

    role: Literal["assistant", "tool"]
    content: str | None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDocument] | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET
    name: str | UnsetType = UNSET


class ChatChoice(Struct, frozen=True):
    """One of the answers."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason


class SkillEnding(Struct, frozen=True, kw_only=True):
    """What an answer to a request with skills says at its end.

    Attributes:
        skill_limit: Which limit has ended it.
        skill_messages: What it adds to the conversation, its own message included; only if skills
            were called.
    """

    skill_limit: SkillLimit | UnsetType = UNSET
    skill_messages: list[HistoryMessage] | UnsetType = UNSET


class ChatCompletion(SkillEnding, frozen=True, kw_only=True):
    """The answer to a request that is not streamed.

    Attributes:
        skill_runs: Calls of skills in order, and what came of them.
    """

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageDocument
    skill_runs: list[SkillRun] | UnsetType = UNSET


class Delta(Struct, frozen=True):
    """What a chunk adds to a choice's message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChunkChoice(Struct, frozen=True):
    """A chunk's part of one choice."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: ChatFinishReason | None = None


class ChatChunk(SkillEnding, frozen=True, kw_only=True):
    """One event of a stream. `usage` is there only if it was asked for, and null until the end.

    Attributes:
        skill_event: A call of a skill, or what came of it.
    """

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: UsageDocument | UnsetType | None = UNSET
    skill_event: SkillEvent | UnsetType = UNSET


class LoopEnd(Struct, frozen=True):
    """How an answer to a request with skills has ended.

    Attributes:
        reason: Why.
        limit: Which limit has ended it, if one has.
        calls: What the client is to decide on or to run itself.
        messages: What the answer adds to the conversation; none if no skill was called.
    """

    reason: ChatFinishReason
    limit: SkillLimit | None = None
    calls: Sequence[ToolCallDocument] = ()
    messages: Sequence[HistoryMessage] = ()

    @property
    def fields(self) -> SkillEnding:
        """As an answer says it."""
        return SkillEnding(
            skill_limit=self.limit or UNSET, skill_messages=list(self.messages) or UNSET
        )


def encode_logprobs(logprobs: list[TokenLogprob]) -> ChatLogprobs:
    """Log-probabilities in the shape of chat answers."""
    return ChatLogprobs([_encode_logprob(logprob) for logprob in logprobs])


def _encode_logprob(logprob: TokenLogprob) -> ChatLogprob:
    own = _alternative(logprob)
    top = [_alternative(other) for other in logprob.top]
    return ChatLogprob(own.token, own.logprob, own.bytes, top)


def _alternative(logprob: TokenLogprob) -> Alternative:
    # Only a prompt's first token has none, and chat answers do not show the prompt.
    value = finite_logprob(logprob.logprob or 0.0)
    return Alternative(logprob.token, value, list(logprob.token_bytes))
