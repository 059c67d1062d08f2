"""``/v1/embeddings``, the rerank routes and ``/v1/score`` as raw ASGI handlers.

Which model answers is the desk's business; a client that hangs up cancels the handler and with it
the request. Large answers are encoded in a thread, so that the probes go on being answered.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, Protocol, TypeVar

import trio
from msgspec import UNSET

from lmx.config import Settings
from lmx.daemon.origin import Origin
from lmx.daemon.vectors import Numbers
from lmx.errors import RequestError
from lmx.protocol.messages import Embed, Score
from lmx.schema.problems import Headers
from lmx.schema.ranking import (
    RerankRequest,
    ScoreRequest,
    parse_rerank_request,
    parse_score_request,
    rerank_to_score,
    score_param,
    score_to_score,
    shown_document,
    top_count,
)
from lmx.schema.reply import completion_id
from lmx.schema.vector_reply import (
    RankedResult,
    ScoreMethod,
    VectorHead,
    encode_cohere_ranking,
    encode_embeddings,
    encode_ranking,
    encode_scores,
    rank,
    rank_meta,
    read_floats,
)
from lmx.schema.vectors import (
    EmbeddingRequest,
    embedding_param,
    parse_embedding_request,
    to_embed,
)
from lmx.web.exchange import JSON_HEADERS, Answer, Exchange, parse_body

# Above this many bytes of numbers or documents, encoding is felt on the event loop.
ENCODE_IN_THREAD_BYTES = 64 * 1024
METHOD_HEADER = b"x-lmx-rerank"

T = TypeVar("T")


class Desk(Protocol):
    """What answers: see `lmx.daemon.vectors.VectorDesk`."""

    async def embed(self, ask: Embed, *, model_name: str, origin: Origin) -> Numbers:
        """The vectors of texts."""

    async def score(self, ask: Score, *, model_name: str, origin: Origin) -> Numbers:
        """The scores of pairs."""


class VectorRoutes:
    """The routes over one desk.

    Args:
        desk: Answers.
        settings: Limits.
    """

    def __init__(self, desk: Desk, settings: Settings) -> None:
        self._desk = desk
        self._settings = settings

    async def embed(self, exchange: Exchange) -> Answer:
        """``POST /v1/embeddings``."""
        request, ask = await self._parse(exchange, _plan_embedding)
        with _renamed(partial(embedding_param, request)):
            numbers = await self._desk.embed(
                ask, model_name=request.model or "", origin=_origin(exchange)
            )
        encode = partial(
            encode_embeddings,
            _head(exchange, numbers, "embd"),
            numbers.values,
            width=numbers.width,
            encoding_format=request.encoding_format or "float",
        )
        return Answer(await _encode(encode, size_bytes=len(numbers.values)))

    async def rerank(self, exchange: Exchange) -> Answer:
        """``POST /v1/rerank`` and ``POST /rerank``."""
        return await self._rerank(exchange, "1")

    async def rerank_v2(self, exchange: Exchange) -> Answer:
        """``POST /v2/rerank``, whose clients look for no documents unless they ask for them."""
        return await self._rerank(exchange, "2")

    async def score(self, exchange: Exchange) -> Answer:
        """``POST /v1/score``."""
        request, ask = await self._parse(exchange, _plan_score)
        with _renamed(partial(score_param, request)):
            numbers = await self._desk.score(
                ask, model_name=request.model or "", origin=_origin(exchange)
            )
        head = _head(exchange, numbers, "score")
        body = encode_scores(head, read_floats(numbers.values))
        return Answer(body, headers=_headers(numbers))

    async def _rerank(self, exchange: Exchange, version: Literal["1", "2"]) -> Answer:
        request, ask = await self._parse(exchange, _plan_rerank)
        numbers = await self._desk.score(
            ask, model_name=request.model or "", origin=_origin(exchange)
        )
        encode = partial(
            _encode_rerank,
            request,
            ask,
            numbers=numbers,
            head=_head(exchange, numbers, "rerank"),
            version=version,
        )
        size_bytes = sum(len(document) for _, document in ask.pairs)
        return Answer(await _encode(encode, size_bytes=size_bytes), headers=_headers(numbers))

    async def _parse(self, exchange: Exchange, parse: Callable[[bytes], T]) -> T:
        return await parse_body(exchange, parse, timeout_s=self._settings.server.body_timeout_s)


def _plan_embedding(body: bytes) -> tuple[EmbeddingRequest, Embed]:
    request = parse_embedding_request(body)
    return request, to_embed(request)


def _plan_rerank(body: bytes) -> tuple[RerankRequest, Score]:
    request = parse_rerank_request(body)
    return request, rerank_to_score(request)


def _plan_score(body: bytes) -> tuple[ScoreRequest, Score]:
    request = parse_score_request(body)
    return request, score_to_score(request)


def _encode_rerank(
    request: RerankRequest,
    ask: Score,
    *,
    numbers: Numbers,
    head: VectorHead,
    version: Literal["1", "2"],
) -> list[bytes]:
    """The answer of either version."""
    wants_documents = request.return_documents
    if wants_documents is None:
        wants_documents = version == "1"
    results = [
        RankedResult(
            index=index,
            relevance_score=score,
            document=shown_document(request, ask, index) if wants_documents else UNSET,
        )
        for index, score in rank(read_floats(numbers.values), top=top_count(request))
    ]
    meta = rank_meta(
        _method(numbers), version=version, document_count=numbers.count, tokens=numbers.tokens
    )
    encode = encode_ranking if version == "1" else encode_cohere_ranking
    return encode(head, results, meta)


async def _encode(encode: Callable[[], list[bytes]], *, size_bytes: int) -> list[bytes]:
    if size_bytes > ENCODE_IN_THREAD_BYTES:
        return await trio.to_thread.run_sync(encode)
    return encode()


@contextmanager
def _renamed(name: Callable[[str], str]) -> Iterator[None]:
    """Let an error name the field as the client spelled it, and not as the worker does."""
    try:
        yield
    except RequestError as error:
        if error.param is not None:
            error.param = name(error.param)
        raise


def _origin(exchange: Exchange) -> Origin:
    return exchange.origin(exchange.scope["path"])


def _head(exchange: Exchange, numbers: Numbers, prefix: str) -> VectorHead:
    answer_id = completion_id(exchange.request_id, prefix=prefix)
    return VectorHead(answer_id, int(time.time()), numbers.model_id, numbers.tokens)


def _method(numbers: Numbers) -> ScoreMethod:
    return "embedding-cosine" if numbers.method == "embedding-cosine" else "cross-encoder"


def _headers(numbers: Numbers) -> Headers:
    return (*JSON_HEADERS, (METHOD_HEADER, _method(numbers).encode()))
