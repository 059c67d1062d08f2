"""Answers that are numbers: vectors in OpenAI's shape, rankings in Jina's and Cohere's, scores.

Large answers are encoded one row at a time: each takes the interpreter for microseconds, so that
whoever encodes in a thread of its own stops nobody. No numpy: the daemon has none.
"""

import base64
import math
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

NUMBER_BYTES = 4
# What one piece of a large answer holds at least.
PIECE_BYTES = 64 * 1024
# Cohere's: documents that one search unit pays for.
SEARCH_UNIT_DOCUMENTS = 100

ScoreMethod = Literal["cross-encoder", "embedding-cosine"]
ShownDocument = Annotated[
    dict[str, Any],
    Meta(extra_json_schema={"properties": {"text": {"type": "string"}}, "required": ["text"]}),
]


class VectorUsage(Struct, frozen=True):
    """Real token counts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingRow(Struct, frozen=True, kw_only=True):
    """One input's vector: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingList(Struct, frozen=True, kw_only=True):
    """The answer to a request for embeddings."""

    object: Literal["list"] = "list"
    data: list[EmbeddingRow]
    model: str
    usage: VectorUsage


class RankedResult(Struct, frozen=True, kw_only=True):
    """One document's score; the document itself unless it was not wanted."""

    index: int
    relevance_score: Annotated[float, Meta(ge=0, le=1)]
    document: ShownDocument | UnsetType = UNSET


class ApiVersion(Struct, frozen=True):
    """Whose version of the route was asked."""

    version: str


class BilledUnits(Struct, frozen=True):
    """What Cohere would count. Nobody is billed."""

    search_units: int


class MetaTokens(Struct, frozen=True):
    """Real token counts as Cohere spells them."""

    input_tokens: int
    output_tokens: int = 0


class RankMeta(Struct, frozen=True):
    """Beside the results: how they came about.

    Attributes:
        method: Whether a model read the query with each document, or vectors were compared.
    """

    method: ScoreMethod
    api_version: ApiVersion
    billed_units: BilledUnits
    tokens: MetaTokens


class RerankReply(Struct, frozen=True, kw_only=True):
    """A ranking as Jina's clients, Cohere's old ones and the Opta CLI read it."""

    id: str
    object: Literal["list"] = "list"
    model: str
    results: list[RankedResult]
    usage: VectorUsage
    meta: RankMeta


class CohereRerankReply(Struct, frozen=True, kw_only=True):
    """A ranking as Cohere's clients of version 2 read it."""

    id: str
    results: list[RankedResult]
    meta: RankMeta


class ScoreRow(Struct, frozen=True, kw_only=True):
    """One pair's score."""

    index: int
    object: Literal["score"] = "score"
    score: float


class ScoreList(Struct, frozen=True, kw_only=True):
    """The answer to a request to score."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[ScoreRow]
    usage: VectorUsage


class VectorHead(NamedTuple):
    """What stands around the numbers.

    Attributes:
        id: Of the answer.
        created: Seconds since 1970.
        model: Who really answered.
        tokens: Of all inputs.
    """

    id: str
    created: int
    model: str
    tokens: int

    @property
    def usage(self) -> VectorUsage:
        """The counts as clients read them."""
        return VectorUsage(self.tokens, self.tokens)


def read_floats(values: bytes, *, byteorder: str = sys.byteorder) -> list[float]:
    """Little-endian float32 as numbers.

    Args:
        values: Four bytes for each.
        byteorder: This machine's.
    """
    numbers = array("f", values)
    if byteorder != "little":
        numbers.byteswap()
    return numbers.tolist()


def rank(scores: Sequence[float], *, top: int) -> list[tuple[int, float]]:
    """Index and score of the best documents, best first.

    Those with the same score stay in the order they came in. Cosines may leave 0 to 1; they are
    cut off after sorting.
    """
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return [(index, min(max(0.0, scores[index]), 1.0)) for index in order[:top]]


def encode_embeddings(
    head: VectorHead, values: bytes, *, width: int, encoding_format: Literal["float", "base64"]
) -> list[bytes]:
    """Vectors as an answer, in pieces.

    Args:
        head: Beside them.
        values: All vectors, one after the other, as little-endian float32.
        width: Numbers of a vector.
        encoding_format: How each vector is spelled.
    """
    whole = EmbeddingList(data=[], model=head.model, usage=head.usage)
    return _encode_rows(whole, "data", _embedding_rows(values, width, encoding_format))


def encode_scores(head: VectorHead, scores: Sequence[float]) -> list[bytes]:
    """Scores as an answer, in the order of the pairs."""
    whole = ScoreList(id=head.id, created=head.created, model=head.model, data=[], usage=head.usage)
    rows = (ScoreRow(index=index, score=score) for index, score in enumerate(scores))
    return _encode_rows(whole, "data", rows)


def encode_ranking(
    head: VectorHead, results: Iterable[RankedResult], meta: RankMeta
) -> list[bytes]:
    """A ranking as an answer of ``/v1/rerank``."""
    whole = RerankReply(id=head.id, model=head.model, results=[], usage=head.usage, meta=meta)
    return _encode_rows(whole, "results", results)


def encode_cohere_ranking(
    head: VectorHead, results: Iterable[RankedResult], meta: RankMeta
) -> list[bytes]:
    """A ranking as an answer of ``/v2/rerank``."""
    whole = CohereRerankReply(id=head.id, results=[], meta=meta)
    return _encode_rows(whole, "results", results)


def rank_meta(
    method: ScoreMethod, *, version: Literal["1", "2"], document_count: int, tokens: int
) -> RankMeta:
    """How a ranking came about."""
    return RankMeta(
        method,
        ApiVersion(version),
        BilledUnits(math.ceil(document_count / SEARCH_UNIT_DOCUMENTS)),
        MetaTokens(tokens),
    )


def _embedding_rows(
    values: bytes, width: int, encoding_format: Literal["float", "base64"]
) -> Iterator[EmbeddingRow]:
    size = width * NUMBER_BYTES
    for index, start in enumerate(range(0, len(values), size)):
        own = values[start : start + size]
        is_text = encoding_format == "base64"
        spelled = base64.b64encode(own).decode("ascii") if is_text else read_floats(own)
        yield EmbeddingRow(index=index, embedding=spelled)


def _encode_rows(whole: Struct, name: str, rows: Iterable[Struct]) -> list[bytes]:
    """Encode an answer whose list `name` is still empty, with `rows` in it.

    In pieces: one of all would be copied in one go, which takes longer than all else together.
    """
    # No string can hold these bytes: a quote in a string has a backslash before it.
    before, _, after = msgspec.json.encode(whole).partition(b'"%b":[]' % name.encode())
    encoder = msgspec.json.Encoder()
    held = bytearray(b'%b"%b":[' % (before, name.encode()))
    pieces = []
    for index, row in enumerate(rows):
        held += b"," if index else b""
        encoder.encode_into(row, held, -1)
        if len(held) > PIECE_BYTES:
            pieces.append(bytes(held))
            held.clear()
    return [*pieces, b"%b]%b" % (bytes(held), after)]
