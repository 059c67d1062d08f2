"""OpenAI's Chat Completions request: bytes to a typed request to the worker's `Generate`.

Every documented field either has an effect, is neutral at the value given, only identifies the
caller, or is refused by name. Below this module nobody says "OpenAI".
"""

import functools
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from lmx.errors import InvalidRequest, UnsupportedFeature
from lmx.protocol.messages import Generate
from lmx.protocol.values import Sampling
from lmx.schema.json_body import decode_body

MAX_STOPS = 16
# Say who asks or how to file it; they never had an effect on the answer.
IDENTIFICATION_FIELDS = frozenset(
    {
        "user",
        "metadata",
        "store",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
    }
)
# Documented fields that have no effect yet, and the values at which they ask for none.
NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": ("medium",),
    "web_search_options": (),
}

# What a frame carries; the worker lowers the first to what the context leaves.
TokenCount = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class ContentPart(Struct):
    """One part of a message's content. Only ``text`` parts are understood."""

    type: str
    text: str | UnsetType = UNSET


class Message(Struct):
    """One turn of the conversation."""

    role: Role
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    function_call: dict[str, Any] | None = None  # refused
    audio: dict[str, Any] | None = None  # refused


class StreamOptions(Struct, forbid_unknown_fields=True):
    """Options of a streamed answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(Struct):
    """The fields that have an effect. `None` means absent, as explicit nulls occur."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    stop: str | list[str] | None = None
    seed: Seed | None = None


@functools.cache
def _typed_decoder() -> "msgspec.json.Decoder[ChatRequest]":
    return msgspec.json.Decoder(ChatRequest)


@functools.cache
def _raw_decoder() -> "msgspec.json.Decoder[dict[str, msgspec.Raw]]":
    return msgspec.json.Decoder(dict[str, msgspec.Raw])


def parse_chat_request(body: bytes) -> ChatRequest:
    """Read a request body.

    Raises:
        InvalidRequest: Malformed, of the wrong type or out of range; `param` names the field.
        UnsupportedFeature: A field asks for something this version cannot do.
    """
    request = decode_body(body, _typed_decoder())
    _check_other_fields(_raw_decoder().decode(body))
    _check_stops(request.stop)
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest(
            "'stream_options' is only allowed together with 'stream': true", param="stream_options"
        )
    if request.stream_options is not None and request.stream_options.include_obfuscation:
        raise UnsupportedFeature(
            "'include_obfuscation' is not supported", param="stream_options.include_obfuscation"
        )
    return request


def to_generate(
    request: ChatRequest, *, default_max_tokens: int, default_temperature: float
) -> Generate:
    """Translate into the worker's terms. The sequence number is the link's to set.

    Raises:
        UnsupportedFeature: A message holds something that no text model can read.
    """
    max_tokens = request.max_completion_tokens or request.max_tokens or default_max_tokens
    stop = request.stop or []
    temperature = request.temperature
    return Generate(
        sequence=0,
        messages=[_to_template(m, at=i) for i, m in enumerate(request.messages)],
        sampling=Sampling(
            max_tokens=max_tokens,
            temperature=default_temperature if temperature is None else temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            seed=request.seed,
        ),
        stop=[stop] if isinstance(stop, str) else stop,
    )


def _check_other_fields(fields: dict[str, msgspec.Raw]) -> None:
    for name, raw in fields.items():
        if name in ChatRequest.__struct_fields__ or name in IDENTIFICATION_FIELDS:
            continue
        try:
            value = msgspec.json.decode(raw)
        except msgspec.DecodeError as error:
            raise InvalidRequest(f"{name!r} cannot be read: {error}", param=name) from error
        if value is None:
            continue
        if name not in NEUTRAL_VALUES:
            raise InvalidRequest(f"unrecognized request field {name!r}", param=name)
        if not any(_is_same(value, neutral) for neutral in NEUTRAL_VALUES[name]):
            raise UnsupportedFeature(f"{name!r} is not supported yet", param=name)


def _is_same(value: Any, neutral: Any) -> bool:
    """Equality in which `true` is not 1."""
    return bool(value == neutral) and isinstance(value, bool) is isinstance(neutral, bool)


def _check_stops(stop: str | list[str] | None) -> None:
    if stop is None:
        return
    stops = [stop] if isinstance(stop, str) else stop
    if len(stops) > MAX_STOPS:
        raise InvalidRequest(f"'stop' takes at most {MAX_STOPS} strings", param="stop")
    if not all(stops):
        raise InvalidRequest("'stop' must not hold an empty string", param="stop")


def _to_template(message: Message, *, at: int) -> dict[str, Any]:
    """A message as chat templates expect it: content is text, and only given keys are present."""
    # No open model's template knows OpenAI's name for a system message.
    role = "system" if message.role == "developer" else message.role
    for key, value in (("function_call", message.function_call), ("audio", message.audio)):
        if value is not None:
            raise UnsupportedFeature(f"{key!r} is not supported", param=f"messages[{at}].{key}")
    turn: dict[str, Any] = {"role": role, "content": _content_text(message, at=at)}
    for key in ("name", "tool_calls", "tool_call_id", "reasoning_content"):
        value = msgspec.structs.asdict(message)[key]
        if value is not None:
            turn[key] = value
    return turn


def _content_text(message: Message, *, at: int) -> str:
    content = message.content
    if content is None:
        return message.refusal or ""
    if isinstance(content, str):
        return content
    texts = []
    for index, part in enumerate(content):
        if part.type != "text" or isinstance(part.text, UnsetType):
            raise UnsupportedFeature(
                f"content parts of type {part.type!r} are not supported by this model",
                param=f"messages[{at}].content[{index}]",
            )
        texts.append(part.text)
    return "\n".join(texts)
