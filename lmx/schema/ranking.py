"""Requests to score texts for a query: rerank as Jina and Cohere have it, score as vLLM has it.

Sources: Jina's `/v1/rerank`, Cohere's `/v1/rerank` and `/v2/rerank`, vLLM's `/v1/score`. Each of
their fields has its effect, asks for none at the value given, or is refused by name. How long a
document is, only the worker knows.
"""

import functools
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from lmx.errors import InvalidRequest
from lmx.protocol.messages import Score
from lmx.schema.fields import CallerFields, NonEmpty, refuse_effects
from lmx.schema.vectors import MAX_INPUTS, Truncate, decode_strictly

# Documented fields that have no effect, and the values at which they ask for none.
NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "max_chunks_per_doc": (1,),  # a document is one chunk, and no more of it is read
    "max_tokens_per_doc": (0,),
    "priority": (0,),
    "relevant_spans": ({"mode": "disabled"},),
}
# What a request to score may call its two sides.
SIDES: tuple[tuple[str, str], ...] = (
    ("text_1", "text_2"),
    ("queries", "documents"),
    ("query", "documents"),
    ("queries", "items"),
    ("data_1", "data_2"),
)

# Further keys are the client's own, and come back with the document.
DocumentObject = Annotated[
    dict[str, Any],
    Meta(
        extra_json_schema={
            "properties": {"text": {"anyOf": [{"type": "string"}, {"type": "null"}]}}
        }
    ),
]
Documents = Annotated[list[str | DocumentObject], Meta(min_length=1, max_length=MAX_INPUTS)]
TopCount = Annotated[
    int, Meta(ge=1, le=2**63 - 1, description="Most results; all, if there are fewer documents.")
]
RankFields = Annotated[
    list[NonEmpty],
    Meta(min_length=1, description="Read these keys of each document object, in this order."),
]
Queries = NonEmpty | Annotated[list[NonEmpty], Meta(min_length=1, max_length=MAX_INPUTS)]
Texts = str | Annotated[list[str], Meta(min_length=1, max_length=MAX_INPUTS)]


class RerankRequest(CallerFields, kw_only=True):
    """The body of a request to rerank. `None` means absent, as explicit nulls occur."""

    query: NonEmpty
    documents: Documents
    model: str | None = None
    top_n: TopCount | None = None
    top_k: TopCount | None = None
    return_documents: bool | None = None
    rank_fields: RankFields | None = None
    truncate: Truncate | None = None
    truncation: bool | None = None

    # Documented by Cohere and without effect here.
    max_chunks_per_doc: Annotated[Any, Meta(extra_json_schema={"enum": [1, None]})] = None
    max_tokens_per_doc: Annotated[Any, Meta(extra_json_schema={"enum": [0, None]})] = None
    priority: Annotated[Any, Meta(extra_json_schema={"enum": [0, None]})] = None
    relevant_spans: Annotated[
        Any, Meta(extra_json_schema={"enum": [{"mode": "disabled"}, None]})
    ] = None


class ScoreRequest(CallerFields, kw_only=True):
    """The body of a request to score: two sides, of which the first may be one text for all."""

    model: str | None = None
    text_1: Queries | None = None
    text_2: Texts | None = None
    queries: Queries | None = None
    query: NonEmpty | None = None
    documents: Texts | None = None
    items: Texts | None = None
    data_1: Queries | None = None
    data_2: Texts | None = None
    truncate: Truncate | None = None


@functools.cache
def _rerank_decoder() -> "msgspec.json.Decoder[RerankRequest]":
    return msgspec.json.Decoder(RerankRequest)


@functools.cache
def _score_decoder() -> "msgspec.json.Decoder[ScoreRequest]":
    return msgspec.json.Decoder(ScoreRequest)


def parse_rerank_request(body: bytes) -> RerankRequest:
    """Read a request body.

    Raises:
        InvalidRequest: Malformed, of the wrong type or out of range; `param` names the field.
        UnsupportedFeature: A field asks for something this version cannot do.
    """
    request = decode_strictly(body, _rerank_decoder())
    refuse_effects(request, NEUTRAL_VALUES)
    _refuse_contradiction(request, "top_k", "top_n")
    _refuse_contradiction(request, "truncation", "truncate")
    return request


