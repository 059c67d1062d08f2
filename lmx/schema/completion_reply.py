"""OpenAI's legacy Completions answer: text to SSE frames, or to one JSON document.

Choices of several prompts stand in one answer: choice ``j`` of prompt ``i`` has the index
``i * n + j``. There is no markup in it: text and reasoning are shown alike, as they came.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from lmx.errors import LmxError
from lmx.protocol.values import FinishReason, TokenLogprob, Usage
from lmx.schema.reply import (
    LEAST_LOGPROB,
    SSE_COMMENT,
    SSE_DONE,
    ReplyHead,
    UsageDocument,
    encode_error_frame,
    encode_frame,
    encode_usage,
    finite_logprob,
)
from lmx.text.parts import AnswerPart, ToolCallPart


class Echo(Struct, frozen=True):
    """The prompt as it stands before an answer.

    Attributes:
        text: As the worker reported it.
        logprobs: Of its tokens; empty if they were not asked for.
    """

    text: str
    logprobs: list[TokenLogprob] = []


class WholeText(Struct, frozen=True):
    """One finished answer.

    Attributes:
        text: All of it, without the prompt.
        logprobs: Of its tokens; `None` if nobody needs them.
        reason: Why it ended.
        echo: The prompt, if it is to be shown.
    """

    text: str
    logprobs: list[TokenLogprob] | None
    reason: FinishReason
    echo: Echo | None = None


class TextLogprobs(Struct, frozen=True):
    """Log-probabilities in parallel lists. The first token of a prompt has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class TextChoice(Struct, frozen=True):
    """One of the answers, or a chunk's part of one."""

    text: str
    index: int
    logprobs: TextLogprobs | None = None
    finish_reason: FinishReason | None = None


class TextCompletion(Struct, frozen=True, kw_only=True):
    """A whole answer or a chunk of one; chunks have `usage` only if it was asked for."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: UsageDocument | UnsetType | None = UNSET


class CompletionStreamEncoder:
    """One streamed answer, of one or more choices, as SSE frames.

    Args:
        head: Repeated in every chunk.
        include_usage: Send the extra chunk with token counts before the end.
    """

    def __init__(self, head: ReplyHead, *, include_usage: bool) -> None:
        self._head = head
        self._usage = None if include_usage else UNSET
        self._offsets: dict[int, int] = {}

    heartbeat = SSE_COMMENT

    def opening(self, _choice_count: int) -> bytes:
        """A comment, so that the client hears at once; an answer begins with its first text."""
        return b": accepted\n\n"

    def echo(self, index: int, echo: Echo) -> bytes:
        """The chunk that repeats the prompt."""
        data = self._text(index, echo.text, echo.logprobs)
        self._offsets[index] = len(echo.text)
        return data

    def parts(self, index: int, parts: Sequence[AnswerPart], logprobs: list[TokenLogprob]) -> bytes:
        """The chunk of new parts."""
        text = "".join(part.text for part in parts if not isinstance(part, ToolCallPart))
        return self._text(index, text, logprobs) if text or logprobs else b""

    def finish_choice(self, index: int, reason: FinishReason) -> bytes:
        """The chunk that ends a choice."""
        return self._chunk([TextChoice("", index, finish_reason=reason)])

    def finish(self, usage: Usage) -> bytes:
        """The end of an answer all of whose choices have ended."""
        if self._usage is UNSET:
            return SSE_DONE
        return self._chunk([], usage=encode_usage(usage)) + SSE_DONE

    def error(self, error: LmxError) -> bytes:
        """The one frame that ends an answer that failed after its headers went out."""
        return encode_error_frame(error)

    def _text(self, index: int, text: str, logprobs: list[TokenLogprob]) -> bytes:
        shown = None
        if logprobs:
            offset = self._offsets.get(index, 0)
            shown = encode_text_logprobs(logprobs, offset=offset)
            self._offsets[index] = offset + sum(len(logprob.token) for logprob in logprobs)
        return self._chunk([TextChoice(text, index, shown)])

    def _chunk(self, choices: list[TextChoice], *, usage: UsageDocument | None = None) -> bytes:
        return encode_frame(_document(self._head, choices, usage or self._usage))


def encode_text_completion(
    head: ReplyHead, choices: Sequence[WholeText], usage: Usage, *, shows_logprobs: bool
) -> bytes:
    """The whole answer as one document: the fold of what a stream would have sent."""
    shown = [
        _fold(choice, index, shows_logprobs=shows_logprobs) for index, choice in enumerate(choices)
    ]
    return msgspec.json.encode(_document(head, shown, encode_usage(usage)))


def choose_best(choices: Sequence[WholeText], count: int) -> list[WholeText]:
    """The `count` choices with the highest mean log-probability per token, best first."""
    return sorted(choices, key=_mean_logprob, reverse=True)[:count]


def encode_text_logprobs(logprobs: Sequence[TokenLogprob], *, offset: int = 0) -> TextLogprobs:
    """Log-probabilities in the legacy shape.

    Args:
        logprobs: Of consecutive tokens.
        offset: Characters of the choice's text before the first of them.
    """
    offsets = []
    for logprob in logprobs:
        offsets.append(offset)
        offset += len(logprob.token)
    has_top = any(logprob.top for logprob in logprobs)
    return TextLogprobs(
        tokens=[logprob.token for logprob in logprobs],
        token_logprobs=[_value(logprob) for logprob in logprobs],
        top_logprobs=[_top(logprob) for logprob in logprobs] if has_top else None,
        text_offset=offsets,
    )


def _value(logprob: TokenLogprob) -> float | None:
    return None if logprob.logprob is None else finite_logprob(logprob.logprob)


def _top(logprob: TokenLogprob) -> dict[str, float] | None:
    if logprob.logprob is None:
        return None
    # The likelier of two tokens with the same text stays.
    best: dict[str, float] = {}
    for other in logprob.top:
        best.setdefault(other.token, finite_logprob(other.logprob or 0.0))
    return best


def _fold(choice: WholeText, index: int, *, shows_logprobs: bool) -> TextChoice:
    echo = choice.echo or Echo("")
    logprobs = None
    if shows_logprobs:
        before = 0 if echo.logprobs else len(echo.text)
        logprobs = encode_text_logprobs([*echo.logprobs, *(choice.logprobs or [])], offset=before)
    return TextChoice(echo.text + choice.text, index, logprobs, choice.reason)


def _mean_logprob(choice: WholeText) -> float:
    values = [finite_logprob(logprob.logprob or 0.0) for logprob in choice.logprobs or []]
    return sum(values) / len(values) if values else LEAST_LOGPROB


def _document(
    head: ReplyHead, choices: list[TextChoice], usage: UsageDocument | UnsetType | None
) -> TextCompletion:
    return TextCompletion(
        id=head.id,
        created=head.created,
        model=head.model,
        system_fingerprint=head.system_fingerprint,
        choices=choices,
        usage=usage,
    )
