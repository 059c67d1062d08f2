"""Request fields that routes share: who asks, sampling, stopping, constraints, streaming.

The types carry the ranges, so that what parses a body also describes it. What one field cannot
say alone, such as two fields that exclude each other, is checked by functions beside them. It
knows neither messages nor prompts.
"""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from lmx.errors import InvalidRequest, UnsupportedFeature
from lmx.protocol.values import Sampling
from lmx.schema.json_body import decode_body
from lmx.schema.priority import Priority

MAX_STOPS = 16
MAX_CHOICES = 16

# What a frame carries; the worker lowers the first to what the context leaves.
TokenCount = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
ChoiceCount = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
LogprobCount = Annotated[int, Meta(ge=0, le=20)]
NonEmpty = Annotated[str, Meta(min_length=1)]
LogitBias = Annotated[
    dict[TokenId, Annotated[float, Meta(ge=-100, le=100)]],
    Meta(
        description="From token ids as strings.",
        extra_json_schema={"propertyNames": {"pattern": "^[0-9]+$"}},
    ),
]
TopK = Annotated[
    int, Meta(ge=-1, le=2**31 - 1, description="LMX: most candidates; 0 or -1 is no limit.")
]
MinP = Annotated[
    float, Meta(ge=0, le=1, description="LMX: least likelihood relative to the likeliest token.")
]
RepetitionPenalty = Annotated[
    float, Meta(gt=0, le=100, description="LMX: over 1 makes tokens that occurred less likely.")
]
MinTokens = Annotated[
    int, Meta(ge=0, le=2**63 - 1, description="LMX: the answer does not end before.")
]
IgnoreEos = Annotated[bool, Meta(description="LMX: end tokens do not end the answer.")]
GuidedJson = Annotated[dict[str, Any], Meta(description="LMX: a JSON schema the answer fits.")]
GuidedRegex = Annotated[str, Meta(min_length=1, description="LMX: what the answer matches.")]
GuidedChoice = Annotated[
    list[NonEmpty], Meta(min_length=1, description="LMX: the answer is one of these.")
]
GuidedGrammar = Annotated[
    str, Meta(min_length=1, description="LMX: a grammar in Lark's syntax the answer matches.")
]
ContextLimit = Annotated[
    int,
    Meta(
        ge=1,
        le=2**31 - 1,
        description="LMX: most tokens of prompt and answer together; older turns of a conversation "
        "are left out so that it fits.",
    ),
]
Resumable = Annotated[
    bool,
    Meta(description="LMX: the stream survives its connection and can be taken up again."),
]
Speculation = Annotated[
    Literal["auto", "off"],
    Meta(description="LMX: whether drafts may make the answer faster; it stays the same."),
]
Ignored = Annotated[Any, Meta(description="Identifies the caller; no effect on the answer.")]
Refused = Annotated[Any, Meta(description="Not supported.", extra_json_schema={"type": "null"})]

R = TypeVar("R", bound="GenerationFields")


class StreamOptions(Struct, forbid_unknown_fields=True):
    """Options of a streamed answer."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[bool | None, Meta(extra_json_schema={"enum": [False, None]})] = (
        None
    )


class CallerFields(Struct, kw_only=True):
    """They say who asks or how to file it."""

    user: Ignored = None
    metadata: Ignored = None
    store: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None
    service_tier: Ignored = None


class GenerationFields(CallerFields, kw_only=True):
    """The shared fields. `None` means absent, as explicit nulls occur."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    stop: NonEmpty | Annotated[list[NonEmpty], Meta(max_length=MAX_STOPS)] | None = None
    seed: Seed | None = None
    n: ChoiceCount | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None

    # Extensions of LMX, spelled as other servers of open models spell them.
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    min_tokens: MinTokens | None = None
    ignore_eos: IgnoreEos | None = None
    guided_json: GuidedJson | None = None
    guided_regex: GuidedRegex | None = None
    guided_choice: GuidedChoice | None = None
    guided_grammar: GuidedGrammar | None = None
    num_ctx: ContextLimit | None = None

    resumable: Resumable | None = None
    priority: Priority | None = None
    speculation: Speculation | None = None