def parse_score_request(body: bytes) -> ScoreRequest:
    """Read a request body.

    Raises:
        InvalidRequest: Malformed, of the wrong type or out of range; `param` names the field.
    """
    return decode_strictly(body, _score_decoder())


def rerank_to_score(request: RerankRequest) -> Score:
    """Translate into the worker's terms: the query with each document.

    Documents that are too long are cut unless the request says otherwise, as Jina and Cohere do.

    Raises:
        InvalidRequest: A document has no text.
    """
    texts = [_document_text(request, index) for index in range(len(request.documents))]
    truncate = request.truncation if request.truncate is None else request.truncate
    return Score(
        sequence=0,
        pairs=[(request.query, text) for text in texts],
        truncate=truncate is not False,
    )


def top_count(request: RerankRequest) -> int:
    """How many results are wanted at most."""
    return request.top_n or request.top_k or len(request.documents)


def shown_document(request: RerankRequest, score: Score, index: int) -> dict[str, Any]:
    """A document as it comes back: the client's own object, with the text that was read."""
    given = request.documents[index]
    text = score.pairs[index][1]
    if isinstance(given, str):
        return {"text": text}
    return given if given.get("text") is not None else {**given, "text": text}


def score_to_score(request: ScoreRequest) -> Score:
    """Translate into the worker's terms: the pairs.

    Nothing is cut unless the request says so, as in vLLM.

    Raises:
        InvalidRequest: A side is missing, or the two have different lengths.
    """
    first_name, second_name = _sides(request)
    first = _as_list(getattr(request, first_name))
    second = _as_list(getattr(request, second_name))
    if len(first) == 1:
        first = first * len(second)
    if len(first) != len(second):
        raise InvalidRequest(
            f"{first_name!r} has {len(first)} texts and {second_name!r} {len(second)}; "
            "one with many or as many as there are is needed",
            param=second_name,
        )
    return Score(
        sequence=0, pairs=list(zip(first, second, strict=True)), truncate=bool(request.truncate)
    )


def score_param(request: ScoreRequest, param: str) -> str:
    """What the client calls a field that the worker names.

    Args:
        request: What the client sent.
        param: As the worker has it, which knows a query and documents.
    """
    first_name, second_name = _sides(request)
    name, _, position = param.partition(".")
    if name not in {"query", "documents"}:
        return param
    client_name = first_name if name == "query" else second_name
    is_one = isinstance(getattr(request, client_name), str)
    return client_name if is_one or not position else f"{client_name}.{position}"


def _document_text(request: RerankRequest, index: int) -> str:
    document = request.documents[index]
    if isinstance(document, str):
        return document
    names = ["text"] if request.rank_fields is None else request.rank_fields
    found = [document[name] for name in names if document.get(name) is not None]
    for name in dict.fromkeys(["text", *names]):
        if not isinstance(document.get(name, ""), str | None):
            raise InvalidRequest(
                f"{name!r} of a document must be text", param=f"documents.{index}.{name}"
            )
    if not found:
        wanted = " or ".join(map(repr, names))
        raise InvalidRequest(f"a document needs {wanted}", param=f"documents.{index}.{names[0]}")
    return "\n".join(found)


def _refuse_contradiction(request: RerankRequest, name: str, other: str) -> None:
    given = {getattr(request, name), getattr(request, other)} - {None}
    if len(given) > 1:
        raise InvalidRequest(f"{name!r} contradicts {other!r}", param=name)


def _sides(request: ScoreRequest) -> tuple[str, str]:
    """The names under which the two sides came."""
    names = dict.fromkeys(name for pair in SIDES for name in pair)
    given = {name for name in names if getattr(request, name) is not None}
    # The spelling the client most likely means: what it lacks or has too much of is named.
    best = max(SIDES, key=lambda pair: len(given & set(pair)))
    wrong = [name for name in best if name not in given] or sorted(given - set(best))
    if wrong:
        raise InvalidRequest(
            "two sides are needed, such as 'text_1' and 'text_2' or 'queries' and 'documents'",
            param=wrong[0],
        )
    return best


def _as_list(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts
