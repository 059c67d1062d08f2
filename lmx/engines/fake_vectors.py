"""The deterministic vector engine that ships with LMX: no weights, the same numbers every time.

    fake:NAME?purpose=embedding&width=8&step_ms=5&context=512

A vector counts the bytes of a text by their value modulo `width` and is normalised, so texts that
share words are close. A score is the share of the query's words that stand in the document. It is
what the daemon is tested with, and what a client author can run against.
"""

import time
from collections.abc import Sequence
from typing import Annotated, Literal
from urllib.parse import parse_qsl

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from lmx.engines.fake_failures import fail_as
from lmx.engines.fake_tokens import VOCABULARY_SIZE
from lmx.engines.vectors import LoadedVectors, TokenRow
from lmx.errors import UnsupportedModel
from lmx.protocol.messages import Load
from lmx.protocol.values import Memory, ModelInfo

# Of the fake vocabulary's bytes, one that no text holds: it parts a query from its document.
SEPARATOR_ID = 0
BEGIN_ID = 1
BYTES = 256

Milliseconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]


class FakeVectorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query string of a fake model that answers with numbers; see the module docstring."""

    purpose: Literal["embedding", "reranking"]
    width: Count = 8
    step_ms: Milliseconds = 0.0
    load_ms: Milliseconds = 0.0
    context: Count = 512
    batch: Count = 4096
    weight_bytes: Annotated[int, Meta(ge=0)] = 0
    fail: Literal["abort", "exit", "hang", "oom", "raise", ""] = ""
    fail_step: Annotated[int, Meta(ge=0)] = 0


class FakeVectorTokenizer:
    """One token per byte after a beginning one.

    Attributes:
        max_tokens: Of a row.
        vocabulary_size: Of ids.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.vocabulary_size = VOCABULARY_SIZE

    def encode(self, texts: Sequence[str], *, limit: int | None = None) -> list[TokenRow]:
        """Bytes, cut at the end."""
        return [TokenRow([BEGIN_ID, *text.encode()][:limit]) for text in texts]

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], *, limit: int | None = None
    ) -> list[TokenRow]:
        """The query's bytes, a separator, the document's; the document is cut."""
        return [
            TokenRow([BEGIN_ID, *query.encode(), SEPARATOR_ID, *document.encode()][:limit])
            for query, document in pairs
        ]


class FakeVectorEngine:
    """Counts bytes or words.

    Args:
        settings: What it claims and how slow it is.
        info: What it reports.

    Attributes:
        info: The same.
        batch_tokens: Of one call.
    """

    def __init__(self, settings: FakeVectorSettings, info: ModelInfo) -> None:
        self._settings = settings
        self._steps = 0
        self.info = info
        self.batch_tokens = settings.batch

    def compute(self, rows: Sequence[TokenRow]) -> NDArray[np.float32]:
        """See `VectorEngine`."""
        self._steps += 1
        if self._settings.fail and self._steps == self._settings.fail_step:
            fail_as(self._settings.fail)
        time.sleep(self._settings.step_ms / 1000)
        if self._settings.purpose == "reranking":
            return np.array([[_score(row)] for row in rows], dtype=np.float32)  # (N, 1) float32
        return np.stack([self._vector(row) for row in rows])  # (N, D) float32

    def quiesce(self) -> None:
        """There is no device."""

    def shrink(self) -> None:
        """Nothing is kept."""

    def memory(self) -> Memory:
        """What the settings claim."""
        weight = self._settings.weight_bytes
        return Memory(weight, 0, weight)

    def close(self) -> None:
        """Nothing is held."""

    def _vector(self, row: TokenRow) -> NDArray[np.float32]:
        places = np.array(row.ids) % self._settings.width
        counts = np.bincount(places, minlength=self._settings.width).astype(np.float32)  # (D,)
        vector: NDArray[np.float32] = counts / np.linalg.norm(counts)
        return vector


def _score(row: TokenRow) -> float:
    text = bytes(token_id for token_id in row.ids[1:] if token_id < BYTES)
    query, _, document = text.partition(bytes([SEPARATOR_ID]))
    words = query.split()
    return sum(word in document for word in words) / len(words) if words else 0.0


def load_vectors(load: Load) -> LoadedVectors:
    """Bring a fake model up.

    Raises:
        UnsupportedModel: The settings cannot be read.
    """
    try:
        settings = msgspec.convert(
            dict(parse_qsl(load.source, strict_parsing=bool(load.source))),
            FakeVectorSettings,
            strict=False,
        )
    except (msgspec.ValidationError, ValueError) as error:
        raise UnsupportedModel(f"the fake model's settings cannot be read: {error}") from error
    time.sleep(settings.load_ms / 1000)
    if settings.fail and settings.fail_step == 0:
        fail_as(settings.fail)
    context = min(settings.context, load.context_tokens or settings.context)
    info = ModelInfo(
        context_tokens=context,
        max_sequences=load.max_sequences,
        weight_bytes=settings.weight_bytes,
        purpose=settings.purpose,
        width=settings.width if settings.purpose == "embedding" else 0,
    )
    return LoadedVectors(FakeVectorEngine(settings, info), FakeVectorTokenizer(context), [])
