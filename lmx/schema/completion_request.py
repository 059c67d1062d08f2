"""OpenAI's legacy Completions request: bytes to a typed request to one `Generate` per prompt.

Text goes to the model as it is: no template, no tools, no reasoning.
"""

import functools
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from lmx.errors import InvalidRequest
from lmx.protocol.messages import Generate, TextPrompt, TokenPrompt
from lmx.schema.constraints import choose_grammar
from lmx.schema.fields import (
    ChoiceCount,
    GenerationFields,
    LogprobCount,
    NonEmpty,
    TokenId,
    make_samplings,
    parse_fields,
    stop_strings,
)
from lmx.schema.priority import NORMAL, choose_priority

DEFAULT_MAX_TOKENS = 16  # OpenAI's
MAX_PROMPTS = 128

TokenIds = Annotated[list[TokenId], Meta(min_length=1)]
_TEXT = {"type": "string", "minLength": 1}
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_MANY = {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS}
# msgspec tells lists apart by nothing; which items a list may hold together is checked below.
Prompts = Annotated[
    NonEmpty | Annotated[list[NonEmpty | TokenId | TokenIds], Meta(min_length=1)],
    Meta(
        description="A text, token ids, or a list of either.",
        extra_json_schema={
            "anyOf": [_TEXT, _TOKENS, {**_MANY, "items": _TEXT}, {**_MANY, "items": _TOKENS}]
        },
    ),
]


class CompletionRequest(GenerationFields, kw_only=True):
    """The body of a completion request. `None` means absent, as explicit nulls occur."""

    prompt: Prompts
    best_of: ChoiceCount | None = None
    echo: bool | None = None
    logprobs: LogprobCount | None = None
    suffix: Annotated[Any, Meta(extra_json_schema={"enum": ["", None]})] = None


@functools.cache
def _decoder() -> "msgspec.json.Decoder[CompletionRequest]":
    return msgspec.json.Decoder(CompletionRequest)


def parse_completion_request(body: bytes) -> CompletionRequest:
    """Read a request body.

    Raises:
        InvalidRequest: Malformed, of the wrong type or out of range; `param` names the field.
        UnsupportedFeature: A field asks for something this version cannot do.
    """
    request = parse_fields(body, _decoder(), {"suffix": ("",)})
    if request.best_of is not None:
        if request.best_of < choice_count(request):
            raise InvalidRequest("'best_of' must not be less than 'n'", param="best_of")
        if request.stream and request.best_of > choice_count(request):
            raise InvalidRequest("'best_of' cannot be streamed", param="best_of")
    return request


def to_generates(
    request: CompletionRequest, *, default_temperature: float, default_priority: int = NORMAL
) -> list[Generate]:
    """Translate into the worker's terms, one command per prompt.

    The sequence numbers are the link's to set. With ``best_of`` there are more samplings than
    choices to show, and log-probabilities to choose by.

    Raises:
        InvalidRequest: Fields contradict each other, or the prompts are of different kinds.
    """
    count = request.best_of or choice_count(request)
    logprobs = request.logprobs
    samplings = make_samplings(
        request,
        count=count,
        max_tokens=request.max_tokens or DEFAULT_MAX_TOKENS,
        default_temperature=default_temperature,
        top_logprobs=0 if logprobs is None and count > choice_count(request) else logprobs,
    )
    return [
        Generate(
            sequence=0,
            prompt=prompt,
            samplings=samplings,
            stop=stop_strings(request),
            grammar=choose_grammar(request),
            wants_prompt=bool(request.echo),
            priority=choose_priority(request.priority, default_priority),
            context_tokens=request.num_ctx,
        )
        for prompt in _prompts(request)
    ]


def choice_count(request: CompletionRequest) -> int:
    """How many choices each prompt gets."""
    return request.n or 1


def _prompts(request: CompletionRequest) -> list[TextPrompt] | list[TokenPrompt]:
    given = request.prompt
    if isinstance(given, str):
        return [TextPrompt(given)]
    ids = [item for item in given if isinstance(item, int)]
    if len(ids) == len(given):
        return [TokenPrompt(ids)]
    if len(given) > MAX_PROMPTS:
        raise InvalidRequest(f"'prompt' takes at most {MAX_PROMPTS} prompts", param="prompt")
    texts = [item for item in given if isinstance(item, str)]
    if len(texts) == len(given):
        return [TextPrompt(text) for text in texts]
    lists = [item for item in given if isinstance(item, list)]
    if len(lists) == len(given):
        return [TokenPrompt(item) for item in lists]
    raise InvalidRequest("'prompt' must not mix texts, token ids and lists", param="prompt")
