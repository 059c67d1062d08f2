"""OpenAI's Chat Completions answer: parts to SSE frames, or to one JSON document.

Streaming is on every token's path: the constant ends of a chunk are built once per request and
only the delta's text is encoded anew.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from lmx.errors import LmxError
from lmx.protocol.values import FinishReason, Usage
from lmx.schema.problems import error_body
from lmx.text.parts import Part

SSE_DONE = b"data: [DONE]\n\n"
SSE_COMMENT = b": keep-alive\n\n"


def completion_id(request_id: str) -> str:
    """The id of an answer, recognisable beside the request's ``x-request-id``."""
    return f"chatcmpl-{request_id.removeprefix('req_')}"


def encode_usage(usage: Usage) -> dict[str, Any]:
    """Token counts in OpenAI's shape."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


class ReplyHead(msgspec.Struct, frozen=True):
    """What every chunk of one answer repeats."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class ChatStreamEncoder:
    """One streamed answer as SSE frames.

    Args:
        head: Repeated in every chunk.
        include_usage: Send the extra chunk with token counts before the end.
    """

    def __init__(self, head: ReplyHead, *, include_usage: bool) -> None:
        self._head = head
        self._include_usage = include_usage
        template = self._chunk([self._choice({"content": ""})])
        prefix, suffix = template.split(b'"content":""')
        self._prefix = prefix + b'"content":'
        self._suffix = suffix
        self._encode_text = msgspec.json.Encoder().encode

    def first(self) -> bytes:
        """The chunk that carries the role."""
        return self._chunk([self._choice({"role": "assistant", "content": ""})])

    def parts(self, parts: Sequence[Part]) -> bytes:
        """Chunks of new parts."""
        return b"".join(
            [self._prefix + self._encode_text(part.text) + self._suffix for part in parts]
        )

    def finish(self, reason: FinishReason, usage: Usage) -> bytes:
        """The last chunks of an answer that ended well."""
        frames = [self._chunk([self._choice({}, finish_reason=reason)])]
        if self._include_usage:
            frames.append(self._chunk([], usage=encode_usage(usage)))
        frames.append(SSE_DONE)
        return b"".join(frames)

    def error(self, error: LmxError) -> bytes:
        """The one frame that ends an answer that failed after its headers went out."""
        return b"data: " + msgspec.json.encode(error_body(error)) + b"\n\n"

    def _choice(self, delta: dict[str, Any], *, finish_reason: str | None = None) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

    def _chunk(
        self, choices: list[dict[str, Any]], *, usage: dict[str, Any] | None = None
    ) -> bytes:
        chunk = {
            "id": self._head.id,
            "object": "chat.completion.chunk",
            "created": self._head.created,
            "model": self._head.model,
            "system_fingerprint": self._head.system_fingerprint,
            "choices": choices,
        }
        if self._include_usage:
            chunk["usage"] = usage
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def encode_completion(
    head: ReplyHead, parts: Sequence[Part], *, reason: FinishReason, usage: Usage
) -> bytes:
    """The whole answer as one document: the fold of what a stream would have sent."""
    message = {
        "role": "assistant",
        "content": "".join(part.text for part in parts),
        "refusal": None,
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    document = {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "system_fingerprint": head.system_fingerprint,
        "choices": [choice],
        "usage": encode_usage(usage),
    }
    return msgspec.json.encode(document)
