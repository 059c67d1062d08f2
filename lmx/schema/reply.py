"""What answers of every generating route share: their head, token counts and stream frames."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from lmx.errors import LmxError
from lmx.protocol.values import Usage
from lmx.schema.problems import error_body

SSE_DONE = b"data: [DONE]\n\n"
SSE_COMMENT = b": keep-alive\n\n"
# JSON has no infinity; OpenAI's reference names this value for the least likely tokens.
LEAST_LOGPROB = -9999.0


class ReplyHead(Struct, frozen=True):
    """What every chunk of one answer repeats."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class PromptTokensDetails(Struct, frozen=True):
    """Prompt tokens whose prefill was skipped."""

    cached_tokens: int


class UsageDocument(Struct, frozen=True):
    """Token counts in OpenAI's shape."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


def completion_id(request_id: str, *, prefix: str = "chatcmpl") -> str:
    """The id of an answer, recognisable beside the request's ``x-request-id``."""
    return f"{prefix}-{request_id.removeprefix('req_')}"


def encode_usage(usage: Usage) -> UsageDocument:
    """Token counts as clients read them."""
    return UsageDocument(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(usage.cached_tokens),
    )


def merge_usage(usages: Sequence[Usage]) -> Usage:
    """The counts of several choices for one prompt, which is counted once."""
    return Usage(
        prompt_tokens=max((usage.prompt_tokens for usage in usages), default=0),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        # Later choices find the prompt in the cache because of the first.
        cached_tokens=min((usage.cached_tokens for usage in usages), default=0),
        drafted_tokens=sum(usage.drafted_tokens for usage in usages),
        accepted_tokens=sum(usage.accepted_tokens for usage in usages),
    )


def sum_usage(usages: Iterable[Usage]) -> Usage:
    """The counts of several prompts."""
    counts = [msgspec.structs.astuple(usage) for usage in usages]
    return Usage(*(sum(column) for column in zip(*counts, strict=True))) if counts else Usage(0, 0)


def finite_logprob(logprob: float) -> float:
    """A log-probability that JSON can hold."""
    return logprob if math.isfinite(logprob) else LEAST_LOGPROB


def encode_frame(value: Any) -> bytes:
    """One SSE event."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def encode_error_frame(error: LmxError) -> bytes:
    """The one frame that ends an answer that failed after its headers went out."""
    return encode_frame(error_body(error))
