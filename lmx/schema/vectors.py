"""Requests for embeddings, and what all requests for numbers have in common.

Inputs are checked here as far as the body alone can say; how long they are, only the worker knows.
A position in a list is named with a dot, as in ``input.3``, by this module and by the worker alike.
"""

import functools
import re
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from lmx.errors import InvalidRequest
from lmx.protocol.messages import Embed
from lmx.schema.fields import CallerFields, NonEmpty, TokenId, refuse_unknown
from lmx.schema.json_body import decode_body

# OpenAI's: most inputs of one call. Texts have no limit of their own beside the body's.
MAX_INPUTS = 2048

R = TypeVar("R", bound=Struct)

_POSITION = re.compile(r"\[(\d+)\]")
TokenIds = Annotated[list[TokenId], Meta(min_length=1)]
# msgspec tells lists apart by nothing; which items a list may hold together is checked below.
Inputs = Annotated[
    NonEmpty | Annotated[list[NonEmpty | TokenId | TokenIds], Meta(min_length=1)],
    Meta(description=f"A text, token ids, or a list of up to {MAX_INPUTS} of either."),
]
Dimensions = Annotated[
    int,
    Meta(ge=1, le=2**31 - 1, description="Keep so many leading numbers, normalised again."),
]
Truncate = Annotated[
    bool, Meta(description="LMX: cut what is too long for the model instead of refusing it.")
]


class EmbeddingRequest(CallerFields, kw_only=True):
    """The body of a request for vectors. `None` means absent, as explicit nulls occur."""

    input: Inputs
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Dimensions | None = None
    truncate: Truncate | None = None


@functools.cache
def _decoder() -> "msgspec.json.Decoder[EmbeddingRequest]":
    return msgspec.json.Decoder(EmbeddingRequest)


def parse_embedding_request(body: bytes) -> EmbeddingRequest:
    """Read a request body.

    Raises:
        InvalidRequest: Malformed, of the wrong type or out of range; `param` names the field.
    """
    return decode_strictly(body, _decoder())


def to_embed(request: EmbeddingRequest) -> Embed:
    """Translate into the worker's terms. The sequence number is the link's to set.

    Raises:
        InvalidRequest: There are too many inputs, or they are of different kinds.
    """
    return Embed(
        sequence=0,
        inputs=_inputs(request.input),
        dimensions=request.dimensions,
        truncate=bool(request.truncate),
    )


def embedding_param(request: EmbeddingRequest, param: str) -> str:
    """What the client calls a field that the worker names.

    Args:
        request: What the client sent.
        param: As the worker has it, which always gets a list.
    """
    is_one = isinstance(request.input, str) or isinstance(request.input[0], int)
    return "input" if is_one and param == "input.0" else param


def decode_strictly(body: bytes, decoder: "msgspec.json.Decoder[R]") -> R:
    """Decode a request body and refuse fields nobody reads.

    Raises:
        InvalidRequest: With positions in `param` after a dot.
    """
    try:
        request = decode_body(body, decoder)
    except InvalidRequest as error:
        error.param = _POSITION.sub(r".\1", error.param or "")
        raise
    refuse_unknown(body, request.__struct_fields__)
    return request


def _inputs(given: str | list[str | int | list[int]]) -> list[str | list[int]]:
    if isinstance(given, str):
        return [given]
    ids = [item for item in given if isinstance(item, int)]
    if len(ids) == len(given):
        return [ids]
    if len(given) > MAX_INPUTS:
        raise InvalidRequest(
            f"'input' takes at most {MAX_INPUTS} inputs and has {len(given)}", param="input"
        )
    inputs = [item for item in given if not isinstance(item, int)]
    if ids or len({type(item) for item in inputs}) > 1:
        raise InvalidRequest("'input' must not mix texts, token ids and lists", param="input")
    return inputs
