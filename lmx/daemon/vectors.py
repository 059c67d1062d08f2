"""Requests for numbers: which model answers them, and its answer put together.

Whoever asks for vectors rarely knows which embedding model there is: clients send the name of a
chat model or of one of OpenAI's. So a name that is no such model's means the one that the settings
name, which is loaded when it is first needed.
"""

from typing import Literal

import msgspec
from msgspec import Struct

from lmx.catalog.embedded import EMBEDDER
from lmx.catalog.names import ANY_MODEL
from lmx.catalog.specs import parse_spec
from lmx.config import Settings
from lmx.daemon.dispatch import Dispatch, Reply, reply_error
from lmx.daemon.loader import Loader
from lmx.daemon.model import Model
from lmx.daemon.origin import Origin
from lmx.errors import LmxError, NoModelLoaded
from lmx.protocol.messages import Embed, Score
from lmx.protocol.values import Purpose

FLOAT_BYTES = 4

Method = Literal["embedding", "cross-encoder", "embedding-cosine"]


class Numbers(Struct, frozen=True):
    """The whole answer to one request.

    Attributes:
        model_id: Canonical id of the model that answered.
        method: How the numbers came about.
        count: Inputs or pairs.
        width: Numbers of each; 1 for scores.
        values: ``count * width`` little-endian float32, in the order of the inputs.
        tokens: Of all inputs.
    """

    model_id: str
    method: Method
    count: int
    width: int
    values: bytes
    tokens: int


class VectorDesk:
    """Answers requests for vectors and scores.

    Args:
        dispatch: Opens replies.
        loader: Knows the models.
        settings: Which models answer when none is named.
    """

    def __init__(self, dispatch: Dispatch, loader: Loader, settings: Settings) -> None:
        self._dispatch = dispatch
        self._loader = loader
        self._settings = settings

    async def embed(self, ask: Embed, *, model_name: str, origin: Origin) -> Numbers:
        """The vectors of texts.

        Args:
            ask: What of; its sequence number is ignored.
            model_name: As the client spelled it.
            origin: Where the request comes from.

        Raises:
            LmxError: It was refused or broke.
        """
        model = await self._named(model_name, "embedding") or self._usual_embedder()
        async with self._dispatch.open(
            ask, model_name=model.id, origin=origin, purpose="embedding"
        ) as reply:
            return await _collect(reply, "embedding", len(ask.inputs))

    async def score(self, ask: Score, *, model_name: str, origin: Origin) -> Numbers:
        """The scores of pairs, by a reranking model if there is one.

        Args:
            ask: What of; its sequence number is ignored.
            model_name: As the client spelled it.
            origin: Where the request comes from.

        Raises:
            LmxError: It was refused or broke.
        """
        model, purpose = await self._choose_scorer(model_name)
        method: Method = "cross-encoder" if purpose == "reranking" else "embedding-cosine"
        async with self._dispatch.open(
            ask, model_name=model.id, origin=origin, purpose=purpose
        ) as reply:
            return await _collect(reply, method, len(ask.pairs))

    async def _choose_scorer(self, name: str) -> tuple[Model, Purpose]:
        """What is named goes first, then what scores best."""
        purposes: tuple[Purpose, ...] = ("reranking", "embedding")
        for purpose in purposes:
            if model := await self._named(name, purpose):
                return model, purpose
        if self._settings.models.rerank_model is not None:
            return self._load(self._settings.models.rerank_model, "reranking"), "reranking"
        if model := self._loaded("reranking"):
            return model, "reranking"
        return self._usual_embedder(), "embedding"

    async def _named(self, name: str, purpose: Purpose) -> Model | None:
        """The model of a kind that a name means, if it means one."""
        return None if name in ANY_MODEL else await self._loader.find(name, purpose)

    def _loaded(self, purpose: Purpose) -> Model | None:
        """Some model of a kind that is there anyway, or on its way."""
        known = [m for m in self._loader.models.values() if m.spec.purpose == purpose]
        ready = [model for model in known if model.ready is not None]
        coming = [model for model in known if model.is_on_its_way]
        return next(iter([*ready, *coming]), None)

    def _usual_embedder(self) -> Model:
        """What the settings name; unless they name none of their own, what is there anyway."""
        named = self._settings.models.embedding_model
        model = self._loaded("embedding") if named == EMBEDDER.word else None
        return model or self._load(named, "embedding")

    def _load(self, text: str, purpose: Purpose) -> Model:
        """The model that the settings name, loaded if settings allow that.

        Raises:
            NoModelLoaded: It is not there, and may not be loaded.
            InvalidRequest: The settings name nothing.
        """
        spec = msgspec.structs.replace(
            parse_spec(text, self._settings.models.backend), purpose=purpose
        )
        known = self._loader.models.get(spec.id)
        if known is not None:
            return known
        if not self._settings.models.on_demand:
            raise NoModelLoaded(f"No model loaded for {purpose}, and none is loaded on demand")
        return self._loader.load(spec)


async def _collect(reply: Reply, method: Method, count: int) -> Numbers:
    """Wait for all numbers.

    Raises:
        LmxError: The request broke.
    """
    (choice,) = reply.choices
    while not choice.is_over:
        await choice.wait_change()
    error, end = reply_error(choice), choice.end
    if error is not None or end is None or end.reason != "stop" or not choice.rows:
        raise error or LmxError("the numbers could not be computed")
    first = choice.rows[0]
    stride = len(first.values) // len(first.indices)
    values = bytearray(count * stride)
    for rows in choice.rows:
        for place, index in enumerate(rows.indices):
            values[index * stride : (index + 1) * stride] = rows.values[
                place * stride : (place + 1) * stride
            ]
    width = stride // FLOAT_BYTES
    return Numbers(reply.model_id, method, count, width, bytes(values), end.usage.prompt_tokens)
