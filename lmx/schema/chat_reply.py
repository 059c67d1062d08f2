"""OpenAI's Chat Completions answer: parts to SSE frames, or to one JSON document.

Streaming is on every token's path: the constant ends of a chunk are built once per choice and
only the delta's text is encoded anew. The whole document is the fold of the same deltas.
"""

import hashlib
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import UNSET, Struct, UnsetType

from lmx.errors import LmxError
from lmx.protocol.values import FinishReason, TokenLogprob, Usage
from lmx.schema.chat_documents import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatFinishReason,
    ChunkChoice,
    Delta,
    FunctionCall,
    LoopEnd,
    ToolCallDelta,
    ToolCallDocument,
    encode_logprobs,
)
from lmx.schema.reply import (
    SSE_COMMENT,
    SSE_DONE,
    ReplyHead,
    UsageDocument,
    encode_error_frame,
    encode_frame,
    encode_usage,
)
from lmx.schema.skill_documents import SkillEvent
from lmx.text.parts import AnswerPart, ReasoningPart, TextPart, ToolCallPart

ReasoningMarks = tuple[str, str]
THINK_MARKS: ReasoningMarks = ("<think>", "</think>")


class WholeChoice(Struct, frozen=True):
    """One finished answer.

    Attributes:
        parts: All of it, in order.
        logprobs: Of its tokens; `None` if they were not asked for.
        reason: Why it ended.
    """

    parts: Sequence[AnswerPart]
    logprobs: list[TokenLogprob] | None
    reason: FinishReason


class ChoiceShaper:
    """Parts of one choice to deltas.

    Args:
        id_seed: Makes call ids unique to the answer, and the same streamed and whole.
        index: Which choice.
        marks: Put around reasoning inside the content; `None` keeps it beside the content.
    """

    def __init__(self, id_seed: str, index: int, marks: ReasoningMarks | None) -> None:
        self._id_seed = f"{id_seed}:{index}"
        self._marks = marks
        self._has_calls = False
        self.is_thinking = False  # true iff an opening mark is not closed yet

    def shape(self, part: AnswerPart) -> Delta:
        """The delta that says what a part says."""
        match part:
            case TextPart(text):
                return Delta(content=self._close() + text)
            case ReasoningPart(text=text):
                if self._marks is None:
                    return Delta(reasoning_content=text)
                opening = "" if self.is_thinking else self._marks[0]
                self.is_thinking = True
                return Delta(content=opening + text)
            case ToolCallPart():
                self._has_calls = True
                return Delta(content=self._close() or UNSET, tool_calls=[self._call(part)])

    def finish(self, reason: FinishReason) -> tuple[Delta, ChatFinishReason]:
        """What is left to say, and why the choice ended."""
        has_called = self._has_calls and reason == "stop"
        return Delta(content=self._close() or UNSET), "tool_calls" if has_called else reason

    def end_turn(self) -> Delta:
        """What is left to say of a turn after which others may come."""
        return Delta(content=self._close() or UNSET)

    def _close(self) -> str:
        closing = self._marks[1] if self._marks and self.is_thinking else ""
        self.is_thinking = False
        return closing

    def _call(self, part: ToolCallPart) -> ToolCallDelta:
        return ToolCallDelta(
            index=part.index,
            id=make_call_id(self._id_seed, part.index),
            function=FunctionCall(part.name, part.arguments),
        )


def make_call_id(seed: str, number: int) -> str:
    """The id of a call; unique if the seed is, and the same each time."""
    return f"call_{hashlib.sha256(f'{seed}:{number}'.encode()).hexdigest()[:24]}"


def call_delta(index: int, call: ToolCallDocument) -> Delta:
    """A whole call as a delta."""
    return Delta(tool_calls=[ToolCallDelta(index=index, id=call.id, function=call.function)])


class ChoiceFrames(Struct, frozen=True):
    """A choice's shaper, and what stands around the text in each of its plain chunks."""

    shaper: ChoiceShaper
    prefix: bytes
    suffix: bytes