def parse_fields(
    body: bytes, decoder: "msgspec.json.Decoder[R]", neutral: dict[str, tuple[Any, ...]]
) -> R:
    """Read a body and check what all routes have in common.

    Args:
        body: The request's body.
        decoder: For the route's type.
        neutral: Fields without effect, and the values besides null at which they ask for none.

    Raises:
        InvalidRequest: Malformed, of the wrong type or out of range; `param` names the field.
        UnsupportedFeature: A field asks for something this version cannot do.
    """
    request = decode_body(body, decoder)
    refuse_unknown(body, request.__struct_fields__)
    refuse_effects(request, neutral)
    _check_stream_options(request)
    if request.resumable and not request.stream:
        raise InvalidRequest("'resumable' needs 'stream': true", param="resumable")
    return request


def refuse_unknown(body: bytes, known: Collection[str]) -> None:
    """Refuse fields nobody reads, unless they are null.

    Raises:
        InvalidRequest: Naming the first such field.
    """
    for name, raw in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items():
        if name not in known and bytes(raw).strip() != b"null":
            raise InvalidRequest(f"unrecognized request field {name!r}", param=name)


def refuse_effects(request: Struct, neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse fields that are documented and have no effect here, unless they ask for none.

    Args:
        request: A parsed body.
        neutral: Such fields, and the values besides null at which they ask for none.

    Raises:
        UnsupportedFeature: Naming the first such field.
    """
    for name, values in neutral.items():
        value = getattr(request, name)
        if value is not None and not any(_is_same(value, allowed) for allowed in values):
            raise UnsupportedFeature(f"{name!r} is not supported", param=name)


def stop_strings(fields: GenerationFields) -> list[str]:
    """The stop strings as a list."""
    stop = fields.stop or []
    return [stop] if isinstance(stop, str) else stop


def make_samplings(
    fields: GenerationFields,
    *,
    count: int,
    max_tokens: int,
    default_temperature: float,
    top_logprobs: int | None,
) -> list[Sampling]:
    """How each of `count` choices is sampled; choice ``i`` of a seeded request has its seed + i.

    Raises:
        InvalidRequest: More tokens are demanded than allowed.
    """
    min_tokens = fields.min_tokens or 0
    if min_tokens > max_tokens:
        raise InvalidRequest(
            f"'min_tokens' is {min_tokens}, but at most {max_tokens} tokens are allowed",
            param="min_tokens",
        )
    first = Sampling(
        max_tokens=max_tokens,
        temperature=_given(fields.temperature, default_temperature),
        top_p=_given(fields.top_p, 1.0),
        seed=fields.seed,
        top_k=max(fields.top_k or 0, 0),
        min_p=fields.min_p or 0.0,
        repetition_penalty=_given(fields.repetition_penalty, 1.0),
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        logit_bias=fields.logit_bias or {},
        min_tokens=min_tokens,
        ignore_eos=bool(fields.ignore_eos),
        top_logprobs=top_logprobs,
        speculate=fields.speculation != "off",
    )
    if fields.seed is None:
        return [first] * count
    return [msgspec.structs.replace(first, seed=_wrap_int64(fields.seed + i)) for i in range(count)]


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _wrap_int64(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def _is_same(value: Any, neutral: Any) -> bool:
    """Equality in which `true` is not 1."""
    return bool(value == neutral) and isinstance(value, bool) is isinstance(neutral, bool)


def _check_stream_options(fields: GenerationFields) -> None:
    if fields.stream_options is None:
        return
    if not fields.stream:
        raise InvalidRequest(
            "'stream_options' is only allowed together with 'stream': true", param="stream_options"
        )
    if fields.stream_options.include_obfuscation:
        raise UnsupportedFeature(
            "'include_obfuscation' is not supported", param="stream_options.include_obfuscation"
        )