class ChatStreamEncoder:
    """One streamed answer, of one or more choices, as SSE frames.

    Args:
        head: Repeated in every chunk.
        include_usage: Send the extra chunk with token counts before the end.
        inline_reasoning: Put around reasoning inside the content; `None` sends it beside.
    """

    def __init__(
        self, head: ReplyHead, *, include_usage: bool, inline_reasoning: ReasoningMarks | None
    ) -> None:
        self._head = head
        self._usage = None if include_usage else UNSET
        self._marks = inline_reasoning
        self._frames: dict[int, ChoiceFrames] = {}
        self._encode_text = msgspec.json.Encoder().encode

    heartbeat = SSE_COMMENT

    def opening(self, choice_count: int) -> bytes:
        """What comes before any text."""
        return b"".join([self.first(index) for index in range(choice_count)])

    def first(self, index: int) -> bytes:
        """The chunk that carries a choice's role."""
        return self._chunk([ChunkChoice(index, Delta(role="assistant", content=""))])

    def parts(self, index: int, parts: Sequence[AnswerPart], logprobs: list[TokenLogprob]) -> bytes:
        """Chunks of new parts; log-probabilities ride on the first of them."""
        frames = self._frames.get(index) or self._open(index)
        if logprobs:
            return self._with_logprobs(index, parts, logprobs)
        shaper = frames.shaper
        return b"".join(
            [
                frames.prefix + self._encode_text(part.text) + frames.suffix
                if type(part) is TextPart and not shaper.is_thinking
                else self._chunk([ChunkChoice(index, shaper.shape(part))])
                for part in parts
            ]
        )

    def finish_choice(self, index: int, reason: FinishReason) -> bytes:
        """The chunks that end a choice."""
        frames = self._frames.get(index) or self._open(index)
        delta, finish_reason = frames.shaper.finish(reason)
        end = self._chunk([ChunkChoice(index, Delta(), finish_reason=finish_reason)])
        return end if delta.content is UNSET else self._chunk([ChunkChoice(index, delta)]) + end

    def finish(self, usage: Usage) -> bytes:
        """The end of an answer all of whose choices have ended."""
        if self._usage is UNSET:
            return SSE_DONE
        return self._chunk([], usage=encode_usage(usage)) + SSE_DONE

    def error(self, error: LmxError) -> bytes:
        """The one frame that ends an answer that failed after its headers went out."""
        return encode_error_frame(error)

    def skill_event(self, event: SkillEvent) -> bytes:
        """A chunk without text, for clients that know no skills; a turn ends with it."""
        chunk = self._document([ChunkChoice(0, Delta())])
        return self._end_turn() + encode_frame(msgspec.structs.replace(chunk, skill_event=event))

    def end_loop(self, end: LoopEnd, usage: Usage) -> bytes:
        """The end of an answer of several turns."""
        calls = [
            self._chunk([ChunkChoice(0, call_delta(index, call))])
            for index, call in enumerate(end.calls)
        ]
        last = self._document([ChunkChoice(0, Delta(), finish_reason=end.reason)])
        ending = encode_frame(msgspec.structs.replace(last, **msgspec.structs.asdict(end.fields)))
        return b"".join([self._end_turn(), *calls, ending, self.finish(usage)])

    def _end_turn(self) -> bytes:
        delta = (self._frames.get(0) or self._open(0)).shaper.end_turn()
        return b"" if delta.content is UNSET else self._chunk([ChunkChoice(0, delta)])

    def _open(self, index: int) -> ChoiceFrames:
        template = self._chunk([ChunkChoice(index, Delta(content=""))])
        # The last such key is ours: what follows it is of fixed spelling.
        prefix, key, suffix = template.rpartition(b'"content":""')
        shaper = ChoiceShaper(self._head.id, index, self._marks)
        frames = ChoiceFrames(shaper, prefix + key.removesuffix(b'""'), suffix)
        self._frames[index] = frames
        return frames

    def _with_logprobs(
        self, index: int, parts: Sequence[AnswerPart], logprobs: list[TokenLogprob]
    ) -> bytes:
        shaper = self._frames[index].shaper
        deltas = [shaper.shape(part) for part in parts] or [Delta(content="")]
        choices = [ChunkChoice(index, delta) for delta in deltas]
        choices[0] = msgspec.structs.replace(choices[0], logprobs=encode_logprobs(logprobs))
        return b"".join([self._chunk([choice]) for choice in choices])

    def _chunk(self, choices: list[ChunkChoice], *, usage: UsageDocument | None = None) -> bytes:
        return encode_frame(self._document(choices, usage=usage))

    def _document(
        self, choices: list[ChunkChoice], *, usage: UsageDocument | None = None
    ) -> ChatChunk:
        return ChatChunk(
            id=self._head.id,
            created=self._head.created,
            model=self._head.model,
            system_fingerprint=self._head.system_fingerprint,
            choices=choices,
            usage=usage or self._usage,
        )


def encode_completion(
    head: ReplyHead,
    choices: Sequence[WholeChoice],
    usage: Usage,
    *,
    inline_reasoning: ReasoningMarks | None = None,
) -> bytes:
    """The whole answer as one document: the fold of what a stream would have sent."""
    document = ChatCompletion(
        id=head.id,
        created=head.created,
        model=head.model,
        system_fingerprint=head.system_fingerprint,
        choices=[
            _fold(choice, index, ChoiceShaper(head.id, index, inline_reasoning))
            for index, choice in enumerate(choices)
        ],
        usage=encode_usage(usage),
    )
    return msgspec.json.encode(document)


def _fold(choice: WholeChoice, index: int, shaper: ChoiceShaper) -> ChatChoice:
    deltas = [shaper.shape(part) for part in choice.parts]
    last, finish_reason = shaper.finish(choice.reason)
    logprobs = None if choice.logprobs is None else encode_logprobs(choice.logprobs)
    return ChatChoice(index, fold_deltas([*deltas, last]), logprobs, finish_reason)


def fold_deltas(deltas: Sequence[Delta]) -> AssistantMessage:
    """The message that a stream of deltas makes."""
    content = _join(delta.content for delta in deltas)
    calls = [
        ToolCallDocument(id=call.id, function=call.function)
        for delta in deltas
        for call in _calls(delta)
    ]
    return AssistantMessage(
        content=None if calls and not content else content,
        reasoning_content=_join(delta.reasoning_content for delta in deltas) or UNSET,
        tool_calls=calls or UNSET,
    )


def _join(texts: Iterable[str | UnsetType]) -> str:
    return "".join(text for text in texts if not isinstance(text, UnsetType))


def _calls(delta: Delta) -> list[ToolCallDelta]:
    return [] if isinstance(delta.tool_calls, UnsetType) else delta.tool_calls
